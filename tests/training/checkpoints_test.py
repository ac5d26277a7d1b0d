"""What is saved comes back whole, and what is damaged is seen."""

import json

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import flagsaver

from afd_tf.base.errors import UserError
from afd_tf.distill.methods.afd import AdversarialFeatureDistillation
from afd_tf.distill.methods.independent import Independent
from afd_tf.distill.methods.one import OnTheFlyEnsemble
from afd_tf.training.checkpoint_choice import checkpoint_from_flags
from afd_tf.training.checkpoints import Checkpoints, load_peers
from tests import exports, tiny

STATE = {"step": 0, "sums": [0.1, 1 / 3], "seconds": 1.5}


def build(seed=0):
    method = AdversarialFeatureDistillation(tiny.small_peers(seed=seed))
    method.compile(epochs=2, steps_per_epoch=2)
    return method


def everything(method):
    optimizers = [v for each in method.objectives for v in each.optimizer.variables]
    return tiny.values([*method.variables, *optimizers])


def save(checkpoints, *steps):
    return [checkpoints.save({**STATE, "step": step}) for step in steps]


def test_everything_comes_back(tmp_path):
    method = build()
    for seed in range(3):
        method.take_step(tiny.batch(seed))
    Checkpoints(tmp_path, method).save({**STATE, "step": 3})
    other = build(seed=1)
    assert Checkpoints(tmp_path, other).restore() == {**STATE, "step": 3}
    assert {int(each.optimizer.iterations) for each in other.objectives} == {3}
    for mine, restored in zip(everything(method), everything(other), strict=True):
        np.testing.assert_array_equal(mine, restored)
    # And it goes on as if it had never stopped.
    method.take_step(tiny.batch(7))
    other.take_step(tiny.batch(7))
    for mine, restored in zip(everything(method), everything(other), strict=True):
        np.testing.assert_array_equal(mine, restored)


def test_a_new_run_has_nothing_to_restore(tmp_path):
    assert Checkpoints(tmp_path, build()).restore() is None


def test_the_newest_three_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, build())
    checkpoints.save({**STATE, "step": 1}, best=True)
    save(checkpoints, 1, 2, 3, 4)
    checkpoints.save({**STATE, "step": 2}, best=True)
    names = sorted(path.name for path in checkpoints.directory.iterdir())
    assert names == [
        "best_000000002",
        "step_000000002",
        "step_000000003",
        "step_000000004",
    ]


@pytest.mark.parametrize("file", ["variables.data-00000-of-00001", "state.json"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path, capsys, file, damage
):
    method = build()
    checkpoints = Checkpoints(tmp_path, method)
    save(checkpoints, 1)
    expected = everything(method)
    method.take_step(tiny.batch())
    (newest,) = save(checkpoints, 2)
    content = (newest / file).read_bytes()
    if damage == "missing":
        (newest / file).unlink()
    elif damage == "truncated":
        (newest / file).write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        changed = (
            content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        )
        (newest / file).write_bytes(changed)
    assert checkpoints.restore()["step"] == 1
    assert "is damaged" in capsys.readouterr().err
    for saved, restored in zip(expected, everything(method), strict=True):
        np.testing.assert_array_equal(saved, restored)
    # The same step is reached and saved again.
    save(checkpoints, 2)
    assert checkpoints.restore()["step"] == 2


def test_damage_again_and_again_fills_no_disk(tmp_path):
    checkpoints = Checkpoints(tmp_path, build())
    save(checkpoints, 1)
    # The same step twice: it was reached again.
    for step in (2, 2, 3, 4):
        (newest,) = save(checkpoints, step)
        (newest / "state.json").write_text("{")
        assert checkpoints.restore()["step"] == 1
    save(checkpoints, 5)
    assert sorted(path.name for path in checkpoints.directory.iterdir()) == [
        "step_000000001",
        "step_000000004.damaged",
        "step_000000005",
    ]


def test_no_whole_checkpoint_is_an_error_not_a_new_start(tmp_path):
    checkpoints = Checkpoints(tmp_path, build())
    (only,) = save(checkpoints, 1)
    (only / "variables.index").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(UserError, match="every checkpoint"):
            checkpoints.restore()


def test_what_a_kill_left_half_written_is_ignored_and_removed(tmp_path):
    checkpoints = Checkpoints(tmp_path, build())
    save(checkpoints, 1)
    half = checkpoints.directory / "step_000000002.unfinished"
    half.mkdir()
    (half / "variables.index").write_bytes(b"half")
    assert checkpoints.restore()["step"] == 1
    assert not half.exists()


def test_another_version_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path, build())
    (path,) = save(checkpoints, 1)
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "format": 99}))
    with pytest.raises(UserError, match="another version"):
        checkpoints.restore()


