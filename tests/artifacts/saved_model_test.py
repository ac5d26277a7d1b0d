"""Signatures of a SavedModel: encoded images, likeliest classes, maps, warm-up."""

import dataclasses
import importlib
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from afd_tf.artifacts import saved_model
from afd_tf.artifacts.classifier import load_classifier
from afd_tf.data.image_files import read_image
from tests import exports, tiny
from tests.exports import logits_of, random_images

NOISE = np.random.default_rng(0).integers(0, 256, (45, 61, 4), dtype=np.uint8)


@pytest.fixture(scope="module")
def loaded(deployed):
    return tf.saved_model.load(deployed[2])


def encode(image, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def every_mode(pixels):
    """Yields name and content of an image file for each kind that there is."""
    colour = Image.fromarray(pixels[..., :3])
    grey = Image.fromarray(pixels[..., 0])
    deep = pixels[..., 0].astype(np.uint16) * 256 + pixels[..., 1]
    yield "colour", encode(colour)
    yield "transparent", encode(Image.fromarray(pixels))
    yield "grey", encode(grey)
    yield "grey transparent", encode(Image.fromarray(pixels[..., :2], "LA"))
    yield "grey with one transparent value", encode(grey, transparency=3)
    yield "grey of 16 bits", encode(Image.fromarray(deep))
    yield "black and white", encode(grey.convert("1"))
    for bits in (1, 2, 4, 8):
        palette = colour.quantize(2**bits)
        yield f"palette of {bits} bits", encode(palette, bits=bits)
        yield (
            f"the same, transparent {bits}",
            encode(palette, bits=bits, transparency=1),
        )
    yield "JPEG", encode(colour, "JPEG", quality=90)
    yield "grey JPEG", encode(grey, "JPEG", quality=90)
    yield "progressive JPEG", encode(colour, "JPEG", progressive=True)


@pytest.mark.parametrize("shape", [(32, 32, 3), (8, 8, 1), (96, 96, 3)])
def test_images_are_read_as_pillow_does(shape, tmp_path):
    decode = tf.function(lambda content: saved_model.decode(content, shape))
    own_size = np.array(Image.fromarray(NOISE).resize(shape[:2]))
    for name, content in [*every_mode(own_size), *every_mode(NOISE)]:
        (tmp_path / "image").write_bytes(content)
        expected = read_image(
            tmp_path / "image", channels=shape[2], image_size=shape[0]
        )
        # A tensor: each value of Python's would be traced anew.
        difference = np.abs(np.int32(decode(tf.constant(content))) - expected)
        same_size = Image.open(io.BytesIO(content)).size == shape[:2]
        assert difference.max() <= (0 if same_size else 1), name
        assert difference.mean() <= 0.2, name


def test_encoded_image_of_the_models_size_gives_the_same_logits(deployed, loaded):
    images = random_images((8, 8, 1), 5)
    files = [tf.io.encode_png(image).numpy() for image in images]
    raw = loaded.signatures["serving_default"](image=tf.constant(images))
    encoded = loaded.signatures["encoded"](image_bytes=tf.constant(files))
    assert raw.keys() == encoded.keys()
    for name, values in raw.items():
        np.testing.assert_array_equal(encoded[name], values, err_msg=name)


def test_files_of_any_size_go_together(loaded):
    files = [content for _, content in every_mode(NOISE)]
    outputs = loaded.signatures["encoded"](image_bytes=tf.constant(files))
    assert outputs["logits"].shape == (len(files), 10)
    one = loaded.signatures["encoded"](image_bytes=tf.constant(files[3:4]))
    np.testing.assert_allclose(one["logits"][0], outputs["logits"][3], rtol=1e-4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_cameras_orientation_is_applied(kind, tmp_path):
    shape = (16, 24, 3)
    decode = tf.function(lambda content: saved_model.decode(content, shape))
    for value in range(1, 9):
        exif = Image.Exif()
        exif[274] = value
        content = encode(Image.fromarray(NOISE[..., :3]), kind, exif=exif)
        (tmp_path / "image").write_bytes(content)
        expected = read_image(tmp_path / "image", channels=3, image_size=shape[:2])
        difference = np.abs(np.int32(decode(tf.constant(content))) - expected)
        assert difference.max() <= 1
        assert difference.mean() <= 0.2


@pytest.mark.parametrize("white_level", [4095.0, 1000.0, 65535.0])
def test_white_is_that_of_the_training(white_level, tmp_path):
    shape = (16, 16, 1)
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 16 + 7
    decode = tf.function(lambda file: saved_model.decode(file, shape, white_level))
    eight = Image.fromarray((values // 16).astype(np.uint8))
    for image in (Image.fromarray(values), eight):
        content = encode(image)
        (tmp_path / "image.png").write_bytes(content)
        expected = read_image(
            tmp_path / "image.png", channels=1, white_level=white_level
        )
        np.testing.assert_array_equal(decode(tf.constant(content)), expected)
    if white_level == 4095:
        deep = decode(tf.constant(encode(Image.fromarray(values))))
        np.testing.assert_array_equal(deep.numpy()[..., 0], values // 16)


def test_inputs_of_another_shape_are_refused_and_the_process_lives(exported):
    """In a process of its own: the kernels of oneDNN end it over a wrong rank."""
    peer, _, directory = exported
    program = f"""
from afd_tf.base.command_line import quick_imports
with quick_imports():
    import numpy as np, tensorflow as tf
loaded = tf.saved_model.load({str(directory)!r})
for name in ("serving_default", "features"):
    function = loaded.signatures[name]
    for shape in ([8, 8, 1], [8, 8], [], [2, 8, 8, 3], [2, 9, 8, 1], [2, 16, 16, 1],
                  [2, 1, 8, 8], [1, 2, 8, 8, 1], [0, 4, 4, 1]):
        try:
            function(image=tf.zeros(shape, tf.uint8))
        except tf.errors.InvalidArgumentError as error:
            assert "[?,8,8,1]" in str(error), error
        else:
            raise AssertionError((name, shape))
png = tf.io.encode_png(np.zeros([8, 8, 1], np.uint8)).numpy()
for files in (png, [[png]]):
    try:
        loaded.signatures["encoded"](image_bytes=tf.constant(files))
    except tf.errors.InvalidArgumentError as error:
        assert "[?]" in str(error), error
    else:
        raise AssertionError(files)
logits = loaded.signatures["serving_default"](image=tf.zeros([2, 8, 8, 1], tf.uint8))
print(logits["logits"].numpy().tolist())
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    logits = np.array(json.loads(result.stdout))
    expected = logits_of(peer, np.zeros((2, 8, 8, 1), np.uint8))
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


def test_class_names_of_any_bytes_are_served_as_utf8(digits, tmp_path):
    names = ("a\nb", "c\udcffd", "Hündin", *"0123456")
    info = dataclasses.replace(digits.info, class_names=names)
    peer = exports.random_peer("small", info)
    _, directory = exports.export(peer, exports.OneImage(info), tmp_path)
    images = tf.constant(random_images((8, 8, 1), 1))
    outputs = tf.saved_model.load(directory).signatures["serving_default"](image=images)
    served = {name.decode() for name in outputs["classes"].numpy()[0]}
    assert served < {"a\nb", "c\\udcffd", "Hündin", *"0123456"}
    # The names themselves survive; a line-based file gets as many lines as classes.
    lines = ["a\\nb", "c\\udcffd", "Hündin", *"0123456"]
    text = (directory / "labels.txt").read_bytes().decode()
    assert text.split("\n") == [*lines, ""]
    for path in (directory, directory / "model.tflite"):
        assert load_classifier(path).class_names == names


def huge_png() -> bytes:
    """Claims 2^40 pixels."""
    content = bytearray(encode(Image.fromarray(NOISE)))
    content[16:24] = (1 << 20).to_bytes(4, "big") * 2
    return bytes(content)


def huge_jpeg() -> bytes:
    content = bytearray(encode(Image.fromarray(NOISE[..., :3]), "JPEG"))
    start = content.index(b"\xff\xc0") + 5
    # More is more than a JPEG may have.
    content[start : start + 4] = (65_000).to_bytes(2, "big") * 2
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (huge_png(), "must have 1 to 67108864 pixels"),
        (huge_jpeg(), "must have 1 to 67108864 pixels"),
        (b"", "JPEG"),
        (b"no image", "JPEG"),
        (encode(Image.fromarray(NOISE))[:-500], "PNG"),
        (encode(Image.fromarray(NOISE))[:20], "JPEG"),
        (encode(Image.fromarray(NOISE[..., :3]), "GIF"), "JPEG"),
    ],
)
def test_bad_files_are_refused_before_they_are_decoded(loaded, content, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        loaded.signatures["encoded"](image_bytes=tf.constant([content]))


def test_likeliest_classes(loaded):
    images = tf.constant(random_images((8, 8, 1), 4))
    outputs = loaded.signatures["serving_default"](image=images)
    probabilities = outputs["probabilities"].numpy()
    order = np.argsort(-probabilities, axis=-1)[:, :5]
    assert outputs["classes"].dtype == tf.string
    # The names of the digits are the digits.
    np.testing.assert_array_equal(np.int64(outputs["classes"].numpy()), order)
    np.testing.assert_array_equal(
        outputs["scores"], np.take_along_axis(probabilities, order, axis=-1)
    )


def test_number_of_classes_that_are_named(digits, tmp_path):
    peer = exports.random_peer("small", digits.info)
    # More than there are are all.
    answer, _ = exports.export(
        peer,
        exports.OneImage(digits.info),
        tmp_path,
        formats=["saved_model"],
        top_k=50,
    )
    signatures = answer["formats"]["saved_model"]["signatures"]
    outputs = signatures["encoded"]["outputs"]
    assert outputs["classes"] == {"dtype": "string", "shape": [None, 10]}
    assert outputs["scores"] == {"dtype": "float32", "shape": [None, 10]}


def test_features_are_the_last_map(deployed, loaded):
    peer, answer, _ = deployed
    images = random_images((8, 8, 1), 3)
    outputs = loaded.signatures["features"](image=tf.constant(images))
    expected = peer(images, training=False)
    exports.assert_same_logits(outputs["features"], expected.features.numpy())
    exports.assert_same_logits(outputs["logits"], expected.logits.numpy())
    signature = answer["formats"]["saved_model"]["signatures"]["features"]
    assert signature == {
        "inputs": {"image": {"dtype": "uint8", "shape": [None, 8, 8, 1]}},
        "outputs": {
            "features": {"dtype": "float32", "shape": [None, *peer.feature_shape]},
            "logits": {"dtype": "float32", "shape": [None, 10]},
        },
    }


def test_images_of_other_channels_have_no_encoded_signature(tmp_path):
    info = tiny.info((8, 8, 2))
    peer = exports.random_peer("small", info)
    answer, directory = exports.export(
        peer, exports.OneImage(info), tmp_path, ["saved_model"]
    )
    signatures = answer["formats"]["saved_model"]["signatures"]
    assert signatures.keys() == {"serving_default", "features"}
    assert tf.saved_model.load(directory).signatures.keys() == signatures.keys()


def test_warmup_requests_are_what_the_signatures_take(deployed, loaded):
    logs = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    peer, answer, directory = deployed
    assert answer["formats"]["saved_model"]["warmup"] == saved_model.WARMUP
    requests = []
    for record in tf.data.TFRecordDataset(str(directory / saved_model.WARMUP)):
        log = logs.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        assert request.model_spec.name == "wrn_10_1"
        inputs = {
            name: tf.make_ndarray(value) for name, value in request.inputs.items()
        }
        signature = request.model_spec.signature_name
        outputs = loaded.signatures[signature](
            **{name: tf.constant(value) for name, value in inputs.items()}
        )
        expected = logits_of(peer, np.zeros((1, 8, 8, 1), np.uint8))
        exports.assert_same_logits(
            outputs["logits"], np.repeat(expected, len(outputs["logits"]), axis=0)
        )
        requests.append((signature, len(outputs["logits"])))
    assert requests == [
        ("serving_default", 1),
        ("serving_default", 8),
        ("encoded", 1),
        ("encoded", 8),
    ]


def test_without_the_package_there_is_no_warmup(digits, tmp_path, monkeypatch, capsys):
    original = importlib.import_module

    def import_module(name):
        if name.startswith("tensorflow_serving"):
            raise ModuleNotFoundError(name)
        return original(name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    peer = exports.random_peer("small", digits.info)
    answer, directory = exports.export(
        peer, exports.OneImage(digits.info), tmp_path, ["saved_model"]
    )
    assert answer["formats"]["saved_model"]["warmup"] is None
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["formats"]["saved_model"]["warmup"] is None
    assert not (directory / "assets.extra").exists()
    said = [x for x in capsys.readouterr().err.splitlines() if "warm-up" in x]
    assert len(said) == 1
    assert "requirements-serving.txt" in said[0]
