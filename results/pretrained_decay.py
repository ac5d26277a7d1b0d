"""Measures what the weight decay of AFD's Adam alone does to pretrained weights.

python results/pretrained_decay.py PHOTOS > results/pretrained_decay.json

PHOTOS holds ImageNet photos and `expected.json`, a list of {"file", "label"}. The Adam
of EfficientNet-Lite0's feature maps takes the steps of runs of several lengths with a
gradient of zero, as `--afd_decay_only` does: what moves is the coupled decay's. Then
the photos' top-1 accuracy is that of the moved weights, with the statistics that came
with the weights and with those of the photos themselves.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from afd_tf.data import DatasetInfo
from afd_tf.distill.methods.afd import ADAM_RECIPE
from afd_tf.distill.objective import Objective
from afd_tf.models import build_peer

SIZE, SHORTER = 224, 256
STEPS_PER_EPOCH = 48
EPOCHS = (10, 30, 100, 300)


def main() -> None:
    """Prints one JSON object."""
    folder = Path(sys.argv[1])
    photos = json.loads((folder / "expected.json").read_text())
    images = np.stack([_central(folder / each["file"]) for each in photos])
    labels = np.array([each["label"] for each in photos])
    info = DatasetInfo(
        name="imagenet",
        image_shape=(SIZE, SIZE, 3),
        class_names=tuple(map(str, range(1000))),
        examples={},
        mean=(127.0,) * 3,
        variance=(128.0**2,) * 3,
        augment="none",
    )
    found = {"photos": len(photos), "steps_per_epoch": STEPS_PER_EPOCH, "runs": []}
    for epochs in (0, *EPOCHS):
        peer = build_peer("efficientnet_lite0@imagenet", info)
        before = [variable.numpy() for variable in peer.feature_variables]
        if epochs:
            _decay(peer, epochs)
        moved = np.concatenate(
            [
                np.ravel(variable.numpy() - old)
                for variable, old in zip(peer.feature_variables, before, strict=True)
            ]
        )
        scale = np.linalg.norm(np.concatenate([np.ravel(old) for old in before]))
        right = {
            statistics: int((_classes(peer, images, training) == labels).sum())
            for statistics, training in (("kept", False), ("of the photos", True))
        }
        found["runs"].append(
            {
                "epochs": epochs,
                "relative_change": float(np.linalg.norm(moved) / scale),
                "right": right,
            }
        )
    print(json.dumps(found, indent=1))


def _decay(peer, epochs: int) -> None:
    """Takes all steps of a run with the Adam of L_G, and a gradient of zero."""
    objective = Objective("peer_0", "feature", peer.feature_variables, ADAM_RECIPE)
    optimizer = objective.compiled(
        epochs=epochs, steps_per_epoch=STEPS_PER_EPOCH, scales_loss=False
    ).optimizer
    zeros = [tf.zeros_like(variable) for variable in objective.variables]

    @tf.function
    def steps():
        for _ in tf.range(STEPS_PER_EPOCH):
            optimizer.apply_scaled(zeros, objective.variables)

    for _ in range(epochs):
        steps()


def _classes(peer: keras.Model, images: np.ndarray, training: bool) -> np.ndarray:
    """Returns the classes; in training, the statistics are those of all images."""
    return np.argmax(peer(images, training=training).logits, axis=-1)


def _central(path: Path) -> np.ndarray:
    """Returns uint8 [SIZE, SIZE, 3], cut from the shorter side at SHORTER pixels."""
    image = Image.open(path).convert("RGB")
    factor = SHORTER / min(image.size)
    size = [round(side * factor) for side in image.size]
    left, top = ((side - SIZE) // 2 for side in size)
    resized = image.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + SIZE, top + SIZE)))


if __name__ == "__main__":
    main()
