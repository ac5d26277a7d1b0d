"""The division of images into training, validation and test by their content.

An image's place is a number in [0, 1) made from the hash of its bytes. Those below
`test_fraction` are the test side, those in the next `validation_fraction` the
validation side, the others are trained on. Therefore the same bytes always have the
same side, in any folder, under any name, in any order, and images that are added or
removed move no other one. Each class is divided in proportion up to chance: of n
images, n * fraction are expected on a side, with a standard deviation of
sqrt(n * fraction * (1 - fraction)).

Two exceptions keep small data sets usable, and they alone depend on other images:

- A class of which no image would be trained on trains on the one with the highest
  place. So a class with one image trains only.
- A side that would be empty gets the image whose place is nearest to it, of those
  that are not the last of their class in training or of their other side.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

from afd_tf.base.errors import UserError


def place(sha256: str) -> float:
    """Returns the place of an image, in [0, 1).

    Args:
      sha256: of its bytes, in hexadecimal.
    """
    return int(sha256[:13], 16) / 16**13  # 52 bits, which a float holds exactly


def choose_sides(
    hashes: Sequence[str],
    labels: Sequence[int],
    *,
    test_fraction: float,
    validation_fraction: float,
    name: str,
) -> list[str]:
    """Returns the side of each image: "train", "validation" or "test".

    Args:
      hashes: the sha256 of each image, in hexadecimal, no two the same.
      labels: the class of each image.
      test_fraction: the expected part of the test side; 0 makes none.
      validation_fraction: the expected part of the validation side; 0 makes none.
      name: the data set's name in messages.

    Raises:
      UserError: the fractions leave nothing, or there are too few images.
    """
    if test_fraction + validation_fraction >= 1:
        raise UserError(
            f"--test_fraction={test_fraction:g} and --validation_fraction="
            f"{validation_fraction:g} leave nothing to train on: their sum must be "
            f"less than 1."
        )
    places = [place(text) for text in hashes]
    bounds = {
        "test": (0.0, test_fraction),
        "validation": (test_fraction, test_fraction + validation_fraction),
    }
    sides = ["train"] * len(places)
    for side, (start, stop) in bounds.items():
        for index, value in enumerate(places):
            if start <= value < stop:
                sides[index] = side
    classes = defaultdict(list)
    for index, label in enumerate(labels):
        classes[label].append(index)
    for members in classes.values():
        if all(sides[index] != "train" for index in members):
            sides[max(members, key=places.__getitem__)] = "train"
    for side, (start, stop) in bounds.items():
        if stop > start and side not in sides:
            trained = Counter(
                label for label, s in zip(labels, sides, strict=True) if s == "train"
            )
            held_out = Counter(sides)
            spare = [
                index
                for index, label in enumerate(labels)
                if (
                    trained[label]
                    if sides[index] == "train"
                    else held_out[sides[index]]
                )
                > 1
            ]
            if not spare:
                raise UserError(
                    f"{name} has {len(labels)} images in {len(trained)} classes, too "
                    f"few for a {side} side beside a training image of each class: "
                    f"add images."
                )
            middle = (start + stop) / 2
            sides[min(spare, key=lambda index: abs(places[index] - middle))] = side
    return sides
