"""Servers in trouble: sealed and restarted while hundreds of records are published, and with a full audit disk."""

from __future__ import annotations

import contextlib
import itertools
import logging
import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from varmenne.clock import system_clock
from varmenne.domain.identifiers import Channel, CustomerId, Environment
from varmenne.testbench.openbao import OpenBaoServer, provision
from varmenne.vault import CertificateStore, Location, Patience
from vault.conftest import Fault, Meddler

if TYPE_CHECKING:
    from pathlib import Path

    from harness.openbao import Vault

WORKERS = 4
EACH = 125
RECORD = {"certificate": "one", "enrollment": "20261124-00000001", "not_before": "2026-11-24T00:00:00Z"}
PATIENCE = Patience(attempts=60, longest_wait_seconds=2, total_seconds=120)
QUICK = Patience(attempts=60, first_wait_seconds=0.02, longest_wait_seconds=0.2, total_seconds=120)


def place(name: str) -> Location:
    """The place of a customer's record."""
    customer = CustomerId(name)
    return Location(prefix="varmenne", environment=Environment.TEST, customer=customer, channel=Channel.WS)


def test_a_full_audit_disk_doubles_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Vault answers 500 to a write that it could not note, and to one that it has carried out but could not note."""
    caplog.set_level(logging.INFO)
    told: list[str] = []
    with OpenBaoServer(tmp_path / "server") as server:
        settings = provision(server, secret_id_file=tmp_path / "secret-id")
        assert server.pid is not None
        unlimited = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        with CertificateStore(settings, clock=system_clock, patience=PATIENCE) as store:
            store.publish(place("first"), RECORD, operation="first", expected_version=0)
            for room in range(200, 3400, 400):
                caplog.clear()
                size = server.audit_file.stat().st_size
                resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size + room, unlimited[1]))
                healed = threading.Timer(0.3, resource.prlimit, (server.pid, resource.RLIMIT_FSIZE, unlimited))
                healed.start()
                name = f"room-{room}"
                assert store.publish(place(name), RECORD, operation=name, expected_version=0) == 1
                healed.join()
                told.append(caplog.text)
        root = server.client()
        with contextlib.closing(root.adapter):
            for room in range(200, 3400, 400):
                path = place(f"room-{room}").path
                found = root.secrets.kv.v2.read_secret_metadata(path, mount_point=settings.mount)["data"]
                assert list(found["versions"]) == ["1"]
    assert any("trying again" in text for text in told)
    assert any("An earlier try has written" in text for text in told)


@pytest.mark.long
def test_five_hundred_records_through_a_bad_line(vault: Vault, meddler: Meddler) -> None:
    """Hundreds of requests and answers are lost or spoiled on the way: every record is there once, as it was sent."""
    settings, done = meddler.settings(vault.settings), threading.Event()
    kinds = [Fault("POST", how, executed) for how in ("drop", 500, 503) for executed in (True, False)]

    def spoil() -> None:
        for fault in itertools.cycle(kinds):
            if done.wait(0.04):
                return
            if not meddler.faults:
                meddler.faults.append(fault)

    def work(number: int) -> dict[str, int]:
        told = {}
        with CertificateStore(settings, clock=system_clock, patience=QUICK) as store:
            store.read(place("nothing"))  # A login that may have been carried out is not repeated: it comes first.
            ready.wait(60)
            for count in range(EACH):
                name = f"{number}-{count}"
                told[name] = store.publish(
                    place(name), RECORD | {"certificate": name}, operation=name, expected_version=0
                )
        return told

    ready = threading.Barrier(WORKERS + 1)
    spoiling = threading.Thread(target=spoil)
    with ThreadPoolExecutor(WORKERS) as pool:
        running = [pool.submit(work, number) for number in range(WORKERS)]
        ready.wait(60)
        spoiling.start()
        books = {name: version for future in running for name, version in future.result().items()}
        done.set()
        spoiling.join()
        meddler.faults.clear()
    writes = [path for method, path in meddler.seen if method == "POST" and "/data/" in path]
    assert len(writes) > len(books) + 20, "many had to be sent again"
    for name, version in books.items():
        path, mount = place(name).path, settings.mount
        found = vault.root.secrets.kv.v2.read_secret_version(path, mount_point=mount, raise_on_deleted_version=True)
        assert found["data"]["metadata"]["version"] == version == 1
        assert found["data"]["data"]["certificate"] == name
    assert len(books) == WORKERS * EACH


@pytest.mark.long
def test_five_hundred_records_through_seal_and_kill(tmp_path: Path) -> None:
    """All are there once, with what their writers were told; the books of the writers and Vault agree."""
    with OpenBaoServer(tmp_path / "server", persistent=True) as server:
        settings = provision(server, secret_id_file=tmp_path / "secret-id")
        begun = threading.Event()

        def work(number: int) -> dict[str, int]:
            told = {}
            with CertificateStore(settings, clock=system_clock, patience=PATIENCE) as store:
                for count in range(EACH):
                    name = f"{number}-{count}"
                    data = {"certificate": name, "enrollment": name, "not_before": "2026-11-24T00:00:00Z"}
                    told[name] = store.publish(place(name), data, operation=name, expected_version=0)
                    if count == EACH // 10:
                        begun.set()
            return told

        with ThreadPoolExecutor(WORKERS) as pool:
            running = [pool.submit(work, number) for number in range(WORKERS)]
            begun.wait(60)
            root = server.client()
            with contextlib.closing(root.adapter):
                root.adapter.put("/v1/sys/seal")
            time.sleep(1)
            server.stop()
            server.start()
            time.sleep(1)
            server.stop()
            time.sleep(1)
            server.start()
            books = {name: version for future in running for name, version in future.result().items()}
        root = server.client()
        with contextlib.closing(root.adapter):
            for name, version in books.items():
                path, mount = place(name).path, settings.mount
                found = root.secrets.kv.v2.read_secret_version(path, mount_point=mount, raise_on_deleted_version=True)
                assert found["data"]["metadata"]["version"] == version == 1
                assert found["data"]["data"]["certificate"] == name
    assert len(books) == WORKERS * EACH
