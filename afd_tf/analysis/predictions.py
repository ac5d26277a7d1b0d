"""Predictions of the networks of a run for its test images, which are read once."""

import contextlib
import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np
from absl import flags

from afd_tf import data
from afd_tf.analysis import grad_cam
from afd_tf.analysis.finished_runs import FinishedRun
from afd_tf.analysis.run_peers import RunPeer, load_run_peers
from afd_tf.artifacts.networks import softmax
from afd_tf.artifacts.peer_network import peer_network
from afd_tf.base.console import progress
from afd_tf.data import DatasetInfo
from afd_tf.training.run_directory import read_record

SPLIT = "test"
ENSEMBLE = "ensemble"
# Images that are shown.
_MISTAKES = 8
_EXPLAINED = 4


class Mistake(NamedTuple):
    """An image that a network takes for another class.

    Attributes:
      confidence: the probability of the predicted class.
      image: uint8 [h, w, c].
      label: the true class.
      predicted: the class that the network sees.
    """

    confidence: float
    image: np.ndarray
    label: int
    predicted: int


class NetworkPredictions(NamedTuple):
    """The predictions of a network, or of the ensemble, for all test images.

    Attributes:
      name: of the network.
      predicted: int64 [N], the most probable class.
      confidence: float64 [N], its probability, 0..1.
      mistakes: those of the highest confidence, the highest first.
    """

    name: str
    predicted: np.ndarray
    confidence: np.ndarray
    mistakes: Sequence[Mistake]


class RunPredictions(NamedTuple):
    """The test images of a run, as its networks see them.

    Attributes:
      run: whose checkpoint it is.
      info: of the data set.
      labels: int64 [N], true.
      networks: all peers from small to large, then the ensemble if there are several.
      explained: uint8 [B, h, w, c], some images, drawn at random.
      explained_labels: of these.
      explanations: Grad-CAM of these for the smallest and the largest peer, by name.
    """

    run: FinishedRun
    info: DatasetInfo
    labels: np.ndarray
    networks: Sequence[NetworkPredictions]
    explained: np.ndarray
    explained_labels: Sequence[int]
    explanations: dict[str, grad_cam.GradCam]


def has_checkpoint(run: FinishedRun) -> bool:
    """Returns whether the networks of a run can be loaded."""
    return (run.directory / "dataset.json").exists() and any(
        (run.directory / "checkpoints").glob("step_*")
    )


def predict_test_images(run: FinishedRun) -> RunPredictions:
    """Shows all test images to the networks of a run, as they are at its end.

    Args:
      run: with a checkpoint.

    Raises:
      UserError: the checkpoint or the data set cannot be opened.
    """
    peers, info = _peers_in_float32(run)
    with _own_defaults():
        dataset = data.from_flags_of_run(info, run.flags, read_record(run.directory))
    networks = [peer_network(each.peer, info.image_shape) for each in peers]
    names = [each.name for each in peers]
    if len(peers) > 1:
        names.append(ENSEMBLE)
    collectors = [_Collector() for _ in names]
    sampler = grad_cam.ImageSampler({None: _EXPLAINED}, run.seed)
    labels = []
    with progress(str(run.directory), dataset.info.examples[SPLIT]) as bar:
        for shown, true in dataset.numpy_batches(
            SPLIT, batch_size=dataset.info.evaluation_batch
        ):
            sampler.update(shown, true)
            probabilities = [
                softmax(np.float64(network.logits(shown))) for network in networks
            ]
            if len(networks) > 1:
                probabilities.append(np.mean(probabilities, axis=0))
            for collector, each in zip(collectors, probabilities, strict=True):
                collector.update(shown, true, each)
            labels.append(true)
            bar.update(len(true))
    images, drawn = sampler.result()
    explained = np.stack(images)
    ends = {each.name: each for each in (peers[0], peers[-1])}
    return RunPredictions(
        run,
        info,
        np.concatenate(labels).astype(np.int64),
        [
            collector.result(name)
            for name, collector in zip(names, collectors, strict=True)
        ],
        explained,
        drawn,
        grad_cam.grad_cams(list(ends.values()), explained),
    )


def _peers_in_float32(run: FinishedRun) -> tuple[list[RunPeer], DatasetInfo]:
    """Loads the peers, from small to large; a training may have another policy."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        peers, info = load_run_peers(run.directory)
    finally:
        keras.config.set_dtype_policy(policy)
    return sorted(peers, key=lambda each: (each.peer.parameters, each.number)), info


@contextlib.contextmanager
def _own_defaults() -> Iterator[None]:
    """Gives the flags of the data their defaults back, which a run's have replaced."""
    before = {
        flag.name: flag.default
        for flag in flags.FLAGS.flags_by_module_dict()[data.__name__]
    }
    try:
        yield
    finally:
        for name, value in before.items():
            flags.FLAGS.set_default(name, value)


class _Collector:
    """Collects the predictions of one network."""

    def __init__(self):
        self._predicted, self._confidence = [], []
        self._mistakes = []
        # Orders equal confidences, as images have no order.
        self._numbers = itertools.count()

    def update(
        self, images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray
    ) -> None:
        """Adds a batch: uint8 [B, h, w, c], int [B], float64 [B, classes]."""
        predicted = np.argmax(probabilities, axis=-1)
        confidence = np.max(probabilities, axis=-1)
        self._predicted.append(predicted)
        self._confidence.append(confidence)
        for place in np.flatnonzero(predicted != labels):
            mistake = Mistake(
                float(confidence[place]),
                images[place],
                int(labels[place]),
                int(predicted[place]),
            )
            entry = (mistake.confidence, -next(self._numbers), mistake)
            if len(self._mistakes) < _MISTAKES:
                heapq.heappush(self._mistakes, entry)
            else:
                heapq.heappushpop(self._mistakes, entry)

    def result(self, name: str) -> NetworkPredictions:
        """Returns all that was collected."""
        return NetworkPredictions(
            name,
            np.concatenate(self._predicted),
            np.concatenate(self._confidence),
            [mistake for *_, mistake in sorted(self._mistakes, reverse=True)],
        )
