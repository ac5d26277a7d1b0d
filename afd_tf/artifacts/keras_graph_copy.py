"""A peer rebuilt from its operations, as a functional model of Keras' own layers.

The graph of the network in inference is walked through once; each operation becomes the
layer of Keras that does the same. So every network can be written that consists of
these operations, whatever classes of this project or of others it is made of.
"""

import collections
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from afd_tf.artifacts.keras_operations import BUILDERS
from afd_tf.base.errors import UserError
from afd_tf.models import Peer

_PASSED_ON = (
    *("Identity", "IdentityN"),
    *("StopGradient", "PreventGradient", "EnsureShape"),
)
_ACTIVATIONS = {
    "Elu": "elu",
    "Selu": "selu",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Tanh": "tanh",
}
# Without a layer of their own: operations of Keras, which a model may hold as well.
_OPERATIONS = {
    "Abs": keras.ops.abs,
    "Erf": keras.ops.erf,
    "Erfc": lambda values: keras.ops.subtract(1.0, keras.ops.erf(values)),
    "Exp": keras.ops.exp,
    "Log": keras.ops.log,
    "Neg": keras.ops.negative,
    "Rsqrt": keras.ops.rsqrt,
    "Sqrt": keras.ops.sqrt,
    "Square": keras.ops.square,
}
_OF_TWO = {
    "Add": keras.layers.Add,
    "AddV2": keras.layers.Add,
    "Sub": keras.layers.Subtract,
    "Mul": keras.layers.Multiply,
    "Maximum": keras.layers.Maximum,
    "Minimum": keras.layers.Minimum,
}


def to_functional(peer: Peer, image_shape: tuple[int, int, int]) -> keras.Model:
    """Returns a model of Keras' layers alone that computes the same as a peer.

    It takes "image", uint8 [B, h, w, c], raw pixels, and gives probabilities, float32
    [B, classes]. The layers that give the named maps have the maps' names, the last of
    which is "features"; "classifier" gives the logits, "probabilities" their softmax.

    Args:
      peer: built, with float32 variables.
      image_shape: h, w, c.

    Raises:
      UserError: the network has an operation for which there is no layer here.
    """

    @tf.function(
        input_signature=[tf.TensorSpec([None, *image_shape], tf.uint8, name="image")],
        autograph=False,
    )
    def network(image):
        output = peer(image, training=False)
        return {"taps": dict(output.taps), "logits": output.logits}

    concrete = network.get_concrete_function()
    outputs = tf.nest.map_structure(_origin, concrete.structured_outputs)
    names = {each.name: name for name, each in outputs["taps"].items()}
    *_, features = outputs["taps"].values()
    names |= {features.name: "features", outputs["logits"].name: "classifier"}
    copy = _Copy(concrete, names, peer.name)
    copy.known[concrete.inputs[0].name] = image = keras.Input(
        image_shape, dtype="uint8", name="image"
    )
    logits = copy.value_of(outputs["logits"])
    probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")(logits)
    return keras.Model(image, probabilities, name=peer.name)


def _origin(tensor: tf.Tensor) -> tf.Tensor:
    """Returns the tensor that is passed on as another one."""
    while tensor.op.type in _PASSED_ON:
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor


