"""Small folders of images, and a cache of its own for every test."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    """The directory in which the cache is made."""
    home = tmp_path / "cache_home"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home


@pytest.fixture
def make_folder(tmp_path):
    """Writes a folder data set and returns its path."""

    def make(counts, *, size=(8, 8), mode="RGB", name="images"):
        generator = np.random.default_rng(0)
        root = tmp_path / name
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            shape = size if mode == "L" else (*size, 3)
            for index in range(count):
                pixels = generator.integers(0, 256, shape, np.uint8)
                Image.fromarray(pixels).save(root / folder / f"{index:03}.png")
        return root

    return make
