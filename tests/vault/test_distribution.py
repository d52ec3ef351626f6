"""The agent's configuration in ``docs/vault-distribution.md``, run by a real agent: a reload only on change."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from varmenne.clock import system_clock
from varmenne.testbench.openbao import find_binary
from varmenne.vault import CertificateStore, Location
from varmenne.vault.connection import Connection, Patience
from varmenne.vault.login import GivenToken
from varmenne.vault.setup import Target, apply, new_secret_id, role_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.openbao import Vault

TEXT = (Path(__file__).parents[2] / "docs" / "vault-distribution.md").read_text(encoding="utf-8")
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Agent:
    """A running agent: its file, and the marks that its reloads leave."""

    file: Path
    marks: Path
    log: Path

    def reloads(self) -> int:
        """Count the reloads."""
        return len(self.marks.read_text().splitlines()) if self.marks.exists() else 0

    def until(self, true: Callable[[], bool]) -> None:
        """Wait for something."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not true():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)


def configuration(vault: Vault, role: str, where: Location, folder: Path) -> str:
    """The documented configuration, with the places of this test; each of them has to occur in it."""
    text: str
    [text] = re.findall(r"^```hcl\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    places = {
        "https://vault.example:8200": vault.server.address,
        "auth/approle/role/varmenne-consumer/secret-id": f"auth/approle/role/{role}/secret-id",
        "/etc/varmenne-consumer/role-id": str(folder / "role-id"),
        "/run/varmenne-consumer/wrapped-secret-id": str(folder / "wrapped"),
        "/etc/varmenne-consumer/fullchain.pem": str(folder / "fullchain.pem"),
        "secret/data/varmenne/test/1234567-8/ws/current": f"{vault.settings.mount}/data/{where.path}",
        '["systemctl", "reload", "nginx"]': f'["sh", "-c", "echo reloaded >> {folder / "marks"}"]',
        '"60s"': '"1s"',
    }
    for documented, here in places.items():
        assert documented in text
        text = text.replace(documented, here)
    return text


@pytest.fixture
def agent(vault: Vault, store: CertificateStore, where: Location, tmp_path: Path) -> Iterator[Agent]:
    """An agent with a consumer's role, whose wrapped secret ID lies ready, and a first record."""
    store.publish(where, record("one"), operation="op-1")
    role = f"varmenne-consumer-{vault.settings.mount}"
    target = Target(
        mount=vault.settings.mount, prefix=vault.settings.prefix, policy="consumer", role=role, location=where
    )
    connection = Connection(vault.settings, system_clock, Patience(), GivenToken(vault.server.root_token))
    assert list(apply(connection, target))
    (tmp_path / "role-id").write_text(role_id(connection, target))
    (tmp_path / "wrapped").touch(0o600)
    (tmp_path / "wrapped").write_text(new_secret_id(connection, target, wrap_ttl="60s").reveal())
    connection.close()
    config, log = tmp_path / "agent.hcl", tmp_path / "agent.log"
    config.write_text(configuration(vault, role, where, tmp_path))
    with log.open("wb") as out:
        process = subprocess.Popen(
            [find_binary(), "agent", f"-config={config}"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        )
    try:
        yield Agent(tmp_path / "fullchain.pem", tmp_path / "marks", log)
    finally:
        process.terminate()
        process.wait(10)


def record(text: str) -> dict[str, Any]:
    """A record as far as the template reads it."""
    return {"certificate": text, "fullchain": text, "enrollment": "20261124-00000001"}


def test_a_reload_only_for_a_new_certificate(
    store: CertificateStore, where: Location, agent: Agent, tmp_path: Path
) -> None:
    """The first file and a new generation reload once each; publishing the same text again reloads nothing."""
    agent.until(lambda: agent.reloads() == 1)
    assert agent.file.read_text() == "one\n"
    assert not (tmp_path / "wrapped").exists()
    store.publish(where, record("one"), operation="op-2")
    time.sleep(2.5)
    assert agent.reloads() == 1
    store.publish(where, record("two"), operation="op-3")
    agent.until(lambda: agent.reloads() == 2)
    assert agent.file.read_text() == "two\n"
