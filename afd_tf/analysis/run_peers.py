"""The peers of several runs, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from afd_tf.base.errors import UserError
from afd_tf.data import DatasetInfo
from afd_tf.models import Peer
from afd_tf.training.checkpoints import load_peers


class RunPeer(NamedTuple):
    """A peer of one of the runs.

    Attributes:
      name: unique among all peers of all runs.
      run_dir: the run directory that it comes from.
      number: its number in that run, from 0.
      peer: with the weights of the checkpoint.
    """

    name: str
    run_dir: Path
    number: int
    peer: Peer


def load_run_peers(
    run_dir: Path, other_runs: Sequence[Path] = (), checkpoint: str = "last"
) -> tuple[list[RunPeer], DatasetInfo]:
    """Loads the peers of all runs, and the info of the first run's data set.

    Args:
      run_dir: the first run directory.
      other_runs: further run directories, of the same images and classes.
      checkpoint: "last", or "best" on the validation images.

    Raises:
      UserError: no run directory, one given twice, no such checkpoint, or runs of
        different images or classes.
    """
    peers, info = load_peers(run_dir, checkpoint)
    runs = {run_dir: peers}
    for directory in other_runs:
        if any(directory.resolve() == known.resolve() for known in runs):
            raise UserError(f"{directory} is given twice: name each run once.")
        runs[directory], found = load_peers(directory, checkpoint)
        if difference := _difference(found, info):
            raise UserError(
                f"{directory} was trained on {found.name}, {run_dir} on {info.name}: "
                f"it has {difference}. Give --other_runs of the same images and "
                "classes."
            )

    titles = [directory.resolve().name for directory in runs]
    if len(set(titles)) < len(titles):
        titles = [str(directory) for directory in runs]
    run_peers = []
    for title, (directory, peers) in zip(titles, runs.items(), strict=True):
        names = [peer.name for peer in peers]
        for number, peer in enumerate(peers):
            name = peer.name
            if names.count(name) > 1:
                name += f" (peer_{number})"
            if len(runs) > 1:
                name = f"{title}/{name}"
            run_peers.append(RunPeer(name, directory, number, peer))
    return run_peers, info


def _difference(found: DatasetInfo, expected: DatasetInfo) -> str | None:
    """Returns the difference between two data sets in words; None if there is none."""
    if found.image_shape != expected.image_shape:
        return f"images of {found.image_shape}, not {expected.image_shape}"
    if found.num_classes != expected.num_classes:
        return f"other classes ({found.num_classes}, not {expected.num_classes})"
    if found.class_names != expected.class_names:
        return "classes of other names or in another order"
    return None
