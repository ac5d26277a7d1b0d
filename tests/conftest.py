"""Flags at their defaults, and a cache that is nobody's."""

import pytest
from absl import flags


@pytest.fixture(autouse=True, scope="session")
def defaults(tmp_path_factory):
    flags.FLAGS.mark_as_parsed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
