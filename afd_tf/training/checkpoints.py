"""Checkpoints: everything that a run needs to continue, bit for bit.

A checkpoint is a directory `checkpoints/step_<global step>/` of the run directory:
TensorFlow's own files for the variables (peers, transfer layers, discriminators,
every optimizer with its moments and iteration count) and `state.json` for the rest.
It is written under a temporary name and renamed when complete, so that a directory
with that name is whole; `state.json` holds the checksum of each file beside it, so that
later damage is seen.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import tensorflow as tf
from absl import flags

from afd_tf.base.console import say
from afd_tf.base.errors import UserError
from afd_tf.base.files import writing_to
from afd_tf.base.run_flags import operational
from afd_tf.data import DatasetInfo
from afd_tf.distill.method import Method
from afd_tf.models import Peer, build_peers
from afd_tf.training.checkpoint_choice import KINDS, check_checkpoint
from afd_tf.training.network_records import kept_networks
from afd_tf.training.run_directory import read_flags, read_info

_SAVE_MINUTES = operational(
    flags.DEFINE_float(
        "save_minutes",
        10.0,
        "Minutes after which a checkpoint is written within an epoch; after each epoch "
        "one is written in any case.",
        lower_bound=0,
    )
)

# Raised when a checkpoint of an older version can no longer be read.
FORMAT = 1
KEEP = 3
_UNFINISHED = ".unfinished"
_DAMAGED = ".damaged"


class Checkpoints:
    """The checkpoints of one run.

    Args:
      run_dir: the run directory.
      method: compiled, so that every variable exists.
    """

    def __init__(self, run_dir: Path, method: Method):
        self.directory = Path(run_dir) / "checkpoints"
        own = {id(each) for peer in method.peers for each in peer.variables}
        others = [each for each in method.variables if id(each) not in own]
        self._trackable = tf.train.Checkpoint(
            peers=_of_peers(method.peers),
            others=_tensorflow(others),
            optimizers={
                each.name: _tensorflow(each.optimizer.variables)
                for each in method.objectives
            },
            # Nothing without --ema.
            averages=method.averages.variables if method.averages else [],
        )

    def save(self, state: dict, best: bool = False) -> Path:
        """Writes a checkpoint and drops the oldest of more than three.

        Args:
          state: JSON values; "step" names the directory.
          best: marks it as the best on the validation images so far; it is kept
            until a better one comes.

        Raises:
          UserError: no space, or no permission.
        """
        name = f"{'best' if best else 'step'}_{state['step']:09d}"
        target = self.directory / name
        work = self.directory / (name + _UNFINISHED)
        with writing_to(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(work, ignore_errors=True)
            # One is enough to see what happened, and many fill a disk.
            for old in sorted(self.directory.glob(f"*{_DAMAGED}"))[:-1]:
                shutil.rmtree(old)
            work.mkdir()
            self._trackable.write(str(work / "variables"))
            files = {path.name: _checksum(path) for path in sorted(work.iterdir())}
            content = {"format": FORMAT, **state, "files": files}
            (work / "state.json").write_text(json.dumps(content, indent=1), "utf-8")
            for path in (*work.iterdir(), work):
                _flush(path)
            # The same step again, of a run that fell back to an earlier one.
            shutil.rmtree(target, ignore_errors=True)
            work.rename(target)
            _flush(self.directory)
            kind = "best" if best else "step"
            kept = _complete(self.directory, kind)
            for old in kept[: -1 if best else -KEEP]:
                shutil.rmtree(old)
        return target

    def restore(self, repair: bool = True) -> dict | None:
        """Restores the newest whole checkpoint into the variables.

        A damaged one is renamed, reported, and the one before it is taken.

        Args:
          repair: whether this process may rename a damaged one, and remove unfinished
            ones.

        Returns:
          Its state, or None where no checkpoint was ever written.

        Raises:
          UserError: there are checkpoints, but none is whole, or one is of another
            version of this project; or the directory cannot be written to.
        """
        if repair and self.directory.is_dir():
            with writing_to(self.directory):
                for leftover in self.directory.glob(f"*{_UNFINISHED}"):
                    shutil.rmtree(leftover)
        found = _newest(self.directory, repair=repair)
        if found is None:
            return None
        path, state = found
        with _refusing_other_networks(path):
            self._trackable.read(str(path / "variables")).assert_consumed()
        return state


def save_seconds_from_flags() -> float:
    """Returns --save_minutes in seconds."""
    return 60 * _SAVE_MINUTES.value


def load_peers(
    run_dir: Path, checkpoint: str = "last"
) -> tuple[list[Peer], DatasetInfo]:
    """Rebuilds the peers of a run with the weights of one of its checkpoints.

    Args:
      run_dir: a run directory.
      checkpoint: "last", "best" on the validation images, or "auto": "best" if there is
        one, else "last".

    Raises:
      UserError: no run directory, an unknown name of a checkpoint, or no such one that
        can be read.
    """
    check_checkpoint(checkpoint)
    run_dir = Path(run_dir)
    try:
        info = read_info(run_dir)
        values = read_flags(run_dir)
        names = values["peers"].split(",")
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{run_dir} is no run directory: it should hold flags.cfg, dataset.json "
            "and checkpoints/, as `python -m afd_tf.train` makes them."
        ) from error
    if checkpoint == "auto":
        has_best = any(_complete(run_dir / "checkpoints", KINDS["best"]))
        checkpoint = "best" if has_best else "last"
    found = _newest(run_dir / "checkpoints", KINDS[checkpoint])
    if found is None:
        raise UserError(
            f"{run_dir} holds no {checkpoint} checkpoint: let `python -m afd_tf.train` "
            "finish an epoch, for the best one with --validation_examples=N."
        )
    path, _ = found
    own_stages = values.get("own_stages")
    peers = build_peers(
        names,
        info,
        own_stages and int(own_stages),
        initial_weights=False,
        records=kept_networks(run_dir),
    )
    # With --ema, the weights that count are the averages.
    kind = "averages" if "ema" in values else "peers"
    with _refusing_other_networks(path):
        trackable = tf.train.Checkpoint(**{kind: _of_peers(peers)})
        restored = trackable.read(str(path / "variables"))
        restored.assert_existing_objects_matched().expect_partial()
    return peers, info


@contextlib.contextmanager
def _refusing_other_networks(path: Path) -> Iterator[None]:
    """Turns variables that do not fit those of a checkpoint into a `UserError`."""
    try:
        yield
    # What TensorFlow raises for missing and for misshapen ones.
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        raise UserError(
            f"{path} does not fit the networks that this version of afd_tf builds from "
            "the run's flags: use the version that wrote it (environment.json), or "
            "another --run_dir."
        ) from error


def _of_peers(peers: Sequence[Peer]) -> list[list[tf.Variable]]:
    """The variables of each peer, in the order in which its code creates them."""
    return [_tensorflow(peer.variables) for peer in peers]


def _tensorflow(variables: Sequence[keras.Variable]) -> list[tf.Variable]:
    return [variable.value for variable in variables]


def _newest(directory: Path, kind: str = "step", repair: bool = False):
    """Returns (path, state) of the newest whole checkpoint; None where none is."""
    candidates = _complete(directory, kind)[::-1]
    for path in candidates:
        try:
            state = json.loads((path / "state.json").read_text("utf-8"))
            files = state.pop("files")
            damaged = [
                name
                for name, checksum in files.items()
                if _checksum(path / name) != checksum
            ]
        except (OSError, ValueError, KeyError) as error:
            damaged = [f"state.json ({error})"]
        if damaged:
            say(f"{path} is damaged ({', '.join(damaged)}): taking the one before it.")
            if repair:
                aside = path.with_name(path.name + _DAMAGED)
                with writing_to(directory):
                    # The same step was damaged before.
                    shutil.rmtree(aside, ignore_errors=True)
                    path.rename(aside)
            continue
        if state.pop("format") != FORMAT:
            raise UserError(
                f"{path} was written by another version of afd_tf, whose checkpoints "
                "this one cannot read: use that version, or another --run_dir."
            )
        return path, state
    if candidates or list(directory.glob(f"{kind}_*{_DAMAGED}")):
        raise UserError(
            f"every checkpoint in {directory} is damaged: give another --run_dir, or "
            "delete this one to start anew."
        )
    return None


def _complete(directory: Path, kind: str) -> list[Path]:
    """Returns the checkpoints of a kind, oldest first."""
    return sorted(
        path
        for path in directory.glob(f"{kind}_*")
        if path.suffix not in (_UNFINISHED, _DAMAGED)
    )


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _flush(path: Path) -> None:
    """Makes a file or a directory entry survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
