"""A peer as a SavedModel, with up to three signatures: written and read back."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from afd_tf.artifacts.manifest import (
    ENCODED,
    FEATURES,
    SIGNATURE,
    check_file,
    check_labels,
    read_manifest,
)
from afd_tf.artifacts.orientation import jpeg_orientation, png_orientation, upright
from afd_tf.base.console import say
from afd_tf.base.errors import UserError
from afd_tf.data import DatasetInfo, image_files
from afd_tf.data.augment import central_crop
from afd_tf.models import Peer

# The largest image that `encoded` decodes: 256 MiB, at four bytes a pixel.
MAX_PIXELS = 1 << 26

# Where TensorFlow Serving looks for requests to run before it says that it is ready.
WARMUP = "assets.extra/tf_serving_warmup_requests"
_WARMUP_BATCHES = (1, 8)

# The first bytes of a PNG file, and the length of its head: signature, first chunk.
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_HEAD = 33

# Pillow's weights of red, green and blue in a grey value, in 65536ths.
_GREY_WEIGHTS = (19595, 38470, 7471)


class Weights(tf.Module):
    """The variables of one peer, each once: all that an artifact stores of it."""

    def __init__(self, peer: Peer):
        super().__init__()
        self.weights = [variable.value for variable in peer.variables]


def write(peer: Peer, info: DatasetInfo, directory: Path, top_k: int) -> dict:
    """Writes a SavedModel that takes any number of images.

    Signatures, all with normalization and class names inside:

        serving_default  image, uint8 [B, h, w, c], raw pixels → logits and
                         probabilities, float32 [B, classes], and the names and
                         probabilities of the likeliest: classes, string [B, k], and
                         scores, float32 [B, k]
        encoded          image_bytes, string [B], JPEG or PNG files → the same
                         outputs; see `decode`
        features         image → features, float32 [B, h', w', c'], and logits

    Images of neither one nor three channels have no `encoded`. An input of another
    shape is refused with an InvalidArgumentError that names the right one.

    Args:
      peer: the network.
      info: the data set that it was trained on.
      directory: where saved_model.pb and variables/ are written.
      top_k: k, the number of classes that are named.

    Returns:
      {"signatures": inputs and outputs of each, "warmup": path of the requests that
      TensorFlow Serving starts with, or None, "quantization"}.
    """
    functions = _functions(peer, info, top_k)
    concrete = {name: each.get_concrete_function() for name, each in functions.items()}
    tf.saved_model.save(Weights(peer), directory, signatures=concrete)
    return {
        "signatures": {
            name: {
                "inputs": _specs(
                    {spec.name: spec for spec in each.structured_input_signature[0]}
                ),
                "outputs": _specs(each.structured_outputs),
            }
            for name, each in concrete.items()
        },
        "warmup": _write_warmup(peer.name, info, directory, sorted(concrete)),
        "quantization": {"type": "none"},
    }


def open_saved_model(path: Path) -> tuple[dict, Any]:
    """Loads a SavedModel that `export` wrote.

    Returns:
      its manifest, and the object that TensorFlow loads, with `signatures`; the
      variables live as long as that object.

    Raises:
      UserError: it is damaged, or not one of ours.
    """
    manifest = read_manifest(path)
    for name in manifest["files"]:
        if name == "saved_model.pb" or name.startswith("variables/"):
            check_file(path / name, manifest["files"][name])
    check_labels(path, manifest)
    try:
        return manifest, tf.saved_model.load(str(path))
    # E.g. an operator of another version of TensorFlow; which class is raised then is
    # not documented.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"TensorFlow cannot load {path}: {reason}") from error


def read(path: Path) -> tuple[dict, Callable[[np.ndarray], np.ndarray]]:
    """Returns the manifest of a SavedModel that `export` wrote, and what runs it.

    Raises:
      UserError: see `open_saved_model`.
    """
    manifest, loaded = open_saved_model(path)

    def logits(images: np.ndarray) -> np.ndarray:
        # `loaded` and not its signature: the variables live as long as it does.
        return loaded.signatures[SIGNATURE](image=tf.constant(images))["logits"].numpy()

    return manifest, logits


def _functions(peer: Peer, info: DatasetInfo, top_k: int) -> dict:
    """Returns the function of each signature."""
    images = tf.TensorSpec([None, *info.image_shape], tf.uint8, name="image")
    files = tf.TensorSpec([None], tf.string, name="image_bytes")
    # Servers demand UTF-8.
    class_names = tf.constant(
        [name.encode("utf-8", "backslashreplace") for name in info.class_names]
    )

    # The shapes of these are no promise: a loaded SavedModel runs whatever it is
    # given, and some kernels end the process over a wrong rank.
    def checked(inputs, spec):
        return tf.ensure_shape(inputs, spec.shape)

    # Called by all three signatures, so that the network is in the file once.
    @tf.function(input_signature=[images], autograph=False)
    def network(image):
        output = peer(image, training=False)
        return tf.cast(output.features, tf.float32), output.logits

    def answer(image):
        _, logits = network(image)
        probabilities = tf.nn.softmax(logits)
        scores, indices = tf.math.top_k(probabilities, top_k)
        return {
            "logits": logits,
            "probabilities": probabilities,
            "classes": tf.gather(class_names, indices),
            "scores": scores,
        }

    @tf.function(input_signature=[images], autograph=False)
    def serving_default(image):
        return answer(checked(image, images))

    @tf.function(input_signature=[files], autograph=False)
    def encoded(image_bytes):
        return answer(
            tf.map_fn(
                lambda content: decode(content, info.image_shape, info.white_level),
                checked(image_bytes, files),
                fn_output_signature=tf.TensorSpec(info.image_shape, tf.uint8),
            )
        )

    @tf.function(input_signature=[images], autograph=False)
    def features(image):
        maps, logits = network(checked(image, images))
        return {"features": maps, "logits": logits}

    functions = {SIGNATURE: serving_default, FEATURES: features}
    if info.image_shape[2] in (1, 3):
        functions[ENCODED] = encoded
    return functions


def decode(
    content: tf.Tensor, image_shape: Sequence[int], white_level: float | None = None
) -> tf.Tensor:
    """Decodes an image file and brings it to the model's size, within a graph.

    The result is that of `afd_tf.data.image_files` with Pillow: the camera's
    orientation is applied (of EXIF, else of XMP), transparent pixels are laid over
    white, 16-bit values lose their lower half (but see `white_level`), grey is 0.299
    red + 0.587 green + 0.114 blue, and the central square (of models with oblong
    images: the largest centre of that ratio) is resized, bilinear and antialiased. A
    PNG of the model's size gives exactly Pillow's pixels. A resized image differs from
    Pillow's, which rounds between the two directions and computes in fixed point, by
    one level of 255 at most, in a fifth of the pixels or fewer; that of a CMYK file by
    two.

    The only difference: an orientation is not found behind the first 100
    segments or chunks of a file, nor in a PNG where ImageMagick has hidden it in a
    compressed text ("Raw profile type exif").

    An image that claims more than `MAX_PIXELS` is refused before it is decoded, as
    is a file that is neither PNG nor JPEG. There is no limit on the number of images
    in a request, of which some ten are decoded at a time, nor on the time that a
    progressive JPEG of many scans takes.

    Args:
      content: string scalar, the bytes of a file.
      image_shape: h, w and c of the model; c is 1 or 3.
      white_level: the value of white in grey PNGs of 16 bits, of the data set; None is
        65535.

    Returns:
      uint8 [h, w, c].

    Raises:
      tf.errors.InvalidArgumentError: the file is no image, broken, or too large.
    """
    # A file that is too short for a PNG's head is refused by the decoder of JPEG.
    is_png = tf.equal(tf.strings.substr(content, 0, len(_PNG)), _PNG) & (
        tf.strings.length(content) > _PNG_HEAD
    )
    image, orientation = tf.cond(
        is_png,
        lambda: (_decode_png(content, white_level), png_orientation(content)),
        lambda: (_decode_jpeg(content), jpeg_orientation(content)),
    )
    image = upright(image, orientation)
    if image_shape[2] == 1:
        weighted = tf.cast(image, tf.int32) * tf.constant(_GREY_WEIGHTS)
        grey = (tf.reduce_sum(weighted, axis=-1, keepdims=True) + 0x8000) // 0x10000
        image = tf.cast(grey, tf.uint8)
    return tf.ensure_shape(
        central_crop(image, size=tuple(image_shape[:2])), image_shape
    )


def _decode_png(content: tf.Tensor, white_level: float | None) -> tf.Tensor:
    """Returns uint8 [h, w, 3] of a PNG, over white."""
    # Signature, length and name of the first chunk, then width and height, 4 bytes
    # each, the bits of a value, and the kind of pixels.
    sizes = tf.io.decode_raw(
        tf.strings.substr(content, 16, 8), tf.int32, little_endian=False
    )
    with tf.control_dependencies([_small_enough(sizes)]):
        content = tf.identity(content)
    if white_level in (None, 65535):
        return _decode_8_bits(content)
    is_deep_grey = tf.equal(tf.strings.substr(content, 24, 2), b"\x10\x00")
    return tf.cond(
        is_deep_grey,
        lambda: _decode_16_bits(content, white_level),
        lambda: _decode_8_bits(content),
    )


def _decode_8_bits(content: tf.Tensor) -> tf.Tensor:
    """Returns uint8 [h, w, 3] of a PNG, over white; of 16 bits the upper half."""
    bits = tf.io.decode_raw(tf.strings.substr(content, 24, 1), tf.uint8)
    pixels = tf.cast(tf.io.decode_png(content, channels=4), tf.int32)
    colours, alpha = pixels[..., :3], pixels[..., 3:]
    # Where values have 1, 2 or 4 bits, TensorFlow adds an alpha of as few.
    most = tf.bitwise.left_shift(1, tf.minimum(tf.cast(bits, tf.int32), 8)) - 1
    alpha *= tf.where(tf.reduce_max(alpha) <= most, 255 // most, 1)
    # Pillow's fixed-point arithmetic, so that not even the rounding differs.
    blended = 128 * (colours * alpha + 255 * (255 - alpha) + 128)
    return tf.cast((blended + blended // 256) // 32768, tf.uint8)


def _decode_16_bits(content: tf.Tensor, white_level: float) -> tf.Tensor:
    """Returns uint8 [h, w, 3] of a grey PNG of 16 bits."""
    # All values there are, as the training read them.
    values = Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256))
    table = np.asarray(image_files.flatten(values, white_level)).reshape(-1)
    pixels = tf.io.decode_png(content, channels=1, dtype=tf.uint16)
    return tf.repeat(tf.gather(tf.constant(table), tf.cast(pixels, tf.int32)), 3, -1)


def _decode_jpeg(content: tf.Tensor) -> tf.Tensor:
    """Returns uint8 [h, w, 3] of a JPEG."""
    sizes = tf.image.extract_jpeg_shape(content)[:2]
    with tf.control_dependencies([_small_enough(sizes)]):
        return tf.io.decode_jpeg(
            tf.identity(content), channels=3, dct_method="INTEGER_ACCURATE"
        )


def _small_enough(sizes: tf.Tensor) -> tf.Operation:
    """Refuses a width and height, int32 [2], of more than `MAX_PIXELS`."""
    sizes = tf.cast(sizes, tf.int64)
    return tf.debugging.Assert(
        tf.reduce_all(sizes > 0) & (tf.reduce_prod(sizes) <= MAX_PIXELS),
        [f"an image must have 1 to {MAX_PIXELS} pixels, not", sizes],
    )


def _specs(specs: Mapping[str, tf.TensorSpec]) -> dict:
    """Returns dtype and shape by name, as JSON."""
    return {
        name: {"dtype": spec.dtype.name, "shape": spec.shape.as_list()}
        for name, spec in specs.items()
    }


def _write_warmup(
    name: str, info: DatasetInfo, directory: Path, signatures: Sequence[str]
) -> str | None:
    """Writes the requests that TensorFlow Serving runs before it is ready."""
    try:
        # By name, so that no tool takes this optional package for a requirement.
        logs = importlib.import_module("tensorflow_serving.apis.prediction_log_pb2")
    except ImportError:
        say(
            "no warm-up requests for TensorFlow Serving were written: they need "
            "`pip install -r requirements-serving.txt`."
        )
        return None
    # The content of the images does not matter.
    image = np.zeros(info.image_shape, np.uint8)
    inputs = {SIGNATURE: ("image", image)}
    if ENCODED in signatures:
        inputs[ENCODED] = ("image_bytes", tf.io.encode_png(image).numpy())
    path = directory / WARMUP
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, (argument, value) in inputs.items():
            for batch_size in _WARMUP_BATCHES:
                log = logs.PredictionLog()
                request = log.predict_log.request
                request.model_spec.name = name
                request.model_spec.signature_name = signature
                request.inputs[argument].CopyFrom(
                    tf.make_tensor_proto(np.stack([value] * batch_size))
                )
                writer.write(log.SerializeToString())
    return WARMUP
