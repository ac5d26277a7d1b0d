"""Frozen teachers: peers of a run, and exported networks."""

import dataclasses
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import flagsaver

from afd_tf import models
from afd_tf.artifacts import teacher as teacher_lib
from afd_tf.artifacts.teacher import load_teacher, teachers_from_flags
from afd_tf.base.errors import UserError
from afd_tf.distill import methods
from tests import exports, tiny
from tests.exports import assert_same_logits, logits_of, random_images
from tests.models import foreign_models

IMAGES = random_images((8, 8, 1), 4)


@pytest.fixture(scope="module")
def saved_model(run_dir, digits, tmp_path_factory):
    """The largest peer of the run, exported."""
    _, peers = run_dir
    export_dir = tmp_path_factory.mktemp("teachers")
    dataset = exports.OneImage(digits.info)
    return exports.export(peers[0], dataset, export_dir, ["saved_model"])[1]


def test_run_directory_gives_its_largest_peer_frozen(run_dir, digits):
    directory, peers = run_dir
    assert peers[0].parameters > peers[1].parameters
    teacher = load_teacher(str(directory), digits.info)
    assert isinstance(teacher, models.Peer)
    assert teacher.name == "resnet8"
    assert teacher.trainable_variables == []
    assert_same_logits(logits_of(teacher, IMAGES), logits_of(peers[0], IMAGES))


@pytest.mark.parametrize("choice", ["1", "wrn_10_1"])
def test_another_peer_by_number_or_name(run_dir, digits, choice):
    directory, peers = run_dir
    with flagsaver.as_parsed(teacher=str(directory), teacher_peer=choice):
        (teacher,) = teachers_from_flags(digits.info)
    assert_same_logits(logits_of(teacher, IMAGES), logits_of(peers[1], IMAGES))


def test_unknown_peer_is_refused(run_dir, digits):
    with pytest.raises(UserError, match="Did you mean 'resnet8'"):
        load_teacher(str(run_dir[0]), digits.info, "resnet9")


@pytest.mark.parametrize(
    "change",
    [{"class_names": tuple("abcdefghij")}, {"image_shape": (16, 16, 1)}],
)
@pytest.mark.parametrize("kind", ["run", "saved_model"])
def test_teacher_of_other_data_is_refused(run_dir, saved_model, digits, kind, change):
    compared = "classes" if "class_names" in change else "images of shape"
    message = f"{compared} are not those of digits"
    path = str(run_dir[0] if kind == "run" else saved_model)
    with pytest.raises(UserError, match=message) as error:
        load_teacher(path, dataclasses.replace(digits.info, **change))
    assert path in str(error.value)
    assert "\n" not in str(error.value)


def test_no_teacher_is_there(digits, tmp_path):
    with pytest.raises(UserError, match="no run directory"):
        load_teacher(str(tmp_path), digits.info)


def test_saved_model_gives_the_logits_and_the_last_map(run_dir, saved_model, digits):
    _, peers = run_dir
    teacher = load_teacher(str(saved_model), digits.info)
    assert teacher.name == "resnet8"
    assert teacher.stages == []
    assert teacher.tap_shapes == {"features": peers[0].feature_shape}
    assert teacher.feature_shape == peers[0].feature_shape
    output = tf.function(teacher)(tf.constant(IMAGES))
    expected = peers[0](IMAGES, training=False)
    assert_same_logits(output.logits, expected.logits.numpy())
    assert_same_logits(output.features, expected.features.numpy())
    assert output.taps.keys() == {"features"}
    np.testing.assert_array_equal(output.taps["features"], output.features)


def test_saved_model_without_maps_gives_logits(
    run_dir, saved_model, digits, monkeypatch
):
    """As those of an earlier version."""
    _, peers = run_dir
    monkeypatch.setattr(teacher_lib, "FEATURES", "of old, there was none")
    teacher = load_teacher(str(saved_model), digits.info)
    output = teacher(tf.constant(IMAGES))
    assert_same_logits(output.logits, logits_of(peers[0], IMAGES))
    assert (output.features, output.taps, teacher.tap_shapes) == (None, {}, {})
    student = models.build_peer("resnet8", digits.info)
    with (
        flagsaver.as_parsed(method="ktan"),
        pytest.raises(UserError, match="logits but no feature maps"),
    ):
        methods.method_from_flags([student], [teacher])


