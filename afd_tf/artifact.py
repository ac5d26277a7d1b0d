"""What a run is for: one peer, alone, as files that need none of this project.

`export` writes `<export_dir>/<version>/`:

    saved_model.pb, variables/   signature serving_default, as TensorFlow Serving and
                                 tf.saved_model.load read it
    model.tflite                 the same signature for one picture; labels inside
    labels.txt                   a class name a line, in the order of the logits
    manifest.json                what it is, where it comes from, how well it does

`afd_tf.runner` reads them back.
"""

import contextlib
import hashlib
import json
import re
import shutil
import uuid
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from absl import flags

import afd_tf
from afd_tf import data
from afd_tf.checkpoint import checkpoint_from_flags, load_peers
from afd_tf.data import DatasetInfo
from afd_tf.errors import UserError, unknown_name
from afd_tf.journal import commit, read_flags, writing_to
from afd_tf.measurement import dataset_from_flags, measure
from afd_tf.models import Peer, multiply_adds
from afd_tf.runner import MANIFEST, SIGNATURE, chosen_peer_from_flags, load_runner

_EXPORT_DIR = flags.DEFINE_string(
    "export_dir",
    None,
    "Where a directory 1, 2, ... is added for each export; train exports only if it "
    "is given. Default of export: savedmodels/<peer>_<dataset>.",
)
_FORMATS = flags.DEFINE_list(
    "formats", ["saved_model", "tflite"], "What to export: saved_model, tflite."
)


@flags.validator("formats", message="")
def _formats_are_known(formats: Sequence[str]) -> bool:
    """Refuses an unknown format at once, and not after hours of training."""
    try:
        _check_formats(formats)
    except UserError as error:
        raise flags.ValidationError(str(error)) from error
    return True


_LABELS = "labels.txt"


class Format(NamedTuple):
    """A way to write a peer down.

    Attributes:
      write: of (peer, description, directory); the description is the part of the
        manifest that is known before anything is written.
      path: what it writes and `load_runner` reads, within the directory.
      batch_size: pictures that a call takes; None is any number.
    """

    write: Callable[[Peer, Mapping[str, Any], Path], None]
    path: str
    batch_size: int | None


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
    peers, info = load_peers(run_dir, checkpoint_from_flags())
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
    )


def export(
    peer: Peer,
    info: DatasetInfo,
    dataset: data.Dataset,
    export_dir: Path,
    *,
    formats: Sequence[str],
    run_flags: Mapping[str, str],
) -> dict:
    """Writes a peer as the next version, and measures what was written.

    All is written under a hidden name and renamed at the end, so that a server that
    watches `export_dir` sees whole versions only.

    Args:
      peer: the network.
      info: the data set that it was trained on.
      dataset: to measure with.
      export_dir: where the versions lie.
      formats: of `FORMATS`.
      run_flags: of the run that trained it, as text by name.

    Returns:
      {"directory", "name", "dataset", "formats", "files"}; the last two as in
      `manifest.json`.

    Raises:
      UserError: an unknown format, an operator that a format lacks, or no space or
        permission; nothing is left behind.
    """
    _check_formats(formats)
    formats = list(dict.fromkeys(formats))
    missing = [path for path in (export_dir, *export_dir.parents) if not path.exists()]
    # Not tempfile.mkdtemp, whose directories no other user, as a server, may read.
    work = export_dir / f".{uuid.uuid4().hex}.unfinished"
    try:
        with writing_to(export_dir):
            work.mkdir(parents=True)
            manifest = _write_all(peer, info, work, formats, run_flags)
        for name in formats:
            measured = measure(load_runner(work / FORMATS[name].path), dataset)
            manifest["formats"][name] |= {
                "accuracy": measured["accuracy"],
                "examples": measured["examples"],
                "measured_on": f"{dataset.info.name} test",
            }
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


