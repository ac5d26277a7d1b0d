"""Peers with weights that matter, their runs, and what was exported from them."""

import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from afd_tf import artifact, models
from afd_tf.checkpoint import Checkpoints
from afd_tf.data import Dataset, DatasetInfo
from afd_tf.distill.independent import Independent
from afd_tf.journal import Journal

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


def pictures(shape, count, seed=1) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, *shape), dtype=np.uint8)


def logits_of(peer, images) -> np.ndarray:
    return peer(images, training=False).logits.numpy()


def assert_same_logits(actual, expected) -> None:
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


class OnePicture:
    """The least that `export` can measure with."""

    def __init__(self, info: DatasetInfo):
        self.info = info

    def evaluation_batches(self, split, batch_size):
        return tf.data.Dataset.from_tensors(
            {
                "image": np.zeros((1, *self.info.image_shape), np.uint8),
                "label": np.int32([0]),
                "weight": np.float32([1]),
            }
        )


def export(
    peer,
    dataset: Dataset | OnePicture,
    export_dir: Path,
    formats=BOTH,
    run_flags=RUN_FLAGS,
) -> tuple[dict, Path]:
    """Returns the answer of `export` and the directory that it wrote."""
    answer = artifact.export(
        peer,
        dataset.info,
        dataset,
        export_dir,
        formats=formats,
        run_flags=run_flags,
    )
    return answer, export_dir / os.path.basename(answer["directory"])


def write_run(directory: Path, info: DatasetInfo) -> list[models.Peer]:
    """Writes a run of two peers, of which the second has the fewer parameters."""
    Journal(directory, RUN_FLAGS).begin(info)
    peers = [
        random_peer(name, info, seed)
        for seed, name in enumerate(RUN_FLAGS["peers"].split(","))
    ]
    method = Independent(peers)
    method.compile(epochs=1, steps_per_epoch=1)
    Checkpoints(directory, method).save({"step": 1})
    return peers
