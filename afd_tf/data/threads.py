"""Work on many files in as many threads as there are processors."""

import concurrent.futures
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_THREADS = os.cpu_count() or 1
_BLOCK = 1024

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """Yields the results of a function in the order of its arguments.

    Unlike the executor's `map`, it begins few calls ahead, so that an interrupt or an
    error does not have to wait for millions of them.

    Args:
      function: is called in several threads at once.
      items: its arguments.
    """
    remaining = iter(items)
    executor = concurrent.futures.ThreadPoolExecutor(_THREADS)
    try:
        while block := list(itertools.islice(remaining, _BLOCK)):
            yield from executor.map(function, block)
    finally:
        executor.shutdown(cancel_futures=True)
