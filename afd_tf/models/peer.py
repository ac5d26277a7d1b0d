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
    """

    features: tf.Tensor
    logits: tf.Tensor


class Peer(keras.Model):
    """A classifier: pixel normalization, body, average pooling, one dense layer.

    A subclass builds its body in `__init__` and returns the maps in `extract`.

    Args:
      num_classes: number of logits.
      mean: of the raw training pixels, one per channel, 0..255.
      variance: likewise.
      downsampling: by how much the body divides height and width.
    """

    def __init__(
        self,
        num_classes: int,
        mean: Sequence[float],
        variance: Sequence[float],
        downsampling: int,
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

    def extract(self, inputs: tf.Tensor, training: bool) -> Mapping[str, tf.Tensor]:
        """Returns the maps by name, first to last; the last one is `features`.

        Args:
          inputs: normalized pixels, float [B, h, w, c].
          training: whether batch statistics are used, and move.
        """
        raise NotImplementedError

    def taps(
        self, images: tf.Tensor, training: bool = False
    ) -> Mapping[str, tf.Tensor]:
        """Returns every named map for raw pixels [B, h, w, c], first to last."""
        return self.extract(self.normalization(images), training)

    def call(self, images: tf.Tensor, training: bool = False) -> PeerOutput:
        """Runs the network.

        Args:
          images: raw pixels 0..255, uint8 or float, [B, h, w, c].
          training: whether batch statistics are used, and move.
        """
        features = list(self.taps(images, training).values())[-1]
        pooled = tf.reduce_mean(tf.cast(features, tf.float32), axis=(1, 2))
        return PeerOutput(features, self.classifier(pooled))

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
        self.feature_shape = tuple(output.features.shape[1:])

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
