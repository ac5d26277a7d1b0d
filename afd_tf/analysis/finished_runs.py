"""Finished runs, read from their directories, and the name of each one's method.

`flags.cfg`, `metrics.jsonl`, `summary.json` and `environment.json` are enough, so that
the logs in `results/` are read as a run directory is.
"""

import dataclasses
import importlib
import json
import pkgutil
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from afd_tf import artifacts, data, distill, models, training
from afd_tf.base.console import one_line
from afd_tf.base.errors import UserError
from afd_tf.base.run_flags import identifying_names
from afd_tf.distill import methods
from afd_tf.distill.methods import METHODS
from afd_tf.training.run_directory import read_flags, read_metrics

_METHOD, _SEED, _PEERS = "method", "seed", "peers"
# The flags that a command names in any case.
_FIRST, _LAST = ("dataset", _PEERS, _METHOD), ("epochs", _SEED)
# The modules whose flags say how peers are taught.
_TEACHING = (
    "afd_tf.distill.methods.",
    "afd_tf.distill.logit_distillation.",
    "afd_tf.distill.offline_distillation.",
    "afd_tf.distill.update_order.",
)
# A summary has these from the first version on.
_SUMMARY = ("dataset", "method", "peers", "epochs", "seed", "seconds")


def _defaults_of_all_flags() -> dict[str, str]:
    """Imports all modules that define flags of a run; returns their defaults as text.

    It has to be done at the import: later, a command gives flags the defaults of a
    method or of a run.
    """
    for package in (data, models, distill, methods, training, artifacts):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    return {
        name: (flags.FLAGS[name].default_as_str or "").strip("'")
        for name in identifying_names()
    }


