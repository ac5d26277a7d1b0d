"""Predictions for every kind of artifact and every kind of file."""

import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

from afd_tf import predict
from afd_tf.base.errors import UserError
from tests import exports


@pytest.fixture
def folder(digits, tmp_path):
    """A folder of ten real digits of their own size, their names, and their pixels."""
    batches = digits.evaluation_batches("test", batch_size=10)
    images = next(batches.as_numpy_iterator())["image"]
    directory = tmp_path / "images"
    (directory / "below").mkdir(parents=True)
    names = [f"{number}.png" for number in range(9)] + ["below/9.png"]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image[..., 0]).save(directory / name)
    (directory / "notes.txt").write_text("no image, and not asked for")
    return directory, names, images


def run_main(capsys, *arguments, code=None):
    with flagsaver.flagsaver():
        rest = flags.FLAGS(["predict", *arguments])
        assert predict.main(rest) == code
    output = capsys.readouterr()
    return json.loads(output.out.splitlines()[-1]), output.err


@pytest.mark.parametrize("kind", ["run", "saved_model", "tflite"])
def test_answers_are_those_of_the_network(kind, exported, run_dir, folder, capsys):
    if kind == "run":
        path, (peer, _) = run_dir
        more = ["--peer=0"]
    else:
        peer, _, path = exported
        path, more = (path / "model.tflite" if kind == "tflite" else path), []
    directory, names, images = folder
    result, shown = run_main(
        capsys, f"--artifact={path}", "--top_k=3", *more, str(directory)
    )
    assert result["name"] == "resnet8"
    by_file = {each["file"]: each["classes"] for each in result["predictions"]}
    assert sorted(by_file) == sorted(str(directory / name) for name in names)
    logits = np.float64(exports.logits_of(peer, images))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for name, own in zip(names, probabilities, strict=True):
        found = by_file[str(directory / name)]
        best = np.argsort(-own)[:3]
        assert [each["label"] for each in found] == best.tolist()
        assert [each["class"] for each in found] == [str(label) for label in best]
        np.testing.assert_allclose(
            [each["probability"] for each in found], own[best], rtol=1e-4
        )
        assert f"{own[best[0]]:6.1%} {best[0]}" in shown


def test_images_of_every_kind_and_those_that_are_none(exported, tmp_path, capsys):
    peer, _, path = exported
    pixels = exports.random_images((8, 8), 1)[0]
    grey = Image.fromarray(pixels)
    good = {
        "cmyk.jpg": grey.convert("CMYK"),
        "deep.png": Image.fromarray(pixels.astype(np.uint16) * 257),
        "wide.png": grey.resize((40, 20)),
        "alpha.png": grey.convert("RGBA"),
    }
    for name, image in good.items():
        image.save(tmp_path / name)
    grey.save(tmp_path / "moving.gif", save_all=True, append_images=[grey.rotate(90)])
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    whole = (tmp_path / "wide.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    bad = {
        "huge.png": "is too large: images of more than",
        "empty.png": "is empty",
        "text.png": "is no image but a text",
        "cut.png": "broken image",
    }
    names = [*good, "moving.gif", *bad]
    result, shown = run_main(
        capsys,
        f"--artifact={path / 'model.tflite'}",
        *(str(tmp_path / name) for name in names),
        code=1,
    )
    found = dict(zip(names, result["predictions"], strict=True))
    for name, message in bad.items():
        assert message in found[name]["error"]
        assert "\n" not in found[name]["error"]
        assert f"error: {found[name]['error']}" in shown
    for name in ("deep.png", "alpha.png", "moving.gif"):
        # The same grey values.
        expected = exports.logits_of(peer, pixels[np.newaxis, ..., np.newaxis])
        assert found[name]["classes"][0]["label"] == np.argmax(expected)
    assert len(found["wide.png"]["classes"]) == len(found["cmyk.jpg"]["classes"]) == 5


def icns_bomb() -> bytes:
    """An icon whose PNG has more pixels than Pillow decodes."""
    png = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(png, "PNG")
    content = b"ic10" + (png.tell() + 8).to_bytes(4, "big") + png.getvalue()
    return b"icns" + (len(content) + 8).to_bytes(4, "big") + content


