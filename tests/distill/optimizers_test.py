"""The optimizers against torch's formulas in NumPy, and decay in both modes."""

import keras
import numpy as np
import pytest

from afd_tf.base.errors import UserError
from afd_tf.distill.optimizers import SGD, Adam
from afd_tf.distill.recipes import Recipe

GRADIENTS = np.random.default_rng(1).normal(size=(6, 5))
START = np.random.default_rng(2).normal(size=5)


def run(optimizer):
    variable = keras.Variable(START.astype(np.float32))
    optimizer.build([variable])
    for gradient in GRADIENTS:
        optimizer.apply([keras.ops.array(gradient, "float32")], [variable])
    return variable.numpy()


@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.9, False), (0.9, True), (0.0, False)]
)
@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
def test_sgd(momentum, nesterov, mode):
    mine = run(
        SGD(0.1, decay=0.5, decay_mode=mode, momentum=momentum, nesterov=nesterov)
    )
    weight, buffer = START, 0.0
    for loss_gradient in GRADIENTS:
        gradient = loss_gradient + (0.5 * weight if mode == "coupled" else 0.0)
        if mode == "decoupled":
            weight = weight - 0.1 * 0.5 * weight
        buffer = momentum * buffer + gradient
        step = gradient + momentum * buffer if nesterov else buffer
        weight = weight - 0.1 * step
    np.testing.assert_allclose(mine, weight, rtol=1e-5)


@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
def test_adam(mode):
    # A large epsilon shows on which side of the bias correction it stands.
    mine = run(Adam(0.01, decay=0.5, decay_mode=mode, epsilon=0.1))
    weight, first, second = START, 0.0, 0.0
    for step, loss_gradient in enumerate(GRADIENTS, start=1):
        gradient = loss_gradient + (0.5 * weight if mode == "coupled" else 0.0)
        if mode == "decoupled":
            weight = weight - 0.01 * 0.5 * weight
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = np.sqrt(second / (1 - 0.999**step)) + 0.1
        weight = weight - 0.01 * first / (1 - 0.9**step) / corrected
    np.testing.assert_allclose(mine, weight, rtol=1e-5)


@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
@pytest.mark.parametrize("kind", [SGD, Adam])
def test_a_factor_of_the_rate_is_a_rate_of_the_variable(kind, mode):
    fast, slow = (keras.Variable(START.astype(np.float32)) for _ in range(2))
    optimizer = kind(0.02, decay=0.5, decay_mode=mode)
    optimizer.rate_factors = (1.0, 0.25)
    optimizer.build([fast, slow])
    for gradient in GRADIENTS:
        gradients = [keras.ops.array(gradient, "float32")] * 2
        # In another order than they were built: the variable decides.
        optimizer.apply(gradients, [slow, fast])
    for variable, rate in ((fast, 0.02), (slow, 0.005)):
        alone = run(kind(rate, decay=0.5, decay_mode=mode))
        np.testing.assert_allclose(variable.numpy(), alone, rtol=1e-6)


def test_decoupled_adam_agrees_with_keras():
    mine = run(Adam(0.01, decay=0.5, decay_mode="decoupled", epsilon=1e-7))
    keras_own = run(keras.optimizers.AdamW(0.01, weight_decay=0.5, epsilon=1e-7))
    np.testing.assert_allclose(mine, keras_own, rtol=1e-5)


@pytest.mark.parametrize("clip", [None, 0.5, 100.0])
def test_the_norm_of_all_gradients_together_is_clipped(clip):
    start = [np.float32([1.0, -2.0]), np.float32([[0.5]])]
    gradients = [np.float32([3.0, 4.0]), np.float32([[12.0]])]  # of norm 13
    variables = [keras.Variable(values) for values in start]
    recipe = Recipe("sgd", 1.0, decay=0.1, drops=(), momentum=0.0, clip_norm=clip)
    optimizer = recipe.build(epochs=1, steps_per_epoch=1, name="sgd")
    optimizer.build(variables)
    norm = optimizer.apply_scaled([keras.ops.array(g) for g in gradients], variables)
    # What is reported is the norm before; the decay is not clipped.
    assert float(norm) == pytest.approx(13.0)
    factor = min(1.0, (clip or np.inf) / 13)
    for variable, value, gradient in zip(variables, start, gradients, strict=True):
        np.testing.assert_allclose(
            variable.numpy(), value - factor * gradient - 0.1 * value, rtol=1e-5
        )


def test_an_unknown_kind_is_refused():
    with pytest.raises(
        UserError, match=r"unknown optimizer 'adamw'\. Did you mean 'adam'"
    ):
        Recipe("adamw", learning_rate=0.1, decay=0.0)


def test_a_drop_of_the_learning_rate_acts_at_once():
    recipe = Recipe("sgd", learning_rate=1.0, decay=0.0, drops=(0.5,))
    optimizer = recipe.build(epochs=2, steps_per_epoch=1, name="sgd")
    variable = keras.Variable(np.zeros(1, np.float32))
    optimizer.build([variable])
    one = keras.ops.ones(1)
    optimizer.apply([one], [variable])
    np.testing.assert_allclose(variable.numpy(), [-1.0])
    # Buffer 0.9 + 1 at learning rate 0.1; Keras' own would still move 0.9 + 0.1.
    optimizer.apply([one], [variable])
    np.testing.assert_allclose(variable.numpy(), [-1.19], rtol=1e-6)
