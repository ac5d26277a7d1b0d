"""The networks that can be peers, by name."""

import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence

import keras
from absl import flags

from afd_tf.base.errors import UserError, unknown_name
from afd_tf.data import DatasetInfo
from afd_tf.models.cost import multiply_adds
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
    "Comma-separated names of the peers; any number, of any kinds, repeats allowed: "
    "for example resnet20,wrn_28_2.",
)
_OWN_STAGES = flags.DEFINE_integer(
    "own_stages",
    None,
    "With --method=one, the number of last stages that each peer has for itself; the "
    "stem and the other stages are shared.",
    lower_bound=1,
)

# Pattern of a name → the class, which is called with the numbers in the pattern, and
# the usual names. Any other depth or width that the class accepts works as well.
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
    """Builds a peer and its variables, randomly initialized.

    Args:
      name: e.g. "resnet20" or "wrn_16_2".
      info: the data set's image shape, classes, mean and variance.
      shared: parts of the `body` of another peer of that name, used instead of new
        ones.

    Raises:
      UserError: the name is unknown, no such network exists, or the images are too
        small for it.
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
    """Builds several peers, either independent ones or branches of one network.

    Args:
      names: the name of each peer, at least one; see `build_peer`.
      info: the data set's image shape, classes, mean and variance.
      own_stages: the number of last stages that each peer has for itself; the stem
        and the stages before them are the same layers in all peers. None shares
        nothing.

    Raises:
      UserError: `build_peer` refuses a name; or layers are to be shared among peers of
        different names, or of no more than `own_stages` stages.
    """
    first = build_peer(names[0], info)
    shared = {}
    if own_stages is not None:
        stages = first.stages
        if len(set(names)) > 1 or own_stages >= len(stages):
            raise UserError(
                f"--own_stages={own_stages} makes the peers branches of one network: "
                f"it needs a number less than {len(stages)}, the stages of {names[0]}, "
                f"and peers of one kind, not --peers={','.join(names)}."
            )
        branch = stages[-own_stages]
        shared = dict(
            itertools.takewhile(lambda item: item[0] != branch, first.body.items())
        )
    return [first, *(build_peer(name, info, shared) for name in names[1:])]


def peers_from_flags(info: DatasetInfo) -> list[Peer]:
    """Builds the peers that --peers names, in its order.

    Args:
      info: see `build_peers`.

    Raises:
      UserError: see `build_peers`.
    """
    return build_peers(_PEERS.value, info, _OWN_STAGES.value)
