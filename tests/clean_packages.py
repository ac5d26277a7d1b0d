"""Packages in a folder of their own, for programs that run without ours."""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

# What pip says where there is no registry, and nothing to install from.
NO_REGISTRY = r"NewConnectionError|ProxyError|Max retries|ReadTimeout|No matching distr"


def installed(name: str, *requirements: str) -> Path:
    """Returns a folder with these packages, installed by the first test that asks.

    Args:
      name: of the folder, which stays for later runs.
      requirements: as pip takes them.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}-{platform.machine()}"
    cache = Path(tempfile.gettempdir()) / f"afd_tf_tests_{os.getuid()}_{name}_{version}"
    if not cache.is_dir():
        # Beside it, so that it is there as a whole or not at all.
        with tempfile.TemporaryDirectory(dir=cache.parent) as folder:
            result = subprocess.run(
                [
                    *(sys.executable, "-m", "pip", "install", "--quiet"),
                    *("--target", f"{folder}/packages", "--only-binary=:all:"),
                    *requirements,
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            if result.returncode and re.search(NO_REGISTRY, result.stderr):
                pytest.skip(f"{name} cannot be installed here")
            assert result.returncode == 0, result.stderr[-2000:]
            if not cache.is_dir():
                shutil.move(f"{folder}/packages", cache)
    return cache


def run(packages: Path, program: Path, *arguments: str) -> str:
    """Returns what a program prints that sees these packages and no others."""
    start = (
        "import runpy, sys; sys.path[:0] = [sys.argv.pop(1)]; del sys.argv[0]; "
        "runpy.run_path(sys.argv[0], run_name='__main__'); "
        "assert not {'tensorflow', 'keras', 'afd_tf'} & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-S", "-I", "-c", start, packages, program, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout
