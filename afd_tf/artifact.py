"""What a run is for: one peer, alone, as files that need none of this project.

`export` writes `<export_dir>/<version>/`:

    saved_model.pb, variables/   as TensorFlow Serving and tf.saved_model.load read it;
                                 the signatures are in `afd_tf.saved_model`
    assets.extra/                requests that TensorFlow Serving warms it up with
    model.tflite                 for one picture, with float32 weights; labels inside
    model_fp16.tflite            the same with float16 weights,
    model_dynamic.tflite         with int8 weights,
    model_int8.tflite            with int8 weights and activations
    labels.txt                   a class name a line, in the order of the logits
    manifest.json                what it is, where it comes from, how well each does

`afd_tf.runner` reads them back.
"""

import contextlib
import hashlib
import json
import re
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import flags

import afd_tf
from afd_tf import data, saved_model, tflite
from afd_tf.checkpoint import checkpoint_from_flags, load_peers
from afd_tf.data import DatasetInfo
from afd_tf.data.sources import stratified_choice
from afd_tf.errors import UserError, unknown_name
from afd_tf.journal import commit, read_flags, say, writing_to
from afd_tf.measurement import compare, dataset_from_flags
from afd_tf.models import Peer, multiply_adds
from afd_tf.runner import (
    LABELS,
    MANIFEST,
    chosen_peer_from_flags,
    load_runner,
    peer_network,
    top_k_from_flags,
)


class Format(NamedTuple):
    """A way to write a peer down.

    Attributes:
      path: what is written and `load_runner` reads, within the directory.
      batch_size: pictures that a call takes; None is any number.
      quantization: of `tflite.QUANTIZATIONS`.
    """

    path: str
    batch_size: int | None = 1
    quantization: str = "none"


FORMATS = {
    "saved_model": Format(".", batch_size=None),
    "tflite": Format("model.tflite"),
    "tflite_fp16": Format("model_fp16.tflite", quantization="float16"),
    "tflite_dynamic": Format("model_dynamic.tflite", quantization="dynamic"),
    "tflite_int8": Format("model_int8.tflite", quantization="int8"),
}

_EXPORT_DIR = flags.DEFINE_string(
    "export_dir",
    None,
    "Where a directory 1, 2, ... is added for each export; train exports only if it "
    "is given. Default of export: savedmodels/<peer>_<dataset>.",
)
_FORMATS = flags.DEFINE_list(
    "formats",
    ["saved_model", "tflite"],
    f"What to export: {', '.join(FORMATS)}.",
)
_CALIBRATION_EXAMPLES = flags.DEFINE_integer(
    "calibration_examples",
    500,
    "Training pictures, each class in proportion, with which --formats=tflite_dynamic "
    "and tflite_int8 correct the means of their maps; tflite_int8 takes the range of "
    "every activation from them as well.",
    lower_bound=1,
)
_MAX_ACCURACY_DROP = flags.DEFINE_float(
    "max_accuracy_drop",
    0.01,
    "A quantised format that loses more than this on the test pictures is not kept; "
    "0.01 is one point of 100.",
    lower_bound=0.0,
    upper_bound=1.0,
)

# Where things lie on the machine of the run: nobody else's business.
_PLACES = ("cache_dir", "data_dir", "export_dir", "run_dir")

# What a killed export leaves behind, and after how many seconds nobody works on it.
_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.unfinished")
_ABANDONED_AFTER = 24 * 3600

# Of the choice of pictures for calibration.
_CALIBRATION_SEED = 0
_READ_BATCH = 256


@flags.validator("formats", message="")
def _formats_are_known(formats: Sequence[str]) -> bool:
    """Refuses an unknown format at once, and not after hours of training."""
    try:
        _check_formats(formats)
    except UserError as error:
        raise flags.ValidationError(str(error)) from error
    return True


def export_wanted() -> bool:
    """Returns whether --export_dir is given: what makes `train` export."""
    return _EXPORT_DIR.value is not None


def export_from_flags(run_dir: Path, dataset: data.Dataset | None = None) -> dict:
    """Exports the peer of a run that the flags of this module choose.

    Args:
      run_dir: a run directory.
      dataset: to measure with; None opens the one of the run.

    Returns:
      see `export`.

    Raises:
      UserError: no such run, peer or format; or see `export`.
    """
    policy = keras.config.dtype_policy()
    # Whatever the run computed in: its weights are float32, and TFLite's operators too.
    keras.config.set_dtype_policy("float32")
    try:
        peers, info = load_peers(run_dir, checkpoint_from_flags())
    finally:
        keras.config.set_dtype_policy(policy)
    peer = peers[chosen_peer_from_flags(peers)]
    run_flags = read_flags(run_dir)
    name = Path(info.name).name if info.name.startswith("folder:") else info.name
    default = Path("savedmodels") / re.sub(r"[^\w.-]+", "_", f"{peer.name}_{name}")
    return export(
        peer,
        info,
        dataset or dataset_from_flags(info, run_flags),
        Path(_EXPORT_DIR.value or default),
        formats=_FORMATS.value,
        run_flags=run_flags,
        top_k=top_k_from_flags(),
        calibration_examples=_CALIBRATION_EXAMPLES.value,
        max_accuracy_drop=_MAX_ACCURACY_DROP.value,
    )


