"""Two replicas compute what one does: a step's losses, weights and batch statistics."""

import json
import subprocess
import sys

import numpy as np

# A process of its own for each strategy: a second one in a process is not supported.
PROGRAM = """
import json, sys
import tensorflow as tf
replicas, method_name, size, out = (
    int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
import numpy as np
from absl import flags
from afd_tf import distill, loop, runtime
from tests import tiny

flags.FLAGS(["test", "--strategy=mirrored" if replicas > 1 else "--strategy=one",
             "--method=" + method_name])
strategy = runtime.strategy_from_flags()
assert strategy.num_replicas_in_sync == replicas
with strategy.scope():
    method = distill.method_from_flags(tiny.peers("resnet8", "wrn_10_2"))
    method.compile(epochs=1, steps_per_epoch=4)


def batches(count):
    # Slices of the global batch, one after the other, as afd_tf.data gives them.
    for seed in range(3):
        batch = {k: v.numpy() for k, v in tiny.batch(seed, size).items()}
        for r in range(count):
            start, stop = r * size // count, (r + 1) * size // count
            yield {k: v[start:stop] for k, v in batch.items()}


signature = {"image": tf.TensorSpec([None, 8, 8, 3], tf.uint8),
             "label": tf.TensorSpec([None], tf.int32)}
data = loop.distribute(strategy, lambda count: tf.data.Dataset.from_generator(
    lambda: batches(count), output_signature=signature))
names, iterator = [], iter(data)
run = loop.training_function(method, strategy, iterator, names)
taken, sums, _ = run(iterator, tf.constant(3), tf.constant(0.0, tf.float64))
assert int(taken) == 3
np.savez(out, sums=sums.numpy(), *[v.value.numpy() for v in method.variables])
print(json.dumps([names, [v.path for v in method.variables]]))
"""


def run(directory, replicas, method, size):
    out = directory / f"{method}_{replicas}.npz"
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(replicas), method, str(size), str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1]), np.load(out)


def test_two_replicas_are_one(tmp_path):
    # 7 pictures: the replicas' parts differ in size.
    (names, paths), one = run(tmp_path, 1, "afd", 7)
    _, two = run(tmp_path, 2, "afd", 7)
    np.testing.assert_allclose(
        two["sums"], one["sums"], rtol=1e-4, atol=1e-5, err_msg=str(names)
    )
    for index, path in enumerate(paths):
        mine, other = two[f"arr_{index}"], one[f"arr_{index}"]
        close = np.isclose(mine, other, rtol=1e-5, atol=1e-5)
        assert close.mean() > 0.999, path
        # Adam moves a weight whose gradient is rounding noise by its learning rate
        # either way, three times.
        np.testing.assert_allclose(
            mine, other, rtol=1e-5, atol=2 * 3 * 2e-5, err_msg=path
        )
