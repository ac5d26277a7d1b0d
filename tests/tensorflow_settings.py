"""TensorFlow's settings in the programs that the tests start."""

import tensorflow as tf


def divide_cpu(replicas: int) -> None:
    """Makes so many devices of the CPU, each with a thread of its own."""
    # One thread alone would wait for itself.
    tf.config.threading.set_inter_op_parallelism_threads(max(2, replicas))
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * replicas,
    )


def begin_sooner() -> None:
    """Halves the time before the first step; numbers differ by rounding alone."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
