"""Trains each flag file with each seed, some runs at a time, and reports on them all.

    python -m afd_tf.study --flagfiles=flags/study/afd.cfg,flags/study/independent.cfg \
        --seeds=0,1,2,3,4 --parallel=2 --output=runs/study -- --data_dir=DIR

What follows `--` goes to every run. Each run is a process of `afd_tf.train` with the
run directory OUTPUT/<name of the flag file>/seed<n> and its log in `log.txt` there. All
flag files of the first seed come first, then those of the next: a study that is cut off
is a smaller study, not a lopsided one.

The same command continues a study that was stopped at any moment, and tries again what
failed; more flag files or seeds extend it. SIGTERM and Ctrl-C save all runs first. It
ends with the report in OUTPUT/report. The last line on stdout is one JSON object.
"""

import importlib
import json
import pkgutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from absl import flags

from afd_tf import training
from afd_tf.base.command_line import prepare_environment, run
from afd_tf.base.console import say
from afd_tf.base.errors import UserError
from afd_tf.base.files import replacing, writing_to
from afd_tf.base.flag_files import expand_flag_files
from afd_tf.base.json_text import json_text, print_json
from afd_tf.base.paths import expanded
from afd_tf.training import preemption
from afd_tf.training.run_queue import QueuedRun, RunQueue

_FLAGFILES = flags.DEFINE_list(
    "flagfiles", [], "The flag files of the study; each is trained with every seed."
)
_SEEDS = flags.DEFINE_list(
    "seeds",
    ["0", "1", "2", "3", "4"],
    "The seeds with which each flag file is trained.",
)
_PARALLEL = flags.DEFINE_integer(
    "parallel",
    1,
    "Number of runs at a time; each has an equal share of the CPU cores, and only the "
    "GPU memory that it needs.",
    lower_bound=1,
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "The directory of the study: all run directories and the report."
)

# The study decides them for each run.
_OWN_FLAGS = ("seed", "run_dir")
# All runs would write to the same place.
_SHARED_OUTPUT = ("export_dir",)

_PLAN = "study.json"

_STOP = preemption.StopSignal()
if __name__ == "__main__":
    _STOP.listen()


def main(argv: list[str]) -> int | None:
    """Runs the study that the command line describes."""
    output = output_from_flags()
    common = expand_flag_files(argv[1:])
    configurations = read_configurations(_FLAGFILES.value, common)
    runs = planned_runs(configurations, seeds_from_flags(), output)
    record_plan(output, configurations)
    _STOP.saving = True
    failed = RunQueue(runs, _PARALLEL.value).work(lambda: _STOP.received is not None)
    if _STOP.received is not None:
        say(f"stopped; saved in {output}. The same command goes on from there.")
        return _STOP.exit_code
    _STOP.saving = False
    result = {"output": str(output), "failed": [each.name for each in failed]}
    finished = [each.directory for each in runs if each.is_finished]
    if finished:
        result["report"] = write_report(
            finished, output / "report", differing_flags(configurations.values())
        )
    print_json(result)
    if failed:
        names = ", ".join(each.name for each in failed)
        raise UserError(
            f"{len(failed)} of {len(runs)} runs failed: {names}. Their log.txt says "
            "why; the same command tries them again."
        )
    return None


def output_from_flags() -> Path:
    """Returns --output.

    Raises:
      UserError: it is not given.
    """
    if not _OUTPUT.value:
        raise UserError(
            "--output is missing: the directory for all runs, e.g. --output=runs/study."
        )
    return expanded(_OUTPUT.value)


def seeds_from_flags() -> list[int]:
    """Returns --seeds.

    Raises:
      UserError: one is no integer from 0, or is given twice; or there is none.
    """
    texts = [text.strip() for text in _SEEDS.value]
    # Not `isdigit` alone, which is true of other scripts' digits and of "²".
    good = texts and all(text.isascii() and text.isdigit() for text in texts)
    seeds = [int(text) for text in texts] if good else []
    if not good or len(set(seeds)) < len(seeds):
        raise UserError(
            f"--seeds={','.join(_SEEDS.value)} should be different integers from 0, "
            "with commas between them, e.g. 0,1,2."
        )
    return seeds


def read_configurations(
    paths: Sequence[str], common: Sequence[str]
) -> dict[str, list[str]]:
    """Returns the flags of each flag file with those of all runs, by its name.

    Args:
      paths: of flag files.
      common: flags of all runs.

    Raises:
      UserError: there is no file, one is missing or malformed, two have one name, or a
        flag is one that the study sets itself.
    """
    if not paths:
        raise UserError(
            "--flagfiles is missing: flag files with commas between them, e.g. "
            "flags/table/resnet32_afd.cfg,flags/table/resnet32_dml.cfg."
        )
    configurations: dict[str, list[str]] = {}
    for path in paths:
        name = Path(path).stem
        if name in configurations:
            raise UserError(
                f"two of --flagfiles are named {name}, which names their runs: rename "
                "one of the files."
            )
        arguments = [*expand_flag_files([f"--flagfile={path}"]), *common]
        check_arguments(arguments, path)
        configurations[name] = arguments
    return configurations


