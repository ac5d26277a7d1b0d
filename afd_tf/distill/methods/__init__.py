"""The methods by name."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from afd_tf.base.errors import UserError, unknown_name
from afd_tf.distill.label_loss import label_loss_from_flags
from afd_tf.distill.method import Method
from afd_tf.distill.methods import (
    afd,
    afd_decay_only,
    afd_offline,
    afd_unpaired,
    alignment,
    attention_transfer,
    dml,
    factor_transfer,
    fitnets,
    independent,
    kd,
    ktan,
    meal,
    one,
)
from afd_tf.distill.offline_distillation import Teacher
from afd_tf.distill.recipes import set_optimizer_defaults
from afd_tf.models import Peer, pretrained_from_flags

__all__ = [
    "METHODS",
    "MethodEntry",
    "build_method",
    "method_from_flags",
    "set_method_defaults",
]


class MethodEntry(NamedTuple):
    """A method of the table.

    Attributes:
      build: of the peers, of the frozen teachers if it is `offline`, and of keyword
        arguments.
      settings_from_flags: returns these arguments from the command line.
      offline: whether it learns from trained networks (--teacher).
      defaults: of keyword arguments, and of the flags with their names, whose default
        is another one in this method.
      peer_defaults: of the flags with which its peers are built.
      pretrained_defaults: of flags, where a peer may begin with trained weights.
    """

    build: Callable[..., Method]
    settings_from_flags: Callable[[], dict]
    offline: bool = False
    defaults: Mapping[str, Any] = {}
    peer_defaults: Mapping[str, Any] = {}
    pretrained_defaults: Mapping[str, Any] = {}


def _build_afd_offline(
    peers: Sequence[Peer], frozen_teachers: Sequence[Teacher], **settings
) -> Method:
    return _build_afd(peers, frozen_teachers=frozen_teachers, **settings)


def _build_afd(
    peers: Sequence[Peer],
    *,
    unpaired: bool = False,
    decay_only: bool = False,
    **settings,
) -> Method:
    """Builds AFD, or the variant that the first two arguments ask for."""
    if unpaired and decay_only:
        raise UserError(
            "--afd_unpaired and --afd_decay_only are two variants of afd: give one."
        )
    if unpaired:
        return afd_unpaired.UnpairedFeatureDistillation(peers, **settings)
    if decay_only:
        return afd_decay_only.DecayOnlyControl(peers, **settings)
    return afd.AdversarialFeatureDistillation(peers, **settings)


def _with_variants(settings_from_flags: Callable[[], dict]) -> Callable[[], dict]:
    return lambda: {
        "unpaired": afd_unpaired.chosen_from_flags(),
        "decay_only": afd_decay_only.chosen_from_flags(),
        **settings_from_flags(),
    }


_NO_DECAY = {"afd_weight_decay": afd.PRETRAINED_RECIPE.decay}
_LABELS_ALONE = {"logit_weight": 0.0, "temperature": 4.0}
_MOSTLY_THE_TEACHER = {"label_weight": 0.1, "logit_weight": 0.9, "temperature": 4.0}

METHODS: dict[str, MethodEntry] = {
    "afd": MethodEntry(
        _build_afd,
        _with_variants(afd.settings_from_flags),
        defaults={"topology": "cyclic"},
        pretrained_defaults=_NO_DECAY,
    ),
    "afd_offline": MethodEntry(
        _build_afd_offline,
        _with_variants(afd_offline.settings_from_flags),
        offline=True,
        pretrained_defaults=_NO_DECAY,
    ),
    "alignment": MethodEntry(
        alignment.FeatureAlignment,
        alignment.settings_from_flags,
        pretrained_defaults=_NO_DECAY,
    ),
    "attention_transfer": MethodEntry(
        attention_transfer.AttentionTransfer,
        attention_transfer.settings_from_flags,
        offline=True,
        defaults=_LABELS_ALONE,
    ),
    "dml": MethodEntry(dml.MutualLearning, dml.settings_from_flags),
    "factor_transfer": MethodEntry(
        factor_transfer.FactorTransfer,
        factor_transfer.settings_from_flags,
        offline=True,
        defaults=_LABELS_ALONE,
    ),
    "fitnets": MethodEntry(
        fitnets.FitNets,
        fitnets.settings_from_flags,
        offline=True,
        defaults=_LABELS_ALONE,
    ),
    "independent": MethodEntry(
        independent.Independent, independent.settings_from_flags
    ),
    "kd": MethodEntry(
        kd.KnowledgeDistillation,
        kd.settings_from_flags,
        offline=True,
        defaults=_MOSTLY_THE_TEACHER,
    ),
    "ktan": MethodEntry(
        ktan.AdversarialKnowledgeTransfer,
        ktan.settings_from_flags,
        offline=True,
        defaults=_MOSTLY_THE_TEACHER,
    ),
    "meal": MethodEntry(
        meal.MultiModelEnsemble,
        meal.settings_from_flags,
        offline=True,
        defaults={"label_weight": 0.0, "logit_weight": 0.0, "temperature": 1.0},
    ),
    "one": MethodEntry(
        one.OnTheFlyEnsemble,
        one.settings_from_flags,
        peer_defaults={"own_stages": 1},
    ),
}

_METHOD = flags.DEFINE_string(
    "method", "afd", f"The distillation method: one of {', '.join(METHODS)}."
)


def build_method(
    name: str,
    peers: Sequence[Peer],
    teachers: Sequence[Teacher] = (),
    **settings,
) -> Method:
    """Builds a method by its name.

    Example:
      method = build_method("dml", peers, temperature=1.0, temperature_squared=False)

    Args:
      name: a key of `METHODS`.
      peers: built networks.
      teachers: trained networks that offline methods learn from.
      **settings: keyword arguments of the method's class; what is not given has the
        default that the command line has for this method.

    Raises:
      UserError: an unknown method, settings that it refuses, or a teacher too many or
        none.
    """
    entry = _entry(name)
    if entry.offline and not teachers:
        raise UserError(
            f"--method={name} learns from a trained network: train one with "
            "--method=independent and give its run directory as --teacher."
        )
    if teachers and not entry.offline:
        offline = ", ".join(key for key, each in METHODS.items() if each.offline)
        raise UserError(
            f"--teacher is not for --method={name}, whose peers learn from each other: "
            f"leave it out, or take one of {offline}."
        )
    settings = {**entry.defaults, **settings}
    if entry.offline:
        return entry.build(peers, teachers, **settings)
    return entry.build(peers, **settings)


def set_method_defaults() -> MethodEntry:
    """Gives flags the defaults of --method, --optimizer and --peers.

    Returns:
      the method's entry.

    Raises:
      UserError: an unknown method or optimizer, or a name of a peer that is none.
    """
    set_optimizer_defaults()
    entry = _entry(_METHOD.value)
    defaults = {**entry.defaults, **entry.peer_defaults}
    if pretrained_from_flags():
        defaults |= entry.pretrained_defaults
    for name, value in defaults.items():
        # Leaves alone what the command line has set.
        flags.FLAGS.set_default(name, value)
    return entry


def method_from_flags(
    peers: Sequence[Peer],
    frozen_teachers: Sequence[Teacher] = (),
    class_counts: Callable[[], Sequence[int]] = tuple,
) -> Method:
    """Builds the method that --method names, with its own flags.

    Args:
      peers: built networks.
      frozen_teachers: the networks that --teacher names.
      class_counts: returns the number of training images of each class, for
        --class_weights=balanced.

    Raises:
      UserError: see `build_method`.
    """
    settings = set_method_defaults().settings_from_flags()
    settings["label_loss"] = label_loss_from_flags(class_counts)
    return build_method(_METHOD.value, peers, frozen_teachers, **settings)


def method_name_from_flags() -> str:
    """Returns --method."""
    return _METHOD.value


def _entry(name: str) -> MethodEntry:
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]
