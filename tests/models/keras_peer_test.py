"""Foreign models as peers: the same numbers, heads, replicas, precision and exports."""

import json
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf

from afd_tf.artifacts.classifier import load_classifier
from afd_tf.base.errors import UserError
from afd_tf.models import build_peer, build_peers, multiply_adds
from tests import exports, tiny
from tests.models import foreign_models, two_replicas

HERE = "python:tests.models.foreign_models"
INFO = tiny.info((16, 16, 3))
IMAGES = exports.random_images((16, 16, 3), 8)


def shaken(model, seed=0) -> keras.Model:
    """Gives a model statistics that are far from those that it begins with."""
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "moving_mean", "bias"):
            variable.assign(generator.normal(0, 0.3, variable.shape))
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A classifier in a file, and its probabilities."""
    model = shaken(foreign_models.classifier((16, 16, 3), tiny.CLASSES))
    path = tmp_path_factory.mktemp("saved") / "photos of mine.keras"
    model.save(path)
    return path, model(IMAGES.astype(np.float32)).numpy()


@pytest.fixture(scope="module")
def peer(saved):
    return build_peer(f"file:{saved[0]}", INFO)


def test_a_classifier_with_as_many_classes_keeps_its_head(saved, peer, capsys):
    path, expected = saved
    logits = peer(IMAGES).logits
    np.testing.assert_allclose(tf.nn.softmax(logits), expected, atol=1e-6)
    assert (peer.name, peer.spec) == ("photos_of_mine", f"file:{path}")
    assert peer.pretrained
    assert peer.tap_shapes == {"stage_1": (8, 8, 8), "stage_2": (4, 4, 16)}
    # 127.5 is grey: the file's own normalization.
    assert peer.normalization.mean == pytest.approx((127.5,) * 3)
    assert peer.normalization.variance == pytest.approx((127.5**2,) * 3)
    head = 17 * tiny.CLASSES
    assert sum(np.prod(v.shape) for v in peer.head_variables) == head
    assert peer.parameters == head + 27 * 8 + 72 * 16 + 2 * 24
    own = {id(v) for v in [*peer.head_variables, *peer.feature_variables]}
    assert own == {id(v) for v in peer.trainable_variables}
    assert multiply_adds(peer, (16, 16, 3)) == (
        64 * 27 * 8 + 16 * 72 * 16 + 16 * tiny.CLASSES
    )


def test_a_head_for_other_classes_is_replaced(saved, peer, capsys):
    other = build_peer(f"file:{saved[0]}", tiny.info((16, 16, 3), classes=9))
    said = capsys.readouterr().err
    assert f"its head for {tiny.CLASSES} classes is replaced by one for 9" in said
    features, logits, _ = other(IMAGES)
    np.testing.assert_array_equal(features, peer(IMAGES).features)
    assert logits.shape == (8, 9)
    kernel, bias = (v.numpy() for v in other.classifier.weights)
    by_hand = features.numpy().mean(axis=(1, 2)) @ kernel + bias
    exports.assert_same_logits(logits, by_hand)


def test_the_run_can_build_it_again_without_the_file(peer):
    record = json.loads(json.dumps(peer.record))
    again = build_peer("file:/lost.keras", INFO, initial_weights=False, record=record)
    assert [v.shape for v in again.variables] == [v.shape for v in peer.variables]
    for own, other in zip(again.variables, peer.variables, strict=True):
        own.assign(other)
    np.testing.assert_array_equal(again(IMAGES).logits, peer(IMAGES).logits)


def test_other_sizes_and_grey_images_are_taken(saved):
    larger = build_peer(f"file:{saved[0]}", tiny.info((24, 20, 1)))
    assert larger.feature_shape == (6, 5, 16)
    grey = exports.random_images((24, 20, 1), 2)
    output = larger(grey)
    same = larger.body["stage_1"](
        larger.normalization(grey.repeat(3, axis=-1)), training=False
    )
    np.testing.assert_array_equal(output.taps["stage_1"], same[0])


def test_training_follows_the_batch_and_draws_nothing(peer):
    before = tiny.values(peer.variables)
    first, again = (peer(IMAGES, training=True).logits for _ in range(2))
    np.testing.assert_array_equal(first, again)
    for variable, value in zip(peer.variables, before, strict=True):
        assert np.any(variable != value) == ("moving" in variable.name)
        variable.assign(value)


def test_a_model_with_a_call_of_its_own():
    keras.utils.set_random_seed(0)
    peer = build_peer(f"{HERE}:subclass", INFO)
    assert (peer.name, peer.tap_shapes) == ("subclass", {"features": (8, 8, 6)})
    assert [
        v.path.rpartition("/")[0].rpartition("/")[2][:5] for v in peer.head_variables
    ] == ["dense"] * 2
    features, logits, taps = peer(IMAGES)
    kernel, bias = (v.numpy() for v in peer.head_variables)
    exports.assert_same_logits(
        logits, features.numpy().mean(axis=(1, 2)) @ kernel + bias
    )
    np.testing.assert_array_equal(taps["features"], features)
    # Through `taps` and `finish`, as methods call it; and with the batch's statistics.
    trained = peer.finish(peer.taps(IMAGES, training=True))
    assert np.abs(trained.features.numpy().mean((0, 1, 2))).max() > 0
    np.testing.assert_array_equal(
        trained.logits, peer.finish(peer.taps(IMAGES, training=True)).logits
    )
    other = build_peer(f"{HERE}:seven_classes", INFO)
    assert other(IMAGES).logits.shape == (8, tiny.CLASSES)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_map", "has no last map"),
        ("two_inputs", "has 2 inputs: expected is a model with one"),
        ("two_outputs", "has 2 outputs: expected is a model with one"),
        ("text", r"returned a str; expected is a Keras model"),
        ("lost", "has no function lost"),
    ],
)
def test_what_cannot_be_a_peer(name, message):
    with pytest.raises(UserError, match=message):
        build_peer(f"{HERE}:{name}", INFO)


def test_a_model_that_is_not_built_is_built_for_the_images():
    peer = build_peer(f"{HERE}:unbuilt", tiny.info((12, 16, 1)))
    assert peer.tap_shapes == {"stage_1": (5, 7, 4)}


def test_branches_share_stages_of_a_foreign_network():
    first, second = build_peers([f"{HERE}:backbone"] * 2, INFO, own_stages=1)
    assert first.body["stage_1"] is second.body["stage_1"]
    assert first.body["stage_2"] is not second.body["stage_2"]
    known = {}
    one, two = (
        each.finish(each.taps(IMAGES, False, known)) for each in (first, second)
    )
    np.testing.assert_array_equal(one.logits, first(IMAGES).logits)
    np.testing.assert_array_equal(two.logits, second(IMAGES).logits)


def test_mixed_precision(saved, peer):
    with tiny.precision("mixed_bfloat16"):
        mixed = build_peer(f"file:{saved[0]}", INFO)
        output = mixed(IMAGES)
    assert {v.dtype for v in mixed.variables} == {"float32"}
    assert {each.dtype for each in output.taps.values()} == {tf.bfloat16}
    assert output.logits.dtype == tf.float32
    expected = peer(IMAGES).logits.numpy()
    error = np.abs(output.logits - expected).max()
    assert 0 < error < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["file", f"{HERE}:subclass"])
def test_exports_give_the_same_logits(name, saved, tmp_path):
    peer = build_peer(f"file:{saved[0]}" if name == "file" else name, INFO)
    shaken(peer)
    # A .tflite file gives probabilities alone.
    expected = tf.nn.log_softmax(exports.logits_of(peer, IMAGES)).numpy()
    for kind in ("saved_model", "tflite", "tflite_int8"):
        _, directory = exports.export(
            peer,
            exports.SomeImages(INFO, 50),
            tmp_path / kind,
            [kind],
            max_accuracy_drop=1.0,
        )
        logits = tf.nn.log_softmax(load_classifier(directory).logits(IMAGES)).numpy()
        if kind == "tflite_int8":
            assert np.abs(logits - expected).max() < 0.1 * np.abs(expected).max()
        else:
            exports.assert_same_logits(logits, expected)


def test_two_replicas_are_one(tmp_path):
    names = [f"{HERE}:classifier", f"{HERE}:subclass"]
    arrays = []
    # A process of its own for each strategy; see tests/distill/replicas_test.py.
    for replicas in (1, 2):
        out = tmp_path / f"{replicas}.npz"
        command = two_replicas.arguments(out, *names, replicas=replicas, steps=2)
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-3000:]
        arrays.append(dict(np.load(out)))
    one, two = arrays
    assert list(one) == list(two)
    for name in names:
        new = [key for key in one if key.startswith(f"{name} new ")]
        still = [
            key
            for key in new
            if np.array_equal(one[key], one[key.replace(" new ", " old ")])
        ]
        # The zero bias of a head that is kept.
        assert [key.split()[-1] for key in still] == ["bias"]
    for key in one:
        np.testing.assert_allclose(
            two[key], one[key], rtol=1e-5, atol=1e-5, err_msg=key
        )
