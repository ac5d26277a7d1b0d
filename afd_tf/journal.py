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
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import keras
import tensorflow as tf
from absl import flags
from tqdm import tqdm

import afd_tf
from afd_tf.data import DatasetInfo
from afd_tf.errors import UserError

_RUN_DIR = flags.DEFINE_string(
    "run_dir",
    None,
    "Where the run is kept; train continues what it finds there. Default: "
    "runs/<dataset>_<method>_<peers>_<seed>.",
)

# Where things lie and what they run on: no part of what a run is.
_WHERE = {
    "cache_dir",
    "calibration_examples",
    "checkpoint",
    "data_dir",
    "download",
    "export_dir",
    "formats",
    "max_accuracy_drop",
    "max_restores",
    "on_nan",
    "peer",
    "run_dir",
    "save_minutes",
    "strategy",
    "top_k",
    "tpu",
}


def say(message: str) -> None:
    """Prints a line on stderr, above a progress bar if there is one."""
    tqdm.write(message, file=sys.stderr)


def progress(description: str, total: int, initial: int = 0) -> tqdm:
    """Returns a bar with pictures/s and time left; quiet if stderr is no terminal."""
    return tqdm(
        desc=description,
        total=total,
        initial=initial,
        unit=" images",
        unit_scale=True,
        leave=False,
        disable=None,
    )


@contextlib.contextmanager
def writing_to(directory: Path) -> Iterator[None]:
    """Turns a full disk or a missing permission into a `UserError`."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        # TensorFlow puts the operator and the file around the reason.
        message = getattr(error, "message", str(error))
        reason = (
            getattr(error, "strerror", None)
            or (message.split("; ")[-1].partition(" [Op:")[0])
        )
        raise UserError(
            f"cannot write to {directory}: {reason}. Nothing that was there is lost: "
            "free some space or mend the permission, then give the same command."
        ) from error


def run_dir_from_flags(default: str) -> Path:
    """Returns --run_dir, or `runs/<default>`."""
    return Path(_RUN_DIR.value or Path("runs") / default)


def resolved_flags() -> dict[str, str]:
    """Returns this project's flags with their values, as text by name."""
    values = {}
    for module, module_flags in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("afd_tf.") or module == sys.argv[0]:
            for flag in module_flags:
                if flag.value not in (None, []):
                    text = flag.serialize().partition("=")[2]
                    values[flag.name] = text or str(flag.value).lower()
    return values


def read_flags(run_dir: Path) -> dict[str, str]:
    """Returns the flags of a run directory, as text by name.

    Raises:
      OSError: there is no `flags.cfg`.
    """
    lines = (Path(run_dir) / "flags.cfg").read_text().splitlines()
    return dict(line[2:].split("=", 1) for line in lines if line.startswith("--"))


def read_info(run_dir: Path) -> DatasetInfo:
    """Returns the data set's info frozen in a run directory.

    Raises:
      OSError: there is no `dataset.json`.
    """
    text = (Path(run_dir) / "dataset.json").read_text()
    return DatasetInfo.from_json(json.loads(text))


def environment() -> dict:
    """Returns what a run's numbers depend on besides its flags."""
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
    """Returns the commit of this project's checkout, with "+" if it was changed."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        result = subprocess.run(
            [*git, "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


class Journal:
    """A run directory, new or begun.

    Args:
      directory: where it is; nothing is written before `begin`.
      values: the flags of this run, as text by name.

    Raises:
      UserError: the directory belongs to a run with other flags.
    """

    def __init__(self, directory: Path, values: Mapping[str, str]):
        self.directory = Path(directory)
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
        differing = sorted(
            name
            for name in (before.keys() | now.keys()) - _WHERE
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

    def begin(self, info: DatasetInfo) -> None:
        """Writes what the run is: flags, data set and environment.

        Args:
          info: of the data set; a continued run keeps the one it began with.
        """
        self._values["augment"] = info.augment
        with writing_to(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            self._write(
                "flags.cfg",
                "# python -m afd_tf.train --flagfile=<this> --run_dir=<another>\n"
                + "".join(f"--{name}={text}\n" for name, text in self._values.items()),
            )
            self._write("dataset.json", _pretty(info.to_json()))
            self._write("environment.json", _pretty(environment()))

    def forget_after(self, epoch: int) -> None:
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
        """Writes `summary.json`: the end of the run."""
        with writing_to(self.directory):
            self._write("summary.json", _pretty(summary))

    def _write(self, name: str, text: str) -> None:
        path = self.directory / name
        work = path.with_name(name + ".unfinished")
        work.write_text(text)
        work.rename(path)


def _epoch_of(line: str) -> float:
    """The epoch of a line of metrics; infinite for one that a crash cut off."""
    try:
        return json.loads(line)["epoch"]
    except ValueError:
        return float("inf")


def _pretty(values: Mapping) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"
