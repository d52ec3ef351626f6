"""``kill -9`` at moments that are drawn: what a process said to be durable is there, and the rest hangs together."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from journal.rows import WAY
from varmenne.domain.identifiers import EnrollmentId
from varmenne.domain.steps import State
from varmenne.journal import Journal
from varmenne.settings import JournalSettings

_WORK = """
import os, pathlib, sys
from journal.rows import NOW, WAY, add, take_to
from varmenne.journal import Journal
from varmenne.settings import JournalSettings
with Journal(pathlib.Path(sys.argv[1]), JournalSettings(url=sys.argv[2])) as journal:
    print("ready", flush=True)
    while True:
        row = add(journal, transfer_hash=os.urandom(32).hex())
        for state in WAY[1:]:
            row = take_to(journal, row, state)
            print(row.id, state, flush=True)
"""


@pytest.mark.parametrize("kills", [6, pytest.param(40, marks=pytest.mark.long)])
def test_a_killed_process_leaves_all_that_it_had_committed(
    tmp_path: Path, database: JournalSettings, kills: int
) -> None:
    """One process after the other works on the same journal and is killed; no commit is lost and no row is torn."""
    rng = random.Random(20261124)  # noqa: S311 - repeatable on purpose
    state_dir = tmp_path / "state"
    told: dict[str, State] = {}
    for _ in range(kills):
        command = [sys.executable, "-c", _WORK, str(state_dir), database.url]
        environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0.005, 0.15))
            process.kill()
            lines = process.stdout.read().split("\n")
        for line in lines[:-1]:
            name, state = line.split()
            told[name] = State(state)
    with Journal(state_dir, database) as journal:
        assert [check.detail for check in journal.inspect() if check.verdict == "fail"] == []
        for name, state in told.items():
            assert WAY.index(journal.get(EnrollmentId(name)).state) >= WAY.index(state)
        mark = journal._record.mark()
        intents = sum(event.target is State.SUBMITTING for row in journal.every() for event in journal.history(row.id))
        assert mark is not None
        assert intents - kills <= mark.sent <= intents
    assert told
