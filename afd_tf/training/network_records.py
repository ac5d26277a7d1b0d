"""What a run keeps of peers that cannot be built from their names alone.

A saved Keras model (`file:`) and a preset of keras-hub may be gone when the run is
exported: `networks.json` has their layers, and the checkpoints have their weights.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afd_tf.base.errors import UserError
from afd_tf.base.files import replacing, writing_to
from afd_tf.distill.offline_distillation import Teacher
from afd_tf.models import Peer

_FILE = "networks.json"


def keep_networks(run_dir: Path, networks: Sequence[Peer | Teacher]) -> None:
    """Writes the records of those networks that have one; the first ones are kept.

    Args:
      run_dir: the run directory.
      networks: peers and frozen teachers.

    Raises:
      UserError: no space, or no permission.
    """
    records = {
        network.spec: network.record
        for network in networks
        if getattr(network, "record", None) is not None
    }
    path = Path(run_dir) / _FILE
    if records and not path.exists():
        with writing_to(path.parent), replacing(path) as file:
            file.write(json.dumps(records).encode("utf-8"))


def kept_networks(run_dir: Path) -> Mapping[str, Mapping]:
    """Returns the records of a run's peers by their names on the command line.

    Raises:
      UserError: the file is damaged.
    """
    path = Path(run_dir) / _FILE
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: take it from a copy of the run, or delete it if the "
            "models that --peers names are still where they were."
        ) from error


def building_settings(run_dir: Path) -> dict[str, Any]:
    """Returns how `afd_tf.models.peers_from_flags` builds the peers of a run.

    A run that goes on has its weights in its checkpoints: it neither downloads nor
    reads those that it began with.

    Raises:
      UserError: see `kept_networks`.
    """
    checkpoints = (Path(run_dir) / "checkpoints").glob("step_*")
    # Those that are unfinished or damaged have an ending.
    goes_on = any(not path.suffix for path in checkpoints)
    return {
        "initial_weights": not goes_on,
        "records": kept_networks(run_dir) if goes_on else {},
    }
