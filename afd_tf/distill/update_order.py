"""The order in which logit and feature-map losses update the peers."""

from absl import flags

from afd_tf.base.errors import unknown_name
from afd_tf.distill.metrics import Values

UPDATE_ORDERS = ("simultaneous", "sequential")

_UPDATE_ORDER = flags.DEFINE_string(
    "update_order",
    "simultaneous",
    "The order of the updates of methods with feature-map losses (afd, afd_offline, "
    "alignment): simultaneous takes all gradients from one forward pass; sequential "
    "runs a second one between the logit update and the feature-map updates.",
)


def update_order_from_flags() -> str:
    """Returns --update_order; the methods check it."""
    return _UPDATE_ORDER.value


def check_update_order(update_order: str) -> None:
    """Refuses an unknown order.

    Raises:
      UserError: it is not one of `UPDATE_ORDERS`.
    """
    if update_order not in UPDATE_ORDERS:
        raise unknown_name("update order", update_order, UPDATE_ORDERS)


def merge_losses(*parts: tuple[Values, Values]) -> tuple[Values, Values]:
    """Returns the losses and the monitors of several loss functions together."""
    losses, monitors = {}, {}
    for some_losses, some_monitors in parts:
        losses |= some_losses
        monitors |= some_monitors
    return losses, monitors
