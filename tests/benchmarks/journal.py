"""The journal: a step beside a bare transaction, a page of 100,000 enrollments, and memory while iterating over all."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import sqlalchemy as sa

from benchmarks.measure import medians, report
from varmenne.domain.identifiers import Channel, CustomerId, Environment
from varmenne.domain.keys import new_key_id
from varmenne.domain.steps import RENEWAL, STEPS, UPKEEP, Method, State
from varmenne.enrollment import acts, engine
from varmenne.enrollment.parts import Parts
from varmenne.enrollment.progress import Silent
from varmenne.enrollment.work import Outcome, Work
from varmenne.journal import Journal, NewEnrollment, schema
from varmenne.journal.database import PRAGMAS
from varmenne.settings import Settings

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
MANY = 100_000
COMMITS_OF_A_WALK = 8
"""The claim, six moves (one of them an intent), and the release."""


def main() -> None:
    """Print the ratios."""
    with tempfile.TemporaryDirectory() as folder:
        step(Path(folder) / "steps")
        page(Path(folder) / "many")


def settings_of(state_dir: Path) -> Settings:
    """Return settings with nothing but a journal in them."""
    words = {
        "environment": "test",
        "state_dir": str(state_dir),
        "token": {"module": "/nowhere", "label": "none"},
        "vault": {"address": "https://vault.invalid"},
    }
    return msgspec.convert(words, Settings)


def step(state_dir: Path) -> None:
    """Compare a walk of the engine, whose acts do nothing, with transactions that do the same writes."""
    idle = {name: _outcome_of(name) for name in acts.ACTS}
    intents = dict.fromkeys(acts.BEFOREHAND, lambda _work, _row: {"csr": "CSR"})
    with (
        Parts(settings_of(state_dir)) as parts,
        mock.patch.dict(acts.ACTS, idle),
        mock.patch.dict(acts.BEFOREHAND, intents),
        contextlib.closing(_bare(state_dir)) as bare,
    ):
        work = Work(parts)
        rows = iter(lambda: parts.journal.add(_new(), parts.now, lease=timedelta(minutes=5)), None)
        waiting = [next(rows) for _ in range(200)]

        def walk() -> None:
            done = engine.Engine(work, Silent()).walk(waiting.pop(), until=NOW)
            assert done.state is State.ACTIVE

        times = medians({"walk": walk, "bare": lambda: _transaction(bare)}, rounds=150)
    commit = times["walk"] / COMMITS_OF_A_WALK
    detail = f"{commit * 1e3:.2f} ms ÷ {times['bare'] * 1e3:.2f} ms"
    report("a commit of the engine ÷ a bare transaction", commit / times["bare"], 3, detail)
    moves = len(STEPS) - 2  # the two that settle what is uncertain are not on the way
    added = (times["walk"] - COMMITS_OF_A_WALK * times["bare"]) / moves
    report("what the engine adds to a step", added * 1e3, 3, "beside its bare transactions", unit=" ms")


def _outcome_of(name: Any) -> Any:
    """Return an act that does nothing and says that it succeeded."""
    steps = (*STEPS.values(), *RENEWAL.values(), *UPKEEP.values())
    target = next(step.target for step in steps if step.name == name)
    return lambda _work, _row: Outcome(target)


def _new() -> NewEnrollment:
    return NewEnrollment(
        environment=Environment.TEST,
        channel=Channel.WS,
        customer_id=CustomerId("0123456-7"),
        customer_name=None,
        method=Method.API,
        key_id=new_key_id(),
    )


def _bare(state_dir: Path) -> sqlite3.Connection:
    """Return a bare connection to a database of the same shape in the same folder."""
    Journal(state_dir / "bare").close()
    connection = sqlite3.connect(state_dir / "bare" / "journal.sqlite", isolation_level=None)
    for pragma in PRAGMAS:
        connection.execute(pragma)
    connection.execute(
        "INSERT INTO enrollment (id, environment, channel, customer_id, method, state, version, created_at, "
        "updated_at, tries, generation, key_id, key_label) "
        "VALUES ('x', 'test', 'ws', '1', 'api', 'keyed', 1, ?, ?, 0, 1, x'00', 'k')",
        (str(NOW), str(NOW)),
    )
    return connection


def _transaction(connection: sqlite3.Connection) -> None:
    """Change a row and add an event, durably: what a step cannot do without."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE enrollment SET version = version + 1, updated_at = ? WHERE id = 'x'", (str(NOW),))
    connection.execute(
        "INSERT INTO event (enrollment_id, at, actor, step, source, target, detail) "
        "VALUES ('x', ?, 'me', 's', 'a', 'b', '{}')",
        (str(NOW),),
    )
    connection.execute("COMMIT")


