"""Peers with random weights, their runs, and their exports."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from afd_tf import models
from afd_tf.artifacts import exporter
from afd_tf.data import Dataset, DatasetInfo
from afd_tf.distill.methods.independent import Independent
from afd_tf.training.checkpoints import Checkpoints
from afd_tf.training.run_directory import RunDirectory

BOTH = ("saved_model", "tflite")
RUN_FLAGS = {"dataset": "digits", "method": "independent", "peers": "resnet8,wrn_10_1"}


def random_peer(name, info, seed=0) -> models.Peer:
    """A peer whose batch normalization is far from the identity."""
    peer = models.build_peer(name, info)
    generator = np.random.default_rng(seed)
    for variable in peer.variables:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "moving_mean", "bias"):
            variable.assign(generator.normal(0, 0.3, variable.shape))
    return peer


def trained_peer(name, dataset, epochs=3) -> models.Peer:
    """A peer whose accuracy should survive quantization."""
    keras.utils.set_random_seed(0)
    peer = models.build_peer(name, dataset.info)
    method = Independent([peer])
    steps = dataset.steps_per_epoch(32)
    method.compile(epochs=epochs, steps_per_epoch=steps)
    batches = dataset.train_batches(batch_size=32, seed=0, epochs=epochs)
    method.fit(batches, epochs=epochs, steps_per_epoch=steps, verbose=0)
    return peer


def trackable(peer) -> tf.train.Checkpoint:
    """The variables of a peer, to be written and read."""
    return tf.train.Checkpoint(variables=[each.value for each in peer.variables])


def tell_apart(peer, images) -> None:
    """Scales the logits of a peer so that its answers to these images differ."""
    logits = logits_of(peer, images)
    scale = 3 / logits.std(axis=0)
    kernel, bias = peer.classifier.kernel, peer.classifier.bias
    kernel.assign(scale * kernel)
    bias.assign(scale * (bias - logits.mean(axis=0)))


def random_images(shape, count, seed=1) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, *shape), dtype=np.uint8)


def logits_of(peer, images) -> np.ndarray:
    return peer(images, training=False).logits.numpy()


def assert_same_logits(actual, expected) -> None:
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


def assert_same_scores(actual, expected) -> None:
    """Of logits up to a constant of each image, as artifacts of probabilities know.

    Below exp(-80), runtimes are no longer exact.
    """

    def scores(values):
        # The largest is 0: large logits do not overflow.
        values = values - values.max(axis=-1, keepdims=True)
        return np.maximum(
            values - np.log(np.sum(np.exp(values), axis=-1))[:, None], -80
        )

    actual, expected = np.float64(actual), np.float64(expected)
    np.testing.assert_allclose(
        scores(actual),
        scores(expected),
        rtol=0,
        atol=1e-5 * np.abs(expected).max(),
    )


class OneImage:
    """The least that `export` can measure with."""

    def __init__(self, info: DatasetInfo):
        self.info = info
        self.images = np.zeros((1, *info.image_shape), np.uint8)

    def numpy_batches(self, split, *, batch_size):
        count = len(self.images)
        yield self.images, np.arange(count, dtype=np.int32) % self.info.num_classes


class SomeImages(OneImage):
    """Noise, to calibrate with."""

    def __init__(self, info: DatasetInfo, count: int = 10):
        super().__init__(info)
        self.images = random_images(info.image_shape, count)


def export(
    peer,
    dataset: Dataset | OneImage,
    export_dir: Path,
    formats=BOTH,
    run_flags=RUN_FLAGS,
    **settings,
) -> tuple[dict, Path]:
    """Returns the answer of `export` and the directory that it wrote."""
    answer = exporter.export(
        peer, dataset, export_dir, formats=formats, run_flags=run_flags, **settings
    )
    return answer, export_dir / os.path.basename(answer["directory"])


def write_run(directory: Path, info: DatasetInfo) -> list[models.Peer]:
    """Writes a run of two peers, of which the second has the fewer parameters."""
    RunDirectory(directory, RUN_FLAGS).initialize(info)
    peers = [
        random_peer(name, info, seed)
        for seed, name in enumerate(RUN_FLAGS["peers"].split(","))
    ]
    method = Independent(peers)
    method.compile(epochs=1, steps_per_epoch=1)
    Checkpoints(directory, method).save({"step": 1})
    return peers


def to_onnx(saved_model: Path, path: Path) -> None:
    """Converts a SavedModel, in a process of its own as tf2onnx wants it."""
    subprocess.run(
        [
            *(sys.executable, "-m", "tf2onnx.convert", "--opset=17"),
            *(f"--saved-model={saved_model}", f"--output={path}"),
        ],
        check=True,
        capture_output=True,
    )
