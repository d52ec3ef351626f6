"""The agent: what a thousand certificates cost at rest, and how fast five hundred that are due at once are renewed.

The second is held against the token: the far end's delay, and the time that the token needs to make so many keys at its
best. Bench, Vault and agent share this machine's cores; a real far end has its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import resource
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from benchmarks.measure import report
from varmenne.clock import system_clock
from varmenne.demo.stage import Stage
from varmenne.domain.credentials import parse_credentials
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import CustomerId, key_label, new_enrollment_id
from varmenne.domain.keys import KeyFacts, new_key_id
from varmenne.domain.steps import State
from varmenne.enrollment import facts
from varmenne.enrollment.enroll import Order, enroll
from varmenne.enrollment.parts import Parts
from varmenne.enrollment.progress import Silent
from varmenne.journal import schema
from varmenne.settings import ServiceSettings
from varmenne.settings.editing import changed
from varmenne.testbench.family import Family, customer_subject
from varmenne.testbench.store import Issued
from varmenne.token import Token

AT_REST = 1_000
FLEET = 500
DELAY_SECONDS = 15.0
REST_SECONDS = 60.0
WORKERS = 4
TOKEN_PROCESSES = (1, 2, 4)
AGE = timedelta(days=730 - 40)


def main() -> None:
    """Print both."""
    with tempfile.TemporaryDirectory() as folder, Stage(Path(folder) / "rest", keep=False) as stage:
        _at_rest(stage)
    with (
        tempfile.TemporaryDirectory() as folder,
        Stage(Path(folder) / "fleet", keep=False, issuing_seconds=DELAY_SECONDS) as stage,
    ):
        _fleet(stage)


def _at_rest(stage: Stage) -> None:
    """Watch an agent that has nothing to do."""
    row = _first(stage)
    later = system_clock() + timedelta(days=5)
    _insert(stage, [_copy(row, f"{number:07d}-9") | {"due_at": later} for number in range(AT_REST - 1)])
    with _running(stage) as process:
        time.sleep(5)
        before, wakes = _cpu_seconds(process.pid), _switches(process.pid)
        time.sleep(REST_SECONDS)
        busy = (_cpu_seconds(process.pid) - before) / REST_SECONDS * 100
        woken = (_switches(process.pid) - wakes) / REST_SECONDS * 60
        memory = _resident(process.pid)
    report(f"CPU at rest, {AT_REST} certificates", busy, 0.1, f"over {REST_SECONDS:.0f} s", unit=" %")
    report("memory at rest", memory, 80, "the agent alone; its token worker has ended", unit=" MB")
    report("wake-ups at rest", woken, 10, "all threads, a minute", unit="")


def _fleet(stage: Stage) -> None:
    """Let an agent renew many certificates that are due at once."""
    row = _first(stage)
    rate, keys = _best_rate(stage)
    family = stage.bench.family()
    rows = []
    for number, key in enumerate(keys[:FLEET]):
        customer = f"{number:07d}-9"
        rows.append(_copy(row, customer) | _with_certificate(key, _issued(stage, family, key, customer)))
    _insert(stage, rows)
    began = time.perf_counter()
    with _running(stage) as process:
        while _renewed(stage) < FLEET:
            assert process.poll() is None, "the agent has ended"
            time.sleep(0.5)
        took = time.perf_counter() - began
        memory = _resident(process.pid)
    least = DELAY_SECONDS + 1.2 * FLEET / rate
    detail = f"{took:.0f} s ÷ ({DELAY_SECONDS:.0f} s + 1.2 · {FLEET} ÷ {rate:.1f} keys/s), {WORKERS} workers"
    report(f"{FLEET} renewals due at once", took / least, 1.0, detail)
    report("memory at work", memory, 160, "the agent alone", unit=" MB")


def _first(stage: Stage) -> Enrollment:
    """Enroll for one certificate, whose row the others are copies of. The service is asked as seldom as by default."""
    usual = ServiceSettings()
    names = ("first_poll_seconds", "longest_poll_seconds")
    asked: dict[tuple[str, ...], Any] = {("service", name): getattr(usual, name) for name in names}
    stage.config.write_text(changed(stage.config, {("agent", "workers"): WORKERS, **asked}))
    credentials = parse_credentials(json.dumps(stage.bench.order("0123456-7").as_json()))
    wanted = Order(customer=CustomerId("0123456-7"), name=None)
    with Parts(stage.settings()) as parts:
        return enroll(parts, Silent(), wanted, credentials, wait=timedelta(seconds=60))


def _best_rate(stage: Stage) -> tuple[float, list[KeyFacts]]:
    """Make keys by several processes at once, and return the best rate of all (keys a second), and the keys."""
    made: list[KeyFacts] = []
    rates = []
    for processes in TOKEN_PROCESSES:
        before = len(made)
        each = -(-FLEET // len(TOKEN_PROCESSES)) // processes + 1
        began = time.perf_counter()
        threads = [threading.Thread(target=_make, args=(stage, each, made)) for _ in range(processes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rates.append((len(made) - before) / (time.perf_counter() - began))
    assert len(made) >= FLEET, "the token has failed to make some of the keys"
    return max(rates), made


def _make(stage: Stage, number: int, made: list[KeyFacts]) -> None:
    """Make keys by one process."""
    # In the state folder they take turns at logging in, which SoftHSM cannot do by several processes at once.
    with Token(stage.settings().token, state_dir=Path(stage.settings().state_dir)) as token:
        labels = (key_label(new_enrollment_id(system_clock())) for _ in range(number))
        made.extend(token.generate(new_key_id(), label) for label in labels)


def _copy(row: Enrollment, customer: str) -> dict[str, Any]:
    """Return a row like another, of another customer."""
    new = {"id": new_enrollment_id(row.created_at), "key_id": new_key_id(), "customer_id": customer}
    return {**dataclasses.asdict(row), "transfer_hash": None, **new}


def _with_certificate(key: KeyFacts, certificate: x509.Certificate) -> dict[str, Any]:
    """Return what a row knows of its key and certificate, and that it is due now."""
    return {
        "id": key.label.removeprefix("varmenne-"),
        "key_id": key.key_id,
        "key_label": key.label,
        "public_key": key.public_key,
        "certificate": facts.der_to_pem(certificate.public_bytes(Encoding.DER)),
        "serial_number": f"{certificate.serial_number:x}",
        "not_before": certificate.not_valid_before_utc,
        "not_after": certificate.not_valid_after_utc,
        "due_at": system_clock(),
        "vault_version": 0,
    }


def _issued(stage: Stage, family: Family, key: KeyFacts, customer: str) -> x509.Certificate:
    """Have the bench issue a certificate for a key, long ago."""
    public_key = load_der_public_key(key.public_key)
    assert isinstance(public_key, RSAPublicKey)
    begin = system_clock() - AGE
    certificate = family.issue(
        customer_subject(customer, None, secrets.token_hex(8)), public_key, begin, issuer="providers"
    )
    der = certificate.public_bytes(Encoding.DER)
    stage.bench.store.add_issued(
        Issued(
            retrieval_id=secrets.token_hex(16),
            customer_id=customer,
            customer_name=None,
            channel="ws",
            transfer_id=None,
            public_key_hash=hashlib.sha256(key.public_key).hexdigest(),
            certificate_hash=hashlib.sha256(der).hexdigest(),
            certificate=der,
            serial=certificate.serial_number,
            ready_at=begin,
        ),
        begin,
    )
    return certificate


def _insert(stage: Stage, rows: list[dict[str, Any]]) -> None:
    """Write rows to the journal, as if they had come there one by one."""
    with Parts(stage.settings()) as parts, parts.journal._transaction() as connection:
        connection.execute(sa.insert(schema.enrollment), rows)


def _renewed(stage: Stage) -> int:
    """Return how many certificates were replaced, by one count: who watches shall not take the agent's time."""
    table = schema.enrollment
    replaced = sa.select(sa.func.count()).where(table.c.state == State.SUPERSEDED)
    with Parts(stage.settings()) as parts, parts.journal._reading() as connection:
        return int(connection.execute(replaced).scalar_one())


@contextlib.contextmanager
def _running(stage: Stage) -> Iterator[subprocess.Popen[bytes]]:
    """Run the agent as a process, for a block."""
    environment = {**os.environ, "VARMENNE_CONFIG": str(stage.config)}
    command = [sys.executable, "-m", "varmenne", "run"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, with that of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _switches(pid: int) -> int:
    """Return how often the threads of a process were woken."""
    found = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        found += int(status.read_text().split("\nvoluntary_ctxt_switches:")[1].split()[0])
    return found


def _resident(pid: int) -> float:
    """Return the resident memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


if __name__ == "__main__":
    main()
