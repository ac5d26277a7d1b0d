"""Executions that save memory or time compute the same: microbatches, XLA, 16 bits."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from afd_tf.benchmarks.worker_process import resident_peak
from afd_tf.distill.methods.afd import AdversarialFeatureDistillation
from afd_tf.distill.methods.afd_unpaired import UnpairedFeatureDistillation
from afd_tf.distill.methods.dml import MutualLearning
from afd_tf.distill.recipes import Recipe
from afd_tf.distill.step import Execution
from tests import tiny

# Small enough that rounding errors stay rounding errors.
SGD = Recipe("sgd", learning_rate=0.01, decay=1e-3)


def afd(variant=AdversarialFeatureDistillation, **execution):
    peers = tiny.small_peers()
    return tiny.compiled(variant(peers, recipe=SGD, execution=Execution(**execution)))


def assert_close(one, other, rtol=1e-4, atol=1e-5):
    for mine, its in zip(
        one.trainable_variables, other.trainable_variables, strict=True
    ):
        close = np.isclose(mine.numpy(), its.numpy(), rtol=rtol, atol=atol)
        # Adam moves a weight whose gradient is rounding noise either way.
        assert close.mean() > 0.999, mine.path
        np.testing.assert_allclose(mine.numpy(), its.numpy(), rtol=rtol, atol=5e-5)


@pytest.mark.parametrize("parts", [2, 3])
def test_microbatches_are_one_update(parts):
    # Microbatches with the same images have the same batch statistics.
    batch = {
        name: tf.concat([values] * parts, axis=0)
        for name, values in tiny.batch().items()
    }
    whole, divided = afd(), afd(accumulate=parts)
    expected = whole.take_step(batch)
    metrics = tf.function(divided.take_step, autograph=False)(batch)
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-3, err_msg=name)
    assert_close(divided, whole)


@pytest.mark.parametrize("size", [7, 2])
def test_a_batch_that_does_not_divide_counts_every_image(size):
    method = tiny.compiled(
        MutualLearning(tiny.small_peers(), execution=Execution(accumulate=3))
    )
    labels = tiny.batch(size=size)["label"]
    seen = []
    losses = method.logit_losses
    method.logit_losses = lambda own, outputs: seen.append(own) or losses(own, outputs)
    method.take_step(tiny.batch(size=size))
    np.testing.assert_array_equal(np.concatenate(seen), labels)


def test_xla_computes_the_same():
    # The variant of AFD with the most to compile.
    variant = UnpairedFeatureDistillation
    plain, compiled = (afd(variant, jit_compile=x) for x in (False, True))
    for seed in range(2):
        expected = plain.take_step(tiny.batch(seed))
        metrics = compiled.take_step(tiny.batch(seed))
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-3, atol=1e-4)
    assert_close(compiled, plain)
    for mine, its in zip(
        compiled.non_trainable_variables, plain.non_trainable_variables, strict=True
    ):
        np.testing.assert_allclose(mine.numpy(), its.numpy(), rtol=1e-3, atol=1e-4)


def test_recomputed_blocks_give_the_same():
    plain, again = afd(), afd(remat=True)
    steps = [tf.function(each.take_step, autograph=False) for each in (plain, again)]
    for seed in range(2):
        expected, metrics = (step(tiny.batch(seed)) for step in steps)
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-3, atol=1e-4)
    assert_close(again, plain)
    # The batch statistics moved once a step.
    for mine, its in zip(
        again.non_trainable_variables, plain.non_trainable_variables, strict=True
    ):
        np.testing.assert_allclose(mine.numpy(), its.numpy(), rtol=1e-3, atol=1e-4)
    # It is done at all: each block's convolutions stand in the graph once more.
    counts = []
    for step in steps:
        graph = step.get_concrete_function(tiny.batch()).graph
        counts.append(sum(o.type == "Conv2D" for o in graph.get_operations()))
    assert counts[1] > counts[0]


# With one thread, what nothing waits for is left until the end.
MEMORY = """
from afd_tf.base.command_line import quick_imports
with quick_imports():
    import tensorflow as tf
