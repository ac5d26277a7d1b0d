"""The networks that can be peers, by name."""

import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from absl import flags

from afd_tf.base.errors import UserError, unknown_name
from afd_tf.data import DatasetInfo
from afd_tf.models import foreign, keras_peer, pretrained
from afd_tf.models.cost import multiply_adds
from afd_tf.models.efficientnet_lite import MEAN, VARIANCE, EfficientNetLite
from afd_tf.models.imagenet_resnet import ImageNetResNet
from afd_tf.models.mobilenet import MobileNetV2
from afd_tf.models.network_name import parse_network_name
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
    "is_network_name",
    "multiply_adds",
    "peers_from_flags",
    "pretrained_from_flags",
]

_PEERS = flags.DEFINE_list(
    "peers",
    ["resnet8", "resnet20"],
    "Comma-separated names of the peers; any number, of any kinds, repeats allowed: "
    "for example resnet20,wrn_28_2. A name may also be keras:NAME of a network of "
    "keras.applications, hub:PRESET of keras-hub, file:PATH of a saved Keras model or "
    "python:MODULE:FUNCTION of a function that returns one; with @imagenet behind it a "
    "network begins with its published weights, with @PATH with those of a file.",
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
    r"efficientnet_lite(\d+)": (
        EfficientNetLite,
        (
            "efficientnet_lite0",
            "efficientnet_lite1",
            "efficientnet_lite2",
            "efficientnet_lite3",
            "efficientnet_lite4",
        ),
    ),
    r"vgg(\d+)": (VGG, ("vgg8", "vgg11", "vgg13", "vgg16", "vgg19")),
}


def is_network_name(text: str) -> bool:
    """Returns whether `build_peer` may know a name, and it is no mere path."""
    network = parse_network_name(text)
    return bool(network.kind) or any(
        re.fullmatch(pattern, network.name) for pattern in PEERS
    )


def build_peer(
    name: str,
    info: DatasetInfo,
    shared: Mapping[str, keras.layers.Layer] | None = None,
    *,
    initial_weights: bool = True,
    record: Mapping[str, Any] | None = None,
) -> Peer:
    """Builds a peer and its variables.

    Args:
      name: e.g. "resnet20", "wrn_16_2", "efficientnet_lite0@imagenet" or
        "keras:MobileNetV3Small"; random weights unless the name says which.
      info: the data set's image shape, classes, mean and variance.
      shared: parts of the `body` of another peer of that name, used instead of new
        ones.
      initial_weights: whether the weights that the name asks for are wanted; without
        them, the network is the same and nothing is downloaded.
      record: of a peer that a run kept; see `foreign.from_record`.

    Raises:
      UserError: the name is unknown, no such network exists, its weights cannot be
        loaded, or the images are too small for it.
    """
    network = parse_network_name(name)
    if network.kind:
        model = (
            foreign.from_record(record)
            if record
            else foreign.load_foreign(network, info, initial_weights)
        )
        return keras_peer.build_keras_peer(network, name, model, info, shared)
    for pattern, (constructor, _) in PEERS.items():
        if match := re.fullmatch(pattern, network.name):
            mean, variance = info.mean, info.variance
            if network.weights and constructor is EfficientNetLite:
                mean, variance = MEAN, VARIANCE
            peer = constructor(
                *(group and int(group) for group in match.groups()),
                num_classes=info.num_classes,
                mean=mean,
                variance=variance,
                shared=shared,
                name=network.name,
            )
            peer.spec = name
            peer.pretrained = network.weights is not None
            peer.build_for(info.image_shape)
            if network.weights:
                if initial_weights:
                    pretrained.load_weights(peer, network.weights)
                peer.pretrained_head = pretrained.weights_have_head(
                    network.weights, info.num_classes
                )
            return peer
    known = [name for _, names in PEERS.values() for name in names]
    raise unknown_name("peer", network.name, known)


def build_peers(
    names: Sequence[str],
    info: DatasetInfo,
    own_stages: int | None = None,
    *,
    initial_weights: bool = True,
    records: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Peer]:
    """Builds several peers, either independent ones or branches of one network.

    Args:
      names: the name of each peer, at least one; see `build_peer`.
      info: the data set's image shape, classes, mean and variance.
      own_stages: the number of last stages that each peer has for itself; the stem
        and the stages before them are the same layers in all peers. None shares
        nothing.
      initial_weights: see `build_peer`.
      records: those of the peers that a run kept, by name; see `build_peer`.

    Raises:
      UserError: `build_peer` refuses a name; or layers are to be shared among peers of
        different names, or of no more than `own_stages` stages.
    """

    def build(name: str, shared: Mapping[str, keras.layers.Layer] | None) -> Peer:
        return build_peer(
            name,
            info,
            shared,
            initial_weights=initial_weights,
            record=(records or {}).get(name),
        )

    first = build(names[0], None)
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
    return [first, *(build(name, shared) for name in names[1:])]


def pretrained_from_flags() -> bool:
    """Returns whether a peer that --peers names may begin with trained weights."""
    networks = map(parse_network_name, _PEERS.value)
    # What comes as a file or from a function is asked for because of its weights.
    return any(
        each.weights is not None or each.kind not in ("", "keras") for each in networks
    )


def peers_from_flags(info: DatasetInfo, **settings) -> list[Peer]:
    """Builds the peers that --peers names, in its order.

    Args:
      info: see `build_peers`.
      **settings: `initial_weights` and `records`; see `build_peers`.

    Raises:
      UserError: see `build_peers`.
    """
    return build_peers(_PEERS.value, info, _OWN_STAGES.value, **settings)