def export(
    peer: Peer,
    info: DatasetInfo,
    dataset: data.Dataset,
    export_dir: Path,
    *,
    formats: Sequence[str],
    run_flags: Mapping[str, str],
    top_k: int = 5,
    calibration_examples: int = 500,
    max_accuracy_drop: float = 0.01,
) -> dict:
    """Writes a peer as the next version, and measures what was written.

    All is written under a hidden name and renamed at the end, so that a server that
    watches `export_dir` sees whole versions only.

    A quantised format that loses too much accuracy is left out: a line on stderr and
    its entry in the manifest say so. If nothing else was asked for, that is an error.

    Args:
      peer: the network.
      info: the data set that it was trained on.
      dataset: to measure and to calibrate with.
      export_dir: where the versions lie.
      formats: of `FORMATS`.
      run_flags: of the run that trained it, as text by name.
      top_k: how many classes a SavedModel names; at most all.
      calibration_examples: training pictures for `tflite.CALIBRATED`; at most all.
      max_accuracy_drop: what a quantised format may lose of the peer's accuracy on
        the test pictures, as a fraction of them.

    Returns:
      {"directory", "name", "dataset", "formats", "files"}; the last two as in
      `manifest.json`.

    Raises:
      UserError: an unknown format, an operator that a format lacks, every format
        loses too much, or no space or permission; nothing is left behind.
    """
    _check_formats(formats)
    formats = list(dict.fromkeys(formats))
    missing = [path for path in (export_dir, *export_dir.parents) if not path.exists()]
    # Not tempfile.mkdtemp, whose directories no other user, as a server, may read.
    work = export_dir / f".{uuid.uuid4().hex}.unfinished"
    calibration = None
    if any(FORMATS[name].quantization in tflite.CALIBRATED for name in formats):
        calibration = _calibration(dataset, calibration_examples)
    try:
        with writing_to(export_dir):
            _sweep(export_dir)
            work.mkdir(parents=True)
            manifest = _describe(peer, info, run_flags)
            _write_all(
                *(peer, info, work, manifest),
                formats=formats,
                top_k=min(top_k, info.num_classes),
                calibration=calibration,
            )
        _measure(peer, dataset, work, manifest)
        _refuse(manifest, work, max_accuracy_drop)
        with writing_to(export_dir):
            _write_json(work / MANIFEST, manifest)
            directory = _rename_to_next_version(work, export_dir)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise
    return {
        "directory": str(directory),
        "name": manifest["name"],
        "dataset": info.name,
        "formats": manifest["formats"],
        "files": manifest["files"],
    }


def _check_formats(formats: Sequence[str]) -> None:
    if not formats:
        raise UserError(f"--formats is empty: give some of {', '.join(FORMATS)}.")
    for name in formats:
        if name not in FORMATS:
            raise unknown_name("format", name, FORMATS)


def _sweep(export_dir: Path) -> None:
    """Removes what exports that were killed have left behind."""
    if not export_dir.is_dir():
        return
    for path in export_dir.iterdir():
        if _UNFINISHED.fullmatch(path.name):
            # Another export may remove it, or rename its own, at the same time.
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
                    shutil.rmtree(path)


class _Calibration(NamedTuple):
    """Pictures for a quantised format: uint8 [n, h, w, c], and what they are."""

    pictures: np.ndarray
    description: Mapping[str, Any]


def _calibration(dataset: data.Dataset, count: int) -> _Calibration:
    """Chooses training pictures, always the same ones, each class in proportion.

    They are not augmented. The split is read twice: once for the labels.
    """

    def batches():
        split = dataset.evaluation_batches("train", batch_size=_READ_BATCH)
        for batch in split.as_numpy_iterator():
            real = batch["weight"] > 0
            yield batch["image"][real], batch["label"][real]

    labels = np.concatenate([labels for _, labels in batches()])
    count = min(count, len(labels))
    chosen = np.zeros(len(labels), bool)
    chosen[stratified_choice(labels, count, seed=_CALIBRATION_SEED)] = True
    pictures, start = [], 0
    for images, _ in batches():
        pictures.append(images[chosen[start : start + len(images)]])
        start += len(images)
    _, per_class = np.unique(labels[chosen], return_counts=True)
    return _Calibration(
        np.concatenate(pictures),
        {
            "split": "train",
            "count": count,
            "seed": _CALIBRATION_SEED,
            "classes": len(per_class),
            "pictures_per_class": [int(per_class.min()), int(per_class.max())],
        },
    )


