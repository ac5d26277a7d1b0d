"""The clock of the pipelines, and torchvision's where it is installed."""

import itertools
import time

import pytest

from afd_tf.benchmarks import torchvision_worker
from tests.data.encoded import file_of, scene


def test_only_batches_after_the_warm_up_are_counted(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    taken = []

    def sizes():
        for number in itertools.count():
            taken.append(number)
            yield 10

    found = torchvision_worker.time_batches(sizes(), 25, warm_up_seconds=4)
    # Began at 0; batches until the clock said 4; three of ten for 25 images.
    assert found == {"images": 30, "seconds": 1.0}
    assert len(taken) == 4 + 3


def test_image_folder(tmp_path):
    pytest.importorskip("torchvision")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            path = tmp_path / name / f"{number}.jpg"
            path.write_bytes(file_of(scene(40, 50), "jpeg"))
    description, read = torchvision_worker.prepare(
        {"folder": str(tmp_path), "size": [16, 16], "batch_size": 4}
    )
    assert description["workers"] >= 1
    assert read({"images": 12, "warm_up_seconds": 0.0})["images"] == 12
