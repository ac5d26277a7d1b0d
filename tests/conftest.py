"""Flags at their defaults, an empty cache, and exported peers."""

import pytest
from absl import flags
from absl.testing import flagsaver

from afd_tf import data
from afd_tf.artifacts.manifest import FORMATS
from tests import exports


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
