"""The state of a run: what a checkpoint stores, the best epoch, and patience."""

import json

import pytest
from absl.testing import flagsaver

from afd_tf.base.errors import UserError
from afd_tf.training.run_state import RunState, patience_from_flags


def test_it_comes_back_from_json():
    state = RunState(7, [0.1, 1 / 3], 2.5, {"mean/accuracy": 0.5, "epoch": 2}, [3], 2)
    assert RunState(**json.loads(json.dumps(state.to_json()))) == state
    assert RunState(**json.loads(json.dumps(RunState().to_json()))) == RunState()


def test_the_first_of_equally_good_epochs_is_the_best():
    state = RunState()
    found = [
        state.note_best({"mean/accuracy": accuracy}, epoch)
        for epoch, accuracy in enumerate((0.2, 0.2, 0.1, 0.3), start=1)
    ]
    assert found == [True, False, False, True]
    assert state.best_validation == {"mean/accuracy": 0.3, "epoch": 4}


def test_patience_counts_from_the_best_epoch():
    state = RunState()
    assert not state.is_out_of_patience(1, 5)
    state.note_best({"mean/accuracy": 0.2}, 3)
    assert [state.is_out_of_patience(2, epoch) for epoch in (3, 4, 5, 6)] == [
        False,
        False,
        True,
        True,
    ]
    assert not state.is_out_of_patience(None, 100)


def test_patience_needs_validation_images():
    with flagsaver.as_parsed(patience="3"):
        assert patience_from_flags(10) == 3
        with pytest.raises(UserError, match="give --validation_examples=N too"):
            patience_from_flags(0)
    assert patience_from_flags(0) is None
