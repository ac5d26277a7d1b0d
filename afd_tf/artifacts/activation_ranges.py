"""The range of each activation in a TFLite file of 8 bits.

TFLite's converter takes the smallest and the largest value of all images. One image on
which the network runs away then leaves the others few of the 256 steps: a ResNet-50,
trained for four epochs on digits, gave maps of 270 for some images and of less than 40
for most, and lost 23 points of accuracy. Here, values may be cut off where this lowers
the error.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from afd_tf.artifacts.tflite_model import packed, unpacked

# Values of an activation, of all images together, that the error is estimated from.
_SAMPLES = 2**17
_STEPS = 255
# Ends of a range that are tried on each side of zero: from the farthest value of all
# down to this fraction of what is the farthest in the median batch.
_TRIED = 40
_NEAREST = 0.03


class _Values(NamedTuple):
    """What an activation was in n batches of images.

    Attributes:
      lowest, highest: float32 [n], the smallest and the largest value.
      power: float32 [n], the mean square.
      sample: float32 [n, k], some of the values.
    """

    lowest: np.ndarray
    highest: np.ndarray
    power: np.ndarray
    sample: np.ndarray


def with_chosen_ranges(content: bytes, batches: Sequence[np.ndarray]) -> bytes:
    """Returns a file in which each activation has the range of least mean error.

    The error of a batch is the mean square of what rounding and cutting off change,
    divided by the batch's mean square or by the median of those of all batches,
    whichever is larger: neither a batch with huge values counts for more than others
    nor one with hardly any. The range of the input stays as it is.

    Args:
      content: a TFLite file in float32 that the converter has calibrated but not yet
        quantized.
      batches: at least one of raw pixels [b, h, w, c], b as the file demands.
    """
    model = unpacked(content)
    (graph,) = model.subgraphs
    numbers = [
        number
        for operator in graph.operators
        for number in operator.outputs
        if _has_range(graph.tensors[number])
    ]
    for number, values in _observed(content, numbers, batches).items():
        lowest, highest = _best_range(values)
        graph.tensors[number].quantization.min = [lowest]
        graph.tensors[number].quantization.max = [highest]
    return packed(model)


def _has_range(tensor) -> bool:
    return tensor.quantization is not None and tensor.quantization.min is not None


def _observed(content, numbers, batches) -> dict[int, _Values]:
    """Returns the values of tensors, by their number, when the batches are computed."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=content,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    generator = np.random.default_rng(0)
    found: dict[int, list[tuple]] = {number: [] for number in numbers}
    for batch in batches:
        interpreter.set_tensor(image["index"], batch.astype(np.float32))
        interpreter.invoke()
        for number in numbers:
            values = interpreter.get_tensor(number).ravel()
            power = np.mean(np.square(values))
            count = min(values.size, max(_SAMPLES // len(batches), 1))
            sample = values
            if count < values.size:
                sample = values[generator.integers(values.size, size=count)]
            found[number].append((values.min(), values.max(), power, sample))
    return {
        number: _Values(*map(np.array, zip(*of_batches, strict=True)))
        for number, of_batches in found.items()
    }


def _best_range(values: _Values) -> tuple[float, float]:
    """Returns the ends of the range: at most 0, and at least 0."""
    power = np.maximum(values.power, np.median(values.power))
    weights = 1 / np.maximum(power, np.finfo(np.float32).tiny)

    def best(ranges):
        return min(ranges, key=lambda ends: _error(values.sample, weights, *ends))

    lows, highs = _ends(-values.lowest), _ends(values.highest)
    # Both ends first: where both are far off, one alone gains nothing.
    low, high = best(zip(lows, highs, strict=True))
    if low and high:
        low, high = best((low, end) for end in highs)
        low, high = best((end, high) for end in lows)
    return float(-low), float(high)


def _ends(farthest: np.ndarray) -> np.ndarray:
    """Returns how far a range may reach to one side, for the farthest of each batch."""
    positive = farthest[farthest > 0]
    if not positive.size:
        return np.zeros(_TRIED)
    return np.geomspace(positive.max(), np.median(positive) * _NEAREST, _TRIED)


def _error(sample, weights, low: float, high: float) -> float:
    """Returns the weighted error of values in the range from -low to high."""
    scale = max((low + high) / _STEPS, np.finfo(np.float32).tiny)
    zero = np.round(low / scale)
    steps = np.clip(np.round(sample / scale), -zero, _STEPS - zero)
    return float(weights @ np.mean(np.square(steps * scale - sample), axis=1))