def _write_all(peer, info, directory, formats, run_flags) -> dict:
    """Writes every format, the labels and the manifest; returns the manifest."""
    description = {
        "name": peer.name,
        "method": run_flags.get("method"),
        "dataset": info.to_json(),
        "classes": info.num_classes,
        "input": {
            "name": "image",
            "dtype": "uint8",
            "shape": [None, *info.image_shape],
            "range": [0, 255],
            "note": "raw pixels; the normalisation is inside",
        },
        "outputs": [
            {"name": name, "dtype": "float32", "shape": [None, info.num_classes]}
            for name in ("logits", "probabilities")
        ],
        "normalization": {"mean": list(info.mean), "variance": list(info.variance)},
        "labels": _LABELS,
        "parameters": peer.parameters,
        "multiply_adds": multiply_adds(peer, info.image_shape),
        "versions": {
            "afd_tf": afd_tf.__version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
        "commit": commit(),
    }
    (directory / _LABELS).write_text(_labels(description), "utf-8")
    written = set(_files(directory))
    manifest = {**description, "flags": dict(run_flags), "formats": {}, "files": {}}
    for name in formats:
        kind = FORMATS[name]
        kind.write(peer, description, directory)
        new = [path for path in _files(directory) if path not in written]
        written.update(new)
        manifest["formats"][name] = {
            "path": kind.path,
            "batch_size": kind.batch_size,
            "bytes": sum(path.stat().st_size for path in new),
        }
    manifest["files"] = {
        path.relative_to(directory).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in _files(directory)
    }
    _write_json(directory / MANIFEST, manifest)
    return manifest


def _write_saved_model(
    peer: Peer, description: Mapping[str, Any], directory: Path
) -> None:
    """Writes a SavedModel that takes any number of pictures."""
    function = _serving_function(peer, description, batch_size=None)
    tf.saved_model.save(_Weights(peer), directory, signatures={SIGNATURE: function})


def _write_tflite(peer: Peer, description: Mapping[str, Any], directory: Path) -> None:
    """Writes a TFLite file that takes one picture, as LiteRT.js demands."""
    function = _serving_function(peer, description, batch_size=1)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], _Weights(peer)
    )
    try:
        content = converter.convert()
    except Exception as error:  # The converter's own class is not public.
        operators = re.findall(
            r"^(?:Custom|Flex|TF Select) ops: (.*)$", str(error), re.M
        )
        if not operators:
            raise
        raise UserError(
            f"{peer.name} cannot be written as tflite: TFLite has no operator for "
            f"{', '.join(operators)}. Leave tflite out of --formats."
        ) from error
    path = directory / FORMATS["tflite"].path
    path.write_bytes(content)
    # TFLite's "associated files" are a zip archive behind the model.
    with zipfile.ZipFile(path, "a") as archive:
        for name, text in (
            (_LABELS, _labels(description)),
            (MANIFEST, json.dumps(description, ensure_ascii=False)),
        ):
            # A ZipInfo of its own has no clock in it: same model, same bytes.
            archive.writestr(zipfile.ZipInfo(name), text)


FORMATS: dict[str, Format] = {
    "saved_model": Format(_write_saved_model, path=".", batch_size=None),
    "tflite": Format(_write_tflite, path="model.tflite", batch_size=1),
}


class _Weights(tf.Module):
    """What a SavedModel stores: the variables of one peer, each once."""

    def __init__(self, peer: Peer):
        super().__init__()
        self.weights = [variable.value for variable in peer.variables]


def _serving_function(
    peer: Peer, description: Mapping[str, Any], batch_size: int | None
) -> tf.types.experimental.PolymorphicFunction:
    """Returns image → logits and probabilities, the interface of every artifact."""
    shape = [batch_size, *description["input"]["shape"][1:]]

    @tf.function(
        input_signature=[tf.TensorSpec(shape, tf.uint8, name="image")],
        autograph=False,
    )
    def serving_default(image):
        logits = peer(image, training=False).logits
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    return serving_default


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


def _labels(description: Mapping[str, Any]) -> str:
    return "".join(f"{name}\n" for name in description["dataset"]["class_names"])


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", "utf-8")
