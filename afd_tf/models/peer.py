"""What every peer is: raw pixels in, the last feature map and the logits out."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from afd_tf.errors import UserError
from afd_tf.models.layers import PixelNormalization


class PeerOutput(NamedTuple):
    """What one forward of a peer gives.

    Attributes:
      features: [B, h, w, c], the map that enters global average pooling.
      logits: float32 [B, classes].
      taps: every named map [B, h, w, c], first to last; the last one is `features`.
    """

    features: tf.Tensor
    logits: tf.Tensor
    taps: Mapping[str, tf.Tensor]


class Peer(keras.Model):
    """A classifier: pixel normalization, body, average pooling, one dense layer.

    A subclass gives the body: layers by the names of their maps, one after the other.

    Args:
      num_classes: number of logits.
      mean: of the raw training pixels, one per channel, 0..255.
      variance: likewise.
      downsampling: by how much the body divides height and width.
      body: the last one's map is `features`.
      shared: layers of another peer that take the place of those with their names.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        mean: Sequence[float],
        variance: Sequence[float],
        downsampling: int,
        body: Mapping[str, keras.layers.Layer],
        shared: Mapping[str, keras.layers.Layer] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.downsampling = downsampling
        self.normalization = PixelNormalization(mean, variance)
        # PyTorch's default for a dense layer: uniform in +-1/sqrt(fan in).
        self.classifier = keras.layers.Dense(
            num_classes,
            kernel_initializer=keras.initializers.VarianceScaling(
                scale=1 / 3, mode="fan_in", distribution="uniform"
            ),
            dtype="float32",
            name="classifier",
        )
        self.body = {**body, **(shared or {})}

    def taps(
        self,
        images: tf.Tensor,
        training: bool = False,
        known: dict[int, tf.Tensor] | None = None,
        last: str | None = None,
    ) -> dict[str, tf.Tensor]:
        """Returns every named map, first to last; the last one is `features`.

        Args:
          images: raw pixels 0..255, uint8 or float, [B, h, w, c].
          training: whether batch statistics are used, and move.
          known: maps of these images by the `id` of their layer, for peers that share
            layers; what is computed here is added.
          last: the name of the last map that is wanted; None is all.
        """
        known = {} if known is None else known
        values = self.normalization(images)
        maps = {}
        for name, layer in self.body.items():
            if id(layer) not in known:
                known[id(layer)] = layer(values, training=training)
            values = maps[name] = known[id(layer)]
            if name == last:
                break
        return maps

    def finish(self, taps: Mapping[str, tf.Tensor]) -> PeerOutput:
        """Returns what `call` does from the maps of `taps`."""
        *_, features = taps.values()
        return PeerOutput(features, self.classify(features), taps)

    def classify(self, features: tf.Tensor) -> tf.Tensor:
        """Returns float32 logits [B, classes] of `features` [B, h, w, c]."""
        pooled = tf.reduce_mean(tf.cast(features, tf.float32), axis=(1, 2))
        return self.classifier(pooled)

    def call(self, images: tf.Tensor, training: bool = False) -> PeerOutput:
        """Runs the network on raw pixels; see `taps`."""
        return self.finish(self.taps(images, training))

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Creates nothing; see `afd_tf.models.layers.Composite`."""

    def build_for(self, image_shape: Sequence[int]) -> None:
        """Creates the variables.

        Args:
          image_shape: (h, w, c) of the pictures to come.

        Raises:
          UserError: the pictures are too small for this network.
        """
        smallest = self.downsampling
        if min(image_shape[:2]) < smallest:
            raise UserError(
                f"pictures of {image_shape[0]}x{image_shape[1]} are too small for "
                f"{self.name}: it needs at least {smallest}x{smallest}. "
                f"Enlarge them with --image_size={smallest * 2} or more."
            )
        output = self(tf.zeros([1, *image_shape], tf.uint8))
        self.tap_shapes = {
            name: tuple(values.shape[1:]) for name, values in output.taps.items()
        }

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of `features`."""
        *_, last = self.tap_shapes.values()
        return last

    @property
    def stages(self) -> list[str]:
        """The names of the stages' maps, first to last."""
        return [name for name in self.tap_shapes if name.startswith("stage_")]

    @property
    def feature_variables(self) -> list[keras.Variable]:
        """The trainable variables of the body: G_k of the paper."""
        head = {id(variable) for variable in self.classifier.trainable_variables}
        return [
            variable
            for variable in self.trainable_variables
            if id(variable) not in head
        ]

    @property
    def parameters(self) -> int:
        """How many trainable numbers it has."""
        return sum(
            variable.value.shape.num_elements() for variable in self.trainable_variables
        )
