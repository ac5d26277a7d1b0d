"""The parts of `Method.fit` beside the training step: batches, means, the warm-up."""

from collections.abc import Mapping
from typing import Any, Protocol

import keras
import tensorflow as tf

from afd_tf.base.errors import UserError
from afd_tf.data import Dataset

_EVALUATION_BATCH = 256


class Fitted(Protocol):
    """The parts of a method that `fit` needs."""

    warmup_epochs: int
    warming_up: bool
    epochs: int
    steps_per_epoch: int

    def make_train_function(self, force: bool = False) -> Any:
        """Traces the training step of Keras."""


class EpochMeans:
    """The means of a training step's values over an epoch of `fit`.

    Their names are known when the first step is traced, which is after Keras has
    closed the list of what a model tracks: hence no attributes of the model.
    """

    def __init__(self):
        self.metrics: dict[str, keras.metrics.Mean] = {}

    def update(self, values: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Adds the values of a step, scalars by name; returns the means so far."""
        for name, value in values.items():
            if name not in self.metrics:
                with tf.init_scope():
                    self.metrics[name] = keras.metrics.Mean(name)
            self.metrics[name].update_state(value)
        return {name: self.metrics[name].result() for name in values}


class WarmupPhase(keras.callbacks.Callback):
    """Switches a method from its warm-up to the run proper, within `fit`."""

    def __init__(self, method: Fitted):
        super().__init__()
        self._method = method

    def on_epoch_begin(self, epoch: int, logs: Mapping | None = None) -> None:
        """Traces the training step again where another phase begins."""
        warming_up = epoch < self._method.warmup_epochs
        if warming_up != self._method.warming_up:
            self._method.warming_up = warming_up
            self._method.make_train_function(force=True)


def fit_arguments(
    method: Fitted, dataset: Dataset, batch_size: int | None, seed: int
) -> dict[str, Any]:
    """Returns the arguments of `keras.Model.fit` for the whole run on a data set.

    Validation is on its validation images, where some were held out; the test split
    is for the end.

    Args:
      method: compiled.
      dataset: to train on.
      batch_size: images of a step.
      seed: of the order of the images and of augmentation.

    Raises:
      UserError: the batch size is missing, or is not the one that the method was
        compiled for.
    """
    if batch_size is None:
        raise UserError("give the number of images of a step: fit(..., batch_size=64).")
    steps = dataset.steps_per_epoch(batch_size)
    if steps != method.steps_per_epoch:
        raise UserError(
            f"batch_size={batch_size} makes {steps} steps of an epoch, but the method "
            f"was compiled with steps_per_epoch={method.steps_per_epoch}: give "
            "compile(steps_per_epoch=dataset.steps_per_epoch(batch_size))."
        )
    epochs = method.warmup_epochs + method.epochs
    arguments = {
        "x": dataset.train_batches(batch_size=batch_size, seed=seed, epochs=epochs),
        "epochs": epochs,
        "steps_per_epoch": steps,
        # The batches are shuffled already.
        "shuffle": False,
    }
    if dataset.info.examples["validation"]:
        arguments["validation_data"] = evaluation_batches(dataset, "validation")
    return arguments


def evaluation_batches(dataset: Dataset, split: str) -> tf.data.Dataset:
    """Returns the batches that `evaluate` counts; see `Dataset.evaluation_batches`."""
    batch_size = min(_EVALUATION_BATCH, max(1, dataset.info.examples[split]))
    return dataset.evaluation_batches(split, batch_size=batch_size)
