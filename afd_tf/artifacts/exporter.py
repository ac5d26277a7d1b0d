"""The export of one peer, alone, as files that need none of this project.

`export` writes `<export_dir>/<version>/`:

    saved_model.pb, variables/   as TensorFlow Serving and tf.saved_model.load read it;
                                 the signatures are in `afd_tf.artifacts.saved_model`
    assets.extra/                requests that TensorFlow Serving warms it up with
    model.tflite                 for one image, with float32 weights; labels inside
    model_fp16.tflite            the same with float16 weights
    model_dynamic.tflite         the same with int8 weights
    model_int8.tflite            the same with int8 weights and activations
    labels.txt                   a class name a line, in the order of the logits
    model.keras                  for any number of images, in plain Keras
    model.onnx                   for any number of images, as ONNX
    model.xml, model.bin         for any number of images, of OpenVINO
    model_int8.xml, .bin         the same with int8 weights and activations
    manifest.json                name, data set, origin, and accuracy of each format
    README.md                    the same for people: a model card

`afd_tf.artifacts.classifier` reads them back.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
from absl import flags

from afd_tf import data
from afd_tf.artifacts.calibration import calibration_images
from afd_tf.artifacts.classifier import top_k_from_flags
from afd_tf.artifacts.exported_peer import load_exported_peer
from afd_tf.artifacts.manifest import (
    FORMATS,
    check_formats,
    check_packages,
    file_entries,
    write_manifest,
)
from afd_tf.artifacts.measurement import drop_inaccurate_formats, measure_formats
from afd_tf.artifacts.model_card import CARD, model_card
from afd_tf.artifacts.origin import initial_manifest
from afd_tf.artifacts.peer_choice import chosen_peer_from_flags
from afd_tf.artifacts.versions import rename_to_next_version, unfinished_version
from afd_tf.artifacts.writers import Choices, is_calibrated, write_formats
from afd_tf.base.errors import UserError
from afd_tf.base.files import check_writable, writing_to
from afd_tf.base.paths import expanded
from afd_tf.base.run_flags import operational
from afd_tf.data import DatasetInfo
from afd_tf.models import Peer
from afd_tf.training.checkpoint_choice import checkpoint_from_flags
from afd_tf.training.checkpoints import load_peers
from afd_tf.training.run_directory import read_flags, read_record

DEFAULT_FORMATS = ("saved_model", "tflite")

# Data sets that are named by a path: of the export, its last part is enough.
_PATH_SOURCES = ("folder", "csv")
_NAME_BYTES = 200

_EXPORT_DIR = operational(
    flags.DEFINE_string(
        "export_dir",
        None,
        "Directory that gets a new version 1, 2, ... with each export; train exports "
        "only if it is given. Default of export: savedmodels/<peer>_<dataset>.",
    )
)
_FORMATS = flags.DEFINE_list(
    "formats",
    list(DEFAULT_FORMATS),
    f"Formats to export: {', '.join(FORMATS)}.",
)
_CALIBRATION_EXAMPLES = flags.DEFINE_integer(
    "calibration_examples",
    500,
    "Training images, each class in proportion, with which --formats=tflite_dynamic, "
    "tflite_int8 and openvino_int8 correct the means of their maps; the int8 formats "
    "take the range of every activation from them as well.",
    lower_bound=1,
)
_MAX_ACCURACY_DROP = flags.DEFINE_float(
    "max_accuracy_drop",
    0.01,
    "A quantized format that loses more than this on the test images is not kept; "
    "0.01 is one point of 100.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_TFLITE_BATCH_SIZE = flags.DEFINE_integer(
    "tflite_batch_size",
    1,
    "Number of images that the .tflite files take at a time. Apps, MediaPipe and the "
    "page of this project give them one.",
    lower_bound=1,
)
_TFLITE_LOGITS = flags.DEFINE_boolean(
    "tflite_logits",
    False,
    "Give the .tflite files a second output, logits. MediaPipe takes it for a second "
    "head.",
)
_MODEL_LICENSE = flags.DEFINE_string(
    "model_license",
    None,
    "License of the exported network, e.g. CC-BY-4.0, as its files state it.",
)


@flags.validator("formats", message="")
def _formats_are_known(formats: Sequence[str]) -> bool:
    """Refuses an unknown format at once, and not after hours of training."""
    try:
        check_formats(formats)
    except UserError as error:
        raise flags.ValidationError(str(error)) from error
    return True


def export_wanted() -> bool:
    """Returns whether --export_dir is given, with which `train` exports at its end."""
    return _EXPORT_DIR.value is not None


def check_export_from_flags() -> None:
    """Refuses an export that is bound to fail, before the training that comes first.

    Raises:
      UserError: a package of one of --formats is missing, --export_dir cannot be
        written to, or there is no such --checkpoint.
    """
    checkpoint_from_flags()
    check_packages(_FORMATS.value)
    if _EXPORT_DIR.value is not None:
        check_writable(expanded(_EXPORT_DIR.value))


def export_from_flags(run_dir: Path, dataset: data.Dataset | None = None) -> dict:
    """Exports the peer of a run that the flags choose.

    Args:
      run_dir: a run directory.
      dataset: the data set to measure with; None opens the one of the run.

    Returns:
      see `export`.

    Raises:
      UserError: no such run, peer or format; or see `export`.
    """
    check_export_from_flags()
    policy = keras.config.dtype_policy()
    # The weights of a run in mixed precision are float32, as TFLite's operators are.
    keras.config.set_dtype_policy("float32")
    try:
        peers, info = load_peers(run_dir, checkpoint_from_flags())
    finally:
        keras.config.set_dtype_policy(policy)
    peer = peers[chosen_peer_from_flags(peers)]
    run_flags = read_flags(run_dir)
    return _export_from_flags(
        peer,
        dataset or data.from_flags_of_run(info, run_flags, read_record(run_dir)),
        info=info,
        run_flags=run_flags,
    )


def export_again_from_flags(path: Path) -> dict:
    """Exports the network of an earlier version, in the formats that the flags choose.

    Args:
      path: the directory of the version, with its SavedModel.

    Returns:
      see `export`.

    Raises:
      UserError: see `load_exported_peer` and `export`.
    """
    check_export_from_flags()
    peer, info, earlier = load_exported_peer(path)
    return _export_from_flags(
        peer,
        data.from_flags_of_run(info, earlier["flags"]),
        info=info,
        run_flags=earlier["flags"],
        earlier=earlier,
    )


def _export_from_flags(
    peer: Peer, dataset: data.Dataset, *, info: DatasetInfo, **origin
) -> dict:
    return export(
        peer,
        dataset,
        _EXPORT_DIR.value or _default_export_dir(peer, info),
        formats=_FORMATS.value,
        info=info,
        top_k=top_k_from_flags(),
        calibration_examples=_CALIBRATION_EXAMPLES.value,
        max_accuracy_drop=_MAX_ACCURACY_DROP.value,
        tflite_batch_size=_TFLITE_BATCH_SIZE.value,
        tflite_logits=_TFLITE_LOGITS.value,
        model_license=_MODEL_LICENSE.value,
        **origin,
    )


def _default_export_dir(peer: Peer, info: DatasetInfo) -> Path:
    kind, _, path = info.name.partition(":")
    name = Path(path).name if kind in _PATH_SOURCES else info.name
    name = re.sub(r"[^\w.-]+", "_", f"{peer.name}_{name}")
    # No file system takes names of more than 255 bytes.
    return Path("savedmodels") / name.encode()[:_NAME_BYTES].decode(errors="ignore")


def export(
    peer: Peer,
    dataset: data.Dataset,
    export_dir: str | Path,
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    info: DatasetInfo | None = None,
    run_flags: Mapping[str, str] | None = None,
    top_k: int = 5,
    calibration_examples: int = 500,
    max_accuracy_drop: float = 0.01,
    tflite_batch_size: int = 1,
    tflite_logits: bool = False,
    model_license: str | None = None,
    earlier: Mapping[str, Any] | None = None,
) -> dict:
    """Writes a peer as the next version, and measures each file that was written.

    Everything is written to a hidden directory that is renamed at the end, so that a
    server that watches `export_dir` sees whole versions only.

    A quantized format that loses too much accuracy is left out: a line on stderr and
    its entry in the manifest say so. If no other format was asked for, that is an
    error.

    Args:
      peer: a built peer with float32 variables.
      dataset: the data set to measure and to calibrate with.
      export_dir: the directory that holds the versions.
      formats: keys of `manifest.FORMATS`.
      info: the data set that the peer was trained on; None is that of `dataset`.
      run_flags: the flags of the run that trained the peer, as text by name; None if
        there was no run.
      top_k: number of classes that a SavedModel names; at most all.
      calibration_examples: training images for the formats with a quantization of
        `tflite.CALIBRATED_QUANTIZATIONS`; at most all.
      max_accuracy_drop: the accuracy that a quantized format may lose against the
        peer, as a fraction (0..1) of the test images.
      tflite_batch_size: images that a .tflite file takes at a time.
      tflite_logits: whether .tflite files give logits beside probabilities.
      model_license: of the network, for the files to state it.
      earlier: the manifest of the version that the weights were taken from, if they
        were; its license holds where none is given.

    Returns:
      {"directory": path of the version, "name", "dataset", "formats", "files"}; the
      last two are as in the manifest.

    Raises:
      UserError: an unknown format or one whose package is missing, an operator that
        TFLite lacks, no space or no permission, or every format lost too much accuracy.
    """
    check_formats(formats)
    check_packages(formats)
    formats = list(dict.fromkeys(formats))
    info = info or dataset.info
    export_dir = expanded(export_dir)
    calibration = None
    if any(is_calibrated(name) for name in formats):
        calibration = calibration_images(dataset, calibration_examples)
    choices = Choices(
        formats=formats,
        top_k=min(top_k, info.num_classes),
        calibration=calibration,
        tflite_batch_size=tflite_batch_size,
        tflite_logits=tflite_logits,
    )
    manifest = initial_manifest(peer, info, run_flags or {}, model_license, earlier)
    with unfinished_version(export_dir) as work:
        with writing_to(export_dir):
            write_formats(peer, info, work, manifest, choices)
        measure_formats(peer, dataset, work, manifest)
        drop_inaccurate_formats(manifest, work, max_accuracy_drop)
        with writing_to(export_dir):
            (work / CARD).write_text(model_card(manifest), "utf-8")
            manifest["files"][CARD] = file_entries(work)[CARD]
            write_manifest(work, manifest)
            directory = rename_to_next_version(work, export_dir)
    return {
        "directory": str(directory),
        "name": manifest["name"],
        "dataset": info.name,
        "formats": manifest["formats"],
        "files": manifest["files"],
    }
