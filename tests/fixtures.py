"""Flags at their defaults, an empty cache, and exported peers."""

import fcntl
import json
import os
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from afd_tf.base.command_line import quick_imports

with quick_imports():
    from afd_tf import data, models

from afd_tf.artifacts.manifest import FORMATS
from tests import exports, tiny


@pytest.fixture(autouse=True, scope="session")
def defaults(tmp_path_factory):
    flags.FLAGS.mark_as_parsed()
    # Where a network's depth is not what is tested.
    tiny.register_small()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return data.load("digits", cache_dir=str(tmp_path_factory.mktemp("cache")))


def export_once(tmp_path_factory, peer_name, trained, formats):
    """Returns what the first of several test processes exports for all."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / f"exported_{peer_name}"
    folder.mkdir(exist_ok=True)
    dataset = data.load("digits", cache_dir=str(tmp_path_factory.mktemp("cache")))
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "answer.json").exists():
            if trained:
                peer = exports.trained_peer(peer_name, dataset)
            else:
                peer = exports.random_peer(peer_name, dataset.info)
            exports.trackable(peer).write(str(folder / "variables"))
            export_dir = folder / "new" / "digits"
            answer, _ = exports.export(peer, dataset, export_dir, formats)
            (folder / "answer.json").write_text(json.dumps(answer))
    answer = json.loads((folder / "answer.json").read_text())
    peer = models.build_peer(peer_name, dataset.info)
    exports.trackable(peer).read(str(folder / "variables")).assert_consumed()
    version = folder / "new" / "digits" / Path(answer["directory"]).name
    return peer, answer, version


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A peer, the answer of `export`, and the directory that it wrote."""
    return export_once(tmp_path_factory, "resnet8", False, exports.BOTH)


@pytest.fixture(scope="session")
def deployed(tmp_path_factory):
    """A trained peer, the answer of `export`, and the directory, in every format."""
    return export_once(tmp_path_factory, "wrn_10_1", True, list(FORMATS))


@pytest.fixture(scope="module")
def run_dir(digits, tmp_path_factory):
    """A run of two peers, and the peers."""
    directory = tmp_path_factory.mktemp("runs") / "digits"
    return directory, exports.write_run(directory, digits.info)


@pytest.fixture
def parsed_flags(tmp_path):
    with flagsaver.flagsaver():
        flags.FLAGS(["test", f"--cache_dir={tmp_path / 'cache'}"])
        yield flags.FLAGS
