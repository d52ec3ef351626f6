"""What leaves this checkout: the wheel holds what it must, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from the checkout, without network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-I", "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, done.stderr)
    [path] = folder.glob("varmenne-*-py3-none-any.whl")
    return zipfile.ZipFile(path)


@pytest.mark.parametrize("suffix", ["py.typed", "__main__.py"])
def test_the_wheel_is_typed_and_runs_as_a_module(wheel: zipfile.ZipFile, suffix: str) -> None:
    """Type checkers look for the mark; `python -m varmenne` looks for the module."""
    assert f"varmenne/{suffix}" in wheel.namelist()


def test_the_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    """The service's WSDL and schemas are data that the code reads at run time, like all files beside the code."""
    package = ROOT / "agent"
    files = {path.relative_to(package) for path in (package / "varmenne").rglob("*") if path.is_file()}
    caches = re.compile(r"__pycache__|(^|/)\.")
    names = {path.as_posix() for path in files if not caches.search(path.as_posix())}
    assert names - set(wheel.namelist()) == set()
    assert [name for name in names if name.endswith((".wsdl", ".xsd"))] != []


def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    """Tests, scripts and what a developer left lying about stay at home."""
    tops = {name.split("/")[0] for name in wheel.namelist()}
    [metadata] = tops - {"varmenne"}
    assert metadata.endswith(".dist-info")


def test_the_wheel_names_its_command(wheel: zipfile.ZipFile) -> None:
    """Installing the wheel gives the `varmenne` command."""
    [entry_points] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "varmenne = varmenne.cli:main" in wheel.read(entry_points).decode()
