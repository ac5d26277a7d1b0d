"""What the flags of `afd_tf.data` choose from, without TensorFlow."""

from collections.abc import Sequence

from afd_tf.base.errors import unknown_name

AUGMENTATIONS = ("none", "cifar", "imagenet", "randaugment")
PADDINGS = ("reflect", "zero")
SAMPLINGS = ("shuffled", "balanced")

# Of RandAugment.
MAX_MAGNITUDE = 30

# The smallest part of an image that a crop has by default, as in torchvision.
LEAST_AREA = 0.08

# The part of a large image's height and width that an evaluation sees: 224 of 256.
EVALUATION_FRACTION = 0.875

# Data sets of colour images whose meaning a mirror image would change.
_DIGIT_SETS = ("svhn",)


def resolve_augmentation(augment: str, *, name: str, image_shape: Sequence[int]) -> str:
    """Returns the augmentation that `augment` stands for, one of `AUGMENTATIONS`.

    Args:
      augment: "auto" or one of `AUGMENTATIONS`. "auto" is "none" for grey images
        and for digits (a mirrored digit is another sign), else "cifar" up to 64
        pixels and "imagenet" above.
      name: the name of the data set.
      image_shape: height, width, channels.

    Raises:
      UserError: `augment` is unknown.
    """
    if augment != "auto":
        if augment not in AUGMENTATIONS:
            raise unknown_name("augmentation", augment, ("auto", *AUGMENTATIONS))
        return augment
    if image_shape[2] == 1 or name.startswith(_DIGIT_SETS):
        return "none"
    return _crop_by_size(image_shape)


def crop_style(augment: str, *, image_shape: Sequence[int]) -> str:
    """Returns how an augmentation crops: "none", "cifar" or "imagenet".

    Args:
      augment: one of `AUGMENTATIONS`; "randaugment" crops as "cifar" does up to 64
        pixels, and as "imagenet" does above.
      image_shape: height, width, channels.
    """
    return _crop_by_size(image_shape) if augment == "randaugment" else augment


def _crop_by_size(image_shape: Sequence[int]) -> str:
    return "cifar" if max(image_shape[:2]) <= 64 else "imagenet"
