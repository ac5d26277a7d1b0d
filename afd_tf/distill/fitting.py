"""How Keras trains and measures a method: `fit`, `evaluate`, the counts of both."""

import contextlib
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from afd_tf.base.errors import UserError
from afd_tf.data import Dataset
from afd_tf.distill.metrics import sums_by_class, top1_correct


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


class FittedModel(keras.Model):
    """`fit` and `evaluate` of a method, as Keras' users know them.

    `afd_tf.distill.method.Method` says what a method is; this is only the way in which
    Keras trains and measures it, on one replica. `afd_tf.training.loop` counts with it
    too.
    """

    def compile_for_fit(self, **kwargs) -> None:
        """Compiles the Keras model once the objectives have their optimizers."""
        self.accuracies = {
            # float64: a count of images stays exact.
            f"{name}/accuracy": keras.metrics.Mean(f"{name}/accuracy", dtype="float64")
            for name in self.evaluated_names
        }
        self._epoch_means = EpochMeans()
        # Keras asks for one optimizer; its own training step, the only place that
        # would use it, is replaced below.
        super().compile(
            optimizer=self.objectives[0].optimizer, auto_scale_loss=False, **kwargs
        )

    @property
    def evaluated_names(self) -> list[str]:
        """The names of what has an accuracy: the peers and their ensemble."""
        return [*(f"peer_{number}" for number in range(len(self.peers))), "ensemble"]

    def evaluated_weights(self) -> contextlib.AbstractContextManager:
        """Returns a context in which the peers have the weights to be evaluated."""
        if self.averages is None:
            return contextlib.nullcontext()
        return self.averages.in_place_of_weights()

    def count_correct(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Counts by class the images that `evaluated_names` get right, and all images.

        Args:
          batch: "image" and "label" as in training, and "weight", float32 [B]: 0 for
            the images that only fill the last batch.

        Returns:
          float64 [len(evaluated_names) + 1, classes], of this replica's part, by the
          true class; the last row counts the images of weight 1.
        """
        outputs = self(batch["image"])
        scores = (*(output.logits for output in outputs), self.ensemble(outputs))
        correct = [top1_correct(batch["label"], each) for each in scores]
        counted = tf.stack([*correct, tf.ones_like(batch["weight"])]) * batch["weight"]
        return sums_by_class(counted, batch["label"], scores[0].shape[-1])

    def fit(self, x, *args, batch_size=None, seed: int = 0, callbacks=(), **kwargs):
        """Trains as `keras.Model.fit` does, on one replica, with the warm-up if any.

        Args:
          x: an `afd_tf.data.Dataset`, for the whole run that the method was compiled
            for, or batches as `Dataset.train_batches` returns them.
          *args: of `keras.Model.fit`.
          batch_size: images of a step, if `x` is a `Dataset`.
          seed: of the order of the images and of augmentation, if `x` is a `Dataset`.
          callbacks: Keras callbacks.
          **kwargs: of `keras.Model.fit`; `epochs` counts those of the warm-up too.

        Returns:
          the history of Keras: means over each epoch's steps, by name.

        Raises:
          UserError: several replicas, or a batch size that does not fit.
        """
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise UserError(
                "`fit` trains on one replica: for several, use `python -m "
                "afd_tf.train`, whose loop reduces over all of them."
            )
        if isinstance(x, Dataset):
            kwargs = {**fit_arguments(self, x, batch_size, seed), **kwargs}
            x = kwargs.pop("x")
        phases = [WarmupPhase(self)] if self.warmup else []
        callbacks = [*phases, *(callbacks or ())]
        return super().fit(x, *args, callbacks=callbacks, **kwargs)

    def evaluate(self, x=None, *args, split: str = "test", **kwargs):
        """Measures as `keras.Model.evaluate` does, each image once.

        Args:
          x: an `afd_tf.data.Dataset`, or batches as `Dataset.evaluation_batches`
            returns them.
          *args: of `keras.Model.evaluate`.
          split: of a `Dataset`.
          **kwargs: of `keras.Model.evaluate`; `return_dict=True` gives the accuracy of
            each peer and of the ensemble by name.
        """
        if isinstance(x, Dataset):
            x = evaluation_batches(x, split)
        with self.evaluated_weights():
            return super().evaluate(x, *args, **kwargs)

    def train_step(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Takes one step of `fit`; returns the means of its epoch so far, by name."""
        return self._epoch_means.update(self.take_step(batch))

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The metrics that `fit` and `evaluate` reset at the beginning of an epoch."""
        if not self.objectives:
            return []
        return [*self._epoch_means.metrics.values(), *self.accuracies.values()]

    def test_step(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Counts each image once, for every peer and for `ensemble`.

        Args:
          batch: see `count_correct`.
        """
        counts = tf.reduce_sum(self.count_correct(batch), axis=-1)
        *correct, counted = tf.unstack(counts)
        for accuracy, count in zip(self.accuracies.values(), correct, strict=True):
            accuracy.update_state(tf.math.divide_no_nan(count, counted), counted)
        return {name: metric.result() for name, metric in self.accuracies.items()}


class WarmupPhase(keras.callbacks.Callback):
    """Switches a method from its warm-up to the run proper, within `fit`."""

    def __init__(self, method: FittedModel):
        super().__init__()
        self._method = method

    def on_epoch_begin(self, epoch: int, logs: Mapping | None = None) -> None:
        """Traces the training step again where another phase begins."""
        warming_up = epoch < self._method.warmup_epochs
        if warming_up != self._method.warming_up:
            self._method.warming_up = warming_up
            self._method.make_train_function(force=True)


def fit_arguments(
    method: FittedModel, dataset: Dataset, batch_size: int | None, seed: int
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
    examples = max(1, dataset.info.examples[split])
    batch_size = min(dataset.info.evaluation_batch, examples)
    return dataset.evaluation_batches(split, batch_size=batch_size)