_DEFAULTS = _defaults_of_all_flags()


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run that has come to its end.

    Attributes:
      directory: its run directory, or the logs of one.
      flags: as text by name.
      summary: content of `summary.json`.
      metrics: the epochs of `metrics.jsonl`, in their order.
      environment: content of `environment.json`; empty where there is none.
    """

    directory: Path
    flags: Mapping[str, str]
    summary: Mapping[str, Any]
    metrics: Sequence[Mapping[str, float]]
    environment: Mapping[str, Any]

    @property
    def method(self) -> str:
        """The name of its method."""
        return self.flags[_METHOD]

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.flags[_SEED])

    @property
    def peers(self) -> str:
        """The peers as --peers names them."""
        return self.flags[_PEERS]

    def value(self, name: str) -> str:
        """Returns a flag as text; "" is a flag that is not given.

        One that did not exist yet when the run began is at its default.
        """
        if name in self.flags:
            text = self.flags[name]
            return data.canonical_name(text) if name == "dataset" else text
        return _default(name, self.method)

    def label(self, without: Sequence[str] = (), also: Sequence[str] = ()) -> str:
        """Returns the method with those of its flags that are not at their defaults.

        Variants of a method have different labels, e.g. "afd" and
        "afd --afd_decay_only".

        Args:
          without: names of flags that are left out.
          also: names of flags that count as the method's own.
        """
        names = sorted({*teaching_flags(), *also} - set(without))
        changed = [
            as_given(name, self.value(name))
            for name in names
            if self.value(name) != _default(name, self.method)
        ]
        return " ".join([self.method, *changed])

    def command(self) -> str:
        """Returns the command line that repeats the run."""
        names = sorted(
            name
            for name in (self.flags.keys() & identifying_names()) - {*_FIRST, *_LAST}
            if self.value(name) != _default(name, self.method)
        )
        names = (*_FIRST, *names, *_LAST)
        given = (shlex.quote(as_given(name, self.value(name))) for name in names)
        return " ".join(["python -m afd_tf.train", *given])


class FoundRuns(NamedTuple):
    """Runs by their state.

    Attributes:
      finished: in the order in which they were named, each once.
      unfinished: the directories of those that have not come to their end.
    """

    finished: list[FinishedRun]
    unfinished: list[Path]


def find_runs(paths: Sequence[Path]) -> FoundRuns:
    """Reads run directories, and all that are somewhere within other directories.

    Args:
      paths: of run directories, or of directories that contain some.

    Raises:
      UserError: nothing is there, a file of a run is damaged, or no run is finished.
    """
    if not paths:
        raise UserError(
            "no run is given: name run directories, or directories that contain some, "
            "e.g. python -m afd_tf.report runs."
        )
    found: dict[Path, Path] = {}
    for path in paths:
        directories = _run_directories(path)
        if not directories:
            is_there = "holds no run" if path.is_dir() else "is no directory"
            raise UserError(
                f"{path} {is_there}: give a run directory, with flags.cfg and "
                "summary.json as `python -m afd_tf.train` writes them, or a directory "
                "that contains some."
            )
        for directory in directories:
            found.setdefault(directory.resolve(), directory)
    runs = [_read_run(directory) for directory in found.values()]
    finished = [run for run in runs if isinstance(run, FinishedRun)]
    unfinished = [run for run in runs if isinstance(run, Path)]
    if not finished:
        raise UserError(
            f"no run is finished: {', '.join(map(str, unfinished))}. The same "
            "`python -m afd_tf.train` command continues one."
        )
    return FoundRuns(finished, unfinished)


def _run_directories(path: Path) -> list[Path]:
    if (path / "flags.cfg").is_file():
        return [path]
    return sorted(file.parent for file in path.rglob("flags.cfg") if file.is_file())


def _read_run(directory: Path) -> FinishedRun | Path:
    """Returns a run, or its directory where it is not finished."""
    values = _read_flags(directory)
    summary = _read_json(directory / "summary.json")
    if not summary:
        return directory
    if missing := [name for name in _SUMMARY if name not in summary]:
        raise UserError(
            f"{directory / 'summary.json'} lacks {', '.join(missing)}: it is not what "
            "`python -m afd_tf.train` writes. Restore it, or leave that run out."
        )
    metrics = read_metrics(directory)
    if _goes_on(values, summary, metrics):
        return directory
    environment = _read_json(directory / "environment.json")
    return FinishedRun(directory, values, summary, metrics, environment)


def _read_flags(directory: Path) -> dict[str, str]:
    path = directory / "flags.cfg"
    try:
        values = read_flags(directory)
        int(values[_SEED])
        known = values[_METHOD], values[_PEERS]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it.") from error
    except KeyError as error:
        raise UserError(
            f"{path} lacks --{error.args[0]}: it is not the flags.cfg of a run. Name "
            "the run directories themselves, or remove that file."
        ) from error
    if known[0] not in METHODS:
        raise UserError(
            f"{path} names the method {known[0]!r}, which this version of afd_tf does "
            "not have: use the version that wrote it, or leave that run out."
        )
    return values


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error}): restore it, or leave that run out."
        ) from error
    return content if isinstance(content, dict) else {}


def _goes_on(
    values: Mapping[str, str],
    summary: Mapping[str, Any],
    metrics: Sequence[Mapping[str, float]],
) -> bool:
    """Returns whether a run is being extended, whose summary is from before that."""
    epochs = summary["epochs"] + summary.get("preparation_epochs", 0)
    if metrics and metrics[-1]["epoch"] > epochs:
        return True
    # With --patience a run may be shorter.
    return "patience" not in values and int(values["epochs"]) > summary["epochs"]


def teaching_flags() -> set[str]:
    """Returns the flags of the methods: of the modules that say how peers are taught.

    A flag whose default a method changes is one of them, too.
    """
    own = {
        flag.name
        for module, of_module in flags.FLAGS.flags_by_module_dict().items()
        if f"{module}.".startswith(_TEACHING)
        for flag in of_module
    }
    for entry in METHODS.values():
        own |= {*entry.defaults, *entry.peer_defaults}
    return own - {_METHOD}


def separating_flags(runs: Sequence[FinishedRun]) -> set[str]:
    """Returns the flags in which runs of one table must agree.

    All that identify a run, but for the method, its own flags, the peers and the seed.
    A flag that is not known any more identified a run when it began.

    Args:
      runs: may have flags that are not known any more.
    """
    identifying = identifying_names()
    given = {name for run in runs for name in run.flags}
    names = given & identifying | given - set(flags.FLAGS)
    return names - teaching_flags() - {_METHOD, _SEED, _PEERS}


def _default(name: str, method: str) -> str:
    """Returns the default of a flag as text, which may depend on the method."""
    entry = METHODS[method]
    own = {**entry.defaults, **entry.peer_defaults}
    return str(own[name]) if name in own else _DEFAULTS.get(name, "")


def as_given(name: str, text: str) -> str:
    """Returns a flag as it is given on a command line."""
    if text in ("true", "false"):
        return f"--{'' if text == 'true' else 'no'}{name}"
    return f"--{name}={one_line(text)}"
