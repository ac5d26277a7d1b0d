"""The checks of every peer: a row of expectations, and one function per check."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from afd_tf import models
from afd_tf.artifacts.classifier import load_classifier
from afd_tf.base.errors import UserError
from afd_tf.data import DatasetInfo
from tests import exports, tiny

CLASSES = 100


@dataclasses.dataclass(frozen=True)
class Expected:
    """The facts about a peer of 100 classes that are expected.

    Attributes:
      name: of the peer.
      image_shape: of the images that it is checked with.
      parameters: the number of its trainable parameters.
      taps: the shape of every map, first to last.
      multiply_adds: counted by hand; None if not counted.
    """

    name: str
    image_shape: tuple[int, int, int]
    parameters: int
    taps: Mapping[str, tuple[int, int, int]]
    multiply_adds: int | None = None


class Case:
    """A peer to check.

    Args:
      expected: the facts expected.
      directory: an empty one, for files that a check writes.
    """

    def __init__(self, expected: Expected, directory: Path):
        self.expected = expected
        self.directory = directory
        self.info: DatasetInfo = tiny.info(expected.image_shape, CLASSES)
        self.images = exports.random_images(expected.image_shape, 8)
        self.peer = self.build()

    def build(self) -> models.Peer:
        """Builds the peer once more."""
        keras.utils.set_random_seed(0)
        return exports.random_peer(self.expected.name, self.info)

    @functools.cached_property
    def again(self) -> tuple[models.Peer, list[np.ndarray]]:
        """The peer built once more, for checks to change, and its first values."""
        peer = self.build()
        return peer, tiny.values(peer.trainable_variables)


def parameters(case: Case) -> None:
    assert case.peer.parameters == case.expected.parameters
    head = (case.peer.feature_shape[-1] + 1) * CLASSES
    body = sum(v.value.shape.num_elements() for v in case.peer.feature_variables)
    assert body + head == case.expected.parameters


def maps(case: Case) -> None:
    taps = case.peer.taps(case.images)
    shapes = {name: tuple(values.shape[1:]) for name, values in taps.items()}
    assert list(shapes.items()) == list(case.expected.taps.items())
    assert case.peer.tap_shapes == shapes
    features = case.peer(case.images).features
    np.testing.assert_array_equal(features, list(taps.values())[-1])
    assert features.numpy().min() >= 0  # after a ReLU


def too_small_images_are_refused(case: Case) -> None:
    smallest = case.peer.downsampling
    sides = zip(case.peer.feature_shape, case.expected.image_shape[:2], strict=False)
    for own, given in sides:
        assert own == -(-given // smallest)
    with pytest.raises(UserError, match=f"at least {smallest}x{smallest}"):
        case.peer.build_for((smallest, smallest - 1, 3))


def multiply_adds(case: Case) -> None:
    counted = models.multiply_adds(case.peer, case.expected.image_shape)
    assert counted > 0
    assert case.expected.multiply_adds in (None, counted)


def gradient_reaches_every_variable(case: Case) -> None:
    variables = [v.value for v in case.peer.trainable_variables]
    # In training, the subtraction of the batch's mean cancels a bias before it.
    undone = {id(v.value) for v in case.peer.feature_variables if v.name == "bias"}
    for training in (True, False):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(case.peer(case.images, training=training).logits ** 2)
        gradients = tape.gradient(loss, variables)
        for variable, gradient in zip(variables, gradients, strict=True):
            if not training or id(variable) not in undone:
                assert float(tf.reduce_max(tf.abs(gradient))) > 0, variable.name


def logits_are_pooled_features_through_the_classifier(case: Case) -> None:
    features, logits, _ = case.peer(case.images)
    kernel, bias = (v.numpy() for v in case.peer.classifier.weights)
    by_hand = features.numpy().mean(axis=(1, 2)) @ kernel + bias
    exports.assert_same_logits(logits, by_hand)
    assert logits.dtype == tf.float32


def checkpoint(case: Case) -> None:
    """Written and read as in `afd_tf.training.checkpoints`, and as Keras users do."""
    expected = exports.logits_of(case.peer, case.images)
    fresh, _ = case.again
    zero(fresh)
    assert np.abs(exports.logits_of(fresh, case.images) - expected).max() > 0.1
    path = exports.trackable(case.peer).write(str(case.directory / "variables"))
    exports.trackable(fresh).read(path).assert_consumed()
    np.testing.assert_array_equal(exports.logits_of(fresh, case.images), expected)

    case.peer.save_weights(case.directory / "peer.weights.h5")
    zero(fresh)
    fresh.load_weights(case.directory / "peer.weights.h5")
    np.testing.assert_array_equal(exports.logits_of(fresh, case.images), expected)


def zero(peer: models.Peer) -> None:
    for variable in peer.variables:
        variable.assign(tf.zeros_like(variable))


def mixed_precision(case: Case) -> None:
    expected = case.peer(case.images)
    with tiny.precision("mixed_bfloat16"):
        mixed = case.build()
        for own, other in zip(mixed.variables, case.peer.variables, strict=True):
            assert own.dtype == "float32", own.path
            own.assign(other)
        output = mixed(case.images)
    assert {values.dtype for values in output.taps.values()} == {tf.bfloat16}
    assert output.logits.dtype == tf.float32
    error = np.abs(output.logits - expected.logits).max()
    assert 0 < error < 0.05 * np.abs(expected.logits).max()


def tflite(case: Case) -> None:
    """A SavedModel takes any network: saved_model_test.py tries one."""
    # The converter is given builtin operators only: another one is an error.
    _, directory = exports.export(
        case.peer, exports.OneImage(case.info), case.directory, ["tflite"]
    )
    exports.assert_same_scores(
        load_classifier(directory).logits(case.images),
        exports.logits_of(case.peer, case.images),
    )


def the_same_seed_gives_the_same_network(case: Case) -> None:
    _, again = case.again
    for a, b in zip(again, tiny.values(case.peer.trainable_variables), strict=True):
        np.testing.assert_array_equal(a, b)


def statistics_move_in_training_only(case: Case) -> None:
    before = tiny.values(case.peer.non_trainable_variables)
    case.peer(case.images, training=False)
    for a, b in zip(
        before, tiny.values(case.peer.non_trainable_variables), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    case.peer(case.images, training=True)
    for variable, a in zip(case.peer.non_trainable_variables, before, strict=True):
        assert not np.array_equal(variable.numpy(), a), variable.path


CHECKS = (
    parameters,
    maps,
    too_small_images_are_refused,
    multiply_adds,
    gradient_reaches_every_variable,
    logits_are_pooled_features_through_the_classifier,
    checkpoint,
    mixed_precision,
    tflite,
    the_same_seed_gives_the_same_network,
    statistics_move_in_training_only,
)