def test_a_failed_save_is_one_message_and_keeps_the_last(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, build())
    save(checkpoints, 1)

    def full(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(checkpoints._trackable, "write", full)
    with pytest.raises(UserError, match="No space left on device"):
        save(checkpoints, 2)
    monkeypatch.undo()
    assert checkpoints.restore()["step"] == 1


def test_load_peers(tmp_path):
    method = build()
    method.take_step(tiny.batch())
    (tmp_path / "flags.cfg").write_text("# a run\n--peers=small,small\n")
    (tmp_path / "dataset.json").write_text(json.dumps(tiny.info().to_json()))
    with pytest.raises(UserError, match="no last checkpoint"):
        load_peers(tmp_path)
    Checkpoints(tmp_path, method).save({**STATE, "step": 1})
    peers, info = load_peers(tmp_path)
    assert info == tiny.info()
    images = tiny.batch(5)["image"]
    for peer, trained in zip(peers, method.peers, strict=True):
        np.testing.assert_array_equal(peer(images).logits, trained(images).logits)


def test_load_peers_of_the_best_checkpoint(tmp_path):
    method = build()
    (tmp_path / "flags.cfg").write_text("--peers=small,small\n")
    (tmp_path / "dataset.json").write_text(json.dumps(tiny.info().to_json()))
    checkpoints = Checkpoints(tmp_path, method)
    images = tiny.batch(5)["image"]
    expected = {"best": method.peers[0](images).logits.numpy()}
    checkpoints.save({**STATE, "step": 1}, best=True)
    method.take_step(tiny.batch())
    expected["last"] = method.peers[0](images).logits.numpy()
    save(checkpoints, 2)
    for name, logits in expected.items():
        peers, _ = load_peers(tmp_path, name)
        np.testing.assert_array_equal(peers[0](images).logits, logits)
    with (
        flagsaver.as_parsed(checkpoint="beast"),
        pytest.raises(UserError, match="Did you mean 'best'"),
    ):
        checkpoint_from_flags()
    with pytest.raises(UserError, match="Did you mean 'best'"):
        load_peers(tmp_path, "beast")


def test_auto_is_the_best_where_there_is_one(tmp_path, digits):
    images = exports.random_images(digits.info.image_shape, 3)
    last = exports.write_run(tmp_path, digits.info)
    peers, _ = load_peers(tmp_path, "auto")
    np.testing.assert_array_equal(peers[0](images).logits, last[0](images).logits)
    method = Independent(last)
    method.compile(epochs=1, steps_per_epoch=1)
    variable = last[0].classifier.bias
    variable.assign(variable + 1.0)
    Checkpoints(tmp_path, method).save({"step": 1}, best=True)
    peers, _ = load_peers(tmp_path, "auto")
    np.testing.assert_array_equal(peers[0](images).logits, last[0](images).logits)
    peers, _ = load_peers(tmp_path, "last")
    assert np.abs(peers[0](images).logits - last[0](images).logits).max() > 0.9


def test_load_peers_of_branches(tmp_path):
    method = OnTheFlyEnsemble(tiny.branches(2))
    tiny.compiled(method)
    method.take_step(tiny.batch())
    (tmp_path / "flags.cfg").write_text("--peers=resnet8,resnet8\n--own_stages=1\n")
    (tmp_path / "dataset.json").write_text(json.dumps(tiny.info().to_json()))
    Checkpoints(tmp_path, method).save({**STATE, "step": 1})
    peers, _ = load_peers(tmp_path)
    assert peers[0].body["stage_2"] is peers[1].body["stage_2"]
    images = tiny.batch(5)["image"]
    for peer, trained in zip(peers, method(images), strict=True):
        np.testing.assert_array_equal(peer(images).logits, trained.logits)


def test_a_checkpoint_of_other_networks_is_one_line(tmp_path):
    Checkpoints(tmp_path, build()).save({**STATE, "step": 1})
    other = AdversarialFeatureDistillation(tiny.peers("resnet8", "small"))
    with pytest.raises(UserError, match="does not fit the networks"):
        Checkpoints(tmp_path, tiny.compiled(other)).restore()
    (tmp_path / "dataset.json").write_text(json.dumps(tiny.info().to_json()))
    for names in ("resnet8,small", "small,wrn_10_1"):
        (tmp_path / "flags.cfg").write_text(f"--peers={names}\n")
        with pytest.raises(UserError, match="does not fit the networks") as error:
            load_peers(tmp_path)
        assert "\n" not in str(error.value)


def test_load_peers_refuses_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match="no run directory"):
        load_peers(tmp_path)


def test_load_peers_refuses_a_run_without_its_data_set(tmp_path):
    (tmp_path / "flags.cfg").write_text("--peers=resnet8\n")
    with pytest.raises(UserError, match="no run directory"):
        load_peers(tmp_path)
