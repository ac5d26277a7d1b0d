"""The worker process that reads photos with torchvision, for `benchmarks.input`.

    python -m afd_tf.benchmarks.torchvision_worker '{"folder": ..., ...}'

TensorFlow is not imported here: its threads would not survive the fork of the
`DataLoader`'s processes.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from afd_tf.benchmarks.worker_process import serve

# So many that they do not end during the measurement.
_IMAGES = 1 << 40


def time_batches(
    sizes: Iterator[int], images: int, *, warm_up_seconds: float
) -> dict[str, float]:
    """Takes batches for a while unmeasured, then measures how long more of them take.

    Args:
      sizes: takes a batch and gives the number of its images; endless.
      images: the number of images to measure; the last batch may exceed it.
      warm_up_seconds: time until the measurement begins.

    Returns:
      "images" that were measured and the "seconds" that they took.
    """
    began = time.perf_counter()
    next(sizes)
    while time.perf_counter() - began < warm_up_seconds:
        next(sizes)
    began, count = time.perf_counter(), 0
    while count < images:
        count += next(sizes)
    return {"images": count, "seconds": time.perf_counter() - began}


def prepare(task: Mapping[str, Any]) -> tuple[dict, Callable[[Mapping], Mapping]]:
    """Starts the processes of a `DataLoader`, one for each processor.

    Args:
      task: "folder", with one folder for each class; "size", height and width of the
        images in pixels; "batch_size".

    Returns:
      "version" of torchvision and "workers", the number of processes; and a function
      that answers {"images": n, "warm_up_seconds": s} as `time_batches` does.
    """
    # By name: they are no requirements, and are not taken for some.
    torch = importlib.import_module("torch")
    torchvision = importlib.import_module("torchvision")
    transforms = importlib.import_module("torchvision.transforms")

    photos = torchvision.datasets.ImageFolder(
        task["folder"],
        transforms.Compose(
            [
                transforms.RandomResizedCrop(task["size"]),
                transforms.RandomHorizontalFlip(),
                # uint8, as the other pipelines.
                transforms.PILToTensor(),
            ]
        ),
    )
    workers = len(os.sched_getaffinity(0))
    loader = torch.utils.data.DataLoader(
        photos,
        batch_size=task["batch_size"],
        # With replacement, no epoch ends, and no processor waits at its end.
        sampler=torch.utils.data.RandomSampler(
            photos, replacement=True, num_samples=_IMAGES
        ),
        num_workers=workers,
    )
    sizes = (len(labels) for _, labels in loader)
    return (
        {"version": torchvision.__version__, "workers": workers},
        lambda request: time_batches(sizes, **request),
    )


if __name__ == "__main__":
    serve(lambda: prepare(json.loads(sys.argv[1])))
