"""The run directory: what a run was told, what it measured, and where it ran.

`flags.cfg` (running it again repeats the run), `dataset.json`, `images.json` (of files:
which ones, on which side), `environment.json`, `metrics.jsonl` (one object an epoch),
`tensorboard/` (the same scalars, and the flags as hyperparameters), and, at the end,
`summary.json`.
"""

import contextlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import keras
import tensorflow as tf
from absl import flags
from tensorboard.plugins.hparams import api as hparams

import afd_tf
from afd_tf.base.errors import UserError
from afd_tf.base.files import UNFINISHED, replacing, writing_to
from afd_tf.base.json_text import json_text
from afd_tf.base.paths import expanded
from afd_tf.base.run_flags import identifying_names, operational, resolved_flags
from afd_tf.data import DatasetInfo, canonical_name, records
from afd_tf.data.records import Record
from afd_tf.data.sources import is_files

# Which images a run uses, and on which side.
_RECORD = "images.json"

_RUN_DIR = operational(
    flags.DEFINE_string(
        "run_dir",
        None,
        "The directory of a run; train continues the run that it finds there. Default "
        "of train: runs/<dataset>_<method>_<peers>_<seed>.",
    )
)
_REPORT = operational(
    flags.DEFINE_bool(
        "report",
        False,
        "Write a report on the run into its directory at its end: curves, the accuracy "
        "of each class, calibration, mistakes and Grad-CAM as one HTML file.",
    )
)


def run_dir_from_flags() -> Path | None:
    """Returns --run_dir, or None where it is not given."""
    return expanded(_RUN_DIR.value) if _RUN_DIR.value else None


def report_wanted() -> bool:
    """Returns whether `train` ends with a report, as --report says."""
    return _REPORT.value


def read_flags(run_dir: Path) -> dict[str, str]:
    """Returns the flags of a run, as text by name.

    Raises:
      OSError: there is no `flags.cfg`.
    """
    # Not `splitlines`, which also breaks at characters that a path may hold.
    lines = (Path(run_dir) / "flags.cfg").read_text("utf-8").split("\n")
    return dict(line[2:].split("=", 1) for line in lines if line.startswith("--"))


def read_info(run_dir: Path) -> DatasetInfo:
    """Returns the info of the data set of a run.

    Raises:
      OSError: there is no `dataset.json`.
    """
    text = (Path(run_dir) / "dataset.json").read_text("utf-8")
    return DatasetInfo.from_json(json.loads(text))


def read_record(run_dir: Path) -> Record | None:
    """Returns the record of a run's images, or None where there is none.

    Raises:
      UserError: the file is damaged.
    """
    path = Path(run_dir) / _RECORD
    return records.loads(path.read_text("ascii")) if path.exists() else None


def read_metrics(run_dir: Path) -> list[dict]:
    """Returns the epochs of a run's `metrics.jsonl`; none where there is no file."""
    path = Path(run_dir) / "metrics.jsonl"
    text = path.read_text("utf-8", "replace") if path.exists() else ""
    metrics = []
    for line in text.splitlines():
        # The last one may be cut off, by a crash or because the run is writing it.
        with contextlib.suppress(ValueError):
            metrics.append(json.loads(line))
    return metrics


def environment() -> dict:
    """Returns the versions and devices that a run's numbers depend on."""
    return {
        "afd_tf": afd_tf.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "TensorFlow's default"),
        "devices": [
            tf.config.experimental.get_device_details(device).get("device_name")
            or device.name
            for device in tf.config.list_physical_devices()
        ],
    }


