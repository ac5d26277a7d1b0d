"""The first steps of every command: a quiet TensorFlow, one line for a user error."""

import contextlib
import gc
import importlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import app, flags, logging

from afd_tf.base.errors import UserError, nearest
from afd_tf.base.flag_files import expand_flag_files

_INTERRUPTED = 130
# What a shell reports of a program that SIGPIPE ended.
_BROKEN_PIPE = 141

# The copy of stderr for Ctrl-C while a command imports; empty at other times.
_IMPORTING: list[int] = []

# What Keras imports where it is installed, for parts of Keras that no command uses.
_NOT_FOR_KERAS = ("IPython", "matplotlib", "sklearn")


def prepare_environment(training: bool = False, tensorflow: bool = True) -> None:
    """Imports TensorFlow quietly, with the environment that it reads at its import.

    A command calls it before the one import of what it runs.

    Args:
      training: switches oneDNN's kernels on, which halve the time of a training step
        on CPUs where TensorFlow leaves them off, but slow single images down.
      tensorflow: whether it is imported; else `import_tensorflow` does that where it
        is needed.
    """
    _quit_on_interrupt()
    if training:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # Without a GPU, TensorFlow reports at level "error" that it found none.
    level = "1" if os.path.exists("/proc/driver/nvidia") else "3"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", level)
    if tensorflow:
        import_tensorflow()


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras without what they say at their import.

    Where they are imported already, it does nothing.
    """
    if "tensorflow" in sys.modules:
        return
    quits_already = bool(_IMPORTING)
    _quit_on_interrupt()
    is_command = _is_command()
    quick = quick_imports() if is_command else contextlib.nullcontext()
    with _silenced_stderr(), quick:
        importlib.import_module("tensorflow")
        importlib.import_module("keras")
    if is_command:
        # No garbage is looked for among these objects again, while a step is traced.
        gc.freeze()
    if not quits_already:
        _raise_on_interrupt()


def _is_command() -> bool:
    """Returns whether this process runs a command; else something that imports one."""
    main = getattr(sys.modules["__main__"], "__file__", None)
    return (
        main is not None and Path(main).absolute().parent == Path(__file__).parents[1]
    )


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Halves the time of TensorFlow's import, for a process that is one program.

    Packages that Keras imports if they are there look as if they were not installed,
    and no garbage is looked for among objects that stay. Not for a notebook, which may
    want what those packages add to Keras.
    """
    hidden = [name for name in _NOT_FOR_KERAS if name not in sys.modules]
    # Python's own sign for a module that cannot be imported.
    sys.modules.update(dict.fromkeys(hidden))
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
        for name in hidden:
            del sys.modules[name]


def _quit_on_interrupt() -> None:
    """Makes Ctrl-C end a command in one line while it is still importing.

    An exception would end in a traceback, or in an error of the import that it hit.
    """
    # `train` listens already, to save first.
    if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # stderr itself is silenced while TensorFlow is imported.
        stderr = os.dup(2)

        def quit_now(*_: object) -> None:
            with contextlib.suppress(OSError):
                os.write(stderr, b"interrupted.\n")
            os._exit(_INTERRUPTED)

        signal.signal(signal.SIGINT, quit_now)
        _IMPORTING.append(stderr)


def _raise_on_interrupt() -> None:
    """Ends what `_quit_on_interrupt` has begun: Ctrl-C is an exception again."""
    if _IMPORTING:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(_IMPORTING.pop())


@contextlib.contextmanager
def _silenced_stderr() -> Iterator[None]:
    """Drops what TensorFlow's C++ code prints before it knows the log level.

    An exception of Python is shown after stderr is back.
    """
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def run(main: Callable[[list[str]], int | None]) -> None:
    """Runs a command; a user's mistake becomes one line on stderr.

    Exit codes: 0 done, 1 a mistake of the user, 130 interrupted with Ctrl-C, 141 nobody
    reads standard output any more, as behind `| head`.

    Args:
      main: takes what is left of the command line when the flags are taken out, and
        returns an exit code or None.
    """

    def guarded(argv: list[str]) -> int | None:
        return _guarded(lambda: main(argv))

    _raise_on_interrupt()
    app.run(guarded, flags_parser=_parse)


def _guarded(action: Callable[[], int | None]) -> int | None:
    """Runs a part of a command; returns its exit code."""
    code: int | None
    try:
        code = action()
    except UserError as error:
        code = _fail(error)
    except KeyboardInterrupt:
        print("interrupted.", file=sys.stderr)
        code = _INTERRUPTED
    except OSError:
        # An empty line tells whether this error is one of the output: Python without
        # buffers has forgotten it.
        failure = _silence_failing_output("\n")
        if failure is None:
            raise
        return _code_of(failure)
    # What cannot be written shows here, and not when Python ends.
    failure = _silence_failing_output()
    return code if failure is None else _code_of(failure)


def _silence_failing_output(text: str = "") -> OSError | None:
    """Drops all further output where none can be written, and returns the error.

    Args:
      text: what to try standard output with, after all that waits to be written.
    """
    failure = None
    for stream, more in ((sys.stdout, text), (sys.stderr, "")):
        try:
            if stream is not None:
                stream.write(more)
                stream.flush()
        except OSError as error:
            failure = error
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
    return failure


def _code_of(failure: OSError) -> int:
    """Reports that the output could not be written; returns the exit code."""
    if isinstance(failure, BrokenPipeError):
        return _BROKEN_PIPE
    return _fail(
        f"cannot write to standard output: {failure.strerror}. Correct that, then give "
        "the same command."
    )


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
        sys.exit(_guarded(lambda: _print_help(argv[0])))
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


def _print_help(command: str) -> None:
    # absl's own help shows the flags of the command's module, or of all packages.
    print(sys.modules["__main__"].__doc__)
    modules = flags.FLAGS.flags_by_module_dict()
    for module in sorted(modules, key=lambda name: (name != command, name)):
        if module == command or module.startswith("afd_tf."):
            print(flags.FLAGS.module_help(module))


def _fail(message: object) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1
