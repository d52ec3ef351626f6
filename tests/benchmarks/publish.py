"""Publishing in Vault, against one bare write of hvac by a client alike: a server with raft, TLS and an audit log."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import medians, report
from varmenne.clock import system_clock
from varmenne.domain.identifiers import Channel, CustomerId, Environment
from varmenne.settings import VaultSettings
from varmenne.testbench.openbao import OpenBaoServer, provision
from varmenne.vault import CertificateStore, Location
from varmenne.vault.wire import new_client

ROUNDS = 200
WORKERS = 8
EACH = 40
RECORD = {"certificate": "x" * 8000, "enrollment": "20261124-00000001", "not_before": "2026-11-24T12:00:00Z"}
_numbers = itertools.count(1)


def _fresh() -> Location:
    """A place where nothing is yet."""
    customer = CustomerId(f"c{next(_numbers)}")
    return Location(prefix="varmenne", environment=Environment.TEST, customer=customer, channel=Channel.WS)


def _publish(store: CertificateStore) -> None:
    store.publish(_fresh(), RECORD, operation="op", expected_version=0)


def _bare(client: Any) -> None:
    client.secrets.kv.v2.create_or_update_secret(_fresh().path, RECORD, cas=0, mount_point="varmenne-kv")


def _together(calls: list[Any]) -> float:
    """Do calls in as many threads, each often, and return how many seconds one took on the whole."""

    def work(call: Any) -> None:
        for _ in range(EACH):
            call()

    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - began) / (EACH * len(calls))


def _clients(settings: VaultSettings, server: OpenBaoServer, stack: contextlib.ExitStack) -> list[Any]:
    """Clients as the store's own, one for each worker, logged in."""
    made = [new_client(settings, server.root_token) for _ in range(WORKERS)]
    for client in made:
        stack.callback(client.adapter.close)
    return made


def main() -> None:
    """Print the ratios."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(OpenBaoServer(folder / "server", persistent=True, tls=True))
        settings = provision(server, secret_id_file=folder / "secret-id")
        stores = [stack.enter_context(CertificateStore(settings, clock=system_clock)) for _ in range(WORKERS)]
        clients = _clients(settings, server, stack)
        took = medians({"publish": lambda: _publish(stores[0]), "bare": lambda: _bare(clients[0])}, rounds=ROUNDS)
        detail = f"{took['publish'] * 1e3:.2f} ms ÷ {took['bare'] * 1e3:.2f} ms, the record alone"
        report("publish ÷ bare hvac write", took["publish"] / took["bare"], 1.3, detail)
        for store in stores:  # Each logs in once.
            _publish(store)
        ours = min(_together([lambda store=store: _publish(store) for store in stores]) for _ in range(3))
        bare = min(_together([lambda client=client: _bare(client) for client in clients]) for _ in range(3))
        detail = f"{1 / ours:.0f} ÷ {1 / bare:.0f} records a second turned round"
        report(f"the same by {WORKERS} workers", ours / bare, 1.3, detail)
        with CertificateStore(settings, clock=system_clock) as store:
            began = time.perf_counter()
            store.check(_fresh())
        report("login and check of rights", time.perf_counter() - began, 1.0, "one session", unit=" s")


if __name__ == "__main__":
    main()
