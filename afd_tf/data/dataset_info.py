"""The description of a data set that runs and artifacts carry with them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from afd_tf.base.errors import UserError

# Of a batch that is evaluated, in all its images together.
_EVALUATION_PIXELS = 2**21


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The facts about a data set that a model depends on.

    Attributes:
      name: as given to --dataset; a folder's path is absolute.
      image_shape: height, width, channels.
      class_names: one name per label.
      examples: number of images per split: "train", "validation", "test".
      mean: of the raw training pixels 0..255, one per channel.
      variance: of the raw training pixels, one per channel.
      augment: "none", "cifar", "imagenet" or "randaugment".
      white_level: the value of white in image files of more than 8 bits, as the data
        set has them; None where it has none, or they say it themselves.
    """

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    examples: Mapping[str, int]
    mean: tuple[float, ...]
    variance: tuple[float, ...]
    augment: str
    white_level: float | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def evaluation_batch(self) -> int:
        """The images of a step without gradients: 256, or fewer large ones.

        At 224x224 it is 41: 256 need more memory than a training step of 32.
        """
        height, width, _ = self.image_shape
        return max(1, min(256, _EVALUATION_PIXELS // (height * width)))

    def to_json(self) -> dict[str, Any]:
        """Returns a plain dictionary, from which `from_json` makes an equal info."""
        values = {
            "name": self.name,
            "image_shape": list(self.image_shape),
            "class_names": list(self.class_names),
            "examples": dict(self.examples),
            "mean": list(self.mean),
            "variance": list(self.variance),
            "augment": self.augment,
        }
        if self.white_level is not None:
            values["white_level"] = self.white_level
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "DatasetInfo":
        """Returns the info that `to_json` wrote."""
        return cls(
            name=values["name"],
            image_shape=tuple(values["image_shape"]),
            class_names=tuple(values["class_names"]),
            examples=dict(values["examples"]),
            mean=tuple(values["mean"]),
            variance=tuple(values["variance"]),
            augment=values["augment"],
            white_level=values.get("white_level"),
        )

    def check_compatible(
        self, name: str, image_shape: tuple[int, int, int], class_names: tuple[str, ...]
    ) -> None:
        """Refuses a data set whose images or labels a model of this one cannot take.

        Args:
          name: of the other data set.
          image_shape: of its images.
          class_names: of its labels.

        Raises:
          UserError: the shapes or the classes differ.
        """
        if image_shape != tuple(self.image_shape):
            raise UserError(
                f"{name} has images of shape {image_shape}, but "
                f"{tuple(self.image_shape)} is expected (from {self.name}): pass the "
                f"--dataset and --image_size of the training."
            )
        if class_names == tuple(self.class_names):
            return
        if len(class_names) != self.num_classes:
            difference = f"{len(class_names)} classes, not {self.num_classes}"
        else:
            pairs = zip(class_names, self.class_names, strict=True)
            label, (given, wanted) = next(
                (label, pair) for label, pair in enumerate(pairs) if pair[0] != pair[1]
            )
            difference = f"class {label} called {given!r}, not {wanted!r}"
        raise UserError(
            f"{name} is not the data set expected ({self.name}): it has {difference}. "
            f"Pass a --dataset with the classes of the training."
        )
