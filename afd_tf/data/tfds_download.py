"""Download and preparation of a tfds data set, or quickly the reason that it fails."""

import pathlib
import queue
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

from afd_tf.base.errors import UserError

# A host that takes longer to answer counts as unreachable.
_PROBE_SECONDS = 8.0

# HTTP status codes, of a host or of a proxy, after which tfds tries again and again.
_RETRIED = (500, 502, 503, 504)


def ensure_prepared(builder: Any, *, name: str, download: bool) -> None:
    """Prepares the data set of a tfds builder unless it is prepared already.

    Size and target of a download are printed on stderr before it starts.

    Args:
      builder: a `tfds.core.DatasetBuilder`.
      name: the name the user gave.
      download: whether files may be downloaded.

    Raises:
      UserError: the data set cannot be prepared. Without a network it is raised
        within about ten seconds (tfds itself tries again for 205 seconds).
    """
    if builder.is_prepared():
        return
    root = pathlib.Path(builder.data_dir_root)
    by_hand = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    missing = {}
    if not download:
        obstacle = "--nodownload forbids to download it"
    elif by_hand:
        obstacle = _missing_manual_files(by_hand, root / "downloads" / "manual")
    else:
        missing = _missing_files(builder.url_infos, root / "downloads")
        reason = unreachable_reason(missing)
        obstacle = f"cannot be downloaded: {reason}" if reason else None
    ways_out = (
        f"Prepare it where there is a network (`tfds build {name}`) and pass "
        f"--data_dir=DIR, or use --dataset=folder:PATH or --dataset=digits."
    )
    if obstacle:
        raise UserError(f"{name} is not prepared in {root} and {obstacle}. {ways_out}")
    if not by_hand:
        size = sum(url_info.size for url_info in missing.values())
        print(
            f"Downloading {name} (up to {size / 2**20:,.0f} MiB) and preparing it in "
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


def _missing_manual_files(instructions: str, manual: pathlib.Path) -> str | None:
    """Returns what a user has to do first, or None if files are in place."""
    if manual.is_dir() and any(manual.iterdir()):
        return None
    instructions = one_line(instructions).removesuffix(".")
    return f"its files must be downloaded by hand into {manual}: {instructions}"


def _missing_files(
    url_infos: Mapping[str, Any], downloads: pathlib.Path
) -> dict[str, Any]:
    """Returns those of tfds' url infos, by address, whose file is not there yet."""
    return {
        url: url_info
        for url, url_info in url_infos.items()
        if not _is_downloaded(url, url_info, downloads)
    }


def _is_downloaded(url: str, url_info: Any, downloads: pathlib.Path) -> bool:
    """Returns whether an earlier run, or the user, has put the file in place."""
    from tensorflow_datasets.core.download import resource

    if url_info.filename and (downloads / "manual" / url_info.filename).exists():
        return True
    file_name = resource.get_dl_fname(url, url_info.checksum)
    return downloads.is_dir() and any(downloads.rglob(file_name))


def unreachable_reason(urls: Iterable[str]) -> str | None:
    """Returns why no host of some addresses can be reached.

    One address of each host is requested, in the same way as a download, so that
    proxies count.

    Args:
      urls: addresses; only http and https are requested.

    Returns:
      the reason; None if a host answered, or there is nothing to request.
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

    # Daemon threads, because looking up a name has no time limit of its own.
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


def one_line(text: object) -> str:
    """Returns a text, or an error's message, on one line of 600 characters at most."""
    text = " ".join(str(text).split())
    return text if len(text) <= 600 else f"{text[:600]} ..."
