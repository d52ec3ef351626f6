"""Power cuts at every moment, and full disks at every byte, with the real files of a real process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from journal.disk import build_shim, power_cuts
from journal.rows import WAY
from journal.test_databases import old_journal
from varmenne.domain.identifiers import EnrollmentId
from varmenne.domain.steps import State
from varmenne.journal import Journal
from varmenne.settings import JournalSettings

_WORK = """
import os, pathlib, sys
from journal.rows import NOW, WAY, add, take_to
from varmenne.domain.steps import State
from varmenne.journal import Journal
folder = pathlib.Path(sys.argv[1])
told = os.open(folder / "told", os.O_WRONLY | os.O_APPEND)
def work(rounds):
    with Journal(folder) as journal:
        with journal._reading() as connection:
            connection.exec_driver_sql("PRAGMA wal_autocheckpoint = 12")
        for number in range(rounds):
            row = add(journal, transfer_hash=os.urandom(32).hex())
            os.write(told, f"{row.id} prepared\\n".encode())
            for state in WAY[1:]:
                if state is State.ACCEPTED:
                    journal.record_answer(row, NOW, operation="x", http_status=200, body=os.urandom(6000))
                    os.write(told, f"{row.id} answer\\n".encode())
                row = take_to(journal, row, state)
                os.write(told, f"{row.id} {state}\\n".encode())
work(2)
work(1)
"""

_OPEN = """
import pathlib, sys
from varmenne.journal import Journal
Journal(pathlib.Path(sys.argv[1])).close()
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled shim."""
    return build_shim(tmp_path_factory.mktemp("shim"))


def under_shim(shim: Path, folder: Path, program: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program with everything written down that it does to a folder."""
    environment = {
        **os.environ,
        "LD_PRELOAD": str(shim),
        "POWER_FOLDER": str(folder),
        "POWER_LOG": f"{folder}.log",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        **more,
    }
    return subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        check=False, capture_output=True, text=True, timeout=100, env=environment,
    )  # fmt: skip


def furthest(told: list[str]) -> dict[str, set[str]]:
    """Return what a process was told to be durable, by enrollment."""
    found: dict[str, set[str]] = {}
    for line in told:
        name, _, what = line.partition(" ")
        found.setdefault(name, set()).add(what)
    return found


@pytest.mark.parametrize("moments", [60, pytest.param(None, marks=pytest.mark.long)])
def test_a_power_cut_at_any_moment_leaves_a_sound_journal(tmp_path: Path, shim: Path, moments: int | None) -> None:
    """Whatever was on the disk by then, the journal opens, hangs together, and has all that was said to be durable."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    (folder / "told").touch()
    shutil.copytree(folder, tmp_path / "start")
    done = under_shim(shim, folder, _WORK)
    assert (done.returncode, done.stderr) == (0, "")
    cuts = 0
    for left, told in power_cuts(folder, tmp_path / "start", tmp_path, moments=moments):
        with Journal(left) as journal:
            assert [check.detail for check in journal.inspect() if check.verdict == "fail"] == [], left
            for name, whats in furthest(told).items():
                row = journal.get(EnrollmentId(name))
                certain = max((WAY.index(State(what)) for what in whats - {"answer"}), default=0)
                assert WAY.index(row.state) >= certain, left
                assert len(journal.answers(row.id)) >= ("answer" in whats), left
        shutil.rmtree(left)
        cuts += 1
    assert cuts >= 120


@pytest.mark.parametrize("moments", [20, pytest.param(None, marks=pytest.mark.long)])
def test_a_power_cut_in_a_migration(tmp_path: Path, shim: Path, moments: int | None) -> None:
    """The journal is the old one or the new one, and opening it ends with the new one."""
    folder = tmp_path / "state"
    enrollment_id = old_journal(folder, JournalSettings())
    shutil.copytree(folder, tmp_path / "start")
    done = under_shim(shim, folder, _OPEN)
    assert (done.returncode, done.stderr) == (0, "")
    for left, _told in power_cuts(folder, tmp_path / "start", tmp_path, moments=moments):
        with Journal(left) as journal:
            assert [check.detail for check in journal.inspect() if check.verdict == "fail"] == [], left
            assert journal.get(enrollment_id).state is State.ACCEPTED
            mark = journal._record.mark()
            assert mark is not None
            assert mark.sent == 1
        shutil.rmtree(left)


_FILL = """
import os, pathlib, sys
from journal.rows import NOW, WAY, add, take_to
from varmenne.errors import JournalError
from varmenne.domain.steps import State
from varmenne.journal import Journal
try:
    with Journal(pathlib.Path(sys.argv[1])) as journal:
        journal.check()
        row = add(journal)
        for state in WAY[1:]:
            row = take_to(journal, row, state)
            print(row.id, state)
            journal.record_answer(row, NOW, operation="x", http_status=200, body=os.urandom(6000))
except JournalError as exc:
    print("JournalError", exc.why, "|", exc.next_step)
"""


@pytest.mark.parametrize("room", [0, 4096, 20_000, 60_000, 150_000, 340_000, 360_000, 380_000, 400_000])
def test_a_disk_that_becomes_full(tmp_path: Path, shim: Path, room: int) -> None:
    """Wherever the room ends, it is told as a full disk; with room again, all that was committed is there."""
    done = under_shim(shim, tmp_path / "state", _FILL, POWER_ROOM=str(room))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    if lines and lines[-1].startswith("JournalError"):
        assert "full" in lines[-1] or "No space left" in lines[-1]
        assert "disk has room" in lines.pop()
    if room < 250_000:
        assert lines == [], "the check before an enrollment has to fail where an answer would have no room"
    with Journal(tmp_path / "state") as journal:
        assert [check.detail for check in journal.inspect() if check.verdict == "fail"] == []
        for line in lines:
            name, state = line.split()
            assert WAY.index(journal.get(EnrollmentId(name)).state) >= WAY.index(State(state))
