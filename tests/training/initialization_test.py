"""Initial weights of another run: all that fits, and refusals of what does not."""

import dataclasses

import keras
import numpy as np
import pytest

from afd_tf.base.errors import UserError
from afd_tf.models import build_peers
from afd_tf.training.initialization import initialize_from
from tests import tiny
from tests.exports import RUN_FLAGS

NAMES = RUN_FLAGS["peers"].split(",")


def fresh(info, names=NAMES):
    keras.utils.set_random_seed(5)
    return build_peers(names, info)


def test_all_weights_come_from_the_other_run(run_dir, digits):
    directory, trained = run_dir
    peers = fresh(digits.info)
    initialize_from(str(directory), peers)
    for peer, other in zip(peers, trained, strict=True):
        for one, expected in zip(
            tiny.values(peer.variables), tiny.values(other.variables), strict=True
        ):
            np.testing.assert_array_equal(one, expected)


def test_a_classifier_for_other_classes_starts_anew(run_dir, digits):
    directory, trained = run_dir
    info = dataclasses.replace(digits.info, class_names=("a", "b", "c"))
    peers = fresh(info)
    untouched = [tiny.values(peer.classifier.variables) for peer in peers]
    initialize_from(str(directory), peers)
    for peer, other, head in zip(peers, trained, untouched, strict=True):
        for one, expected in zip(
            tiny.values(peer.feature_variables),
            tiny.values(other.feature_variables),
            strict=True,
        ):
            np.testing.assert_array_equal(one, expected)
        for one, expected in zip(
            tiny.values(peer.classifier.variables), head, strict=True
        ):
            np.testing.assert_array_equal(one, expected)


def test_what_does_not_fit_is_refused(run_dir, digits):
    directory, _ = run_dir
    with pytest.raises(UserError, match="has the peers resnet8,wrn_10_1, not re"):
        initialize_from(str(directory), fresh(digits.info, ["resnet8", "resnet8"]))
    colour = dataclasses.replace(
        digits.info, image_shape=(8, 8, 3), mean=(1.0,) * 3, variance=(1.0,) * 3
    )
    with pytest.raises(UserError, match=r"images of 8x8x1: .* as many chan"):
        initialize_from(str(directory), fresh(colour))
    with pytest.raises(UserError, match="is no run directory"):
        initialize_from("nowhere", fresh(digits.info))
