"""The run directory: what a run was told, what it measured, and where it ran.

`flags.cfg` (running it again repeats the run), `dataset.json`, `environment.json`,
`metrics.jsonl` (one object an epoch), `tensorboard/`, and, at the end,
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

import afd_tf
from afd_tf.base.errors import UserError
from afd_tf.base.files import UNFINISHED, replacing, writing_to
from afd_tf.base.run_flags import identifying_names, operational, resolved_flags
from afd_tf.data import DatasetInfo

_RUN_DIR = operational(
    flags.DEFINE_string(
        "run_dir",
        None,
        "The directory of a run; train continues the run that it finds there. Default "
        "of train: runs/<dataset>_<method>_<peers>_<seed>.",
    )
)


def run_dir_from_flags() -> Path | None:
    """Returns --run_dir, or None where it is not given."""
    return Path(_RUN_DIR.value) if _RUN_DIR.value else None


def read_flags(run_dir: Path) -> dict[str, str]:
    """Returns the flags of a run, as text by name.

    Raises:
      OSError: there is no `flags.cfg`.
    """
    lines = (Path(run_dir) / "flags.cfg").read_text().splitlines()
    return dict(line[2:].split("=", 1) for line in lines if line.startswith("--"))


def read_info(run_dir: Path) -> DatasetInfo:
    """Returns the info of the data set of a run.

    Raises:
      OSError: there is no `dataset.json`.
    """
    text = (Path(run_dir) / "dataset.json").read_text()
    return DatasetInfo.from_json(json.loads(text))


def read_metrics(run_dir: Path) -> list[dict]:
    """Returns the epochs of a run's `metrics.jsonl`; none where there is no file."""
    path = Path(run_dir) / "metrics.jsonl"
    metrics = []
    for line in path.read_text().splitlines() if path.exists() else ():
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
            text=True,
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
        self._values = {
            name: values[name] for name in sorted(values.keys() - {"run_dir"})
        }
        self._tensorboard = None
        if (self.directory / "checkpoints").exists():
            self._refuse_another_run()

    def _refuse_another_run(self) -> None:
        before = read_flags(self.directory)
        now = self._values
        if now.get("augment") == "auto" and self.info:
            now["augment"] = self.info.augment
        # A flag that is not known any more identified the run when it began.
        ignored = set(flags.FLAGS) - identifying_names()
        differing = sorted(
            name
            for name in (before.keys() | now.keys()) - ignored
            if before.get(name) != now.get(name)
        )
        if differing:
            shown = ", ".join(
                f"--{name} was {before.get(name, 'not given')}, "
                f"is now {now.get(name, 'not given')}"
                for name in differing
            )
            raise UserError(
                f"{self.directory} belongs to another run ({shown}): give another "
                "--run_dir, or the flags of that run to continue it."
            )

    def initialize(self, info: DatasetInfo) -> None:
        """Writes the flags, the data set's info and the environment of the run.

        Args:
          info: of the data set.
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
            self._write("dataset.json", _pretty(info.to_json()))
            self._write("environment.json", _pretty(environment()))

    def truncate_metrics(self, epoch: int) -> None:
        """Drops the metrics of epochs that a continued run will do again."""
        path = self.directory / "metrics.jsonl"
        if path.exists():
            with writing_to(self.directory):
                kept = [
                    line
                    for line in path.read_text().splitlines()
                    if _epoch_of(line) <= epoch
                ]
                self._write("metrics.jsonl", "".join(line + "\n" for line in kept))

    def log_epoch(self, metrics: Mapping[str, float]) -> None:
        """Appends an epoch to `metrics.jsonl` and to TensorBoard.

        Args:
          metrics: "epoch" (from 1), "step", and scalars by name.
        """
        with writing_to(self.directory):
            with (self.directory / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(metrics) + "\n")
                file.flush()
                os.fsync(file.fileno())
            if self._tensorboard is None:
                self._tensorboard = tf.summary.create_file_writer(
                    str(self.directory / "tensorboard")
                )
            with self._tensorboard.as_default(step=metrics["step"]):
                for name, value in metrics.items():
                    tf.summary.scalar(name, value)
            self._tensorboard.flush()

    def write_summary(self, summary: Mapping) -> None:
        """Writes `summary.json`, which marks the end of the run."""
        with writing_to(self.directory):
            self._write("summary.json", _pretty(summary))

    def _write(self, name: str, text: str) -> None:
        with replacing(self.directory / name) as file:
            file.write(text.encode())


def _epoch_of(line: str) -> float:
    """Returns the epoch of a line of metrics; infinity if a crash cut it off."""
    try:
        return json.loads(line)["epoch"]
    except ValueError:
        return float("inf")


def _pretty(values: Mapping) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"