def check_arguments(arguments: Sequence[str], path: str) -> None:
    """Refuses flags that cannot be the same for all runs.

    Args:
      arguments: the flags of a flag file and of all runs.
      path: of the flag file.

    Raises:
      UserError: there is one, or an argument that is no flag.
    """
    for argument in arguments:
        if not argument.startswith("-"):
            raise UserError(
                f"{argument!r} is not a flag: behind -- stand flags of afd_tf.train "
                "with their values, e.g. -- --epochs=10."
            )
        name = argument.lstrip("-").partition("=")[0]
        if name in _OWN_FLAGS:
            raise UserError(
                f"--{name} is set by the study for every run: remove it from {path} or "
                "from the flags behind --; --seeds and --output decide."
            )
        if name in _SHARED_OUTPUT:
            raise UserError(
                f"with --{name} all runs would write to one place: remove it, and "
                "export the runs you want with afd_tf.export."
            )


def planned_runs(
    configurations: Mapping[str, Sequence[str]], seeds: Sequence[int], output: Path
) -> list[QueuedRun]:
    """Returns the runs in their order: all configurations of a seed, then the next.

    Args:
      configurations: flags by name.
      seeds: of the runs.
      output: the directory of the study.
    """
    runs = []
    for seed in seeds:
        for name, arguments in configurations.items():
            directory = output / name / f"seed{seed}"
            command = [sys.executable, "-m", "afd_tf.train", *arguments]
            command += [f"--seed={seed}", f"--run_dir={directory}"]
            runs.append(QueuedRun(f"{name}/seed{seed}", directory, command))
    return runs


def record_plan(output: Path, configurations: Mapping[str, Sequence[str]]) -> None:
    """Writes the flags of each configuration, which finished runs no longer compare.

    Args:
      output: the directory of the study.
      configurations: flags by name.

    Raises:
      UserError: the study was begun with other flags of one of these names.
    """
    path = output / _PLAN
    known: dict[str, list[str]] = {}
    if path.exists():
        known = json.loads(path.read_text("utf-8"))
    for name in known.keys() & configurations.keys():
        before, now = values_by_flag(known[name]), values_by_flag(configurations[name])
        differing = {flag for flag in before | now if before.get(flag) != now.get(flag)}
        differing = differing and differing & identifying_flags()
        if differing:
            shown = ", ".join(
                f"--{flag} was {before.get(flag, 'not given')}, is now "
                f"{now.get(flag, 'not given')}"
                for flag in sorted(differing)
            )
            raise UserError(
                f"{output} is a study in which {name} has other flags ({shown}): give "
                "another --output, or those flags to continue it."
            )
    with writing_to(output), replacing(path) as file:
        text = json_text({**known, **configurations}, indent=1) + "\n"
        file.write(text.encode("utf-8"))


def values_by_flag(arguments: Sequence[str]) -> dict[str, str]:
    """Returns the value of each flag; of one that is given twice, the last counts."""
    values = {}
    for argument in arguments:
        name, equals, value = argument.lstrip("-").partition("=")
        if equals:
            values[name] = value
        else:
            values[name.removeprefix("no")] = str(not name.startswith("no")).lower()
    return values


def identifying_flags() -> set[str]:
    """Returns the flags that decide what a run is; imports all that defines them."""
    prepare_environment()
    from afd_tf.base.run_flags import identifying_names

    for module in pkgutil.iter_modules(training.__path__, "afd_tf.training."):
        importlib.import_module(module.name)
    return identifying_names()


def differing_flags(configurations: Iterable[Sequence[str]]) -> list[str]:
    """Returns the flags in which configurations differ, but for the method and peers.

    They tell the rows of the report apart.
    """
    values = [values_by_flag(arguments) for arguments in configurations]
    names = sorted({name for each in values for name in each} - {"method", "peers"})
    return [name for name in names if len({each.get(name) for each in values}) > 1]


def write_report(
    run_dirs: Sequence[Path], directory: Path, rows_by: Sequence[str]
) -> str:
    """Writes the report on finished runs; returns its directory."""
    # Imported now: it brings TensorFlow, and the runs need the memory.
    prepare_environment()
    from afd_tf.analysis import report

    # Where the data lie, for one, makes no row of its own.
    names = sorted(identifying_flags().intersection(rows_by))
    report.write_report(run_dirs, directory, rows_by=names, images=True)
    return str(directory)


if __name__ == "__main__":
    run(main)
