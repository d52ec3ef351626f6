"""A person's desk for tests of trust: settings, the command, and files with the forge's authorities."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.forge import Forge
from varmenne.cli.common import App
from varmenne.cli.program import run
from varmenne.service.trust_store import read_authority
from varmenne.testbench.family import KeyPair, der, pem

SETTINGS = """
environment = "{environment}"
state_dir = "state"
[token]
module = "/nonexistent.so"
label = "none"
[vault]
address = "https://127.0.0.1:9"
"""

Command = Callable[..., Any]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a settings file of the test environment with an empty state folder."""
    path = tmp_path / "varmenne.toml"
    path.write_text(SETTINGS.format(environment="test"))
    return path


@pytest.fixture
def command(config: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a way to run `varmenne trust …` and to get what it reports."""

    def call(*arguments: object, config: Path = config) -> Any:
        capsys.readouterr()
        run("trust", *map(str, arguments), "--json", app=App(config=str(config)))
        return json.loads(capsys.readouterr().out)

    return call


@pytest.fixture
def authorities(forge: Forge, tmp_path: Path) -> Path:
    """Return a folder with the forge's authorities, in one form each."""
    folder = tmp_path / "authorities"
    folder.mkdir()
    (folder / "root.pem").write_bytes(pem(forge.root.certificate))
    (folder / "services.cer").write_bytes(der(forge.services.certificate))
    (folder / "providers.pem").write_bytes(pem(forge.providers.certificate))
    return folder


def fingerprint(pair: KeyPair) -> str:
    """Return a certificate's SHA-256, as people write it."""
    return read_authority(der(pair.certificate)).fingerprint


def files_in(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
