"""The peers by name."""

import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf
from absl import flags

from afd_tf.data import DatasetInfo
from afd_tf.errors import UserError, unknown_name
from afd_tf.models.imagenet_resnet import ImageNetResNet
from afd_tf.models.mobilenet import MobileNetV2
from afd_tf.models.peer import Peer, PeerOutput
from afd_tf.models.resnet import ResNet
from afd_tf.models.shufflenet import ShuffleNetV2
from afd_tf.models.vgg import VGG
from afd_tf.models.wide_resnet import WideResNet

__all__ = [
    "PEERS",
    "Peer",
    "PeerOutput",
    "build_peer",
    "build_peers",
    "multiply_adds",
    "peers_from_flags",
]

_PEERS = flags.DEFINE_list(
    "peers",
    ["resnet8", "resnet20"],
    "Any number of networks, of any kinds, repeats allowed; e.g. resnet20,wrn_28_2.",
)

_OWN_STAGES = flags.DEFINE_integer(
    "own_stages",
    None,
    "For --method=one: the last stages that each peer has for itself; the others and "
    "the stem are shared.",
    lower_bound=1,
)

# Pattern of the name → the class, called with the pattern's numbers; the names are
# the usual ones, and any other depth or width that fits the formula works as well.
PEERS: dict[str, tuple[Callable[..., Peer], tuple[str, ...]]] = {
    r"resnet(\d+)(?:x(\d+))?": (
        ResNet,
        (
            "resnet8",
            "resnet14",
            "resnet20",
            "resnet32",
            "resnet44",
            "resnet56",
            "resnet110",
            "resnet8x4",
            "resnet32x4",
        ),
    ),
    r"wrn_(\d+)_(\d+)": (
        WideResNet,
        (
            "wrn_16_1",
            "wrn_16_2",
            "wrn_16_4",
            "wrn_28_2",
            "wrn_28_4",
            "wrn_28_10",
            "wrn_40_1",
            "wrn_40_2",
        ),
    ),
    r"imagenet_resnet(\d+)": (
        ImageNetResNet,
        ("imagenet_resnet18", "imagenet_resnet34", "imagenet_resnet50"),
    ),
    r"imagenet_resnet(\d+)_small": (
        functools.partial(ImageNetResNet, small=True),
        (
            "imagenet_resnet18_small",
            "imagenet_resnet34_small",
            "imagenet_resnet50_small",
        ),
    ),
    r"mobilenet_v2_(\d+)": (MobileNetV2, ("mobilenet_v2_50", "mobilenet_v2_100")),
    r"shufflenet_v2_(\d+)": (
        ShuffleNetV2,
        ("shufflenet_v2_50", "shufflenet_v2_100", "shufflenet_v2_150"),
    ),
    r"vgg(\d+)": (VGG, ("vgg8", "vgg11", "vgg13", "vgg16", "vgg19")),
}


def build_peer(
    name: str,
    info: DatasetInfo,
    shared: Mapping[str, keras.layers.Layer] | None = None,
) -> Peer:
    """Builds a peer with its variables, randomly initialised.

    Args:
      name: e.g. "resnet20" or "wrn_16_2".
      info: of the data set: picture shape, classes, mean and variance.
      shared: layers of another peer of that name, by their names, to use instead of
        new ones.

    Raises:
      UserError: the name is unknown, or the pictures are too small.
    """
    for pattern, (constructor, _) in PEERS.items():
        if match := re.fullmatch(pattern, name):
            peer = constructor(
                *(group and int(group) for group in match.groups()),
                num_classes=info.num_classes,
                mean=info.mean,
                variance=info.variance,
                shared=shared,
                name=name,
            )
            peer.build_for(info.image_shape)
            return peer
    known = [name for _, names in PEERS.values() for name in names]
    raise unknown_name("peer", name, known)


def build_peers(
    names: Sequence[str], info: DatasetInfo, own_stages: int | None = None
) -> list[Peer]:
    """Builds several peers, each from new layers or as branches of one network.

    Args:
      names: see `build_peer`.
      info: likewise.
      own_stages: the last stages that each peer has for itself; all before them is
        shared. None shares nothing.

    Raises:
      UserError: see `build_peer`; and peers of several kinds, or without so many
        stages, cannot share.
    """
    first = build_peer(names[0], info)
    shared = {}
    if own_stages is not None:
        stages = first.stages
        if len(set(names)) > 1 or own_stages >= len(stages):
            raise UserError(
                f"--own_stages={own_stages} makes the peers branches of one network: "
                f"give it less than {len(stages)}, the stages of {names[0]}, and "
                f"peers of one kind, not --peers={','.join(names)}."
            )
        branch = stages[-own_stages]
        shared = dict(
            itertools.takewhile(lambda item: item[0] != branch, first.body.items())
        )
    return [first, *(build_peer(name, info, shared) for name in names[1:])]


def peers_from_flags(info: DatasetInfo) -> list[Peer]:
    """Builds the networks that --peers names, in its order; see `build_peers`."""
    return build_peers(_PEERS.value, info, _OWN_STAGES.value)


def multiply_adds(peer: Peer, image_shape: tuple[int, int, int]) -> int:
    """Counts the multiplications of convolutions and dense layers for one picture.

    Args:
      peer: a built peer.
      image_shape: (h, w, c).
    """

    @tf.function(autograph=False)
    def logits(images):
        return peer(images, training=False).logits

    graph = logits.get_concrete_function(
        tf.TensorSpec([1, *image_shape], tf.uint8)
    ).graph
    total = 0
    for operation in graph.get_operations():
        if operation.type in ("Conv2D", "DepthwiseConv2dNative", "MatMul"):
            kernel = operation.inputs[1].shape
            output = operation.outputs[0].shape.num_elements()
            # Per output number: every weight that reaches it.
            reach = kernel.num_elements() // kernel[-1]
            if operation.type == "DepthwiseConv2dNative":
                reach = kernel[0] * kernel[1]
            total += output * reach
    return total