def _describe(peer: Peer, info: DatasetInfo, run_flags: Mapping[str, str]) -> dict:
    """Returns the manifest as far as it is known before anything is written."""
    return {
        "name": peer.name,
        "method": run_flags.get("method"),
        "dataset": info.to_json(),
        "classes": info.num_classes,
        "input": {
            "name": "image",
            "dtype": "uint8",
            "shape": [None, *info.image_shape],
            "range": [0, 255],
        },
        "preprocessing": "image takes raw pixels, 0 to 255, of the shape above: the "
        "normalisation, (pixels - mean) / sqrt(variance) per channel, is inside. "
        "image_bytes takes JPEG or PNG files of any size: the largest centre of the "
        "shape's ratio is cut out and resized, bilinear and antialiased, inside.",
        "normalization": {"mean": list(info.mean), "variance": list(info.variance)},
        "labels": LABELS,
        "parameters": peer.parameters,
        "multiply_adds": multiply_adds(peer, info.image_shape),
        "versions": {
            "afd_tf": afd_tf.__version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
        "commit": commit(),
        "flags": {
            name: text for name, text in run_flags.items() if name not in _PLACES
        },
    }


def _write_all(
    peer: Peer,
    info: DatasetInfo,
    directory: Path,
    manifest: dict,
    *,
    formats: Sequence[str],
    top_k: int,
    calibration: _Calibration | None,
) -> None:
    """Writes every format, the labels and the manifest, which it completes."""
    # The flags stay outside: a phone has no use for them.
    description = {k: v for k, v in manifest.items() if k != "flags"}
    labels = "".join(f"{name}\n" for name in info.class_names)
    (directory / LABELS).write_text(labels, "utf-8")
    written = set(_files(directory))
    manifest["formats"] = {}
    for name in formats:
        kind = FORMATS[name]
        entry = {"path": kind.path, "batch_size": kind.batch_size}
        if name == "saved_model":
            entry |= saved_model.write(peer, info, directory, top_k)
        else:
            entry |= tflite.write(
                peer,
                {**description, "format": name},
                directory / kind.path,
                quantization=kind.quantization,
                pictures=calibration and calibration.pictures,
            )
        if kind.quantization in tflite.CALIBRATED:
            entry["calibration"] = calibration.description
        new = [path for path in _files(directory) if path not in written]
        written.update(new)
        entry["bytes"] = sum(path.stat().st_size for path in new)
        entry["files"] = [path.relative_to(directory).as_posix() for path in new]
        manifest["formats"][name] = entry
    manifest["files"] = {
        path.relative_to(directory).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in _files(directory)
    }
    _write_json(directory / MANIFEST, manifest)


def _measure(
    peer: Peer, dataset: data.Dataset, directory: Path, manifest: dict
) -> None:
    """Adds to the manifest how well the peer and each format do."""
    formats = manifest["formats"]
    networks = [peer_network(peer, dataset.info.image_shape)]
    for name in formats:
        networks += load_runner(directory / FORMATS[name].path).networks
    where = f"{dataset.info.name} test"
    own, *others = compare(networks, dataset)
    manifest["checkpoint"] = {
        "accuracy": own["accuracy"],
        "examples": own["examples"],
        "measured_on": where,
    }
    for name, measured in zip(formats, others, strict=True):
        formats[name] |= measured | {"measured_on": where}


def _refuse(manifest: dict, directory: Path, max_accuracy_drop: float) -> None:
    """Takes out the quantised formats that lose too much accuracy.

    Raises:
      UserError: none is left.
    """
    formats = manifest["formats"]
    reasons = {}
    for name, entry in formats.items():
        drop = manifest["checkpoint"]["accuracy"] - entry["accuracy"]
        # Fractions of whole pictures: 0.975 - 0.965 is a little more than 0.01.
        if FORMATS[name].quantization != "none" and drop > max_accuracy_drop + 1e-9:
            reasons[name] = (
                f"{name} loses {100 * drop:.2f} points of the checkpoint's accuracy "
                f"({entry['accuracy']:.4f} against "
                f"{manifest['checkpoint']['accuracy']:.4f}), more than "
                f"--max_accuracy_drop={max_accuracy_drop:g} allows"
            )
    if len(reasons) == len(formats):
        raise UserError(
            f"nothing was exported: {'; '.join(reasons.values())}. Allow more, give "
            "more --calibration_examples, or another of --formats."
        )
    for name, reason in reasons.items():
        say(f"{reason}: it was left out.")
        for path in formats[name]["files"]:
            (directory / path).unlink()
            del manifest["files"][path]
        kept = ("accuracy", "examples", "measured_on", "agreement", "logit_difference")
        formats[name] = {
            "refused": True,
            "reason": reason,
            **{key: formats[name][key] for key in kept},
        }


def _rename_to_next_version(work: Path, export_dir: Path) -> Path:
    while True:
        versions = [
            int(path.name) for path in export_dir.iterdir() if path.name.isdecimal()
        ]
        target = export_dir / str(max(versions, default=0) + 1)
        try:
            return work.rename(target)
        except OSError:
            # Another export may have taken the number in the meantime.
            if not target.exists():
                raise


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", "utf-8")
