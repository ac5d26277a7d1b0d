"""Downloads and prepares a tfds data set, or says quickly why that cannot be."""

import pathlib
import queue
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterable
from typing import Any

from afd_tf.errors import UserError

# What an answer may take before its host counts as unreachable.
_PROBE_SECONDS = 8.0

# The answers, of a host or of a proxy, upon which tfds tries again and again.
_RETRIED = (500, 502, 503, 504)


def ensure_prepared(builder: Any, *, name: str, download: bool) -> None:
    """Prepares the data set of a tfds builder unless it is prepared already.

    What is fetched, and where to, is said on stderr before it starts.

    Args:
      builder: a `tfds.core.DatasetBuilder`.
      name: the name the user gave.
      download: whether it may be fetched from the network.

    Raises:
      UserError: it cannot be had; within some ten seconds if the reason is that
        there is no network (tfds itself tries again for 205 seconds).
    """
    if builder.is_prepared():
        return
    root = pathlib.Path(builder.data_dir_root)
    ways_out = (
        f"Prepare it where there is a network (`tfds build {name}`) and pass "
        f"--data_dir=DIR, or use --dataset=folder:PATH or --dataset=digits."
    )
    if not download:
        raise UserError(
            f"{name} is not prepared in {root} and --nodownload forbids to fetch it. "
            f"{ways_out}"
        )
    manual = root / "downloads" / "manual"
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        if not (manual.is_dir() and any(manual.iterdir())):
            raise UserError(
                f"{name} is not prepared in {root} and its files must be fetched by "
                f"hand into {manual}: "
                f"{one_line(builder.MANUAL_DOWNLOAD_INSTRUCTIONS)} {ways_out}"
            )
    else:
        needed = {
            url: url_info
            for url, url_info in builder.url_infos.items()
            if not _is_downloaded(url, url_info, root / "downloads")
        }
        reason = why_unreachable(needed)
        if reason:
            raise UserError(
                f"{name} is not prepared in {root} and cannot be fetched: {reason}. "
                f"{ways_out}"
            )
        size = sum(url_info.size for url_info in needed.values())
        print(
            f"Fetching {name} (up to {size / 2**20:,.0f} MiB) and preparing it in "
            f"{builder.data_dir}",
            file=sys.stderr,
        )
    try:
        builder.download_and_prepare()
    except Exception as error:  # tfds and its builders raise anything
        raise UserError(
            f"{name} could not be prepared in {root}: {type(error).__name__}: "
            f"{one_line(error)} {ways_out}"
        ) from error


def why_unreachable(urls: Iterable[str]) -> str | None:
    """Asks one address per host whether it answers.

    The request goes the way the download will go, so proxies count.

    Args:
      urls: addresses; those that are neither http nor https are not asked.

    Returns:
      None if there is nothing to ask or one host answered, else the reason.
    """
    by_host = {}
    for url in urls:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme in ("http", "https"):
            by_host.setdefault(parts.netloc, url)
    if not by_host:
        return None
    reasons = queue.SimpleQueue()

    def ask(host: str, url: str) -> None:
        import requests

        try:
            with requests.get(url, stream=True, timeout=_PROBE_SECONDS) as answer:
                bad = answer.status_code in _RETRIED
            reasons.put(f"{host} answers HTTP {answer.status_code}" if bad else None)
        except requests.RequestException as error:
            reasons.put(f"{host} cannot be reached ({type(error).__name__})")

    # Daemons, because looking up a name has no time limit of its own.
    for host, url in by_host.items():
        threading.Thread(target=ask, args=(host, url), daemon=True).start()
    deadline = time.monotonic() + _PROBE_SECONDS
    reason = None
    for _ in by_host:
        try:
            reason = reasons.get(timeout=max(deadline - time.monotonic(), 0))
        except queue.Empty:
            return f"{', '.join(by_host)} did not answer in {_PROBE_SECONDS:.0f} s"
        if reason is None:
            return None
    return reason


def _is_downloaded(url: str, url_info: Any, downloads: pathlib.Path) -> bool:
    """Whether an earlier run, or the user, has put the file in place."""
    from tensorflow_datasets.core.download import resource

    if url_info.filename and (downloads / "manual" / url_info.filename).exists():
        return True
    file_name = resource.get_dl_fname(url, url_info.checksum)
    return downloads.is_dir() and any(downloads.rglob(file_name))


def one_line(text: object) -> str:
    """Returns the text, or what an error says, on one line of bearable length."""
    text = " ".join(str(text).split())
    return text if len(text) <= 600 else f"{text[:600]} ..."
