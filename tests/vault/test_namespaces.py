"""A namespace of the server: set up, logged in to and published in, with nothing of it outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from varmenne.clock import system_clock
from varmenne.errors import VaultError
from varmenne.settings import LoginSettings
from varmenne.vault import CertificateStore, Location
from varmenne.vault.connection import Connection, Patience
from varmenne.vault.login import GivenToken
from varmenne.vault.setup import Target, apply, new_secret_id, role_id

if TYPE_CHECKING:
    from pathlib import Path

    from harness.openbao import Vault

RECORD = {"certificate": "one", "enrollment": "20261124-00000001"}


def test_everything_works_in_a_namespace(vault: Vault, where: Location, tmp_path: Path) -> None:
    """Setup, AppRole, check of rights and publishing take the namespace from the settings."""
    name = f"team-{vault.settings.mount}"
    vault.root.adapter.post(f"/v1/sys/namespaces/{name}")
    settings = msgspec.structs.replace(
        vault.settings, namespace=name, login=LoginSettings(method="token-file", token_file="x")
    )
    target = Target(mount=settings.mount, prefix=settings.prefix)
    connection = Connection(settings, system_clock, Patience(), GivenToken(vault.server.root_token))
    assert list(apply(connection, target))
    secret_id = tmp_path / "secret-id"
    secret_id.touch(0o600)
    secret_id.write_text(new_secret_id(connection, target).reveal())
    login = LoginSettings(method="approle", role_id=role_id(connection, target), secret_id=f"file:{secret_id}")
    connection.close()
    with CertificateStore(msgspec.structs.replace(settings, login=login), clock=system_clock) as store:
        assert {check.verdict for check in store.check(where)} == {"ok"}
        assert store.publish(where, RECORD, operation="op-1") == 1
    assert vault.versions(where.path) == {}
    outside = msgspec.structs.replace(settings, login=login, namespace="")
    with CertificateStore(outside, clock=system_clock) as store, pytest.raises(VaultError, match="AppRole login"):
        store.read(where)
