"""A peer built again from a SavedModel is the one that was exported."""

import json
import re
import shutil

import pytest
from absl.testing import flagsaver

from afd_tf.artifacts import exporter
from afd_tf.artifacts.exported_peer import load_exported_peer
from afd_tf.artifacts.manifest import file_entries, read_manifest
from afd_tf.base.errors import UserError
from tests import exports


def altered(directory, target, change):
    """Returns a copy of a version whose manifest was changed and fits its files."""
    shutil.copytree(directory, target)
    manifest = read_manifest(target)
    change(target, manifest)
    manifest["files"] = file_entries(target)
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def test_it_has_the_weights_that_were_exported(exported):
    peer, _, directory = exported
    again, info, manifest = load_exported_peer(directory)
    assert (again.name, info.name) == ("resnet8", "digits")
    assert manifest["flags"]["method"] == "independent"
    for own, other in zip(again.variables, peer.variables, strict=True):
        assert (own.numpy() == other.numpy()).all()


def test_a_version_is_exported_again(exported, digits, tmp_path, parsed_flags):
    _, answer, directory = exported

    def license_it(_, manifest):
        manifest["license"] = "CC-BY-4.0"

    earlier = altered(directory, tmp_path / "1", license_it)
    with flagsaver.flagsaver(export_dir=str(tmp_path), formats=["tflite", "keras"]):
        again = exporter.export_again_from_flags(earlier)
    assert again["directory"] == str(tmp_path / "2")
    for name in ("tflite", "keras"):
        assert (
            again["formats"][name]["accuracy"]
            == answer["formats"]["tflite"]["accuracy"]
        )
    before, after = read_manifest(earlier), read_manifest(tmp_path / "2")
    assert after["license"] == "CC-BY-4.0"
    assert after["flags"] == before["flags"]
    assert after["earlier"] == {key: before[key] for key in ("versions", "commit")}
    assert after["checkpoint"] == before["checkpoint"]
    card = (tmp_path / "2" / "README.md").read_text()
    assert "The weights are those of an earlier export, with afd_tf 0." in card


def test_what_cannot_be_built_again_is_refused(exported, tmp_path):
    _, _, directory = exported

    def message(name, change) -> str:
        with pytest.raises(UserError) as error:
            load_exported_peer(altered(directory, tmp_path / name, change))
        return str(error.value)

    def without_saved_model(target, _):
        (target / "saved_model.pb").unlink()

    def of_keras(_, manifest):
        manifest["flags"]["peers"] = "file:somewhere/resnet8.keras"

    def larger(_, manifest):
        manifest["name"] = "resnet20"

    def normalized_otherwise(_, manifest):
        manifest["dataset"]["mean"] = [100.0]

    assert "has no saved_model.pb" in message("bare", without_saved_model)
    assert re.search("kept in its run: .*--run_dir=RUN", message("keras", of_keras))
    for name, change in (("larger", larger), ("other_mean", normalized_otherwise)):
        expected = "does not fit the network .* that this version of afd_tf builds"
        assert re.search(expected, message(name, change)), name


def test_pretrained_names_are_found_without_their_weights(exported, tmp_path):
    """A name with weights says which pixels the network takes; the file is not read."""
    peer, _, directory = exported

    def renamed(_, manifest):
        manifest["flags"]["peers"] = "wrn_10_1,resnet8@nowhere.safetensors"

    again, _, _ = load_exported_peer(altered(directory, tmp_path / "1", renamed))
    assert again.spec == "resnet8@nowhere.safetensors"
    images = exports.random_images((8, 8, 1), 2)
    exports.assert_same_logits(
        exports.logits_of(again, images), exports.logits_of(peer, images)
    )
