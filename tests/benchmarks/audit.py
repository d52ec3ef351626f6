"""The audit log at a million records: appending beside a bare insert, verifying all of it, proving one, and memory."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from benchmarks.journal import settings_of
from benchmarks.measure import medians, report
from varmenne.audit import verifier
from varmenne.domain import merkle
from varmenne.domain.audit import AuditRecord
from varmenne.enrollment.evidence.live import live, proven
from varmenne.enrollment.parts import Parts
from varmenne.journal import Journal, schema

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
MANY = 1_000_000
KEYS = 10_000
AT_ONCE = 10_000


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        append(Path(folder) / "append")
        fill(Path(folder) / "many")
        # In a process of its own, whose peak of memory is that of the verification alone.
        code = f"from benchmarks.audit import whole; whole({str(Path(folder) / 'many')!r})"
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": "tests"})
        prove(Path(folder) / "many")


def record(number: int) -> AuditRecord:
    """Return a record as an act on a key writes it: each key has one at first, and is rehearsed from then on."""
    return AuditRecord(
        at=NOW + timedelta(seconds=number),
        actor="varmenne",
        host="host.example.org",
        act="adopt" if number < KEYS else "rehearse",
        enrollment=enrollment(number),
        environment="production",
        source=None if number < KEYS else "active",
        target="active",
        key_id=f"{number % KEYS:032x}",
        public_key=f"{number % KEYS:064x}",
        certificate="1" * 64,
        detail={"ok": True},
        row="2" * 64,
    )


def enrollment(number: int) -> str:
    """Return whose record one is."""
    return f"20261124-{number % KEYS:08x}"


def append(state_dir: Path) -> None:
    """Compare a transaction that appends a record with one that inserts the same bytes into a table without a tree."""
    with Journal(state_dir) as journal:
        numbers = itertools.count()
        with journal._transaction() as connection:
            connection.exec_driver_sql("CREATE TABLE bare (seq INTEGER PRIMARY KEY, enrollment_id TEXT, body BLOB)")
            connection.exec_driver_sql("CREATE INDEX bare_index ON bare (enrollment_id)")
        bare = sa.table("bare", sa.column("seq"), sa.column("enrollment_id"), sa.column("body"))
        insert = sa.insert(bare)

        def plain() -> None:
            body = record(next(numbers)).encoded()
            with journal._transaction() as connection:
                connection.execute(insert, {"enrollment_id": enrollment(0), "body": body})

        times = medians({"log": lambda: journal.log.add(record(next(numbers))), "bare": plain}, rounds=600)
    detail = f"{times['log'] * 1e3:.2f} ms ÷ {times['bare'] * 1e3:.2f} ms, each a durable transaction"
    report("appending a record ÷ a bare insert", times["log"] / times["bare"], 1.5, detail)


def fill(state_dir: Path) -> None:
    """Write a log of a million records, many in one transaction."""
    with Journal(state_dir) as journal:
        tree = merkle.Tree()
        for start in range(0, MANY, AT_ONCE):
            bodies = [record(number).encoded() for number in range(start, start + AT_ONCE)]
            nodes: list[merkle.Node] = []
            for body in bodies:
                tree, new = tree.grown(merkle.leaf_hash(body))
                nodes += new
            with journal._transaction() as connection:
                connection.execute(
                    sa.insert(schema.log),
                    [
                        {"seq": start + at, "enrollment_id": enrollment(start + at), "body": body}
                        for at, body in enumerate(bodies)
                    ],
                )
                connection.execute(
                    sa.insert(schema.node), [{"level": n.level, "index": n.index, "hash": n.hash} for n in nodes]
                )
                connection.execute(sa.update(schema.head).values(size=tree.size, frontier=b"".join(tree.frontier)))


def whole(folder: str) -> None:
    """Verify all of it from the journal, and all of it from a bundle."""
    with Parts(settings_of(Path(folder))) as parts, tempfile.TemporaryFile() as file:
        began = time.perf_counter()
        found = proven(parts, verifier.Trust(), vault=False)
        took = time.perf_counter() - began
        assert found.size == MANY, found
        report(f"verifying {MANY:,} records", took, 10, "from the journal, each record read and hashed", unit=" s")
        with live(parts, vault=False) as evidence:
            evidence.export(file)
        file.seek(0)
        began = time.perf_counter()
        found = verifier.verify(verifier.Bundle(file), verifier.Trust())
        took = time.perf_counter() - began
        assert found.size == MANY, found
        report("the same from a bundle", took, 15, "unpacked as it is read", unit=" s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    report("peak of memory", peak, 150, "of both, and of the export", unit=" MB")


def prove(state_dir: Path) -> None:
    """Prove one record of a million, and that the log grew from half of it."""
    with contextlib.closing(Journal(state_dir)) as journal:
        numbers = itertools.cycle(range(0, MANY, 7919))
        calls = {
            "inclusion": lambda: journal.log.inclusion(next(numbers), MANY),
            "growth": lambda: journal.log.consistency(MANY // 2 + 1, MANY),
        }
        times = medians(calls, rounds=60)
        assert json.loads(next(journal.log.records(MANY // 2))[1])["v"] == 1
    for name, seconds in times.items():
        report(f"a proof of {name}", seconds * 1e3, 50, f"in a log of {MANY:,} records", unit=" ms")


if __name__ == "__main__":
    main()
