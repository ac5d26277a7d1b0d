"""Flags at their defaults, an empty cache, and exported peers."""

import fcntl
import gc
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

# Until all tests are collected, nothing is garbage.
gc.disable()

# The files that take longest, longest first: begun last, one of them would keep one
# process busy while the others have nothing left to do.
LONGEST = (
    "same_step_test.py",
    "models_test.py",
    "train_test.py",
    "tflite_test.py",
    "replicas_test.py",
    "workers_test.py",
    "exporter_test.py",
    "api_test.py",
    "benchmark_test.py",
    "readers_test.py",
    "web_test.py",
    "flags_test.py",
    "afd_test.py",
    "keras_peer_test.py",
    "saved_model_test.py",
    "hardware_test.py",
    "analyze_test.py",
    "communication_test.py",
    "inference_worker_test.py",
    "packaging_test.py",
    "methods_test.py",
    "tfds_source_test.py",
    "serving_test.py",
    "quantization_test.py",
    "study_test.py",
    "training_worker_test.py",
    "keras_graph_copy_test.py",
    "dataset_test.py",
    "notebooks_test.py",
    "launching_test.py",
    "device_test.py",
    "teacher_test.py",
    "pretrained_test.py",
    "checkpoints_test.py",
    "fitting_test.py",
    "method_test.py",
    "export_test.py",
    "folder_source_test.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Two more than cores: many tests wait for the processes that they start."""
    return (os.cpu_count() or 1) + 2


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items):
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))


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
