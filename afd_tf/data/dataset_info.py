"""The description of a data set that runs and artifacts carry with them."""

import dataclasses
from collections.abc import Mapping
from typing import Any


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
      augment: "none", "cifar" or "imagenet".
    """

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    examples: Mapping[str, int]
    mean: tuple[float, ...]
    variance: tuple[float, ...]
    augment: str

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def to_json(self) -> dict[str, Any]:
        """Returns a plain dictionary, from which `from_json` makes an equal info."""
        return {
            "name": self.name,
            "image_shape": list(self.image_shape),
            "class_names": list(self.class_names),
            "examples": dict(self.examples),
            "mean": list(self.mean),
            "variance": list(self.variance),
            "augment": self.augment,
        }

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
        )
