"""The methods by name."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from afd_tf.distill import (
    afd,
    afd_offline,
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
from afd_tf.distill.method import Method
from afd_tf.distill.offline import Teacher
from afd_tf.errors import UserError, unknown_name
from afd_tf.models import Peer

__all__ = ["METHODS", "Method", "Row", "method_from_flags", "set_method_defaults"]


class Row(NamedTuple):
    """A method.

    Attributes:
      build: of the peers, and of the frozen teachers if it is `offline`.
      offline: whether it learns from --teacher.
      defaults: of flags that mean something else in another method.
    """

    build: Callable[..., Method]
    offline: bool = False
    defaults: Mapping[str, Any] = {}


_LABELS_ALONE = {"logit_weight": 0.0, "temperature": 4.0}
_MOSTLY_THE_TEACHER = {"label_weight": 0.1, "logit_weight": 0.9, "temperature": 4.0}

METHODS: dict[str, Row] = {
    "afd": Row(afd.from_flags, defaults={"topology": "cyclic"}),
    "afd_offline": Row(afd_offline.from_flags, offline=True),
    "alignment": Row(alignment.from_flags),
    "attention_transfer": Row(
        attention_transfer.from_flags, offline=True, defaults=_LABELS_ALONE
    ),
    "dml": Row(dml.from_flags),
    "factor_transfer": Row(
        factor_transfer.from_flags, offline=True, defaults=_LABELS_ALONE
    ),
    "fitnets": Row(fitnets.from_flags, offline=True, defaults=_LABELS_ALONE),
    "independent": Row(independent.from_flags),
    "kd": Row(
        kd.from_flags,
        offline=True,
        defaults=_MOSTLY_THE_TEACHER,
    ),
    "ktan": Row(
        ktan.from_flags,
        offline=True,
        defaults=_MOSTLY_THE_TEACHER,
    ),
    "meal": Row(
        meal.from_flags,
        offline=True,
        defaults={"label_weight": 0.0, "logit_weight": 0.0, "temperature": 1.0},
    ),
    "one": Row(one.from_flags, defaults={"own_stages": 1}),
}

_METHOD = flags.DEFINE_string("method", "afd", f"One of {', '.join(METHODS)}.")


def set_method_defaults() -> Row:
    """Gives flags the defaults of --method, and returns its row.

    Raises:
      UserError: an unknown method.
    """
    if _METHOD.value not in METHODS:
        raise unknown_name("method", _METHOD.value, METHODS)
    row = METHODS[_METHOD.value]
    for name, value in row.defaults.items():
        # Leaves alone what the command line has set.
        flags.FLAGS.set_default(name, value)
    return row


def method_from_flags(
    peers: Sequence[Peer], frozen_teachers: Sequence[Teacher] = ()
) -> Method:
    """Builds the method that --method names, with its own flags.

    Args:
      peers: built networks.
      frozen_teachers: what --teacher names.

    Raises:
      UserError: an unknown method, settings that it refuses, or a teacher too many or
        none.
    """
    row = set_method_defaults()
    if row.offline and not frozen_teachers:
        raise UserError(
            f"--method={_METHOD.value} learns from a trained network: train one with "
            "--method=independent and give its run directory as --teacher."
        )
    if frozen_teachers and not row.offline:
        offline = ", ".join(name for name, each in METHODS.items() if each.offline)
        raise UserError(
            f"--teacher is not for --method={_METHOD.value}, whose peers learn from "
            f"each other: leave it away, or take one of {offline}."
        )
    return row.build(peers, frozen_teachers) if row.offline else row.build(peers)