tf.config.threading.set_inter_op_parallelism_threads(1)
tf.config.threading.set_intra_op_parallelism_threads(1)
from afd_tf.benchmarks.worker_process import resident_peak
from afd_tf.distill.methods.independent import Independent
from afd_tf.distill.step import Execution
from afd_tf.models import build_peer
from tests import tiny

batch = tiny.batch(size=128, image_shape=(32, 32, 3))
info = tiny.info((32, 32, 3))
steps = []
for remat in (True, False):
    peers = [build_peer("resnet26", info)]
    method = tiny.compiled(Independent(peers, execution=Execution(remat=remat)))
    step = tf.function(method.take_step, autograph=False)
    steps.append(step.get_concrete_function(batch))
peaks = [resident_peak()]
for step in steps:
    step(batch)
    peaks.append(resident_peak())
print(*peaks)
"""


def test_recomputed_blocks_are_not_kept():
    if resident_peak() is None:
        pytest.skip("this system does not say how much memory a process takes")
    result = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True
    )
    traced, again, kept = map(int, result.stdout.split())
    # 12 blocks: of seven maps each, only the one that enters it is kept.
    assert kept - traced > 2 * (again - traced)


@pytest.fixture
def precision(request):
    keras.mixed_precision.set_dtype_policy(request.param)
    yield request.param
    keras.mixed_precision.set_dtype_policy("float32")


@pytest.mark.parametrize(
    "precision", ["mixed_bfloat16", "mixed_float16"], indirect=True
)
def test_16_bits_are_near_32(precision):
    method = afd()
    for variable in method.variables:
        assert variable.dtype == "float32"
    outputs = method(tiny.batch()["image"], training=True)
    assert outputs[0].features.dtype == precision.removeprefix("mixed_")
    assert outputs[0].logits.dtype == tf.float32
    metrics = method.take_step(tiny.batch())
    keras.mixed_precision.set_dtype_policy("float32")
    expected = afd().take_step(tiny.batch())
    for name, value in expected.items():
        if "accuracy" not in name:
            np.testing.assert_allclose(
                metrics[name], value, rtol=0.3, atol=0.02, err_msg=name
            )


@pytest.mark.parametrize("precision", ["mixed_float16"], indirect=True)
def test_every_optimizer_has_a_loss_scale_that_survives_an_overflow(precision):
    method = afd()
    step = tf.function(method.take_step, autograph=False)
    kinds = ("logit", "discriminator", "feature")
    scales = [f"peer_{k}/loss_scale_{kind}" for k in (0, 1) for kind in kinds]
    metrics = step(tiny.batch())
    assert {name: float(metrics[name]) for name in scales} == dict.fromkeys(
        scales, 2.0**15
    )
    for objective in method.objectives:
        before = tiny.values([*objective.variables, *objective.optimizer.variables])
        # More than float16 holds: the gradients overflow.
        objective.optimizer._scale.assign(1e30)
        metrics = step(tiny.batch())
        assert metrics[objective.metric("gradient_norm")] == 0.0, objective.name
        np.testing.assert_allclose(metrics[objective.metric("loss_scale")], 5e29)
        state = zip(
            before[len(objective.variables) :],
            objective.optimizer.variables,
            strict=True,
        )
        for old, variable in state:
            if variable.name not in ("scale", "good_steps", "iteration"):
                np.testing.assert_array_equal(old, variable.numpy())
        objective.optimizer._scale.assign(2.0**10)
    metrics = step(tiny.batch())
    for name, value in metrics.items():
        assert np.isfinite(value), name
        if "gradient_norm" in name:
            assert value > 0, name


@pytest.mark.parametrize("precision", ["mixed_float16"], indirect=True)
def test_a_scale_is_doubled_after_2000_good_steps(precision):
    method = afd()
    optimizer = method.objectives[0].optimizer
    optimizer._good_steps.assign(1999.0)
    method.take_step(tiny.batch())
    assert float(optimizer.loss_scale) == 2.0**16
    assert float(optimizer._good_steps.numpy()) == 0.0
