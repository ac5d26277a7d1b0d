"""The layer of Keras for each operation of a graph; see `keras_graph_copy`.

A function here takes the copy of the graph, the operation and its inputs: symbolic
tensors, and arrays for weights and other constants. It returns the symbolic output, or
None where no layer does the same.
"""

import keras
import numpy as np
import tensorflow as tf

# Momentum of `afd_tf.models.batch_normalization`, for those who train on.
_MOMENTUM = 0.9


def _convolution(copy, op, values, kernel):
    size = op.get_attr("strides")
    depthwise = op.type == "DepthwiseConv2dNative"
    settings = {
        "kernel_size": kernel.shape[:2],
        "strides": tuple(size[1:3]),
        "padding": op.get_attr("padding").decode().lower(),
        "dilation_rate": tuple(op.get_attr("dilations")[1:3]),
    }
    if settings["padding"] == "explicit":
        return None
    if depthwise:
        kind, title = keras.layers.DepthwiseConv2D, "depthwise_conv"
        settings["depth_multiplier"] = kernel.shape[3]
    else:
        kind, title = keras.layers.Conv2D, "conv"
        settings["filters"] = kernel.shape[3]
        settings["groups"] = values.shape[-1] // kernel.shape[2]
    call = copy.call(op, kind, values, title)
    name = copy.name_of(op, title)

    def with_bias(bias, given):
        return call(weights=[kernel, bias], name=given or name, **settings)

    outputs = call(weights=[kernel], use_bias=False, name=name, **settings)
    return copy.with_bias(outputs, with_bias)


def _dense(copy, op, values, kernel):
    if op.get_attr("transpose_a") or op.get_attr("transpose_b"):
        return None
    call = copy.call(op, keras.layers.Dense, values, "dense")
    name, units = copy.name_of(op, "dense"), kernel.shape[1]

    def with_bias(bias, given):
        return call(units, weights=[kernel, bias], name=given or name)

    outputs = call(units, weights=[kernel], use_bias=False, name=name)
    return copy.with_bias(outputs, with_bias)


def _batch_normalization(copy, op, values, *weights):
    return copy.call(op, keras.layers.BatchNormalization, values, "bn")(
        momentum=_MOMENTUM,
        epsilon=op.get_attr("epsilon"),
        # Scale, shift, moving mean and moving variance.
        weights=list(weights),
    )


def _relu(copy, op, values):
    settings = {
        "Relu6": {"max_value": 6.0},
        "LeakyRelu": {"negative_slope": 0.0},
    }.get(op.type, {})
    if op.type == "LeakyRelu":
        settings["negative_slope"] = op.get_attr("alpha")
    return copy.call(op, keras.layers.ReLU, values, "relu")(**settings)


def _pooling(copy, op, values):
    kind = {"MaxPool": "MaxPooling2D", "AvgPool": "AveragePooling2D"}[op.type]
    return copy.call(op, getattr(keras.layers, kind), values, "pool")(
        tuple(op.get_attr("ksize")[1:3]),
        strides=tuple(op.get_attr("strides")[1:3]),
        padding=op.get_attr("padding").decode().lower(),
    )


def _reduction(copy, op, values, axes):
    keepdims = bool(op.get_attr("keep_dims"))
    axes = sorted(int(axis) for axis in np.ravel(axes) % len(values.shape))
    if axes == [1, 2] and len(values.shape) == 4:
        kind = {"Mean": "GlobalAveragePooling2D", "Max": "GlobalMaxPooling2D"}[op.type]
        return copy.call(op, getattr(keras.layers, kind), values, "pool")(
            keepdims=keepdims
        )
    reduce = {"Mean": keras.ops.mean, "Max": keras.ops.max}[op.type]
    return reduce(values, axis=axes, keepdims=keepdims)


def _padding(copy, op, values, sizes, fill=0):
    sizes = np.asarray(sizes).tolist()
    if sizes[0] != [0, 0] or np.any(fill):
        return None
    if sizes[3] != [0, 0]:
        return keras.ops.pad(values, sizes)
    return copy.call(op, keras.layers.ZeroPadding2D, values, "pad")(
        tuple(map(tuple, sizes[1:3]))
    )


def _reshape(copy, op, values):
    shape = op.outputs[0].shape.as_list()
    if None in shape[1:]:
        return None
    return copy.call(op, keras.layers.Reshape, values, "reshape")(shape[1:])


def _concatenation(copy, op, *values):
    *parts, axis = values
    return copy.call(op, keras.layers.Concatenate, parts, "concat")(axis=int(axis))


def _transposition(copy, op, values, order):
    if order[0] != 0:
        return None
    return copy.call(op, keras.layers.Permute, values, "permute")(
        tuple(int(axis) for axis in order[1:])
    )


def _slice(copy, op, values, *limits):
    begin, end, strides = limits
    masks = ("ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
    if any(map(op.get_attr, masks)) or len(begin) != 4 or len(values.shape) != 4:
        return None
    if any(step != 1 for step in strides):
        return None
    begins, ends = (op.get_attr(name) for name in ("begin_mask", "end_mask"))
    parts = [
        slice(
            None if begins >> axis & 1 else int(begin[axis]),
            None if ends >> axis & 1 else int(end[axis]),
        )
        for axis in range(4)
    ]
    if parts[0] != slice(None) or values.shape[3] != op.outputs[0].shape[3]:
        return None
    cropped = []
    for part, size in zip(parts[1:3], values.shape[1:3], strict=True):
        start, stop, _ = part.indices(size)
        cropped.append((start, size - stop))
    return copy.call(op, keras.layers.Cropping2D, values, "crop")(cropped)


def _cast(copy, op, values):
    if op.get_attr("DstT") != tf.float32:
        return None
    return copy.affine(op, values, np.float32(1), np.float32(0))


BUILDERS = {
    "AvgPool": _pooling,
    "BiasAdd": lambda copy, op, values, bias: copy.add_bias(op, values, bias),
    "Cast": _cast,
    "ConcatV2": _concatenation,
    "Conv2D": _convolution,
    "DepthwiseConv2dNative": _convolution,
    "FusedBatchNormV3": _batch_normalization,
    "LeakyRelu": _relu,
    "MatMul": _dense,
    "Max": _reduction,
    "MaxPool": _pooling,
    "Mean": _reduction,
    "Pack": lambda copy, op, *values: keras.ops.stack(values, axis=op.get_attr("axis")),
    "Pad": _padding,
    "PadV2": _padding,
    "RealDiv": lambda copy, op, values, by: (
        copy.affine(op, values, 1 / np.float32(by), np.float32(0))
        if isinstance(by, np.ndarray)
        else keras.ops.divide(values, by)
    ),
    "Relu": _relu,
    "Relu6": _relu,
    "Reshape": _reshape,
    "ReverseV2": lambda copy, op, values, axes: keras.ops.flip(values, int(axes[0])),
    "SquaredDifference": lambda copy, op, one, other: keras.ops.square(
        keras.ops.subtract(one, other)
    ),
    "Split": lambda copy, op, axis, values: list(
        keras.ops.split(values, op.get_attr("num_split"), axis=int(axis))
    ),
    "StridedSlice": _slice,
    "Transpose": _transposition,
}
