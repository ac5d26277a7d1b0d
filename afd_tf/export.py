"""Writes one peer of a run as files for servers and phones.

    python -m afd_tf.export --run_dir=runs/cifar
    python -m afd_tf.export --run_dir=runs/cifar --export_dir=savedmodels/x \
        --formats=saved_model,tflite,tflite_fp16,tflite_dynamic,tflite_int8 --peer=0

Every call adds a version (savedmodels/x/1, then 2, ...) and measures each of its files
on the test pictures; a quantised one that loses too much is left out, which a line on
stderr and the manifest say. The last line on stdout is one JSON object.
"""

import json
from pathlib import Path

from afd_tf.command_line import prepare_environment, run

prepare_environment()

from absl import flags  # noqa: E402

from afd_tf import artifact  # noqa: E402
from afd_tf.errors import UserError  # noqa: E402


def main(argv: list[str]) -> None:
    """Exports what the command line chooses."""
    run_dir = flags.FLAGS.run_dir
    if len(argv) > 1 or run_dir is None:
        raise UserError("give what to export, e.g. --run_dir=runs/digits.")
    print(json.dumps(artifact.export_from_flags(Path(run_dir))))


if __name__ == "__main__":
    run(main)
