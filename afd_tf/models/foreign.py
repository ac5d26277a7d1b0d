"""Foreign Keras models: of keras.applications, keras-hub, a file, or a function."""

import importlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras

from afd_tf.base.console import say
from afd_tf.base.errors import UserError, nearest
from afd_tf.base.paths import expanded
from afd_tf.data import DatasetInfo
from afd_tf.data.tfds_download import one_line, unreachable_reason
from afd_tf.models.applications import (
    Pixels,
    build_application,
    load_model_weights,
    published_pixels,
)
from afd_tf.models.network_name import IMAGENET, NetworkName

_KAGGLE = "https://www.kaggle.com/"


class ForeignModel(NamedTuple):
    """A Keras model, and the pixels that it expects.

    Attributes:
      model: with its own weights, if it has any.
      pixels: the normalization of raw pixels, which takes the place of the one that a
        functional model begins with; None leaves that one.
      pretrained: whether its weights come from another training.
    """

    model: keras.Model
    pixels: Pixels | None
    pretrained: bool


def load_foreign(
    network: NetworkName, info: DatasetInfo, initial_weights: bool = True
) -> ForeignModel:
    """Loads the model that a name stands for.

    Args:
      network: of one of the kinds of `network_name.KINDS`.
      info: the data set's image shape, mean and variance.
      initial_weights: whether weights are wanted; without them, none are downloaded or
        read where the network can be built without.

    Raises:
      UserError: there is no such network, its package is missing, or it cannot be
        loaded.
    """
    load = {
        "keras": _load_application,
        "hub": _load_preset,
        "file": _load_file,
        "python": _call_function,
    }[network.kind]
    return load(network, info, initial_weights)


def _load_application(network, info, initial_weights) -> ForeignModel:
    weights = network.weights if initial_weights else None
    # As many channels with weights as without them.
    shape = info.image_shape if network.weights is None else (*info.image_shape[:2], 3)
    model = build_application(network.name, shape, weights)
    if network.weights is None:
        # From noise, pixels like those of our own networks.
        return ForeignModel(model, Pixels(info.mean, info.variance), False)
    return ForeignModel(model, published_pixels(network.name), True)


def _load_file(network, info, initial_weights) -> ForeignModel:
    path = expanded(network.name)
    if not path.is_file():
        raise UserError(
            f"there is no file {path} for --peers=file:{network.name}: expected is "
            "what Keras' `model.save('NAME.keras')` writes."
        )
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras, zipfile and h5py raise anything.
        raise UserError(
            f"{path} cannot be read as a Keras model: {type(error).__name__}: "
            f"{one_line(error)} Expected is what `model.save('NAME.keras')` writes; "
            "for a model with code of its own, name a function that loads it: "
            "python:package.module:function."
        ) from error
    return ForeignModel(model, None, True)


def _load_preset(network, info, initial_weights) -> ForeignModel:
    try:
        keras_hub = importlib.import_module("keras_hub")
    except ImportError as error:
        raise UserError(
            f"hub:{network.name} needs keras-hub: `pip install -r "
            f"requirements-hub.txt` ({error})."
        ) from error
    folder = expanded(network.name)
    name = str(folder) if folder.is_dir() else network.name
    if not folder.is_dir() and not _is_cached(network.name):
        if reason := unreachable_reason([_KAGGLE]):
            raise UserError(
                f"there is no folder {network.name}, and keras-hub's preset of that "
                f"name cannot be downloaded: {reason}. Give the folder of a preset, or "
                "a network of ours."
            )
        say(f"keras-hub downloads the preset {network.name} from {_KAGGLE}.")
    try:
        model = keras_hub.models.Backbone.from_preset(
            name, load_weights=initial_weights
        )
        pixels = _preset_pixels(keras_hub, name)
    except Exception as error:  # keras-hub, kagglehub and h5py raise anything.
        raise UserError(
            f"keras-hub cannot load the preset {network.name}: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error
    if network.weights not in (None, IMAGENET) and initial_weights:
        load_model_weights(model, network.weights, network.name)
    return ForeignModel(model, pixels, True)


def _is_cached(preset: str) -> bool:
    kagglehub = importlib.import_module("kagglehub")
    cache = Path(kagglehub.config.get_cache_folder())
    return any(cache.glob(f"models/*/*/*/{preset.rstrip('/').split('/')[-1]}/*"))


def _preset_pixels(keras_hub: Any, preset: str) -> Pixels | None:
    """Returns the normalization of a preset's image converter, if it has one."""
    try:
        converter = keras_hub.layers.ImageConverter.from_preset(preset)
    except (ValueError, FileNotFoundError):
        return None
    scale, offset = converter.scale, converter.offset
    if scale is None and offset is None:
        return None
    scales = [1.0 if scale is None else float(each) for each in _three(scale)]
    offsets = [0.0 if offset is None else float(each) for each in _three(offset)]
    return Pixels(
        tuple(-o / s for o, s in zip(offsets, scales, strict=True)),
        tuple(1 / s**2 for s in scales),
    )


def _three(values) -> list:
    return list(values) if isinstance(values, Sequence) else [values] * 3


def _call_function(network, info, initial_weights) -> ForeignModel:
    module_name, colon, function_name = network.name.partition(":")
    if not colon or not function_name:
        raise UserError(
            f"python:{network.name} names no function: expected is "
            "python:package.module:function."
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"python:{network.name}: {module_name} cannot be imported ({error}). Start "
            "in the folder that holds it, or name that folder in PYTHONPATH."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [name for name, each in vars(module).items() if callable(each)]
        raise UserError(
            f"python:{network.name}: {module_name} has no function {function_name}."
            f"{nearest(function_name, known)}"
        )
    offered = {"image_shape": info.image_shape, "num_classes": info.num_classes}
    accepted = inspect.signature(function).parameters
    model = function(**{k: v for k, v in offered.items() if k in accepted})
    if not isinstance(model, keras.Model):
        raise UserError(
            f"python:{network.name} returned a {type(model).__name__}; expected is a "
            "Keras model: a functional one, or one that returns its last map and its "
            "logits."
        )
    if network.weights is not None and initial_weights:
        load_model_weights(model, network.weights, network.name)
    # Nobody says where its weights come from, but statistics that have moved do.
    trained = any(
        keras.ops.any(layer.moving_mean != 0)
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and layer.built
    )
    return ForeignModel(model, None, trained or network.weights is not None)


def to_record(foreign: ForeignModel) -> dict:
    """Returns what a run keeps of a model, with which `from_record` builds it again.

    The weights are not in it: those are in the run's checkpoints.

    Args:
      foreign: functional, with its pixels.
    """
    return {
        "model": json.loads(foreign.model.to_json()),
        "pixels": list(foreign.pixels),
    }


def from_record(record: dict) -> ForeignModel:
    """Builds a model again, with random weights.

    Args:
      record: of `to_record`.

    Raises:
      UserError: it has layers of a package that is not installed.
    """
    text = json.dumps(record["model"])
    try:
        if "keras_hub" in text:
            # Its import makes its layers known to Keras.
            importlib.import_module("keras_hub")
        model = keras.models.model_from_json(text)
    except Exception as error:  # Keras raises anything.
        raise UserError(
            f"a network of the run cannot be built again: {type(error).__name__}: "
            f"{one_line(error)}"
        ) from error
    mean, variance, reverse = record["pixels"]
    return ForeignModel(model, Pixels(tuple(mean), tuple(variance), reverse), True)
