"""What a run stands on: devices, workers, precision, seeds, learning-rate schedules."""

import json
import os
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from afd_tf import rendezvous
from afd_tf.errors import UserError, unknown_name

STRATEGIES = ("auto", "one", "mirrored", "multi_worker", "tpu")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")

# What TensorFlow raises in the other workers when one is lost.
LOST_WORKER = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)

_STRATEGY = flags.DEFINE_string(
    "strategy",
    "auto",
    "auto: multi_worker if TF_CONFIG is set, else all GPUs, or one device where there "
    "are not several; one: the first GPU, or the CPU; mirrored: MirroredStrategy over "
    "all GPUs (or logical CPUs); multi_worker: MultiWorkerMirroredStrategy over the "
    "machines that TF_CONFIG names; tpu: the one that --tpu names (never tried).",
)
_TPU = flags.DEFINE_string(
    "tpu", "", "Name or address of the TPU; empty: the one of this machine."
)
_PRECISION = flags.DEFINE_string(
    "precision",
    "float32",
    "float32; mixed_bfloat16 or mixed_float16: convolutions in 16 bits. Weights, "
    "normalization, softmax and losses stay in float32.",
)
_DETERMINISTIC = flags.DEFINE_bool(
    "deterministic",
    False,
    "Use only operators whose results do not vary from run to run, also on a GPU.",
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 128, "Pictures a step, over all replicas.", lower_bound=1
)
_SEED = flags.DEFINE_integer(
    "seed",
    0,
    "Of the initial weights, the order of the pictures and augmentation.",
    lower_bound=0,
)


def strategy_from_flags() -> tf.distribute.Strategy:
    """Returns the strategy that --strategy names.

    Raises:
      UserError: the name is unknown, or the machines cannot be had.
    """
    name = _STRATEGY.value
    if name not in STRATEGIES:
        raise unknown_name("strategy", name, STRATEGIES)
    if _is_multi_worker():
        rendezvous.meet(*_tf_config())
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        return _tpu_strategy()
    graphics = tf.config.list_logical_devices("GPU")
    if name == "mirrored" or (name == "auto" and len(graphics) > 1):
        devices = graphics or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def _is_multi_worker() -> bool:
    automatic = _STRATEGY.value == "auto" and bool(os.environ.get("TF_CONFIG"))
    return automatic or _STRATEGY.value == "multi_worker"


def workers_from_flags() -> int:
    """Returns how many processes train together.

    Raises:
      UserError: TF_CONFIG should say it, and does not.
    """
    if not _is_multi_worker():
        return 1
    cluster, _ = _tf_config()
    return sum(map(len, cluster.values()))


def _tf_config() -> tuple[dict, dict]:
    """Returns the cluster and the task of this process."""
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        if int(task["index"]) < len(cluster[task["type"]]):
            return cluster, task
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(
        f"TF_CONFIG={text!r} should say who the workers are and which one this is, "
        'e.g. {"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
        '"task": {"type": "worker", "index": 0}}; or give --strategy=one.'
    )


def _tpu_strategy() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=_TPU.value)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    # What is raised without a TPU is not said, and differs from host to host.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"no TPU {_TPU.value!r} can be used: {reason}") from error
    return tf.distribute.TPUStrategy(resolver)


class Crew:
    """The processes of a run, which take every step together; mostly one.

    Attributes:
      workers: how many there are.
      is_chief: whether this one writes what the run keeps.

    Args:
      strategy: of the run.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        resolver = strategy.cluster_resolver
        self.workers, self.is_chief = 1, True
        # A TPU has a resolver too, and one process here.
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            tasks = resolver.cluster_spec().as_dict()
            self.workers = sum(map(len, tasks.values()))
            first = "chief" if "chief" in tasks else "worker"
            self.is_chief = (resolver.task_type, resolver.task_id) == (first, 0)
        self._add = self._addition(strategy) if self.workers > 1 else np.asarray

    def add(self, *values: float) -> list[float]:
        """Returns each value, added up over all workers; all of them must call it."""
        return [float(value) for value in self._add(values)]

    def chiefs(self, *values: float) -> list[float]:
        """Returns the chief's values on all workers; all of them must call it."""
        return self.add(*(value if self.is_chief else 0 for value in values))

    def meet(self) -> None:
        """Waits until all workers have come here."""
        self.add(0)

    def _addition(self, strategy) -> Callable[[Sequence[float]], np.ndarray]:
        local = strategy.num_replicas_in_sync // self.workers

        def of_replica(values):
            context = tf.distribute.get_replica_context()
            # An argument is on no device yet, and is reduced to where it is.
            own = tf.identity(values)
            return context.all_reduce(tf.distribute.ReduceOp.SUM, own)

        @tf.function(autograph=False, reduce_retracing=True)
        def over_all(values):
            per_replica = strategy.run(of_replica, (values,))
            return strategy.experimental_local_results(per_replica)[0]

        return lambda values: over_all(tf.constant(values, tf.float64)).numpy() / local


def precision_from_flags() -> str:
    """Sets the precision of the networks to come, --precision, and returns it.

    Raises:
      UserError: it is unknown.
    """
    if _PRECISION.value not in PRECISIONS:
        raise unknown_name("precision", _PRECISION.value, PRECISIONS)
    keras.mixed_precision.set_dtype_policy(_PRECISION.value)
    return _PRECISION.value


def seed_from_flags() -> int:
    """Seeds Python, NumPy and TensorFlow with --seed, and returns it."""
    if _DETERMINISTIC.value:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(_SEED.value)
    return _SEED.value


def batch_size_from_flags(strategy: tf.distribute.Strategy) -> int:
    """Returns --batch_size, the pictures of a step over all replicas.

    Raises:
      UserError: it leaves a replica without pictures.
    """
    replicas = strategy.num_replicas_in_sync
    if _BATCH_SIZE.value < replicas:
        raise UserError(
            f"--batch_size={_BATCH_SIZE.value} is smaller than the {replicas} replicas "
            f"that share it: give at least {replicas}."
        )
    return _BATCH_SIZE.value


class StepDecay(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate, multiplied by `factor` after each of `drops`.

    Args:
      learning_rate: of the first step.
      drops: parts of the run, 0..1; each is rounded to the nearest whole epoch.
      factor: of each drop.
      epochs: length of the run.
      steps_per_epoch: likewise.

    Raises:
      UserError: a drop is outside 0..1.
    """

    def __init__(
        self,
        learning_rate: float,
        drops: Sequence[float],
        factor: float,
        epochs: int,
        steps_per_epoch: int,
    ):
        if any(not 0 <= drop <= 1 for drop in drops):
            raise UserError(
                f"learning-rate drops {list(drops)} are given as parts of the run, "
                "each between 0 and 1, e.g. 0.5,0.75."
            )
        self.boundaries = [round(drop * epochs) * steps_per_epoch for drop in drops]
        self.values = [learning_rate * factor**count for count in range(len(drops) + 1)]

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the learning rate, float32, of the step that is number `step`."""
        passed = tf.constant(self.boundaries, tf.int64) <= tf.cast(step, tf.int64)
        count = tf.math.count_nonzero(passed)
        return tf.gather(tf.constant(self.values, tf.float32), count)

    def get_config(self) -> dict:
        """Returns the steps at which the rate changes, and the rates."""
        return {"boundaries": self.boundaries, "values": self.values}
