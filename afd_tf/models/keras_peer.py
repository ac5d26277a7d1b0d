"""A foreign Keras model as a peer."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from afd_tf.base.console import say
from afd_tf.base.errors import UserError
from afd_tf.data import DatasetInfo
from afd_tf.models import keras_graph
from afd_tf.models.adoption import adopt
from afd_tf.models.applications import Pixels
from afd_tf.models.foreign import ForeignModel, to_record
from afd_tf.models.layers import PixelNormalization
from afd_tf.models.network_name import NetworkName
from afd_tf.models.peer import Peer, PeerOutput
from afd_tf.models.stage import Composite, Stage


class LogitOffset(keras.layers.Layer):
    """Stands for the classifier of a network that keeps its own.

    Its bias is zero, and not trained: an export in 8 bits corrects it.

    Args:
      num_classes: number of logits.
      **kwargs: of a Keras layer.
    """

    def __init__(self, num_classes: int, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.bias = self.add_weight(
            shape=(num_classes,), initializer="zeros", name="bias", trainable=False
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns logits, float32 [B, classes]."""
        return inputs + self.bias


class KerasPeer(Peer):
    """A functional Keras model, cut at its last map and at each change of size.

    The stages are parts of its graph. Behind the last map come global average pooling
    and one dense layer, or the model's own head where that is kept.

    Args:
      pixels: the normalization of the raw pixels.
      body: the stages by name; see `keras_graph.stages`.
      neck: the model's own head, from `features` to logits; None takes ours.
      record: what a run keeps to build it again; None if its name is enough.
      **kwargs: see `Peer`.
    """

    def __init__(
        self,
        *,
        pixels: Pixels,
        body: Mapping[str, keras.layers.Layer],
        neck: keras.layers.Layer | None = None,
        record: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        # Too small images are refused when the model is built for them.
        super().__init__(
            mean=pixels.mean,
            variance=pixels.variance,
            downsampling=1,
            body=body,
            **kwargs,
        )
        self.normalization = PixelNormalization(*pixels)
        self.neck = neck
        if neck is not None:
            self.classifier = LogitOffset(self.num_classes, name="classifier")
        self.record = record

    @property
    def head(self) -> list[keras.layers.Layer]:
        """The layers behind `features`."""
        return [*([] if self.neck is None else [self.neck]), self.classifier]

    def classify(self, features: tf.Tensor) -> tf.Tensor:
        """Returns logits, float32 [B, classes], of `features` [B, h, w, c]."""
        if self.neck is None:
            return super().classify(features)
        # Only batch normalization behind the last map, which is rare, would compute
        # otherwise in training: it keeps its statistics.
        logits = self.neck(features, training=False)
        return self.classifier(tf.cast(logits, tf.float32))


class MapAndLogits(Composite):
    """A model with a `call` of its own, which returns its last map and its logits.

    Args:
      model: built.
      **kwargs: of a Keras layer.
    """

    def __init__(self, model: keras.Model, **kwargs):
        super().__init__(**kwargs)
        self.model = model

    def call(self, inputs: tf.Tensor, training: bool = False) -> list[tf.Tensor]:
        """Returns [features, logits]; see `outputs_of`."""
        return list(outputs_of(self.model(inputs, training=training)))


def outputs_of(outputs: Any) -> tuple[tf.Tensor, tf.Tensor] | None:
    """Returns (map [B, h, w, c], logits [B, classes]) of a model, or None.

    Args:
      outputs: two tensors in this order, or by the names "features" and "logits".
    """
    if isinstance(outputs, Mapping):
        outputs = (outputs.get("features"), outputs.get("logits"))
    if not isinstance(outputs, tuple | list) or len(outputs) != 2:
        return None
    ranks = [len(getattr(each, "shape", ())) for each in outputs]
    return tuple(outputs) if ranks == [4, 2] else None


class _Taps(dict):
    """Maps by name, with the logits that were computed together with them."""

    logits: tf.Tensor | None = None


class SubclassPeer(Peer):
    """A Keras model with a `call` of its own, which returns a map and logits.

    It has one map, `features`, and no stages.

    Args:
      model: built, see `outputs_of`.
      own_logits: whether its logits are taken; else our pooling and classifier.
      **kwargs: see `Peer`.
    """

    def __init__(self, *, model: keras.Model, own_logits: bool, **kwargs):
        super().__init__(
            downsampling=1,
            body={"features": Stage([MapAndLogits(model)])},
            **kwargs,
        )
        self.own_logits = own_logits
        if own_logits:
            self.classifier = LogitOffset(self.num_classes, name="classifier")
        self._of_features: set[int] = set()

    def taps(self, images, training=False, known=None, last=None):
        """Computes the one map; see `Peer.taps`."""
        known = {} if known is None else known
        taps = _Taps(super().taps(images, training, known, last))
        taps.logits = known[id(self.body["features"])][1]
        return taps

    def finish(self, taps: Mapping[str, tf.Tensor]) -> PeerOutput:
        """Returns the output of `call` from what `taps` returned."""
        if not self.own_logits:
            return super().finish(taps)
        logits = self.classifier(tf.cast(taps.logits, tf.float32))
        return PeerOutput(taps["features"], logits, taps)

    def build_for(self, image_shape: Sequence[int]) -> None:
        """Creates the variables, and finds those that the map depends on."""
        super().build_for(image_shape)
        # On several replicas, the first one's copies.
        strategy = tf.distribute.get_strategy()
        variables = [
            strategy.experimental_local_results(each.value)[0]
            for each in self.trainable_variables
        ]
        with tf.GradientTape() as tape:
            features = self(tf.zeros([1, *image_shape], tf.uint8)).features
        gradients = tape.gradient(features, variables)
        self._of_features = {
            id(variable)
            for variable, gradient in zip(
                self.trainable_variables, gradients, strict=True
            )
            if gradient is not None
        }

    @property
    def head_variables(self) -> list[keras.Variable]:
        """The trainable variables that `features` does not depend on."""
        return [
            each
            for each in self.trainable_variables
            if id(each) not in self._of_features
        ]


def build_keras_peer(
    network: NetworkName,
    spec: str,
    foreign: ForeignModel,
    info: DatasetInfo,
    shared: Mapping[str, keras.layers.Layer] | None = None,
) -> Peer:
    """Builds a peer of a foreign model.

    Args:
      network: its name.
      spec: the same as on the command line.
      foreign: the model.
      info: the data set's image shape and classes.
      shared: see `afd_tf.models.build_peer`.

    Raises:
      UserError: the model takes other images, or has no map.
    """
    common = {"num_classes": info.num_classes, "shared": shared, "name": network.short}
    is_sequential = isinstance(foreign.model, keras.Sequential)
    if is_sequential and not foreign.model.built:
        foreign.model.build((None, *info.image_shape))
    if is_sequential or keras_graph.is_functional(foreign.model):
        peer = _functional_peer(network, spec, foreign, info, common)
    else:
        peer = _subclass_peer(spec, foreign.model, info, common)
    peer.build_for(info.image_shape)
    peer.spec = spec
    peer.pretrained = foreign.pretrained
    keeps_head = isinstance(peer.classifier, LogitOffset)
    peer.pretrained_head = foreign.pretrained and keeps_head
    return peer


def _functional_peer(network, spec, foreign, info, common) -> KerasPeer:
    model = foreign.model
    if len(model.inputs) > 1:
        raise UserError(
            f"{spec} has {len(model.inputs)} inputs: expected is a model with one, "
            "images [B, h, w, c]."
        )
    adopt(model)
    # A network that takes three channels gets grey images three times.
    channels = model.input_shape[-1] or info.image_shape[-1]
    try:
        images, outputs = keras_graph.flattened(
            model, (*info.image_shape[:2], channels)
        )
    except (ValueError, TypeError, AttributeError) as error:
        size = "x".join(map(str, info.image_shape))
        expected = "x".join(map(str, getattr(model, "input_shape", ())[1:]))
        raise UserError(
            f"{spec} cannot take images of {size}; it is made for {expected} "
            f"({' '.join(str(error).split())[:300]}). Give another --image_size."
        ) from error
    if len(outputs) > 1:
        raise UserError(
            f"{spec} has {len(outputs)} outputs: expected is a model with one, its "
            "last map or its logits."
        )
    graph = keras_graph.Graph(images, outputs[0])
    scale, offset, first = keras_graph.without_normalization(graph)
    pixels = foreign.pixels
    if pixels is None:
        pixels = Pixels(tuple(-offset / scale), tuple(1 / scale**2))
        if first.index < 0:
            say(f"{spec} begins with no normalization: it gets raw pixels 0..255.")
    last = keras_graph.last_map(graph)
    if last is None or last.index <= first.index:
        raise UserError(
            f"{spec} has no last map [B, h, w, c] that all of its output depends on, "
            "before global pooling: it cannot be a peer."
        )
    ends = keras_graph.last_of_each_size(graph, first, last)
    stages = keras_graph.stages(graph, first, ends)
    neck = keras_graph.head(graph, last)
    if neck is not None and neck.output.shape[-1] != info.num_classes:
        say(
            f"{spec}: its head for {neck.output.shape[-1]} classes is replaced by one "
            f"for {info.num_classes}."
        )
        neck = None
    elif neck is not None:
        say(f"{spec}: its head for {info.num_classes} classes is kept.")
    by_name = network.kind in ("keras", "python")
    return KerasPeer(
        pixels=pixels,
        body={f"stage_{number}": each for number, each in enumerate(stages, start=1)},
        neck=neck,
        record=None if by_name else to_record(foreign._replace(pixels=pixels)),
        **common,
    )


def _subclass_peer(spec, model, info, common) -> SubclassPeer:
    try:
        outputs = outputs_of(model(tf.zeros([1, *info.image_shape]), training=False))
    except (ValueError, TypeError, tf.errors.OpError) as error:
        size = "x".join(map(str, info.image_shape))
        raise UserError(
            f"{spec} cannot take images of {size}: {' '.join(str(error).split())[:300]}"
        ) from error
    if outputs is None:
        raise UserError(
            f"{spec} should return two tensors, its last map [B, h, w, c] and its "
            "logits [B, classes], or a dictionary of both, `features` and `logits`."
        )
    adopt(model)
    own_logits = outputs[1].shape[-1] == info.num_classes
    if not own_logits:
        say(
            f"{spec}: its head for {outputs[1].shape[-1]} classes is replaced by one "
            f"for {info.num_classes}."
        )
    channels = info.image_shape[-1]
    return SubclassPeer(
        model=model,
        own_logits=own_logits,
        # It gets pixels as they are.
        mean=(0.0,) * channels,
        variance=(1.0,) * channels,
        **common,
    )
