"""The graph of a functional Keras model: flattened, cut into stages, and its head off.

A *node* is one call of a layer or an operation. All nodes are in one order in which
each comes behind those whose outputs it takes. A tensor through which every path from
the images to the output leads is a *bottleneck*: there the graph can be cut in two.
"""

import collections
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from afd_tf.models.adoption import is_random
from afd_tf.models.stage import Composite, Stage

# Nodes of the smallest part that may be recomputed by itself (--remat).
_SMALLEST_PART = 8
# Sizes at least this near to the largest of a stage belong to it: convolutions without
# padding lose a few rows.
_SAME_SIZE = 0.75
_POOLING = (
    "GlobalAveragePooling2D",
    "GlobalMaxPooling2D",
    "Flatten",
    "Mean",
    "Max",
)
_AFFINE = (
    "Rescaling",
    "Normalization",
    "Add",
    "Subtract",
    "Multiply",
    "Divide",
    "TrueDivide",
)


class Place(NamedTuple):
    """A tensor of a graph.

    Attributes:
      tensor: symbolic, [B, ...].
      index: of the node that gives it, in the graph's order; -1 is the input.
      open: the number of tensors that later nodes need, this one among them.
      depth: the longest way from the input to it, in nodes.
    """

    tensor: keras.KerasTensor
    index: int
    open: int
    depth: int


class Graph:
    """The nodes of a model from its images to one output, and where it can be cut.

    Args:
      images: the symbolic images.
      output: a symbolic tensor that depends on nothing else.

    Attributes:
      places: every tensor, in order.
    """

    def __init__(self, images: keras.KerasTensor, output: keras.KerasTensor):
        model = keras.Model(images, output)
        by_depth = model._nodes_by_depth
        self.nodes = [
            node
            for depth in sorted(by_depth, reverse=True)
            for node in by_depth[depth]
            if not node.is_input
        ]
        self.consumers: dict[int, list[int]] = collections.defaultdict(list)
        for index, node in enumerate(self.nodes):
            for tensor in node.input_tensors:
                self.consumers[id(tensor)].append(index)
        # The output is needed in the end.
        self.consumers[id(output)].append(len(self.nodes))
        self.output = output
        self.places = [Place(images, -1, 1, 0)]
        depths = {id(images): 0}
        live = {id(images)}
        for index, node in enumerate(self.nodes):
            depth = 1 + max(depths[id(each)] for each in node.input_tensors)
            live |= {id(each) for each in node.output_tensors}
            live -= {key for key in live if self.last_use(key) <= index}
            for tensor in node.output_tensors:
                depths[id(tensor)] = depth
                if id(tensor) in live:
                    self.places.append(Place(tensor, index, len(live), depth))

    def last_use(self, key: int) -> int:
        """Returns the index of the last node that takes the tensor with an id."""
        return max(self.consumers[key], default=-1)

    def bottlenecks(self) -> list[Place]:
        """Returns the tensors through which every path leads, first to last."""
        return [place for place in self.places if place.open == 1]

    def open_at(self, place: Place) -> list[keras.KerasTensor]:
        """Returns what the nodes behind a place need, its own tensor first."""
        others = [
            each.tensor
            for each in self.places
            if each.index <= place.index
            and each.tensor is not place.tensor
            and self.last_use(id(each.tensor)) > place.index
        ]
        return [place.tensor, *others]


def flattened(model: keras.Model, image_shape: Sequence[int]):
    """Calls a functional model on symbolic images, and the models in it layer by layer.

    Random layers that keep the shape are left out.

    Args:
      model: functional or sequential.
      image_shape: height, width and channels.

    Returns:
      (images, outputs): symbolic tensors, the second as many as the model has.
    """
    images = keras.Input(image_shape, dtype="float32")
    return images, _called(model, [images])


def _called(model: keras.Model, inputs: list) -> list:
    functional = _functional(model)
    return tf.nest.flatten(functional._run_through_graph(inputs, _as_layers))


def _functional(operation: object) -> keras.Model | None:
    """Returns a functional model as it is, the one inside a sequential one, or None."""
    if isinstance(operation, keras.Sequential):
        return operation._functional
    return operation if is_functional(operation) else None


def is_functional(model: object) -> bool:
    """Returns whether a model is a graph of layers."""
    return isinstance(model, keras.Model) and hasattr(model, "_run_through_graph")


def _as_layers(operation):
    if _functional(operation) is not None:

        def call(*args, **kwargs):
            outputs = _called(operation, tf.nest.flatten(args))
            return outputs if len(outputs) > 1 else outputs[0]

        return call
    if is_random(operation):

        def call(inputs, **kwargs):
            outputs = operation(inputs, training=False)
            return inputs if outputs.shape == inputs.shape else outputs

        return call
    return operation


def without_normalization(graph: Graph):
    """Finds the normalization of the pixels with which a graph begins.

    Returns:
      (scale, offset, place): float64 [c] so that the normalized pixels are
      `pixels * scale + offset`, and the tensor that holds them.
    """
    images = graph.places[0]
    place, operations = images, []
    by_tensor = {id(each.tensor): each for each in graph.places}
    while len(users := graph.consumers[id(place.tensor)]) == 1:
        node = graph.nodes[users[0]] if users[0] < len(graph.nodes) else None
        if node is None or not _is_affine(node):
            break
        operations.append(node.operation)
        place = by_tensor[id(node.output_tensors[0])]
    channels = images.tensor.shape[-1]
    if not operations:
        return np.ones(channels), np.zeros(channels), images
    for operation in operations:
        if isinstance(operation, keras.Layer):
            operation.dtype_policy = "float32"
    normalize = keras.Model(images.tensor, place.tensor)
    shape = (1, *images.tensor.shape[1:])
    black, white = (
        np.asarray(normalize(np.full(shape, value, np.float32)), np.float64)[0, 0, 0]
        for value in (0, 255)
    )
    scale = (white - black) / 255
    if not np.all(scale > 0):
        return np.ones(channels), np.zeros(channels), images
    return scale, black, place


