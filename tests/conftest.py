"""Flags at their defaults, an empty cache, and exported peers."""

import pytest
from absl import flags
from absl.testing import flagsaver

from afd_tf.base.command_line import quick_imports

with quick_imports():
    from afd_tf import data

from afd_tf.artifacts.manifest import FORMATS
from tests import exports

# The files that take longest, longest first: begun last, one of them would keep one
# process busy while the others have nothing left to do.
LONGEST = (
    "same_step_test.py",
    "train_test.py",
    "models_test.py",
    "workers_test.py",
    "replicas_test.py",
    "tflite_test.py",
    "exporter_test.py",
    "web_test.py",
    "hardware_test.py",
    "api_test.py",
    "launching_test.py",
    "packaging_test.py",
    "notebooks_test.py",
    "readers_test.py",
)


def pytest_collection_modifyitems(items):
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))


@pytest.fixture(autouse=True, scope="session")
def defaults(tmp_path_factory):
    flags.FLAGS.mark_as_parsed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return data.load("digits", cache_dir=str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def exported(digits, tmp_path_factory):
    """A peer, the answer of `export`, and the directory that it wrote."""
    peer = exports.random_peer("resnet8", digits.info)
    export_dir = tmp_path_factory.mktemp("savedmodels") / "new" / "digits"
    return peer, *exports.export(peer, digits, export_dir)


@pytest.fixture(scope="session")
def deployed(tmp_path_factory):
    """A trained peer, the answer of `export`, and the directory, in every format."""
    dataset = data.load("digits", cache_dir=str(tmp_path_factory.mktemp("cache")))
    peer = exports.trained_peer("wrn_10_1", dataset)
    export_dir = tmp_path_factory.mktemp("deployed")
    return peer, *exports.export(peer, dataset, export_dir, list(FORMATS))


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