@pytest.mark.parametrize("name", ["kd", "afd_offline", "factor_transfer", "ktan"])
def test_methods_learn_from_a_saved_model(saved_model, digits, name):
    student = models.build_peer("wrn_10_1", digits.info)
    with flagsaver.as_parsed(method=name, teacher=str(saved_model)):
        method = methods.method_from_flags([student], teachers_from_flags(digits.info))
    method.compile(epochs=1, steps_per_epoch=1)
    before = [variable.numpy() for variable in student.trainable_variables]
    labels = tf.constant(np.int32([1, 2, 3, 4]))
    method.train_step({"image": tf.constant(IMAGES), "label": labels})
    after = [variable.numpy() for variable in student.trainable_variables]
    assert all(np.isfinite(values).all() for values in after)
    assert any((b != a).any() for b, a in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("attention_transfer", "not those of its stages: give its run directory"),
        ("meal", "not those of its stages: give its run directory"),
        ("fitnets", "unknown map of resnet8 'stage_2'.* Known: features"),
    ],
)
def test_methods_that_need_stages_refuse_a_saved_model(
    saved_model, digits, name, message
):
    student = models.build_peer("wrn_10_1", digits.info)
    with flagsaver.as_parsed(method=name, teacher=str(saved_model)):
        teachers = teachers_from_flags(digits.info)
        with pytest.raises(UserError, match=message):
            methods.method_from_flags([student], teachers)


def test_damaged_saved_model_is_refused(saved_model, digits, tmp_path):
    copy = tmp_path / "1"
    copy.mkdir()
    for name in ("saved_model.pb", "manifest.json"):
        os.link(saved_model / name, copy / name)
    with pytest.raises(UserError, match=r"cannot read .*variables"):
        load_teacher(str(copy), digits.info)


@pytest.fixture(scope="module")
def saved_classifiers(tmp_path_factory):
    """Files of one body: with a head for the digits, and with one for 7 classes."""
    paths = {}
    for classes in (10, 7):
        keras.utils.set_random_seed(classes)
        path = tmp_path_factory.mktemp("models") / f"of_{classes}.keras"
        foreign_models.classifier((8, 8, 1), classes).save(path)
        paths[classes] = path
    return paths


def test_a_saved_model_keeps_its_head_and_teaches(saved_classifiers, digits):
    path = saved_classifiers[10]
    with flagsaver.as_parsed(method="kd", teacher=f"file:{path}"):
        (teacher,) = teachers_from_flags(digits.info)
        method = methods.method_from_flags(
            [models.build_peer("wrn_10_1", digits.info)], [teacher]
        )
    method.compile(epochs=1, steps_per_epoch=1)
    assert teacher.trainable_variables == []
    expected = keras.models.load_model(path)(tf.cast(IMAGES, tf.float32))
    probabilities = tf.nn.softmax(teacher(tf.constant(IMAGES)).logits)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    labels = tf.constant(np.int32([1, 2, 3, 4]))
    metrics = method.train_step({"image": tf.constant(IMAGES), "label": labels})
    assert {"teacher_0/accuracy", "peer_0/loss_divergence"} <= metrics.keys()


def test_a_teacher_without_these_classes_gives_its_maps(saved_classifiers, digits):
    name = f"file:{saved_classifiers[7]}"
    teacher = load_teacher(name, digits.info)
    assert (teacher.random_head, teacher.trainable_variables) == (True, [])
    batch = {"image": tf.constant(IMAGES), "label": tf.constant(np.int32([1, 2, 3, 4]))}

    def method_of(**flag_values):
        student = models.build_peer("wrn_10_1", digits.info)
        with flagsaver.as_parsed(**flag_values):
            method = methods.method_from_flags([student], [teacher])
        method.compile(epochs=1, steps_per_epoch=1)
        return method

    for flag_values in (
        {"method": "attention_transfer"},
        {"method": "afd_offline", "logit_weight": "0"},
    ):
        metrics = method_of(**flag_values).train_step(batch)
        assert all(np.isfinite(value) for value in metrics.values())
        # Its logits mean nothing.
        assert "teacher_0/accuracy" not in metrics
    for flag_values in ({"method": "afd_offline"}, {"method": "meal"}):
        with pytest.raises(UserError, match="no classifier for these classes") as error:
            method_of(**flag_values)
        assert f"--teacher={name}" in str(error.value)


def test_a_network_with_random_weights_is_no_teacher(digits):
    with pytest.raises(UserError, match="resnet8 has random weights"):
        load_teacher("resnet8", digits.info)


def test_published_weights_teach():
    info = tiny.info((32, 32, 3))
    teacher = load_teacher("efficientnet_lite0@imagenet", info)
    assert (teacher.pretrained, teacher.random_head) == (True, True)
    assert len(teacher.head_variables) == 2
