"""Peers that a run can build again when the file they came from is gone."""

import keras
import numpy as np
import pytest

from afd_tf.artifacts.teacher import load_teacher
from afd_tf.base.errors import UserError
from afd_tf.distill.fine_tuning import FineTuning
from afd_tf.distill.methods.independent import Independent
from afd_tf.distill.methods.kd import KnowledgeDistillation
from afd_tf.models import build_peers
from afd_tf.training.checkpoints import Checkpoints, load_peers
from afd_tf.training.network_records import (
    building_settings,
    keep_networks,
    kept_networks,
)
from afd_tf.training.run_directory import RunDirectory
from tests import exports, tiny
from tests.models import foreign_models

INFO = tiny.info((16, 16, 3))


def test_a_run_outlives_the_file_of_its_peer(tmp_path):
    path, run_dir = tmp_path / "mine.keras", tmp_path / "run"
    foreign_models.classifier((16, 16, 3), tiny.CLASSES).save(path)
    spec = f"file:{path}"
    peers = build_peers([spec, "resnet8"], INFO)
    values = {**exports.RUN_FLAGS, "peers": f"{spec},resnet8"}
    RunDirectory(run_dir, values).initialize(INFO)
    keep_networks(run_dir, peers)
    # Until there is a checkpoint, the weights are those of the file.
    assert building_settings(run_dir) == {"initial_weights": True, "records": {}}
    method = Independent(peers)
    method.compile(epochs=1, steps_per_epoch=1)
    Checkpoints(run_dir, method).save({"step": 1})
    path.unlink()
    settings = building_settings(run_dir)
    assert settings["initial_weights"] is False
    again = build_peers([spec, "resnet8"], INFO, **settings)
    assert again[0].spec == spec and again[0].pretrained
    images = exports.random_images((16, 16, 3), 2)
    loaded, _ = load_peers(run_dir)
    for one, expected in zip(loaded, peers, strict=True):
        np.testing.assert_array_equal(one(images).logits, expected(images).logits)


def test_a_run_outlives_the_file_of_its_teacher(tmp_path):
    path, run_dir = tmp_path / "mine.keras", tmp_path / "run"
    foreign_models.classifier((16, 16, 3), tiny.CLASSES + 2).save(path)

    def method_of(**settings):
        (student,) = tiny.peers("resnet8")
        teacher = load_teacher(f"file:{path}", INFO, **settings)
        method = KnowledgeDistillation(
            [student], [teacher], fine_tuning=FineTuning(freeze_epochs=2)
        )
        method.compile(epochs=1, steps_per_epoch=1)
        return method, teacher

    method, teacher = method_of(**building_settings(run_dir))
    # As its epochs before the run leave it.
    for variable in teacher.head_variables:
        variable.assign_add(np.random.default_rng(0).random(variable.shape))
    keep_networks(run_dir, [*method.peers, teacher])
    Checkpoints(run_dir, method).save({"step": 1})
    path.unlink()
    again, restored = method_of(**building_settings(run_dir))
    Checkpoints(run_dir, again).restore()
    images = exports.random_images((16, 16, 3), 2)
    np.testing.assert_array_equal(restored(images).logits, teacher(images).logits)


def test_no_file_is_written_for_peers_with_a_name(tmp_path):
    keras.utils.set_random_seed(0)
    keep_networks(tmp_path, build_peers(["resnet8"], tiny.info()))
    assert list(tmp_path.iterdir()) == []
    assert kept_networks(tmp_path) == {}


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "networks.json").write_text("{")
    with pytest.raises(UserError, match=r"networks\.json is damaged: take it from"):
        kept_networks(tmp_path)
