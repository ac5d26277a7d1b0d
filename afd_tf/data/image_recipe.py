"""The recipe of training images: which are drawn, and what is done to them."""

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from afd_tf.base.errors import UserError, unknown_name
from afd_tf.data.augment import pad_crop_flip
from afd_tf.data.choices import LEAST_AREA, MAX_MAGNITUDE, SAMPLINGS, crop_style
from afd_tf.data.mix import mix_batch
from afd_tf.data.randaugment import randaugment
from afd_tf.data.random_crop import random_resized_crop_flip
from afd_tf.data.random_erasing import random_erasing
from afd_tf.data.sampling import balanced_repeats

# Keep the seeds of what follows the crop apart from those of the crop.
_RANDAUGMENT, _ERASING = 1, 2


@dataclasses.dataclass(frozen=True)
class ImageRecipe:
    """The way from the images of a data set to training batches.

    Attributes:
      augment: one of `choices.AUGMENTATIONS`.
      padding: one of `choices.PADDINGS`, for crops as those of "cifar".
      least_area: the smallest part of an image that a crop has, for crops as those of
        "imagenet".
      randaugment_layers: operations on each image, for "randaugment".
      randaugment_magnitude: their strength, 0..30, for "randaugment".
      random_erasing: probability with which a box of an image becomes noise.
      mixup: alpha of mixup (see `mix_batch`); 0 is no mixup.
      cutmix: alpha of CutMix; 0 is no CutMix.
      sampling: one of `choices.SAMPLINGS`.

    Raises:
      UserError: an unknown sampling, or a number outside of its range.
    """

    augment: str = "none"
    padding: str = "reflect"
    least_area: float = LEAST_AREA
    randaugment_layers: int = 2
    randaugment_magnitude: int = 9
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    sampling: str = "shuffled"

    def __post_init__(self):
        if self.sampling not in SAMPLINGS:
            raise unknown_name("sampling", self.sampling, SAMPLINGS)
        for name, most in (
            ("least_area", 1),
            ("randaugment_magnitude", MAX_MAGNITUDE),
            ("random_erasing", 1),
            ("mixup", math.inf),
            ("cutmix", math.inf),
        ):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise UserError(f"{name}={value} should be in the range 0..{most}.")

    @property
    def mixes(self) -> bool:
        """Whether images are mixed."""
        return bool(self.mixup or self.cutmix)

    def repeats(
        self, labels: Callable[[], np.ndarray], seed: int
    ) -> Callable[[tf.Tensor], tf.Tensor | None]:
        """Returns a function of the epoch that tells how often each image is drawn.

        Its result is int64 [n], or None where each is drawn once.

        Args:
          labels: returns those of the images, int32 [n], which may take time; it is
            called only where they are needed.
          seed: the run's.
        """
        if self.sampling != "balanced":
            return lambda epoch: None
        all_labels = labels()
        return lambda epoch: balanced_repeats(all_labels, seed, epoch)

    def augment_batch(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Augments a batch of images that all have one size.

        Args:
          images: uint8 [B, h, w, c].
          seed: int64 [2].

        Returns:
          uint8 [B, h, w, c].
        """
        crop = crop_style(self.augment, image_shape=images.shape[1:])
        if crop == "cifar":
            images = pad_crop_flip(images, seed, padding=self.padding)
        elif crop == "imagenet":
            images = random_resized_crop_flip(images, seed, least_area=self.least_area)
        return self.change_cropped(images, seed)

    def change_cropped(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Does what follows the crop and the mirror: RandAugment and erasing.

        Args:
          images: uint8 [B, h, w, c].
          seed: int64 [2], that of the crop.

        Returns:
          uint8 [B, h, w, c].
        """
        if self.augment == "randaugment":
            images = randaugment(
                images,
                _fold(seed, _RANDAUGMENT),
                layers=self.randaugment_layers,
                magnitude=self.randaugment_magnitude,
            )
        if self.random_erasing:
            images = random_erasing(
                images, _fold(seed, _ERASING), probability=self.random_erasing
            )
        return images

    def mix(
        self, batch: Mapping[str, tf.Tensor], seed: tf.Tensor
    ) -> Mapping[str, tf.Tensor]:
        """Mixes the images of a batch, if the recipe does; see `mix_batch`."""
        if not self.mixes:
            return batch
        return mix_batch(batch, seed, mixup=self.mixup, cutmix=self.cutmix)


def _fold(seed: tf.Tensor, purpose: int) -> tf.Tensor:
    purpose = tf.constant(purpose, tf.int64)
    return tf.random.experimental.stateless_fold_in(seed, purpose, alg="philox")
