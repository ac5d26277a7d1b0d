"""Ranges of activations: of least error, and not spoiled by a single image."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from afd_tf.artifacts import activation_ranges, tflite
from afd_tf.artifacts.interpreters import Interpreters
from afd_tf.models import build_peer
from tests import tiny

SIDE = 16


def calibrated(compute):
    """Returns what the converter gives before it quantizes: of one image of zeros."""
    shape = [1, SIDE, SIDE, 1]
    function = tf.function(
        compute, input_signature=[tf.TensorSpec(shape, name="image")], autograph=False
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], tf.Module()
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([np.zeros(shape, np.float32)],)
    converter._experimental_calibrate_only = True
    return converter.convert()


def ranges_in(content):
    """Returns the ranges of a file by number of the tensor."""
    graph = schema.Model.GetRootAs(content).Subgraphs(0)
    ranges = {}
    for number in range(graph.TensorsLength()):
        quantization = graph.Tensors(number).Quantization()
        if quantization is not None and quantization.MinLength():
            ranges[number] = (quantization.Min(0), quantization.Max(0))
    return ranges


def range_of_output(compute, batches):
    before = calibrated(compute)
    after = activation_ranges.with_chosen_ranges(before, batches)
    graph = schema.Model.GetRootAs(after).Subgraphs(0)
    assert ranges_in(after).keys() == ranges_in(before).keys()
    assert ranges_in(after)[graph.Inputs(0)] == ranges_in(before)[graph.Inputs(0)]
    return ranges_in(after)[graph.Outputs(0)]


def objective(values, low, high):
    """The error of values [n, k] in 8 bits, each batch by its power or the median."""
    step = (high - low) / 255
    whole = np.floor(values / step + 0.5)
    first = np.floor(low / step + 0.5)
    rounded = step * np.minimum(np.maximum(whole, first), first + 255)
    power = (values**2).mean(1)
    power = np.maximum(power, np.median(power))
    return (((rounded - values) ** 2).mean(1) / power).mean()


def batches_with_one_of(peak, count=40, seed=0):
    """Values of a bell curve, and in one of the batches far larger ones."""
    generator = np.random.default_rng(seed)
    batches = generator.normal(0, 3, (count, 1, SIDE, SIDE, 1)).astype(np.float32)
    batches[7] *= peak
    return batches


@pytest.mark.parametrize("peak", [1, 30, 1000])
@pytest.mark.parametrize("compute", [tf.nn.relu, tf.negative])
def test_the_range_has_the_least_error_of_all(compute, peak):
    batches = batches_with_one_of(peak)
    values = compute(batches.reshape(len(batches), -1)).numpy().astype(np.float64)
    low, high = range_of_output(compute, batches)
    # Of a bell curve, both ends are as far: about 12, but in one batch.
    tried = np.geomspace(5, values.max(), 400)
    least = min(objective(values, max(values.min(), -end), end) for end in tried)
    assert objective(values, low, high) < 1.05 * least
    assert low <= 0 < high
    if peak > 1:
        assert objective(values, values.min(), values.max()) > 2 * least


def test_values_that_8_bits_can_hold_are_kept():
    batches = np.arange(256, dtype=np.float32).reshape(1, 1, SIDE, SIDE, 1) - 128
    low, high = range_of_output(tf.nn.relu, batches)
    assert low == 0
    assert high == pytest.approx(127)


def test_an_activation_that_is_always_zero_has_a_range():
    def nothing(image):
        return tf.nn.relu(-tf.abs(image))

    assert range_of_output(nothing, batches_with_one_of(1)) == (0, 0)


def test_one_bright_image_does_not_spoil_the_dark_ones(tmp_path, monkeypatch):
    """With neither statistics nor offsets, maps are as large as the pixels."""
    keras.utils.set_random_seed(0)
    info = dataclasses.replace(tiny.info(), mean=(0.0, 0.0, 0.0))
    peer = build_peer("resnet8", info)
    dark = np.random.default_rng(0).integers(0, 9, (100, 8, 8, 3)).astype(np.uint8)
    bright = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    file = tmp_path / "model.tflite"

    def error_of_dark_images():
        tflite.write(
            peer,
            tiny.description("resnet8", info, "tflite_int8"),
            file,
            quantization="int8",
            images=np.concatenate([dark, bright]),
            with_logits=True,
        )
        logits = Interpreters(file.read_bytes()).logits(dark)
        return np.sqrt(np.mean((logits - peer(dark).logits.numpy()) ** 2))

    error = error_of_dark_images()
    monkeypatch.setattr(
        activation_ranges,
        "_best_range",
        lambda values: (float(values.lowest.min()), float(values.highest.max())),
    )
    assert error < 0.5 * error_of_dark_images()
