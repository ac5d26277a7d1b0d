"""Every flag file parses, and what it describes can be built."""

import functools
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from afd_tf import models, train
from afd_tf.distill import methods, optimizers
from tests import tiny

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "flags").glob("**/*.cfg"))

IMAGE_SHAPES = {
    "cifar100": (32, 32, 3),
    "digits": (8, 8, 1),
    "imagenet2012": (224, 224, 3),
}


@functools.cache
def build_peers(names, image_shape, own_stages):
    return models.build_peers(names, tiny.info(image_shape), own_stages)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_flag_file(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    # The moments of thousands of variables would take half of the time.
    for kind in (optimizers.SGD, optimizers.Adam):
        monkeypatch.setattr(kind, "build", lambda *_: None)
    assert train.main  # its flags are defined
    with flagsaver.flagsaver():
        assert flags.FLAGS(["train", f"--flagfile={path}"]) == ["train"]
        row = methods.set_method_defaults()
        values = flags.FLAGS.flag_values_dict()
        image_shape = IMAGE_SHAPES[values["dataset"]]
        if size := values["image_size"]:
            image_shape = (size, size, 3)
        # A method leaves its peers as they are: files may share them.
        peers = build_peers(tuple(values["peers"]), image_shape, values["own_stages"])
        assert bool(values["teacher"]) == row.offline
        teachers = [
            build_peers(("resnet8",), image_shape, None)[0] for _ in values["teacher"]
        ]
        method = methods.method_from_flags(peers, teachers)
        method.compile(epochs=values["epochs"], steps_per_epoch=2)
        assert method.objectives
    # A method of the tables is what the file's name says it is.
    if path.parent.name == "table":
        named = [name for name in methods.METHODS if f"_{name}" in path.stem]
        assert values["method"] == max(named, key=len)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_flag_file_begins_with_its_command_hardware_and_result(path):
    head = path.read_text().split("\n--")[0]
    assert f"--flagfile={path.relative_to(ROOT)}" in head
    assert "# Hardware: " in head
    assert "# Result" in head


def test_the_papers_recipe_is_also_the_default(monkeypatch):
    monkeypatch.chdir(ROOT)
    # The moments of thousands of variables would take half of the time.
    for kind in (optimizers.SGD, optimizers.Adam):
        monkeypatch.setattr(kind, "build", lambda *_: None)
    with flagsaver.flagsaver():
        flags.FLAGS(["train"])
        defaults = flags.FLAGS.flag_values_dict()
        flags.FLAGS(["train", "--flagfile=flags/cifar.cfg"])
        recipe = flags.FLAGS.flag_values_dict()
    differing = {name for name in recipe if recipe[name] != defaults[name]}
    # Names of things, and what "auto" would choose.
    assert differing <= {"flagfile", "dataset", "peers", "topology", "augment"}
