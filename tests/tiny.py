"""Small images and networks that the tests share."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from afd_tf.data import Dataset, DatasetInfo, readers
from afd_tf.data.image_recipe import ImageRecipe
from afd_tf.models import PEERS, Peer, PeerOutput, build_peer, build_peers
from afd_tf.models.layers import ConvolutionBlock
from afd_tf.models.stage import Stage

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


def description(name: str, own: DatasetInfo, kind: str) -> dict:
    """What a .tflite file says of a network."""
    return {
        "name": name,
        "method": None,
        "format": kind,
        "input": {"shape": [None, *own.image_shape]},
        "dataset": own.to_json(),
    }


def batch(seed=0, size=8, image_shape=(8, 8, 3)) -> dict[str, tf.Tensor]:
    generator = np.random.default_rng(seed)
    return {
        "image": tf.constant(
            generator.integers(0, 256, (size, *image_shape)).astype(np.uint8)
        ),
        "label": tf.constant(generator.integers(0, CLASSES, size).astype(np.int32)),
    }


def dataset(train, test, validation=0, **recipe) -> Dataset:
    """Random images, so many in each split."""
    examples = {"train": train, "validation": validation, "test": test}
    splits = {}
    for seed, (split, size) in enumerate(examples.items()):
        images, labels = (values.numpy() for values in batch(seed, size).values())
        splits[split] = readers.MemoryReader(images, labels, ImageRecipe(**recipe))
    return Dataset(dataclasses.replace(info(), examples=examples), splits)


class SmallPeer(Peer):
    """A convolution for each stage: as little as has maps, statistics and logits.

    Args:
      filters: of each stage.
      strides: of each stage.
      **kwargs: see `Peer`.
    """

    def __init__(self, filters, strides, **kwargs):
        stages = zip(filters, strides, strict=True)
        super().__init__(
            downsampling=math.prod(strides),
            body={
                f"stage_{number}": Stage([ConvolutionBlock(each, strides=stride)])
                for number, (each, stride) in enumerate(stages, start=1)
            },
            **kwargs,
        )


Small = functools.partial(SmallPeer, (16, 32), (2, 2))


def register_small() -> None:
    """Names peers of two layers: small, small_wide."""
    PEERS["small"] = (Small, ("small",))
    PEERS["small_wide"] = (
        functools.partial(SmallPeer, (16, 48), (2, 2)),
        ("small_wide",),
    )


def small_peers(count=2, seed=0):
    keras.utils.set_random_seed(seed)
    own = info()
    shape = {"num_classes": CLASSES, "mean": own.mean, "variance": own.variance}
    made = [Small(**shape) for _ in range(count)]
    for peer in made:
        peer.build_for(own.image_shape)
    return made


def peers(*names, seed=0):
    keras.utils.set_random_seed(seed)
    return [build_peer(name, info()) for name in names]


def compiled(method, epochs=2, steps_per_epoch=3):
    method.compile(epochs=epochs, steps_per_epoch=steps_per_epoch)
    return method


def values(variables) -> list[np.ndarray]:
    return [variable.value.numpy() for variable in variables]


def branches(count=2, name="resnet8"):
    """Peers that share all but their last stage."""
    keras.utils.set_random_seed(0)
    return build_peers([name] * count, info(), own_stages=1)


def frozen(*names, seed=7):
    teachers = peers(*names, seed=seed)
    for teacher in teachers:
        teacher.trainable = False
    return teachers


def planted(*networks, seed=0, size=8) -> list[PeerOutput]:
    """Outputs that no network gave: random logits, and maps as after a ReLU."""
    generator = np.random.default_rng(seed)
    outputs = []
    for network in networks:
        taps = {
            name: tf.nn.relu(generator.normal(size=(size, *shape)).astype(np.float32))
            for name, shape in network.tap_shapes.items()
        }
        logits = generator.normal(size=(size, CLASSES)).astype(np.float32)
        outputs.append(PeerOutput([*taps.values()][-1], tf.constant(logits), taps))
    return outputs


def softmax(logits) -> np.ndarray:
    """Along the last axis, in float64."""
    logits = np.asarray(logits, np.float64)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def cross_entropy(labels, logits) -> np.ndarray:
    probabilities = softmax(logits)
    return -np.log(probabilities[np.arange(len(labels)), np.asarray(labels)])


def divergence(teacher, learner, temperature) -> np.ndarray:
    """KL(softmax(teacher / T) || softmax(learner / T)), without T^2."""
    p = softmax(np.asarray(teacher) / temperature)
    q = softmax(np.asarray(learner) / temperature)
    return np.sum(p * np.log(p / q), axis=-1)


def pooled(maps, size) -> np.ndarray:
    """PyTorch's adaptive average pooling, cell by cell."""
    maps = np.asarray(maps, np.float64)
    (h, w), (rows, columns) = maps.shape[1:3], size
    result = np.empty((len(maps), rows, columns, maps.shape[3]))
    for i in range(rows):
        for j in range(columns):
            top, bottom = i * h // rows, -(-(i + 1) * h // rows)
            left, right = j * w // columns, -(-(j + 1) * w // columns)
            result[:, i, j] = maps[:, top:bottom, left:right].mean(axis=(1, 2))
    return result


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Gives the networks that are built meanwhile a precision of --precision."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
