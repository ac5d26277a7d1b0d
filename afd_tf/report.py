"""Reports on finished runs: tables over seeds with paired differences, and one page.

    python -m afd_tf.report runs/digits
    python -m afd_tf.report runs/study --output=runs/study/report --baseline=dml
    python -m afd_tf.report results/cifar_cpu --output=/tmp/report

An argument is a run directory, or a directory that contains some; the logs in results/
are enough. Runs that differ in the method, the method's own flags, the peers and the
seed belong together. Writes into --output:

    report.html     summary, tables, curves, discriminators, environment and commands;
                    where there are checkpoints and the data, also the accuracy of each
                    class, calibration, the most confident mistakes and Grad-CAM
    tables.md       mean and standard deviation over seeds, and differences from the
                    baseline, paired by seed, with their 95 % interval
    tables.json     the same with all values

The last line on stdout is one JSON object.
"""

from pathlib import Path

from afd_tf.base.command_line import prepare_environment, run
from afd_tf.base.json_text import print_json
from afd_tf.base.paths import expanded

prepare_environment()

from absl import flags

from afd_tf.analysis import report

_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Directory to write the report to. Default: report/ in the directory that is "
    "given, or in the working directory if several are.",
    # `study`, which starts without TensorFlow, has a flag of this name.
    allow_override=True,
)
_BASELINE = flags.DEFINE_multi_string(
    "baseline",
    [],
    "Row that the others are compared with: a method, or a label of a table in quotes, "
    'e.g. "afd --afd_decay_only". The flag may be given several times. Default: '
    "independent, where there is such a row.",
)
_GROUP_BY = flags.DEFINE_list(
    "group_by",
    [],
    "Flags by which runs are sorted into tables of their own, e.g. dataset,epochs.",
)
_ROWS_BY = flags.DEFINE_list(
    "rows_by",
    [],
    "Flags that tell the rows of a table apart, as a method's own flags do, e.g. "
    "mixup,ema.",
)
_TEST_IMAGES = flags.DEFINE_bool(
    "test_images",
    True,
    "Show the test images to the networks of each method's first run, if it has a "
    "checkpoint.",
)


def main(argv: list[str]) -> None:
    """Reports on the runs that the command line names."""
    run_dirs = [expanded(name) for name in argv[1:]]
    result = report.write_report(
        run_dirs,
        output_from_flags(run_dirs),
        baselines=_BASELINE.value,
        group_by=_GROUP_BY.value,
        rows_by=_ROWS_BY.value,
        images=_TEST_IMAGES.value,
    )
    print_json(result)


def output_from_flags(run_dirs: list[Path]) -> Path:
    """Returns --output, or the place of the report if it is not given."""
    if _OUTPUT.value:
        return expanded(_OUTPUT.value)
    return (run_dirs[0] if len(run_dirs) == 1 else Path()) / report.FOLDER


if __name__ == "__main__":
    run(main)
