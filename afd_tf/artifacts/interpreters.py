"""The running of a .tflite file, without TensorFlow."""

import concurrent.futures
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from afd_tf.artifacts.manifest import MANIFEST, SIGNATURE, read_bytes
from afd_tf.artifacts.networks import logits_of

# Each interpreter has its own copy of the weights.
_MAX_INTERPRETERS = 8


def read(path: Path) -> tuple[dict, Callable[[np.ndarray], np.ndarray]]:
    """Returns the description in a file that `tflite` wrote, and what runs it.

    Raises:
      ValueError: it is another program's, or damaged.
      zipfile.BadZipFile, KeyError: it has no description.
    """
    content = read_bytes(path)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        description = json.loads(archive.read(MANIFEST))
    model = description["model"]
    # The interpreter may crash over a damaged model, or compute nonsense.
    if hashlib.sha256(content[: model["bytes"]]).hexdigest() != model["sha256"]:
        raise ValueError("its checksum is another")
    return description, Interpreters(content).logits


def batch_size_of(path: Path) -> int:
    """Returns how many images a .tflite file takes at a time.

    Args:
      path: a file that `read` can read.
    """
    return Interpreters(read_bytes(path)).batch_size


class Interpreters:
    """Interpreters of one .tflite file, one for each processor.

    Attributes:
      batch_size: the images that the file takes at a time.

    Args:
      content: of the file.

    Raises:
      ValueError: it is no TFLite model, or lacks our signature.
    """

    def __init__(self, content: bytes):
        self._content = content
        self._signatures = [self._new_signature()]
        details = self._signatures[0].get_input_details()["image"]
        self.batch_size = int(details["shape"][0])

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns float32 [B, classes] for uint8 [B, h, w, c], B of at least 1.

        They are up to a constant for each image; see `networks.logits_of`.
        """
        size = self.batch_size
        batches = [images[n : n + size] for n in range(0, len(images), size)]
        workers = min(os.cpu_count() or 1, _MAX_INTERPRETERS, len(batches))
        while len(self._signatures) < workers:
            self._signatures.append(self._new_signature())

        def run(signature, batch):
            missing = size - len(batch)
            full = np.concatenate([batch, np.repeat(batch[:1], missing, axis=0)])
            return logits_of(signature(image=full))[: len(batch)]

        def run_all(number):
            signature = self._signatures[number]
            return [run(signature, batch) for batch in batches[number::workers]]

        answers = [np.empty(0)] * len(batches)
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            for number, own in enumerate(pool.map(run_all, range(workers))):
                answers[number::workers] = own
        return np.concatenate(answers)

    def _new_signature(self):
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=self._content, num_threads=1)
        return interpreter.get_signature_runner(SIGNATURE)
