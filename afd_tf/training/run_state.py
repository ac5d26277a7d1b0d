"""The place that a run has reached: saved, restored, and set back after a NaN."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from afd_tf.base.console import say
from afd_tf.base.errors import UserError
from afd_tf.base.run_flags import operational
from afd_tf.training import preemption
from afd_tf.training.checkpoints import Checkpoints
from afd_tf.training.workers import Workers

_ON_NAN = operational(
    flags.DEFINE_enum(
        "on_nan",
        "stop",
        ["stop", "restore"],
        "The reaction to a loss or a gradient that is not finite: stop the run, or "
        "restore the last checkpoint and skip the batch of that step.",
    )
)
_MAX_RESTORES = operational(
    flags.DEFINE_integer(
        "max_restores",
        3,
        "Number of batches that --on_nan=restore skips before it stops the run.",
        lower_bound=1,
    )
)


class NotFiniteError(UserError):
    """A loss or a gradient that is not finite.

    Attributes:
      step: the step in which it appeared, counted from 0.
    """

    def __init__(self, step: int, message: str):
        super().__init__(message)
        self.step = step


_PATIENCE = flags.DEFINE_integer(
    "patience",
    None,
    "Number of epochs without a better accuracy on the validation images after which "
    "the run ends. Default: it never ends early.",
    lower_bound=1,
)


@dataclasses.dataclass
class RunState:
    """The state of a run beside its variables: all that it needs to continue.

    Attributes:
      step: number of steps that are over, those of skipped batches included.
      sums: float64, each metric added up over the steps of the current epoch; 0.0 at
        its beginning.
      seconds: time spent in training steps.
      best_validation: accuracies by name of the best epoch on the validation images,
        and its "epoch"; None without one.
      skipped: steps, counted from 0, whose batches are skipped.
      replicas: on how many the run was started last; None before the first time.
    """

    step: int = 0
    sums: float | Sequence[float] = 0.0
    seconds: float = 0.0
    best_validation: Mapping[str, float] | None = None
    skipped: list[int] = dataclasses.field(default_factory=list)
    replicas: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the state as a checkpoint stores it."""
        return dataclasses.asdict(self)

    def note_best(self, validation: Mapping[str, float], epoch: int) -> bool:
        """Returns whether an epoch is the best on validation so far, and notes it."""
        best = self.best_validation
        if best and best["mean/accuracy"] >= validation["mean/accuracy"]:
            return False
        self.best_validation = {**validation, "epoch": epoch}
        return True

    def is_out_of_patience(self, patience: int | None, epoch: int) -> bool:
        """Returns whether the best epoch on validation is `patience` epochs ago."""
        return (
            patience is not None
            and self.best_validation is not None
            and epoch - self.best_validation["epoch"] >= patience
        )


def patience_from_flags(validation_images: int) -> int | None:
    """Returns --patience.

    Args:
      validation_images: of the data set.

    Raises:
      UserError: there are none, by which it could be decided.
    """
    if _PATIENCE.value is not None and not validation_images:
        raise UserError(
            f"--patience={_PATIENCE.value} ends a run by its accuracy on validation "
            "images, and there are none: give --validation_examples=N too. The test "
            "images never decide."
        )
    return _PATIENCE.value


def restored_state(checkpoints: Checkpoints, workers: Workers) -> RunState:
    """Restores the newest checkpoint, if there is one, and returns its state.

    Raises:
      UserError: the workers see different checkpoints.
    """
    state = RunState(**(checkpoints.restore(repair=workers.is_chief) or {}))
    if workers.all_reduce_sum(state.step) != [workers.count * state.step]:
        raise UserError(
            "the workers see different checkpoints: put --run_dir on a file system "
            "that all of them share."
        )
    return state


def save(
    checkpoints: Checkpoints, state: RunState, workers: Workers, best: bool = False
) -> None:
    """Writes a checkpoint, for all workers."""
    if workers.is_chief:
        checkpoints.save(state.to_json(), best=best)
    preemption.note_progress()


def save_for_restore(
    checkpoints: Checkpoints, state: RunState, workers: Workers
) -> None:
    """Writes what --on_nan=restore goes back to in the first epoch of a new run."""
    if not state.step and _ON_NAN.value == "restore":
        save(checkpoints, state, workers)


def state_before(
    error: NotFiniteError, state: RunState, checkpoints: Checkpoints, workers: Workers
) -> RunState:
    """Goes back to the last checkpoint, from where the step of `error` is skipped.

    Raises:
      NotFiniteError: --on_nan=stop, or too many batches have been skipped.
    """
    skipped = [*state.skipped, error.step]
    if _ON_NAN.value == "stop" or len(skipped) > _MAX_RESTORES.value:
        raise error
    before = RunState(**checkpoints.restore(repair=workers.is_chief))
    say(f"{error} Going back to step {before.step} and skipping that batch.")
    return dataclasses.replace(before, skipped=skipped)
