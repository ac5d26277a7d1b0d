"""Images that are there more than once: copies, and look-alikes across a split."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from afd_tf.base.console import one_line, say
from afd_tf.data.cache import Cache
from afd_tf.data.image_file import ImageFile
from afd_tf.data.names import some
from afd_tf.data.records import Placed

# Images that look alike: at most so many of the 128 bits of their hashes differ. Images
# without contrast have few bits that are set, and are alike for no reason.
_DIFFERENT_BITS = 6
_LEAST_SET_BITS = 16

# Pairs of images that are compared; more would take longer than they are worth.
_MOST_PAIRS = 4_000_000_000
_BLOCK = 1024


def without_copies(images: Sequence[ImageFile], name: str) -> list[ImageFile]:
    """Returns each image once, and those in several classes not at all; says so.

    Args:
      images: in the order of the data set.
      name: the data set's name in messages.
    """
    groups: dict[str, list[ImageFile]] = defaultdict(list)
    for image in images:
        groups[image.sha256].append(image)
    once, copies, contradictions = [], [], []
    for image in images:
        group = groups[image.sha256]
        if len({copy.label for copy in group}) > 1:
            contradictions.append(image.path)
        elif image is group[0]:
            once.append(image)
        else:
            copies.append(image.path)
    if copies:
        say(
            f"{one_line(name)}: {len(copies)} copies of other images are left out "
            f"({some(copies)})."
        )
    if contradictions:
        say(
            f"{one_line(name)}: {len(contradictions)} files are left out, as the same "
            f"image is in several classes ({some(contradictions)})."
        )
    return once


def say_leakage(images: Sequence[Placed], *, name: str, cache: Cache) -> dict[str, int]:
    """Counts held-out images that are, or look like, training images; says so.

    Args:
      images: each with its side.
      name: the data set's name in the message.
      cache: keeps the result.

    Returns:
      "copies" and "look_alikes", which are no copies.
    """
    key = {"leakage": [[i.sha256, i.perceptual_hash, side] for i, side in images]}
    found = cache.value(key, lambda: _leakage(images))
    copies, alike = found["copies"], found["look_alikes"]
    if copies or alike:
        say(
            f"{one_line(name)}: {copies} held-out images are the same as training "
            f"images, and {alike} more look like one (perceptual hash), e.g. "
            f"{one_line(found['example'][0])} and {one_line(found['example'][1])}: "
            f"accuracies may be too high."
        )
    return {"copies": copies, "look_alikes": alike}


def _leakage(images: Sequence[Placed]) -> dict:
    trained = {image.sha256: image for image, side in images if side == "train"}
    held_out = [image for image, side in images if side != "train"]
    copies = [image for image in held_out if image.sha256 in trained]
    others = [image for image in held_out if image.sha256 not in trained]
    pairs = look_alikes(list(trained.values()), others)
    examples = [(image.path, trained[image.sha256].path) for image in copies[:1]]
    examples += [(image.path, like.path) for image, like in pairs[:1]]
    return {
        "copies": len(copies),
        "look_alikes": len(pairs),
        "example": examples[0] if examples else None,
    }


def look_alikes(
    trained: Sequence[ImageFile], held_out: Sequence[ImageFile]
) -> list[tuple[ImageFile, ImageFile]]:
    """Returns each held-out image that looks like a training image, with that image.

    None are returned where there are too many images to compare all pairs.
    """
    if len(trained) * len(held_out) > _MOST_PAIRS or not trained:
        return []
    bits = _bits(trained)  # [t, 128]
    pairs = []
    for start in range(0, len(held_out), _BLOCK):
        block = held_out[start : start + _BLOCK]
        other = _bits(block)  # [b, 128]
        # The number of differing bits of each pair, [b, t].
        distances = other.sum(1)[:, np.newaxis] + bits.sum(1) - 2 * (other @ bits.T)
        distances[other.sum(1) < _LEAST_SET_BITS] = np.inf
        nearest = distances.argmin(1)
        for index, image in enumerate(block):
            if distances[index, nearest[index]] <= _DIFFERENT_BITS:
                pairs.append((image, trained[nearest[index]]))
    return pairs


def _bits(images: Sequence[ImageFile]) -> np.ndarray:
    joined = bytes.fromhex("".join(image.perceptual_hash for image in images))
    packed = np.frombuffer(joined, np.uint8).reshape(len(images), -1)
    return np.unpackbits(packed, axis=1).astype(np.float32)
