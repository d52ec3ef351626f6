"""Fixtures on a real OpenBao server: one in memory per test process, a mount and a role of its own for each test."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from varmenne.testbench.openbao import OpenBaoServer, provision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from varmenne.settings import VaultSettings

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Vault:
    """What a test gets.

    Attributes:
        settings: ready to use; login by AppRole with the agent's policy, to a mount of the test's own.
        root: a client of hvac with the root token, for looking and for mischief.
        server: the server, shared with the other tests of this process; do not seal or stop it.
    """

    settings: VaultSettings
    root: Any
    server: OpenBaoServer

    def versions(self, path: str) -> dict[str, Any]:
        """Return number → metadata of all versions at a path under the mount; empty if there never was one."""
        from hvac.exceptions import InvalidPath

        try:
            answer = self.root.secrets.kv.v2.read_secret_metadata(path, mount_point=self.settings.mount)
        except InvalidPath:
            return {}
        versions: dict[str, Any] = answer["data"]["versions"]
        return versions


@pytest.fixture(scope="session")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBaoServer]:
    """Run a server in memory for this test process."""
    with OpenBaoServer(tmp_path_factory.mktemp("openbao")) as server:
        yield server


@pytest.fixture
def vault(openbao: OpenBaoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    """Give a test a mount, a policy and a role that no other test knows."""
    secret_id_file = tmp_path_factory.mktemp("vault") / "secret-id"
    settings = provision(openbao, mount=f"kv-{next(_numbers)}", secret_id_file=secret_id_file)
    root = openbao.client()
    with contextlib.closing(root.adapter):
        yield Vault(settings, root, openbao)
        root.sys.disable_secrets_engine(settings.mount)
