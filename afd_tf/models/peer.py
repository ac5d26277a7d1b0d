"""The contract of all peers: raw pixels in, the last feature map and logits out."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from afd_tf.base.errors import UserError
from afd_tf.models.layers import PixelNormalization


class PeerOutput(NamedTuple):
    """The output of one forward pass of a peer.

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

    A subclass passes the body: layers by the names of their maps, which are called one
    after the other.

    Args:
      num_classes: number of logits.
      mean: of the raw training pixels 0..255, one per channel.
      variance: of the raw training pixels, one per channel.
      downsampling: the factor by which the body divides height and width.
      body: the layers; the map of the last one is `features`.
      shared: layers of another peer, which replace those of the same names.
      **kwargs: of a Keras model.

    Attributes:
      pretrained: whether the weights below the classifier come from another training.
      pretrained_head: whether those of the classifier do, too.
      random_head: of a frozen teacher, whether nothing has trained its classifier.
      tap_shapes: height, width and channels of every named map, first to last, once
        the peer is built.
      spec: the name on the command line, of which the name of the Keras model may be a
        part.
      record: what a run keeps to build the peer again; None if `spec` is enough.
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
        self.spec = self.name
        self.record: Mapping[str, Any] | None = None
        self.pretrained = self.pretrained_head = self.random_head = False
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
        """Computes the named maps.

        Args:
          images: raw pixels 0..255, uint8 or float, [B, h, w, c].
          training: whether statistics of the batch are used, and moving ones updated.
          known: maps of these images by the `id` of their layer, which are not computed
            again; new ones are added. For peers that share layers.
          last: the name of the last map to compute; None is all.

        Returns:
          the maps [B, h, w, c] by name, first to last; the last of all is `features`.
        """
        known = {} if known is None else known
        values = self.normalization(images)
        maps = {}
        for name, layer in self.body.items():
            if id(layer) not in known:
                known[id(layer)] = layer(values, training=training)
            values = known[id(layer)]
            # A foreign network may have paths that skip a stage; its map is the first.
            maps[name] = values[0] if isinstance(values, list) else values
            if name == last:
                break
        return maps

    def finish(self, taps: Mapping[str, tf.Tensor]) -> PeerOutput:
        """Returns the output of `call` from all maps that `taps` returned."""
        *_, features = taps.values()
        return PeerOutput(features, self.classify(features), taps)

    def classify(self, features: tf.Tensor) -> tf.Tensor:
        """Returns logits, float32 [B, classes], of `features` [B, h, w, c]."""
        pooled = tf.reduce_mean(tf.cast(features, tf.float32), axis=(1, 2))
        return self.classifier(pooled)

    def call(self, images: tf.Tensor, training: bool = False) -> PeerOutput:
        """Runs the network on raw pixels 0..255, uint8 or float [B, h, w, c]."""
        return self.finish(self.taps(images, training))

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Creates nothing; see `afd_tf.models.stage.Composite`."""

    def build_for(self, image_shape: Sequence[int]) -> None:
        """Creates the variables.

        Args:
          image_shape: height, width and channels of the images.

        Raises:
          UserError: the images are too small for this network.
        """
        smallest = self.downsampling
        if min(image_shape[:2]) < smallest:
            raise UserError(
                f"images of {image_shape[0]}x{image_shape[1]} are too small for "
                f"{self.name}, which needs at least {smallest}x{smallest}: "
                f"enlarge them with --image_size={smallest * 2} or more."
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
        """The names of the maps at the ends of stages, first to last."""
        return [name for name in self.tap_shapes if name.startswith("stage_")]

    @property
    def head(self) -> list[keras.layers.Layer]:
        """The layers behind `features`."""
        return [self.classifier]

    @property
    def head_variables(self) -> list[keras.Variable]:
        """The trainable variables of the head."""
        return [each for layer in self.head for each in layer.trainable_variables]

    @property
    def feature_variables(self) -> list[keras.Variable]:
        """The trainable variables below the head: G_k of the paper."""
        of_head = {id(each) for each in self.head_variables}
        return [each for each in self.trainable_variables if id(each) not in of_head]

    @property
    def parameters(self) -> int:
        """The number of trainable parameters."""
        return sum(
            variable.value.shape.num_elements() for variable in self.trainable_variables
        )
