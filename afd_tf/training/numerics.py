"""Precision, seeds, determinism and compilation of a run."""

import keras
import tensorflow as tf
from absl import flags

from afd_tf.base.errors import unknown_name
from afd_tf.distill.method import Method
from afd_tf.distill.step import needs_auto_clustering

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")

_PRECISION = flags.DEFINE_string(
    "precision",
    "float32",
    "The precision of convolutions: float32, mixed_bfloat16 or mixed_float16. Weights, "
    "normalization, softmax and losses are always float32.",
)
_DETERMINISTIC = flags.DEFINE_bool(
    "deterministic",
    False,
    "Use only operators whose results do not vary from run to run, also on a GPU.",
)
_SEED = flags.DEFINE_integer(
    "seed",
    0,
    "Seed of the initial weights, of the order of the images and of augmentation.",
    lower_bound=0,
)


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


def allow_auto_clustering(method: Method) -> None:
    """Turns XLA's auto-clustering on, for this process, if the method relies on it.

    To be called in the scope of the run's strategy.
    """
    if needs_auto_clustering(method):
        tf.config.optimizer.set_jit("autoclustering")