def _is_affine(node) -> bool:
    return (
        type(node.operation).__name__ in _AFFINE
        and len(node.input_tensors) == 1
        and len(node.output_tensors) == 1
        and node.input_tensors[0].shape == node.output_tensors[0].shape
    )


def last_map(graph: Graph) -> Place | None:
    """Returns the last bottleneck [B, h, w, c] before global pooling, or None."""
    found = None
    for place in graph.bottlenecks():
        operation = graph.nodes[place.index].operation if place.index >= 0 else None
        name = type(operation).__name__
        if len(place.tensor.shape) != 4 or name in _POOLING:
            break
        found = place
    return found


def last_of_each_size(graph: Graph, first: Place, last: Place) -> list[Place]:
    """Returns the last map before each change of size; `last` is the last of them.

    Where paths that skip layers lead past every map of a size, it is the deepest one
    that the fewest paths lead past, of the deeper half of them.

    Args:
      graph: the graph.
      first: the normalized images, which are no map.
      last: the last map.
    """
    maps = [
        place
        for place in graph.places
        if first.index < place.index < last.index
        and len(place.tensor.shape) == 4
        and place.tensor.shape[1] >= last.tensor.shape[1]
        and not _grows(graph, place)
    ]
    sizes = sorted({place.tensor.shape[1] for place in [*maps, last]}, reverse=True)
    stages: dict[int, list[Place]] = {}
    largest = None
    for size in sizes:
        if largest is None or size < _SAME_SIZE * largest:
            largest = size
        stages.setdefault(largest, []).extend(
            place for place in maps if place.tensor.shape[1] == size
        )
    *earlier, _ = stages.values()
    ends = sorted(map(_end_of, earlier), key=lambda place: place.index)
    return [*ends, last]


def _end_of(maps: Sequence[Place]) -> Place:
    depths = [place.depth for place in maps]
    deeper = [each for each in maps if 2 * each.depth >= min(depths) + max(depths)]
    return min(deeper, key=lambda place: (place.open, -place.depth))


def _grows(graph: Graph, place: Place) -> bool:
    """Returns whether a map is larger than those it comes from: padding does that."""
    inputs = graph.nodes[place.index].input_tensors
    return all(
        len(each.shape) == 4 and each.shape[1] < place.tensor.shape[1]
        for each in inputs
    )


class Part(Composite):
    """The nodes of a graph between two cuts.

    Args:
      inputs: the symbolic tensors at the first cut.
      outputs: those at the second; some of them may be inputs.
      **kwargs: of a Keras layer.
    """

    def __init__(self, inputs: Sequence, outputs: Sequence, **kwargs):
        super().__init__(**kwargs)
        places = {id(each): number for number, each in enumerate(inputs)}
        computed = [each for each in outputs if id(each) not in places]
        self.model = keras.Model(list(inputs), computed)
        # Of each output, its number among the inputs and then the computed ones.
        places |= {
            id(each): number for number, each in enumerate(computed, len(inputs))
        }
        self.order = [places[id(each)] for each in outputs]

    def call(self, inputs: Any, training: bool = False) -> list[tf.Tensor]:
        """Returns the tensors at the second cut for those at the first."""
        inputs = tf.nest.flatten(inputs)
        values = [*inputs, *tf.nest.flatten(self.model(inputs, training=training))]
        return [values[number] for number in self.order]


def stages(graph: Graph, first: Place, ends: Sequence[Place]) -> list[Stage]:
    """Returns the layers from the normalized images to each of the ends.

    Each takes what the one before it returns: a list, of which the first tensor is the
    map at its end, [B, h, w, c].
    """
    bottlenecks = [
        place
        for place in graph.bottlenecks()
        if place.index not in {end.index for end in ends}
    ]
    found, inputs, before = [], [first.tensor], first.index
    for end in ends:
        parts = []
        inner = [each for each in bottlenecks if before < each.index < end.index]
        for place in [*inner, end]:
            is_large = place.index - before >= _SMALLEST_PART
            if place is end or (is_large and end.index - place.index >= _SMALLEST_PART):
                outputs = graph.open_at(place)
                parts.append(Part(inputs, outputs))
                inputs, before = outputs, place.index
        found.append(Stage(parts))
    return found


def head(graph: Graph, last: Place) -> keras.Model | None:
    """Returns the part from the last map to the logits, in float32.

    A softmax at its end is taken off. None is returned where the output is no logits,
    but a map, or the result of another activation.
    """
    output = graph.output
    if len(output.shape) != 2:
        return None
    operation = output._keras_history.operation
    activation = getattr(operation, "activation", None)
    if type(operation).__name__ == "Softmax" or (
        isinstance(operation, keras.layers.Activation)
        and activation is keras.activations.softmax
    ):
        (output,) = graph.nodes[-1].input_tensors
    elif activation is keras.activations.softmax:
        operation.activation = keras.activations.linear
    elif activation not in (None, keras.activations.linear):
        return None
    found = keras.Model(last.tensor, output)
    for layer in found._flatten_layers(include_self=False):
        layer.dtype_policy = "float32"
    return found
