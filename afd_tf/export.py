r"""Exports one peer of a run as files for servers and phones.

    python -m afd_tf.export --run_dir=runs/cifar
    python -m afd_tf.export --run_dir=runs/cifar --export_dir=savedmodels/x \
        --formats=saved_model,tflite,tflite_fp16,tflite_dynamic,tflite_int8 --peer=0
    python -m afd_tf.export --artifact=savedmodels/x/1 --export_dir=savedmodels/x \
        --formats=saved_model,tflite,onnx

Every call adds a version (savedmodels/x/1, then 2, ...) and measures each of its files
on the test images. A quantized one that loses too much accuracy is left out; a line on
stderr and the manifest say so. The last line on stdout is one JSON object. Where the
run is no longer there, --artifact takes the network from the SavedModel of a version.
"""

from afd_tf.base.command_line import prepare_environment, refuse_arguments, run
from afd_tf.base.errors import UserError
from afd_tf.base.json_text import print_json

prepare_environment()

from afd_tf.artifacts import classifier, exporter
from afd_tf.training import run_directory


def main(argv: list[str]) -> None:
    """Exports the peer that the command line chooses."""
    refuse_arguments(argv)
    run_dir = run_directory.run_dir_from_flags()
    if (run_dir is not None) == classifier.artifact_is_given():
        given = "are both given" if run_dir else "are not given"
        raise UserError(
            f"--run_dir and --artifact {given}: name the run to export, e.g. "
            "--run_dir=runs/digits, or a version to export again, e.g. "
            "--artifact=savedmodels/digits/1."
        )
    if run_dir is not None:
        print_json(exporter.export_from_flags(run_dir))
    else:
        path = classifier.artifact_from_flags()
        print_json(exporter.export_again_from_flags(path))


if __name__ == "__main__":
    run(main)
