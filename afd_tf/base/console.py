"""Messages and progress bars on stderr."""

import sys

from tqdm import tqdm


def say(message: str) -> None:
    """Prints a line on stderr, above a progress bar if there is one."""
    tqdm.write(message, file=sys.stderr)


def progress(description: str, total: int, initial: int = 0) -> tqdm:
    """Returns a bar with images/s and time left; silent if stderr is no terminal."""
    return tqdm(
        desc=description,
        total=total,
        initial=initial,
        unit=" images",
        unit_scale=True,
        leave=False,
        disable=None,
    )