class _Copy:
    """The layers of a graph, as far as they are built.

    Args:
      concrete: the function whose graph is copied.
      names: of layers, by the name of the tensor that they give.
      network: its name, for messages.

    Attributes:
      known: arrays and symbolic tensors by the name of the graph's tensor.
    """

    def __init__(self, concrete, names: Mapping[str, str], network: str):
        self.known: dict[str, Any] = {
            inner.name: outer for outer, inner in concrete.graph.captures
        }
        self._names = names
        self._network = network
        self._counts: collections.Counter[str] = collections.Counter()
        # Of symbolic tensors by `id`: how they came about, for what is joined to them.
        self._affine: dict[int, tuple] = {}
        self._without_bias: dict[int, Callable[[np.ndarray], Any]] = {}

    def value_of(self, tensor: tf.Tensor) -> Any:
        """Returns the array or the symbolic tensor of a tensor of the graph."""
        # Not by recursion: deep networks are too deep for it.
        waiting = [tensor]
        while waiting:
            last = waiting[-1]
            if last.name in self.known:
                waiting.pop()
                continue
            # The shape that a reshape is given may be computed; the result's is known.
            needed = list(last.op.inputs)[: 1 if last.op.type == "Reshape" else None]
            missing = [each for each in needed if each.name not in self.known]
            if missing:
                waiting += missing
            else:
                self._convert(last.op, [self.known[each.name] for each in needed])
        return self.known[tensor.name]

    def _convert(self, op: tf.Operation, values: list) -> None:
        result = self._result(op, values)
        results = result if isinstance(result, list) else [result]
        for tensor, each in zip(op.outputs, results, strict=False):
            self.known[tensor.name] = each

    def _result(self, op: tf.Operation, values: list) -> Any:
        """Returns the output of an operation, or a list of all of them."""
        if op.type == "Const":
            return tf.make_ndarray(op.get_attr("value"))
        if op.type == "ReadVariableOp":
            return tf.raw_ops.ReadVariableOp(
                resource=values[0], dtype=op.get_attr("dtype")
            ).numpy()
        if op.type in _PASSED_ON:
            return values
        symbolic = [isinstance(each, keras.KerasTensor) for each in values]
        if not any(symbolic):
            return _computed(op, values)
        build = BUILDERS.get(op.type)
        layer = None
        if op.type in _OF_TWO:
            layer = self._of_two(op, values, symbolic)
        elif op.type in _ACTIVATIONS:
            layer = self.call(op, keras.layers.Activation, values[0], "activation")(
                _ACTIVATIONS[op.type]
            )
        elif op.type in _OPERATIONS:
            layer = _OPERATIONS[op.type](values[0])
        elif build is not None:
            layer = build(self, op, *values)
        if layer is None:
            raise UserError(
                f"{self._network} cannot be written as keras: there is no layer here "
                f"for {op.type} ({op.name}). Leave keras out of --formats."
            )
        return layer

    def call(self, op: tf.Operation, kind: type, inputs: Any, title: str):
        """Returns a function that takes a layer's arguments and calls the layer.

        Args:
          op: whose output it gives.
          kind: of the layer.
          inputs: symbolic.
          title: the layer's name, with a number, where the output has none.
        """

        def called(*arguments, weights=None, name=None, **settings):
            layer = kind(
                *arguments,
                dtype="float32",
                name=name or self.name_of(op, title),
                **settings,
            )
            outputs = layer(inputs)
            if weights is not None:
                layer.set_weights(weights)
            return outputs

        return called

    def name_of(self, op: tf.Operation, title: str) -> str:
        """Returns the name of the layer for an operation."""
        if name := self._names.get(op.outputs[0].name):
            return name
        self._counts[title] += 1
        return f"{title}_{self._counts[title]}"

    def affine(self, op: tf.Operation, values: Any, scale: Any, offset: Any) -> Any:
        """Returns `values * scale + offset` as one layer, with that of the values."""
        if id(values) in self._affine:
            source, own_scale, own_offset, name = self._affine[id(values)]
        else:
            source, own_scale, own_offset = values, np.float32(1), np.float32(0)
            is_image = values.dtype == "uint8"
            name = "normalization" if is_image else self.name_of(op, "rescaling")
        scale, offset = own_scale * scale, own_offset * scale + offset
        outputs = self.call(op, keras.layers.Rescaling, source, "rescaling")(
            np.asarray(scale).tolist(),
            np.asarray(offset).tolist(),
            name=self._names.get(op.outputs[0].name, name),
        )
        self._affine[id(outputs)] = (source, scale, offset, name)
        return outputs

    def with_bias(self, outputs: Any, again: Callable[[np.ndarray], Any]) -> Any:
        """Remembers how a layer without bias is built with one."""
        self._without_bias[id(outputs)] = again
        return outputs

    def add_bias(self, op: tf.Operation, values: Any, bias: np.ndarray) -> Any:
        """Returns `values + bias`, as the bias of the layer that gave the values."""
        again = self._without_bias.get(id(values))
        if again and np.ndim(bias) == 1 and bias.shape[0] == values.shape[-1]:
            return again(bias, self._names.get(op.outputs[0].name))
        return self.affine(op, values, np.float32(1), bias)

    def _of_two(self, op, values, symbolic) -> Any:
        if all(symbolic):
            return self.call(op, _OF_TWO[op.type], values, op.type.lower()[:3])()
        tensor, array = values if symbolic[0] else values[::-1]
        if np.ndim(array) and array.size not in (1, array.shape[-1]):
            return None
        array = array.reshape(-1) if array.size > 1 else np.float32(array.reshape(()))
        if op.type == "Mul":
            return self.affine(op, tensor, array, np.float32(0))
        if op.type in ("Add", "AddV2"):
            return self.add_bias(op, tensor, array)
        if op.type == "Sub":
            sign = 1 if symbolic[0] else -1
            return self.affine(op, tensor, np.float32(sign), -sign * array)
        return None


def _computed(op: tf.Operation, values: list) -> Any:
    """Returns the results of an operation on arrays, e.g. of 1 / sqrt(variance)."""
    if op.type == "Reshape":
        return np.reshape(values[0], op.outputs[0].shape.as_list())
    node = tf.compat.v1.NodeDef()
    node.CopyFrom(op.node_def)
    node.name, node.input[:] = "op", [f"value_{n}" for n in range(len(values))]
    graph = tf.compat.v1.GraphDef(
        node=[
            node,
            *(
                tf.compat.v1.NodeDef(
                    name=name,
                    op="Placeholder",
                    attr={
                        "dtype": tf.compat.v1.AttrValue(
                            type=each.dtype.as_datatype_enum
                        )
                    },
                )
                for name, each in zip(node.input, op.inputs, strict=True)
            ),
        ]
    )

    with tf.Graph().as_default() as own, tf.compat.v1.Session(graph=own) as session:
        outputs = tf.graph_util.import_graph_def(
            graph,
            dict(zip(node.input, map(tf.constant, values), strict=True)),
            [f"op:{n}" for n in range(len(op.outputs))],
        )
        return session.run(outputs)