def page(state_dir: Path) -> None:
    """Compare a page of many enrollments with a bare SELECT, and iterate over all of them."""
    with Journal(state_dir) as journal:
        _fill(journal)
        middle = f"2026{MANY // 200:04d}"
        with contextlib.closing(sqlite3.connect(journal.path)) as bare:
            select = "SELECT * FROM enrollment WHERE id > ? ORDER BY id LIMIT 50"
            times = medians(
                {
                    "list": lambda: journal.list(after=middle, limit=50),
                    "bare": lambda: bare.execute(select, (middle,)).fetchall(),
                },
                rounds=200,
            )
    detail = f"{times['list'] * 1e3:.2f} ms ÷ {times['bare'] * 1e3:.2f} ms, 50 of {MANY:,}"
    report("a page of enrollments ÷ a bare SELECT", times["list"] / times["bare"], 30, detail)
    config = state_dir.parent / "varmenne.toml"
    words = msgspec.to_builtins(settings_of(state_dir))
    config.write_text(
        f'environment = "test"\nstate_dir = "{words["state_dir"]}"\n[token]\nmodule = "/nowhere"\nlabel = "none"\n'
        '[vault]\naddress = "https://vault.invalid"\n'
    )
    command = [sys.executable, "-m", "varmenne", "--config", str(config), "list", "--limit", "50", "--after"]
    command += ["20260101-00000000"]
    took = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        took.append(time.perf_counter() - began)
    start = _time_of(["-c", "import varmenne.journal, varmenne.cli.program, varmenne.cli.look, varmenne.settings"])
    report("`varmenne list --limit 50`, without loading Python and libraries", min(took) - start, 0.3, "s", unit=" s")
    report("`varmenne list --limit 50` as a whole", min(took), 1, f"of which {start:.2f} s are imports", unit=" s")
    grown = subprocess.run(
        [sys.executable, "-c", _ITERATE, str(state_dir)], check=True, capture_output=True, env=os.environ
    ).stdout
    report("memory grown from 5,000 to all while iterating", float(grown), 8, f"{MANY:,} rows", unit=" MB")


def _time_of(arguments: list[str]) -> float:
    """Return the shortest of a few runs of Python."""
    took = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True)
        took.append(time.perf_counter() - began)
    return min(took)


_ITERATE = """
import pathlib, resource, sys
from varmenne.journal import Journal
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
with Journal(pathlib.Path(sys.argv[1])) as journal:
    for number, row in enumerate(journal.every()):
        if number == 5000:
            before = peak()
print(peak() - before)
"""


def _fill(journal: Journal) -> None:
    """Write many active enrollments, each with a certificate and a chain of the usual size."""
    text = "-----BEGIN CERTIFICATE-----\n" + "A" * 1900 + "\n-----END CERTIFICATE-----\n"

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(MANY):
            yield {
                "id": f"2026{number // 100:04d}-{number:08x}",
                "environment": "test",
                "channel": "ws",
                "customer_id": str(number),
                "method": "api",
                "state": "active",
                "version": 8,
                "created_at": NOW,
                "updated_at": NOW,
                "tries": 0,
                "generation": 1,
                "key_id": number.to_bytes(16, "big"),
                "key_label": f"varmenne-{number}",
                "certificate": text,
                "chain": text,
            }

    everything = list(rows())
    with journal._transaction() as connection:
        for begin in range(0, MANY, 5000):
            connection.execute(sa.insert(schema.enrollment), everything[begin : begin + 5000])


if __name__ == "__main__":
    main()
