"""Diagnosis of the discriminators of a run from their accuracy in training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# A discriminator with this accuracy at the end of the run always wins.
_COLLAPSED = 0.99
# One that was never more accurate than this did no better than chance, 0.5.
_LEARNED_NOTHING = 0.55
_CURVES = ("epochs", "accuracy", "real", "fake")


def discriminator_health(
    metrics: Sequence[Mapping[str, float]], names: Sequence[str]
) -> list[dict[str, Any]] | None:
    """Diagnoses each peer's discriminator from its accuracy in training.

    Args:
      metrics: a run's epochs, as in `metrics.jsonl`. Epochs are used that have
        train/peer_<k>/discriminator_accuracy, perhaps with _real (on another's maps)
        and _fake (on the peer's own maps), all fractions.
      names: the names of all peers, in their order.

    Returns:
      for every peer with a discriminator {"peer": "peer_<k>", "name", "epochs",
      "accuracy", "real", "fake" (a value per epoch), "last_quarter" (mean accuracy of
      the last quarter of the epochs), "highest", "state": "collapsed", "learned
      nothing" or "in balance", "advice"}; None where no peer has one.
    """
    results = []
    for number, name in enumerate(names):
        peer = f"peer_{number}"
        key = f"train/{peer}/discriminator_accuracy"
        lines = [line for line in metrics if key in line]
        if not lines:
            continue
        accuracy = [line[key] for line in lines]
        last_quarter = float(np.mean(accuracy[-math.ceil(len(lines) / 4) :]))
        highest = max(accuracy)
        state, advice = _diagnose(last_quarter, highest)
        results.append(
            {
                "peer": peer,
                "name": name,
                "epochs": [line["epoch"] for line in lines],
                "accuracy": accuracy,
                "real": [line.get(f"{key}_real") for line in lines],
                "fake": [line.get(f"{key}_fake") for line in lines],
                "last_quarter": last_quarter,
                "highest": highest,
                "state": state,
                "advice": advice,
            }
        )
    return results or None


def without_curves(health: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the entries of `discriminator_health` without their values per epoch."""
    return [
        {name: value for name, value in peer.items() if name not in _CURVES}
        for peer in health
    ]


def _diagnose(last_quarter: float, highest: float) -> tuple[str, str]:
    """Returns a discriminator's state, and advice for it."""
    if last_quarter >= _COLLAPSED:
        return "collapsed", (
            f"right about {last_quarter:.1%} of the maps in the last quarter of the "
            "run: the discriminator always wins, and what it then teaches the feature "
            "maps is likely to fade. A lower --afd_learning_rate or a higher "
            "--afd_weight_decay may hold it back; both act on the feature maps' side "
            "too, so see whether the peers' accuracy gains by it."
        )
    if highest <= _LEARNED_NOTHING:
        return "learned nothing", (
            f"never right about more than {highest:.1%} of the maps, where chance is "
            "50%: either the peers' maps cannot be told apart, or the discriminator "
            "learns too slowly. Where cosine or CKA is well below 1 they do differ: "
            "then try a higher --afd_learning_rate."
        )
    return "in balance", (
        f"right about {last_quarter:.1%} of the maps in the last quarter of the run, "
        f"about {highest:.1%} at most: it tells the maps apart, and not always."
    )
