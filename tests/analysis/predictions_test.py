"""Predictions for the test images against the networks themselves."""

import numpy as np
import pytest
from absl import flags

from afd_tf.analysis import grad_cam, predictions
from afd_tf.analysis.finished_runs import find_runs
from afd_tf.base.errors import UserError
from tests import exports, tiny
from tests.analysis import logs

PEERS = exports.RUN_FLAGS["peers"]


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    """A finished run with a checkpoint, and its peers."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    peers = exports.write_run(directory, digits.info)
    logs.write(directory, method="independent", peers=PEERS)
    (run,) = find_runs([directory]).finished
    return run, peers


def test_predictions_of_all_networks_and_their_ensemble(digits, run, parsed_flags):
    finished, peers = run
    assert predictions.has_checkpoint(finished)
    before = flags.FLAGS["dataset"].default
    found = predictions.predict_test_images(finished)
    # The flags of the data are at their own defaults again.
    assert flags.FLAGS["dataset"].default == before

    batch = next(digits.evaluation_batches("test", batch_size=360).as_numpy_iterator())
    np.testing.assert_array_equal(found.labels, batch["label"])
    # The second peer has fewer parameters.
    by_size = [peers[1], peers[0]]
    expected = [
        tiny.softmax(exports.logits_of(peer, batch["image"])) for peer in by_size
    ]
    expected.append((expected[0] + expected[1]) / 2)
    names = [network.name for network in found.networks]
    assert names == ["wrn_10_1", "resnet8", "ensemble"]
    for network, probabilities in zip(found.networks, expected, strict=True):
        np.testing.assert_allclose(
            network.confidence, probabilities.max(axis=-1), rtol=1e-4
        )
        classes = probabilities.argmax(axis=-1)
        assert np.mean(network.predicted == classes) > 0.99
        wrong = np.flatnonzero(network.predicted != batch["label"])
        order = wrong[np.argsort(-network.confidence[wrong], kind="stable")][:8]
        for place, mistake in zip(order, network.mistakes, strict=True):
            assert mistake.confidence == network.confidence[place]
            assert mistake.label == batch["label"][place]
            assert mistake.predicted == network.predicted[place]
            np.testing.assert_array_equal(mistake.image, batch["image"][place])

    assert len(found.explained) == len(found.explained_labels) == 4
    assert list(found.explanations) == ["wrn_10_1", "resnet8"]
    maps = grad_cam.grad_cam(peers[0], found.explained).maps
    np.testing.assert_allclose(found.explanations["resnet8"].maps, maps, atol=1e-4)


def test_logs_alone_have_no_networks(run, tmp_path):
    (logged,) = find_runs([logs.write(tmp_path / "logs")]).finished
    assert not predictions.has_checkpoint(logged)
    with pytest.raises(UserError, match="no run directory"):
        predictions.predict_test_images(logged)
