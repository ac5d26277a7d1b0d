"""Averages of weights against NumPy; evaluated, saved and loaded in their place."""

import numpy as np
import pytest

from afd_tf.distill.methods.dml import MutualLearning
from afd_tf.distill.methods.one import OnTheFlyEnsemble
from afd_tf.training.checkpoints import Checkpoints, load_peers
from afd_tf.training.run_directory import RunDirectory
from tests import tiny


@pytest.fixture(scope="module")
def trained():
    """A method with averages, and the weights of each peer after every step."""
    method = tiny.compiled(
        MutualLearning(tiny.peers("resnet8", "resnet8"), ema=0.15), steps_per_epoch=4
    )
    history = [[tiny.values(peer.variables) for peer in method.peers]]
    for seed in range(4):
        method.take_step(tiny.batch(seed))
        history.append([tiny.values(peer.variables) for peer in method.peers])
    return method, history


def test_against_numpy(trained):
    method, (expected, *history) = trained
    for step, weights in enumerate(history):
        # 0.1, then 2 / 11, which is more than 0.15.
        decay = min(0.15, (1 + step) / (10 + step))
        expected = [
            [decay * a + (1 - decay) * w for a, w in zip(*pair, strict=True)]
            for pair in zip(expected, weights, strict=True)
        ]
    for averages, peer in zip(method.averages.variables, expected, strict=True):
        for average, values in zip(averages, peer, strict=True):
            np.testing.assert_allclose(average.numpy(), values, rtol=1e-4, atol=1e-6)
    # The weights themselves are what training makes of them.
    for peer, values in zip(method.peers, history[-1], strict=True):
        for one, other in zip(tiny.values(peer.variables), values, strict=True):
            np.testing.assert_array_equal(one, other)


def test_they_are_evaluated_and_the_weights_come_back(trained):
    method, _ = trained
    images = tiny.batch()["image"]
    before = method(images)[0].logits.numpy()
    averages = [each.numpy() for each in method.averages.variables[0]]
    with method.evaluated_weights():
        during = method(images)[0].logits.numpy()
        for one, other in zip(
            tiny.values(method.peers[0].variables), averages, strict=True
        ):
            np.testing.assert_array_equal(one, other)
    assert np.abs(during - before).max() > 1e-4
    np.testing.assert_array_equal(method(images)[0].logits, before)
    # Also where an evaluation fails.
    with pytest.raises(ZeroDivisionError), method.evaluated_weights():
        raise ZeroDivisionError
    np.testing.assert_array_equal(method(images)[0].logits, before)


def test_a_run_gives_back_its_averages(trained, tmp_path):
    method, _ = trained
    flags = {"method": "dml", "peers": "resnet8,resnet8", "ema": "0.15"}
    RunDirectory(tmp_path, flags).initialize(tiny.info())
    Checkpoints(tmp_path, method).save({"step": 4})
    peers, _ = load_peers(tmp_path)
    for peer, averages in zip(peers, method.averages.variables, strict=True):
        for one, average in zip(tiny.values(peer.variables), averages, strict=True):
            np.testing.assert_array_equal(one, average.numpy())
    # And the run goes on with both.
    again = tiny.compiled(
        MutualLearning(tiny.peers("resnet8", "resnet8", seed=3), ema=0.15)
    )
    Checkpoints(tmp_path, again).restore()
    for mine, its in zip(again.variables, method.variables, strict=True):
        np.testing.assert_array_equal(mine.numpy(), its.numpy())
    for mine, its in zip(
        again.averages.variables[1], method.averages.variables[1], strict=True
    ):
        np.testing.assert_array_equal(mine.numpy(), its.numpy())


def test_shared_layers_have_one_average():
    method = tiny.compiled(OnTheFlyEnsemble(tiny.branches(2), ema=0.9))
    first, second = method.averages.variables
    shared = {id(each) for each in first} & {id(each) for each in second}
    expected = {id(each) for each in method.peers[0].variables} & {
        id(each) for each in method.peers[1].variables
    }
    assert len(shared) == len(expected) > 0
