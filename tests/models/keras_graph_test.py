"""Graphs of small functional models: flattened, cut at each size, and their heads."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from afd_tf.models import keras_graph

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.float32)


def graph_of(model, shape=(16, 16, 3)) -> keras_graph.Graph:
    images, outputs = keras_graph.flattened(model, shape)
    return keras_graph.Graph(images, outputs[0])


def names(graph, places):
    return [graph.nodes[place.index].operation.name for place in places]


def convolution(filters, strides=1, **kwargs):
    return layers.Conv2D(filters, 3, strides, padding="same", **kwargs)


def residual(name, inputs):
    inner = convolution(8, name=f"{name}_inner")(inputs)
    return layers.Add(name=f"{name}_sum")([inputs, inner])


def two_paths():
    """A network in which each cell takes the outputs of the last two, as NASNet."""
    inputs = keras.Input((16, 16, 3))
    before = convolution(4, name="zero")(inputs)
    now = convolution(4, name="one")(before)
    for name, strides in (("two", 1), ("three", 2), ("four", 1)):
        left = convolution(4, strides, name=f"{name}_left")(now)
        right = convolution(4, left_strides(before, left), name=f"{name}_right")(before)
        before, now = now, layers.Add(name=name)([left, right])
    right = convolution(4, name="right")(before)
    return keras.Model(inputs, layers.Add(name="end")([now, right]))


def left_strides(before, left):
    return before.shape[1] // left.shape[1]


def test_the_last_map_of_each_size_ends_a_stage():
    inputs = keras.Input((16, 16, 3))
    values = convolution(8, name="stem")(layers.Rescaling(1 / 255)(inputs))
    values = residual("first", values)
    # Padding makes a map larger, and is none of its own.
    values = layers.ZeroPadding2D(((0, 1), (0, 1)))(values)
    values = layers.Conv2D(8, 3, 2, name="halve")(values)
    # Squeeze and excitation: no path leads through it alone.
    squeezed = layers.GlobalAveragePooling2D(keepdims=True)(values)
    values = layers.Multiply(name="excited")([values, squeezed])
    values = convolution(8, 2, name="quarter")(values)
    model = keras.Model(inputs, residual("last", values))
    graph = graph_of(model)
    *_, first = keras_graph.without_normalization(graph)
    last = keras_graph.last_map(graph)
    ends = keras_graph.last_of_each_size(graph, first, last)
    assert names(graph, ends) == ["first_sum", "excited", "last_sum"]
    stages = keras_graph.stages(graph, first, ends)
    values = tf.constant(IMAGES) / 255
    for end, stage in zip(ends, stages, strict=True):
        values = stage(values)
        assert tuple(values[0].shape[1:]) == end.tensor.shape[1:]
        assert len(values) == 1
    np.testing.assert_allclose(values[0], model(IMAGES), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("smallest", [1, 100])
def test_paths_that_skip_a_stage_go_along(smallest, monkeypatch):
    monkeypatch.setattr(keras_graph, "_SMALLEST_PART", smallest)
    model = two_paths()
    graph = graph_of(model)
    *_, first = keras_graph.without_normalization(graph)
    last = keras_graph.last_map(graph)
    ends = keras_graph.last_of_each_size(graph, first, last)
    assert [end.tensor.shape[1] for end in ends] == [16, 8]
    # The output of the last cell of that size: the one before goes past it.
    assert names(graph, ends) == ["two", "end"]
    one, two = keras_graph.stages(graph, first, ends)
    values = one(tf.constant(IMAGES))
    assert len(values) == 2
    np.testing.assert_allclose(two(values)[0], model(IMAGES), rtol=1e-5, atol=1e-4)


def test_remat_of_parts_gives_the_same_gradients():
    from afd_tf.models.batch_normalization import training_mode

    graph = graph_of(two_paths())
    *_, first = keras_graph.without_normalization(graph)
    last = keras_graph.last_map(graph)
    ends = keras_graph.last_of_each_size(graph, first, last)
    one, two = keras_graph.stages(graph, first, ends)
    variables = [v.value for stage in (one, two) for v in stage.trainable_variables]

    def gradients(remat):
        with tf.GradientTape() as tape, training_mode(remat=remat):
            values = two(one(tf.constant(IMAGES), training=True), training=True)
            loss = tf.reduce_sum(values[0] ** 2)
        return tape.gradient(loss, variables)

    for own, expected in zip(gradients(True), gradients(False), strict=True):
        assert float(tf.reduce_max(tf.abs(expected))) > 0
        np.testing.assert_allclose(own, expected, rtol=1e-5)


def test_models_in_a_model_are_flattened_and_dropout_is_left_out():
    body = keras.Sequential([convolution(4, name="inner"), layers.Dropout(0.5)])
    inputs = keras.Input((16, 16, 3))
    between = keras.Input((16, 16, 4))
    wrapped = keras.Model(between, convolution(5, name="outer")(between))
    values = wrapped(body(inputs, training=False))
    model = keras.Model(inputs, layers.SpatialDropout2D(0.5)(values))
    graph = graph_of(model)
    assert [node.operation.name for node in graph.nodes] == ["inner", "outer"]
    again = keras.Model(graph.places[0].tensor, graph.output)
    np.testing.assert_allclose(again(IMAGES, training=True), model(IMAGES), atol=1e-4)


@pytest.mark.parametrize(
    ("first_layers", "scale", "offset"),
    [
        ([], 1.0, 0.0),
        ([layers.Rescaling(1 / 127.5, -1)], 1 / 127.5, -1.0),
        (
            [
                layers.Rescaling(1 / 255),
                layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.04, 0.09, 0.16]),
            ],
            1 / 255 / np.array([0.2, 0.3, 0.4]),
            -np.array([2.0, 5 / 3, 1.5]),
        ),
    ],
)
def test_the_normalization_at_the_beginning_is_found(first_layers, scale, offset):
    model = keras.Sequential(
        [keras.Input((16, 16, 3)), *first_layers, convolution(4, name="stem")]
    )
    graph = graph_of(model)
    found_scale, found_offset, place = keras_graph.without_normalization(graph)
    np.testing.assert_allclose(found_scale, np.broadcast_to(scale, 3), rtol=1e-6)
    np.testing.assert_allclose(found_offset, np.broadcast_to(offset, 3), atol=1e-6)
    assert graph.consumers[id(place.tensor)] == [len(first_layers)]


def test_operations_without_a_layer_are_a_normalization_too():
    inputs = keras.Input((16, 16, 3))
    model = keras.Model(inputs, convolution(4)((inputs - 100.0) / 50.0))
    scale, offset, place = keras_graph.without_normalization(graph_of(model))
    np.testing.assert_allclose((scale[0], offset[0]), (1 / 50, -2), rtol=1e-6)
    assert place.index == 1


HEADS = {
    "softmax": [layers.GlobalAveragePooling2D(), layers.Dense(7, "softmax")],
    "a layer": [layers.GlobalMaxPooling2D(), layers.Dense(7), layers.Softmax()],
    "logits": [layers.Flatten(), layers.Dense(5, "relu"), layers.Dense(7)],
    "activation": [
        layers.GlobalAveragePooling2D(keepdims=True),
        layers.Conv2D(7, 1),
        layers.Flatten(),
        layers.Activation("softmax"),
    ],
}


@pytest.mark.parametrize("kind", HEADS)
def test_the_head_gives_logits(kind):
    model = keras.Sequential(
        [keras.Input((16, 16, 3)), convolution(4, 2, name="map"), *HEADS[kind]]
    )
    expected = model(IMAGES / 100).numpy()
    graph = graph_of(model)
    last = keras_graph.last_map(graph)
    assert names(graph, [last]) == ["map"]
    head = keras_graph.head(graph, last)
    logits = head(model.get_layer("map")(IMAGES / 100))
    if kind != "logits":
        logits = tf.nn.softmax(logits)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_other_outputs_are_no_head_and_no_map():
    several = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            convolution(4),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, "sigmoid"),
        ]
    )
    graph = graph_of(several)
    assert keras_graph.head(graph, keras_graph.last_map(graph)) is None
    flat = keras.Sequential([keras.Input((16, 16, 3)), layers.Flatten()])
    assert keras_graph.last_map(graph_of(flat)).index == -1
