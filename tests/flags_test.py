"""Every flag file parses, and what it describes can be built."""

from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from afd_tf import distill, models, train
from tests import tiny

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "flags").glob("**/*.cfg"))

IMAGE_SHAPES = {"cifar100": (32, 32, 3), "digits": (8, 8, 1)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_flag_file(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert train.main  # its flags are defined
    with flagsaver.flagsaver():
        assert flags.FLAGS(["train", f"--flagfile={path}"]) == ["train"]
        values = flags.FLAGS.flag_values_dict()
        peers = models.peers_from_flags(tiny.info(IMAGE_SHAPES[values["dataset"]]))
        method = distill.method_from_flags(peers)
        method.compile(epochs=values["epochs"], steps_per_epoch=2)
        assert len(method.objectives) == 3 * len(peers)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_flag_file_begins_with_its_command_hardware_and_result(path):
    head = path.read_text().split("\n--")[0]
    assert f"--flagfile={path.relative_to(ROOT)}" in head
    assert "# Hardware: " in head
    assert "# Result" in head


def test_the_papers_recipe_is_also_the_default(monkeypatch):
    monkeypatch.chdir(ROOT)
    with flagsaver.flagsaver():
        flags.FLAGS(["train"])
        defaults = flags.FLAGS.flag_values_dict()
        flags.FLAGS(["train", "--flagfile=flags/cifar.cfg"])
        recipe = flags.FLAGS.flag_values_dict()
    differing = {name for name in recipe if recipe[name] != defaults[name]}
    # Names of things, and what "auto" would choose.
    assert differing <= {"flagfile", "dataset", "peers", "topology", "augment"}