def commit() -> str | None:
    """Returns the commit of this project's checkout, with "+" if it was changed.

    None where there is no checkout: an installed package may be in somebody else's.
    """
    path = Path(__file__)

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(path.parent), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", path.name)
        return git("describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


class RunDirectory:
    """A run directory, of a new run or of one that goes on.

    Attributes:
      directory: its path.
      info: of the data set that the run began with; None for a new run.
      record: of the images that the run began with; None for a new run, and for data
        sets that are not files.
      epochs_before: --epochs of the run where that alone has changed, else None.

    Args:
      directory: its path; nothing is written before `initialize`.
      values: the flags of this run, as text by name; None takes the command line's.

    Raises:
      UserError: the directory belongs to a run with other flags.
    """

    def __init__(self, directory: Path, values: Mapping[str, str] | None = None):
        self.directory = Path(directory)
        values = resolved_flags() if values is None else values
        begun = (self.directory / "dataset.json").exists()
        self.info = read_info(self.directory) if begun else None
        self.record = read_record(self.directory)
        self._values = {
            name: values[name] for name in sorted(values.keys() - {"run_dir"})
        }
        _check_lines(self._values)
        self._tensorboard = None
        self.epochs_before: int | None = None
        if (self.directory / "checkpoints").exists():
            self._refuse_another_run()

    def _refuse_another_run(self) -> None:
        before = read_flags(self.directory)
        now = self._values
        for values in (before, now):
            if "dataset" in values:
                values["dataset"] = canonical_name(values["dataset"])
        if now.get("augment") == "auto" and self.info:
            now["augment"] = self.info.augment
        # A flag that is not known any more identified the run when it began; one that
        # did not exist yet is as it was then at its default.
        ignored = set(flags.FLAGS) - identifying_names()
        ignored |= {
            name
            for name in set(flags.FLAGS) - before.keys()
            if now.get(name) == (flags.FLAGS[name].default_as_str or "").strip("'")
        }
        differing = sorted(
            name
            for name in (before.keys() | now.keys()) - ignored
            if before.get(name) != now.get(name)
        )
        if "epochs" in differing and set(differing) <= {"epochs", "dataset"}:
            self.epochs_before = int(before["epochs"])
            differing.remove("epochs")
        if differing == ["dataset"] and self._is_moved(now["dataset"]):
            # The images decide, which are compared when they are opened.
            return
        if differing:
            shown = ", ".join(
                f"--{name} was {before.get(name, 'not given')}, "
                f"is now {now.get(name, 'not given')}"
                for name in differing
            )
            raise UserError(
                f"{self.directory} belongs to another run ({shown}): give another "
                "--run_dir, or the flags of that run to continue it. Another --epochs "
                "alone extends the run; --init_from starts a new one with its weights."
            )

    def _is_moved(self, dataset: str) -> bool:
        """Returns whether --dataset may name another place of the run's images."""
        return self.record is not None and is_files(dataset)

    def initialize(self, info: DatasetInfo, record: Record | None = None) -> None:
        """Writes the flags, the data set's info and the environment of the run.

        Args:
          info: of the data set.
          record: of its images, if they are files; the first one is kept.
        """
        self._values["augment"] = info.augment
        with writing_to(self.directory):
            for leftover in self.directory.glob(f"*{UNFINISHED}"):
                leftover.unlink()
            self._write(
                "flags.cfg",
                "# python -m afd_tf.train --flagfile=<this> --run_dir=<another>\n"
                + "".join(f"--{name}={text}\n" for name, text in self._values.items()),
            )
            if record is not None and self.record is None:
                self._write(_RECORD, records.dumps(record))
            self._write("dataset.json", _pretty(info.to_json()))
            self._write("environment.json", _pretty(environment()))

    def truncate_metrics(self, epoch: int) -> None:
        """Drops the metrics of epochs that a continued run will do again."""
        path = self.directory / "metrics.jsonl"
        if path.exists():
            with writing_to(self.directory):
                kept = [
                    line
                    for line in path.read_text("utf-8", "replace").splitlines()
                    if _epoch_of(line) <= epoch
                ]
                self._write("metrics.jsonl", "".join(line + "\n" for line in kept))

    def log_epoch(self, metrics: Mapping[str, float]) -> None:
        """Appends an epoch to `metrics.jsonl` and to TensorBoard.

        Args:
          metrics: "epoch" (from 1), "step", and scalars by name.
        """
        with writing_to(self.directory):
            with (self.directory / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(metrics) + "\n")
                file.flush()
                os.fsync(file.fileno())
            if self._tensorboard is None:
                self._tensorboard = tf.summary.create_file_writer(
                    str(self.directory / "tensorboard")
                )
                with self._tensorboard.as_default(step=0):
                    hparams.hparams(self._hyperparameters())
            with self._tensorboard.as_default(step=metrics["step"]):
                for name, value in metrics.items():
                    tf.summary.scalar(name, value)
            self._tensorboard.flush()

    def _hyperparameters(self) -> dict[str, float | bool | str]:
        """Returns the flags that identify the run, by which TensorBoard compares."""
        names = self._values.keys() & identifying_names()
        return {name: _as_value(self._values[name]) for name in sorted(names)}

    def write_summary(self, summary: Mapping) -> None:
        """Writes `summary.json`, which marks the end of the run."""
        with writing_to(self.directory):
            self._write("summary.json", _pretty(summary))

    def _write(self, name: str, text: str) -> None:
        with replacing(self.directory / name) as file:
            file.write(text.encode("utf-8"))


def _check_lines(values: Mapping[str, str]) -> None:
    """Refuses flags that `flags.cfg`, a line for each, cannot give back as they are.

    Raises:
      UserError: there is one.
    """
    for name, text in values.items():
        is_utf8 = text == text.encode("utf-8", "replace").decode("utf-8")
        if "\n" in text or "\r" in text or text != text.strip() or not is_utf8:
            raise UserError(
                f"--{name}={text!r} cannot be kept in a flag file: it holds a line "
                "break, a blank at its beginning or end, or bytes that are not UTF-8. "
                "Rename the file or folder, or give the path of a link to it."
            )


def _epoch_of(line: str) -> float:
    """Returns the epoch of a line of metrics; infinity if a crash cut it off."""
    try:
        return json.loads(line)["epoch"]
    except ValueError:
        return float("inf")


def _as_value(text: str) -> float | bool | str:
    """Returns a flag's value as a number or truth value, if its text is one."""
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text)
    except ValueError:
        return text


def _pretty(values: Mapping) -> str:
    return json_text(values, indent=1) + "\n"
