"""The step decay of learning rates, step by step."""

import pytest

from afd_tf.base.errors import UserError
from afd_tf.distill.schedules import StepDecay


@pytest.mark.parametrize(
    ("drops", "epochs", "steps_per_epoch"),
    [((0.5, 0.75), 8, 3), ((0.25, 0.5), 300, 2), ((), 3, 2), ((0.5,), 1, 4)],
)
def test_step_decay_of_every_step(drops, epochs, steps_per_epoch):
    schedule = StepDecay(0.1, drops, 0.1, epochs, steps_per_epoch)
    for step in range(epochs * steps_per_epoch):
        passed = sum(step // steps_per_epoch >= round(drop * epochs) for drop in drops)
        assert float(schedule(step)) == pytest.approx(0.1 * 0.1**passed, rel=1e-5), step


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
