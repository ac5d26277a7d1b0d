"""The handwritten digits of scikit-learn."""

import importlib.metadata
from typing import Any

import numpy as np
from PIL import Image

from afd_tf.data.stratification import stratified_choice

_EXAMPLES = 1797
_TEST_EXAMPLES = 360


class DigitsSource:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey, in a fixed 80/20 split.

    They come with scikit-learn, so that no network is needed. Their values 0..16 are
    scaled to 0..255.

    Args:
      image_size: height and width in pixels to resize to; None keeps 8.
    """

    def __init__(self, *, image_size: int | None = None):
        self.name = "digits"
        self.class_names = tuple(str(digit) for digit in range(10))
        self._image_size = image_size
        size = image_size or 8
        self.image_shape = (size, size, 1)
        self.counts = {
            "train": _EXAMPLES - _TEST_EXAMPLES,
            "test": _TEST_EXAMPLES,
        }

    def fingerprint(self, split: str) -> dict[str, Any]:
        """See `Source`."""
        return {
            "source": "digits",
            "version": importlib.metadata.version("scikit-learn"),
            "split": split,
            "image_size": self._image_size,
            "resized_by": "Pillow",
        }

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """See `Source`."""
        from sklearn import datasets

        digits = datasets.load_digits()
        labels = digits.target.astype(np.int32)
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
        test = np.zeros(len(labels), bool)
        test[stratified_choice(labels, _TEST_EXAMPLES, seed=0)] = True
        chosen = test if split == "test" else ~test
        images, labels = images[chosen], labels[chosen]
        if self._image_size is not None:
            images = np.stack([_resize(image, self._image_size) for image in images])
        return images, labels


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes a square grey image, as TensorFlow does: bilinear, antialiased.

    Args:
      image: uint8 [h, w, 1].
      size: height and width of the result in pixels.

    Returns:
      uint8 [size, size, 1].
    """
    # Of floats, so that they are rounded once, at the end.
    pixels = Image.fromarray(image[..., 0].astype(np.float32))
    resized = pixels.resize((size, size), Image.Resampling.BILINEAR)
    return np.rint(np.asarray(resized)).astype(np.uint8)[..., np.newaxis]
