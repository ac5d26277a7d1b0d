"""The first steps of every command: a quiet TensorFlow, one line for a user error."""

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator

from absl import app, flags, logging

from afd_tf.base.errors import UserError, nearest
from afd_tf.base.flag_files import expand_flag_files


def prepare_environment(training: bool = False) -> None:
    """Imports TensorFlow quietly, with the environment that it reads at its import.

    A command calls it before the one import of what it runs.

    Args:
      training: switches oneDNN's kernels on, which halve the time of a training step
        on CPUs where TensorFlow leaves them off, but slow single images down.
    """
    if training:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # Without a GPU, TensorFlow reports at level "error" that it found none.
    level = "1" if os.path.exists("/proc/driver/nvidia") else "3"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", level)
    with _silenced_stderr():
        importlib.import_module("tensorflow")


@contextlib.contextmanager
def _silenced_stderr() -> Iterator[None]:
    """Drops what TensorFlow's C++ code prints before it knows the log level.

    An exception of Python is shown after stderr is back.
    """
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def run(main: Callable[[list[str]], int | None]) -> None:
    """Runs a command; a user's mistake becomes one line on stderr.

    Exit codes: 0 done, 1 a mistake of the user, 130 interrupted with Ctrl-C.

    Args:
      main: takes what is left of the command line when the flags are taken out, and
        returns an exit code or None.
    """

    def guarded(argv: list[str]) -> int | None:
        try:
            return main(argv)
        except UserError as error:
            return _fail(error)
        except KeyboardInterrupt:
            print("interrupted.", file=sys.stderr)
            return 130

    app.run(guarded, flags_parser=_parse)


def refuse_arguments(argv: list[str]) -> None:
    """Refuses arguments that are no flags.

    Raises:
      UserError: there is one.
    """
    if len(argv) > 1:
        raise UserError(
            f"{argv[1]!r} is not a flag: flags begin with two dashes, e.g. --epochs=10."
        )


def _parse(argv: list[str]) -> list[str]:
    if "--help" in argv:
        # absl's own help shows the flags of the command's module, or of all packages.
        print(sys.modules["__main__"].__doc__)
        modules = flags.FLAGS.flags_by_module_dict()
        for module in sorted(modules, key=lambda name: (name != argv[0], name)):
            if module == argv[0] or module.startswith("afd_tf."):
                print(flags.FLAGS.module_help(module))
        sys.exit(0)
    try:
        rest = flags.FLAGS([argv[0], *expand_flag_files(argv[1:])])
        if flags.FLAGS["verbosity"].using_default_value:
            # At absl's own default, TensorFlow reports every save.
            flags.FLAGS.verbosity = logging.WARNING
        return rest
    except UserError as error:
        sys.exit(_fail(error))
    except flags.Error as error:
        choices = re.search(r"--\w+=(\S*): value should be one of <(.*)>", str(error))
        hint = nearest(choices[1], choices[2].split("|")) if choices else ""
        sys.exit(_fail(f"{error}.{hint} --help lists all flags."))


def _fail(message: object) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1