def unknown_dds() -> bytes:
    """A texture in a format that Pillow does not know."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "DDS")
    content = bytearray(file.getvalue())
    content[80:88] = b"\x04\0\0\0NONE"  # flags: the four letters that follow
    return bytes(content)


def test_no_bad_file_costs_the_answers_for_the_others(exported, tmp_path, capsys):
    _, _, path = exported
    good = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\n.png")
    Image.fromarray(exports.random_images((8, 8), 1)[0]).save(good)
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "bomb.icns").write_bytes(icns_bomb())
    (folder / "unknown.dds").write_bytes(unknown_dds())
    (tmp_path / "empty").mkdir()
    (tmp_path / "dead.png").symlink_to("nowhere.png")
    bad = {
        str(folder / "bomb.icns"): "bomb.icns",
        str(folder / "unknown.dds"): "unknown.dds",
        str(tmp_path / "empty"): "holds no images",
        str(tmp_path / "dead.png"): "a link to nowhere.png, which is not there",
        str(tmp_path / "missing.png"): "there is no file and no folder",
    }
    arguments = [str(folder), good, *list(bad)[2:]]
    result, shown = run_main(capsys, f"--artifact={path}", *arguments, code=1)
    found = {each["file"]: each for each in result["predictions"]}
    assert found.keys() == {good, *bad}
    for name, message in bad.items():
        assert message in found[name]["error"]
        assert "\n" not in found[name]["error"]
    assert len(found[good]["classes"]) == 5
    # The name's bytes survive; a line on stderr stays one line.
    assert os.fsencode(list(found)[-4]).endswith(b"caf\xe9\n.png")
    # One more says how long the first answer took.
    assert len(shown.splitlines()) == 1 + len(bad) + 1
    assert r"caf\udce9\n.png" in shown


def test_the_standard_input_is_an_image(exported, folder, capsys, monkeypatch):
    _, _, path = exported
    directory, names, _ = folder
    content = (directory / names[0]).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    artifact = f"--artifact={path / 'model.tflite'}"
    piped, _ = run_main(capsys, artifact, "-")
    named, _ = run_main(capsys, artifact, str(directory / names[0]))
    assert piped["predictions"][0]["file"] == "-"
    assert piped["predictions"][0]["classes"] == named["predictions"][0]["classes"]


def test_many_images_come_in_batches(exported, folder, capsys, monkeypatch):
    monkeypatch.setattr(predict, "_BATCH", 3)
    _, _, path = exported
    directory, names, _ = folder
    result, _ = run_main(capsys, f"--artifact={path}", str(directory))
    assert len(result["predictions"]) == len(names)


def test_mistakes(exported, tmp_path):
    _, _, path = exported
    (tmp_path / "nothing").mkdir()
    for arguments, message in (
        ([], "give images, folders of images, or -"),
        (["nowhere.png"], "there is no file and no folder nowhere.png"),
        ([str(tmp_path / "nothing")], "holds no images"),
    ):
        with flagsaver.flagsaver():
            rest = flags.FLAGS(["predict", f"--artifact={path}", *arguments])
            with pytest.raises(UserError, match=message):
                predict.main(rest)


def test_the_command_has_one_line_and_exit_code_1_for_a_mistake(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "afd_tf.predict", "a.png"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: --artifact is not given")


# Runs predict, and looks for what it has imported.
WITHOUT = """
import sys
from absl import flags
from afd_tf import predict
assert predict.main(flags.FLAGS(["predict", *sys.argv[1:]])) is None
heavy = {"tensorflow", "keras", "sklearn", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize("name", ["model.tflite", "model_int8.tflite", "model.onnx"])
def test_files_are_answered_without_tensorflow(name, deployed, folder):
    peer, _, directory = deployed
    photos, names, images = folder
    artifact = f"--artifact={directory / name}"
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT, artifact, "--top_k=1", str(photos)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    answer = json.loads(result.stdout)
    assert re.search(r"first answer \d+\.\d\d s after the command", result.stderr)
    assert 0 < answer["first_answer_seconds"] < 60
    found = {each["file"]: each["classes"][0] for each in answer["predictions"]}
    labels = [found[str(photos / each)]["label"] for each in names]
    expected = exports.logits_of(peer, images).argmax(axis=-1)
    assert np.mean(labels == expected) >= 0.9
