"""The networks of keras.applications: what pixels they expect, and their weights."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import keras

from afd_tf.base.console import say
from afd_tf.base.errors import UserError, unknown_name
from afd_tf.data.tfds_download import unreachable_reason
from afd_tf.models.network_name import IMAGENET


class Pixels(NamedTuple):
    """A normalization of raw pixels 0..255: `(pixels - mean) / sqrt(variance)`.

    Attributes:
      mean: one per channel, in the order of the result.
      variance: one per channel, in the order of the result.
      reverse: whether red, green, blue become blue, green, red first.
    """

    mean: tuple[float, ...]
    variance: tuple[float, ...]
    reverse: bool = False


# -1..1.
_TF = Pixels((127.5,) * 3, (127.5**2,) * 3)
_TF_128 = Pixels((128.0,) * 3, (128.0**2,) * 3)
# Mean and deviation of ImageNet's pixels.
_TORCH = Pixels(
    tuple(255 * mean for mean in (0.485, 0.456, 0.406)),
    tuple((255 * deviation) ** 2 for deviation in (0.229, 0.224, 0.225)),
)
_CAFFE = Pixels((103.939, 116.779, 123.68), (1.0,) * 3, reverse=True)

# The beginning of a network's name → the pixels that its published weights expect. The
# longest beginning counts. Some networks have this inside, and others as a function
# `preprocess_input` beside them.
_PIXELS = {
    "ConvNeXt": _TORCH,
    "DenseNet": _TORCH,
    "EfficientNetB": _TORCH,
    "EfficientNetV2B": _TORCH,
    "EfficientNetV2": _TF_128,
    "Inception": _TF,
    "MobileNet": _TF,
    "NASNet": _TF,
    "ResNet50": _CAFFE,
    "ResNet101": _CAFFE,
    "ResNet152": _CAFFE,
    "ResNet50V2": _TF,
    "ResNet101V2": _TF,
    "ResNet152V2": _TF,
    "VGG": _CAFFE,
    "Xception": _TF,
}


def names() -> list[str]:
    """Returns the names of all networks of keras.applications."""
    return [
        name
        for name, value in vars(keras.applications).items()
        if name[0].isupper() and callable(value)
    ]


def published_pixels(name: str) -> Pixels:
    """Returns the normalization that the published weights of a network expect."""
    beginnings = [each for each in _PIXELS if name.startswith(each)]
    return _PIXELS[max(beginnings, key=len)]


def build_application(
    name: str, image_shape: tuple[int, int, int], weights: str | None
) -> keras.Model:
    """Builds a network of keras.applications without its head.

    Args:
      name: e.g. "MobileNetV3Small".
      image_shape: height, width and channels: three for published weights.
      weights: "imagenet" for the published ones, which are downloaded if they are not
        in Keras' cache; None for random ones; or the path of a file of weights of the
        network without its head.

    Raises:
      UserError: an unknown name, images that are too small, or weights that cannot be
        loaded.
    """
    if name not in (known := names()):
        raise unknown_name("network of keras.applications", name, known)
    build = getattr(keras.applications, name)
    published = IMAGENET if weights == IMAGENET else None
    try:
        with _announced_downloads(name):
            model = build(
                include_top=False,
                weights=published,
                input_shape=tuple(image_shape),
            )
    except ValueError as error:
        size = "x".join(map(str, image_shape))
        raise UserError(
            f"{name} cannot be built for images of {size}: {error} Give another "
            "--image_size."
        ) from error
    if weights not in (None, IMAGENET):
        load_model_weights(model, weights, name)
    return model


def load_model_weights(model: keras.Model, path: str, name: str) -> None:
    """Loads a file of weights into a foreign network.

    Raises:
      UserError: it is missing, or does not fit.
    """
    if not Path(path).is_file():
        raise UserError(
            f"there is no file of weights {path} for {name}: after @ comes {IMAGENET} "
            "or the path of one."
        )
    try:
        model.load_weights(path)
    except Exception as error:  # h5py and Keras raise anything.
        raise UserError(
            f"{path} does not fit {name}: expected is what Keras' save_weights wrote "
            f"of this network without its head ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]})."
        ) from error


@contextlib.contextmanager
def _announced_downloads(name: str) -> Iterator[None]:
    """Says what Keras downloads and how large it is, or refuses soon without a network.

    Keras itself would wait for minutes, and end in a traceback.
    """
    from keras.src.utils import file_utils

    kept = file_utils.get_file

    def get_file(fname=None, origin=None, **kwargs):
        home = file_utils.config.keras_home()
        folder = Path(home, kwargs.get("cache_subdir", "models"))
        target = folder / str(fname)
        if not target.is_file():
            _announce(name, origin, target)
        try:
            return kept(fname, origin, **kwargs)
        except Exception as error:  # Of the network, of the disk, or a wrong checksum.
            raise UserError(
                f"the weights of {name} could not be downloaded from {origin}: {error} "
                f"{_ways_out(target)}"
            ) from error

    file_utils.get_file = get_file
    try:
        yield
    finally:
        file_utils.get_file = kept


def _announce(name: str, origin: str, target: Path) -> None:
    if reason := unreachable_reason([origin]):
        raise UserError(
            f"the weights of {name}@{IMAGENET} are at {origin}, and {reason}. "
            f"{_ways_out(target)}"
        )
    say(f"downloading the weights of {name}{_size(origin)} from {origin} to {target}.")


def _ways_out(target: Path) -> str:
    return (
        f"Put that file at {target}, leave out @{IMAGENET}, or take "
        f"efficientnet_lite0@{IMAGENET}, whose weights are installed."
    )


def _size(origin: str) -> str:
    """Returns ", 12.3 MB," for the size of a file, or "" where the host is silent."""
    import requests

    with contextlib.suppress(requests.RequestException):
        answer = requests.head(origin, timeout=5, allow_redirects=True)
        if length := answer.headers.get("Content-Length"):
            return f", {int(length) / 1e6:.1f} MB,"
    return ""
