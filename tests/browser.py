"""Chromium, driven by selenium, for the tests of pages."""

import contextlib
import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest


def program(*names) -> str:
    """Returns the path of the first program that is there, or skips the test."""
    for name in names:
        if path := shutil.which(name):
            return path
    pytest.skip(f"there is no {' or '.join(names)} on the PATH")


@contextlib.contextmanager
def chromium(*arguments) -> Iterator:
    """Opens a headless browser that keeps what pages log."""
    pytest.importorskip("selenium", reason="selenium is not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium", "chromium-browser", "google-chrome")
    for argument in (
        "--headless=new",
        "--no-sandbox",  # it may be root who tests
        "--disable-dev-shm-usage",
        *arguments,
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(program("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


@contextlib.contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serves plain files, as the simplest host does."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
