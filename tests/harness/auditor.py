"""A machine of an auditor's: nothing of ours but the verifier's one file, and no network.

Import the fixture::

from harness.auditor import Auditor, auditor
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from varmenne.audit import verifier

Auditor = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def auditor(tmp_path_factory: pytest.TempPathFactory) -> Auditor:
    """A machine without varmenne: a bare environment with ``cryptography`` alone, the one file, and no network."""
    folder = tmp_path_factory.mktemp("auditor")
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", folder / "venv"], check=True, timeout=120)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    for name in ("cryptography", "cffi", "_cffi_backend"):
        place = Path(str(importlib.import_module(name).__file__))
        place = place.parent if place.name == "__init__.py" else place
        (packages / place.name).symlink_to(place)
    program = folder / "verifier.py"
    program.write_bytes(Path(verifier.__file__).read_bytes())
    python = folder / "venv" / "bin" / "python"
    alone = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--net"]
    if subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        alone = []

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*alone, python, "-I", program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env={},
            timeout=60,
        )

    missing = subprocess.run([python, "-I", "-c", "import varmenne"], check=False, capture_output=True, timeout=60)
    assert b"No module named 'varmenne'" in missing.stderr
    return run
