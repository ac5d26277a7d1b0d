"""Schedules of learning rates, step by step."""

import math

import keras
import numpy as np
import pytest
from absl.testing import flagsaver

from afd_tf.base.errors import UserError
from afd_tf.distill.recipes import logit_recipe_from_flags
from afd_tf.distill.schedules import Cosine, LinearWarmup, StepDecay


@pytest.mark.parametrize(
    ("drops", "epochs", "steps_per_epoch"),
    [((0.5, 0.75), 8, 3), ((0.25, 0.5), 300, 2), ((), 3, 2), ((0.0, 0.5), 2, 3)],
)
def test_step_decay_of_every_step(drops, epochs, steps_per_epoch):
    schedule = StepDecay(0.1, drops, 0.1, epochs, steps_per_epoch)
    for step in range(epochs * steps_per_epoch):
        passed = sum(step // steps_per_epoch >= round(drop * epochs) for drop in drops)
        assert float(schedule(step)) == pytest.approx(0.1 * 0.1**passed, rel=1e-5), step


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_short_run_begins_at_the_full_rate(epochs):
    schedule = StepDecay(0.1, (0.2, 0.5), 0.1, epochs, 3)
    assert [float(schedule(step)) for step in range(3)] == pytest.approx([0.1] * 3)


def test_the_recipes_epochs():
    # 300 epochs: SGD drops at 150 and 225, the Adams at 75 and 150.
    for drops, epochs in (((0.5, 0.75), (150, 225)), ((0.25, 0.5), (75, 150))):
        schedule = StepDecay(1.0, drops, 0.1, 300, 391)
        for number, epoch in enumerate(epochs):
            assert float(schedule(epoch * 391 - 1)) == pytest.approx(0.1**number)
            assert float(schedule(epoch * 391)) == pytest.approx(0.1 ** (number + 1))


def test_drops_outside_the_run_are_refused():
    with pytest.raises(UserError, match="between 0 and 1"):
        StepDecay(0.1, (150, 225), 0.1, 300, 391)


def test_cosine_is_half_a_wave_from_the_rate_to_nothing():
    schedule = Cosine(0.4, epochs=5, steps_per_epoch=4)
    for step in range(21):
        expected = 0.4 * (1 + math.cos(math.pi * step / 20)) / 2
        assert float(schedule(step)) == pytest.approx(expected, abs=1e-7), step
    # Keras' own, another implementation.
    other = keras.optimizers.schedules.CosineDecay(0.4, 20)
    assert float(schedule(13)) == pytest.approx(float(other(13)), rel=1e-5)


def test_rates_grow_linearly_and_then_follow_the_schedule():
    plain = StepDecay(0.1, (0.5,), 0.1, 4, 5)
    schedule = LinearWarmup(plain, 4)
    rates = [float(schedule(step)) for step in range(20)]
    np.testing.assert_allclose(rates[:4], [0.025, 0.05, 0.075, 0.1], rtol=1e-6)
    np.testing.assert_allclose(rates[4:], [float(plain(n)) for n in range(4, 20)])


def test_a_recipe_has_the_schedule_of_the_flags():
    with flagsaver.as_parsed(
        schedule="cosine", warmup_epochs="0.5", learning_rate="0.2", gradient_clip="3"
    ):
        recipe = logit_recipe_from_flags()
    assert (recipe.kind, recipe.clip_norm) == ("sgd", 3.0)
    optimizer = recipe.build(epochs=4, steps_per_epoch=4, name="sgd")
    optimizer.build([keras.Variable(np.zeros(1, np.float32))])
    first = 0.2 * 0.5  # the first of two warm-up steps
    assert float(optimizer.learning_rate) == pytest.approx(first)
    with flagsaver.as_parsed(optimizer="adamw"):
        recipe = logit_recipe_from_flags()
    assert (recipe.kind, recipe.learning_rate, recipe.decay) == ("adam", 1e-3, 0.05)
    assert recipe.decay_mode == "decoupled"
    for flag, value in (("optimizer", "adamv"), ("schedule", "cosinus")):
        with (
            flagsaver.as_parsed(**{flag: value}),
            pytest.raises(UserError, match=f"unknown {flag} '{value}'. Did you mean"),
        ):
            logit_recipe_from_flags()
