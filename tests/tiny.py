"""Small pictures and networks that the tests share."""

import keras
import numpy as np
import tensorflow as tf

from afd_tf.data import DatasetInfo
from afd_tf.models import build_peer

CLASSES = 5


def info(image_shape=(8, 8, 3), classes=CLASSES) -> DatasetInfo:
    channels = image_shape[-1]
    return DatasetInfo(
        name="tiny",
        image_shape=image_shape,
        class_names=tuple(f"class {number}" for number in range(classes)),
        examples={"train": 64, "validation": 0, "test": 16},
        mean=(120.0, 110.0, 100.0)[:channels],
        variance=(4000.0, 5000.0, 6000.0)[:channels],
        augment="none",
    )


def batch(seed=0, size=8, image_shape=(8, 8, 3)) -> dict[str, tf.Tensor]:
    generator = np.random.default_rng(seed)
    return {
        "image": tf.constant(
            generator.integers(0, 256, (size, *image_shape)).astype(np.uint8)
        ),
        "label": tf.constant(generator.integers(0, CLASSES, size).astype(np.int32)),
    }


def peers(*names, seed=0):
    keras.utils.set_random_seed(seed)
    return [build_peer(name, info()) for name in names]


def values(variables) -> list[np.ndarray]:
    return [variable.value.numpy() for variable in variables]
