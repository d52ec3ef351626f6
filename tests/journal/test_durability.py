"""The journal on disk: private files, full and read-only disks, other versions, many processes at once."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from varmenne.domain.steps import State
from varmenne.errors import JournalError
from varmenne.journal import Journal

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)

_PRELUDE = """
import datetime, os, pathlib, resource, signal, sys
from varmenne.domain.identifiers import Channel, CustomerId, Environment
from varmenne.domain.keys import new_key_id
from varmenne.domain.steps import Method, State
from varmenne.errors import JournalError, StateError
from varmenne.journal import Journal, NewEnrollment
NOW = datetime.datetime(2026, 11, 24, 12, tzinfo=datetime.UTC)
LEASE = datetime.timedelta(minutes=5)
def add(journal, **more):
    return journal.add(NewEnrollment(environment=Environment.TEST, channel=Channel.WS, customer_id=CustomerId("1"),
        customer_name=None, method=Method.API, key_id=new_key_id(), **more), NOW, lease=LEASE)
def told(call):
    try:
        call()
    except JournalError as exc:
        print(f"{exc.what}: {exc.why}; {exc.next_step}")
    else:
        print("no error")
folder = pathlib.Path(sys.argv[1])
"""


def in_a_process(program: str, folder: Path, *arguments: str, wrapper: tuple[str, ...] = ()) -> str:
    """Run a program over a journal's folder in a process of its own, and return what it printed."""
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", _PRELUDE + program, str(folder), *arguments],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return done.stdout.decode()


def mode(path: Path) -> int:
    """Return the permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    """Folder 0700, every file of the database 0600, whatever the umask."""
    program = """
os.umask(0)
with Journal(folder) as journal:
    add(journal)
    print(*sorted(f"{path.name}:{path.stat().st_mode & 0o777:o}" for path in [folder, *folder.iterdir()]))
"""
    assert in_a_process(program, tmp_path / "state").split() == [
        "journal.lock:600",
        "journal.sent:600",
        "journal.sqlite-shm:600",
        "journal.sqlite-wal:600",
        "journal.sqlite:600",
        "state:700",
    ]


def test_a_commit_that_returned_is_on_disk(tmp_path: Path) -> None:
    """The settings that durability rests on are those of the connection in use, not only of our wish."""
    with Journal(tmp_path) as journal, journal._database.engine.connect() as connection:
        found = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "trusted_schema")
        ]
    assert found == ["wal", 2, 1, 0]


def test_committed_rows_survive_kill(tmp_path: Path) -> None:
    """A process that kills itself after a commit leaves the row; one in the middle of a transaction leaves nothing."""
    program = """
journal = Journal(folder)
row = add(journal)
print(row.id, flush=True)
with journal._transaction() as connection:
    connection.exec_driver_sql("UPDATE enrollment SET state = 'active'")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", _PRELUDE + program, str(tmp_path)], check=False, capture_output=True, timeout=60
    )
    assert done.returncode == -9
    with Journal(tmp_path) as journal:
        (row,) = journal.list()
        journal.check()
    assert (row.id, row.state) == (done.stdout.decode().strip(), State.PREPARED)


def test_every_copy_of_the_files_opens(tmp_path: Path) -> None:
    """What lies on disk after each commit, copied without asking, is a sound journal with that commit in it."""
    program = """
with Journal(folder) as journal:
    for count in range(5):
        add(journal)
        copy = folder.parent / f"copy-{count}"
        copy.mkdir()
        for path in folder.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
"""
    in_a_process(program, tmp_path / "state")
    for count in range(5):
        with Journal(tmp_path / f"copy-{count}") as journal:
            journal.check()
            assert len(journal.list()) == count + 1


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """The sentence names the file, both versions and the way out; the file is left as it was."""
    Journal(tmp_path).close()
    path = tmp_path / "journal.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0999'")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(JournalError, match="was written by a newer varmenne") as caught:
        Journal(tmp_path)
    assert "0999" in caught.value.why
    assert "newer varmenne" in caught.value.next_step
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"no database, whatever its name says\n" * 100, b"SQLite format 3\x00" * 64])
def test_something_else_in_its_place(tmp_path: Path, content: bytes) -> None:
    """A file that is no database is refused and left alone."""
    path = tmp_path / "journal.sqlite"
    path.write_bytes(content)
    with pytest.raises(JournalError, match=r"journal\.sqlite"):
        Journal(tmp_path)
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    """A file in the way of the folder is told with its path."""
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="file/state"):
        Journal(tmp_path / "file" / "state")


def without_privileges() -> tuple[str, ...]:
    """Return what to put before a command so that file modes hold for root too."""
    if os.getuid():
        return ()
    setpriv = shutil.which("setpriv")
    assert setpriv, "setpriv is missing: install the package util-linux"
    return (setpriv, "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", "--")


def test_read_only_folder(tmp_path: Path) -> None:
    """In a folder that may not be written to, no journal is made or used; the sentence says what to check."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o500)
    told = in_a_process("told(lambda: Journal(folder))", folder, wrapper=without_privileges())
    assert "cannot be used" in told
    assert "Permission denied" in told
    assert "Check that the disk has room and that this user may write there" in told
    assert list(folder.iterdir()) == []


def test_read_only_file(tmp_path: Path) -> None:
    """A journal that may only be read is refused before anything depends on it."""
    Journal(tmp_path).close()
    (tmp_path / "journal.sqlite").chmod(0o400)
    tmp_path.chmod(0o500)
    told = in_a_process("told(lambda: Journal(folder).check())", tmp_path, wrapper=without_privileges())
    tmp_path.chmod(0o700)
    assert "cannot be used" in told


_FULL = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Journal(folder) as journal:
    row = add(journal)
    size = max(path.stat().st_size for path in folder.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    told(lambda: journal.record_answer(row, NOW, operation="x", http_status=200, body=os.urandom(250_000)))
    told(lambda: journal.check())
    told(lambda: [add(journal) for _ in range(1000)])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    journal.check()
    print(len(journal.answers(row.id)), journal.get(row.id) == row)
"""


def test_full_disk(tmp_path: Path) -> None:
    """When a file cannot grow, each write says so, nothing is half written, and all is well with room again."""
    *told, last = in_a_process(_FULL, tmp_path / "state").splitlines()
    assert len(told) == 3
    assert all("cannot be used" in line and "disk has room" in line for line in told)
    assert last == "0 True"


_WRITER = """
with Journal(folder) as journal:
    for count in range(25):
        row = add(journal, transfer_hash=f"{sys.argv[2]}-{count}")
        row = journal.commit(row, NOW, State.KEYED, step="generate", changes={"public_key": b"1"})
        journal.release(row, NOW, due_at=None)
print("done")
"""


def test_many_processes_write_at_once(tmp_path: Path) -> None:
    """Four processes that start together on a journal that is not there yet all get their work done."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PRELUDE + _WRITER, str(tmp_path / "state"), str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(4)
    ]
    ends = [process.communicate(timeout=120) for process in processes]
    assert [(out, err) for out, err in ends] == [(b"done\n", b"")] * 4
    with Journal(tmp_path / "state") as journal:
        rows = journal.list()
        journal.check()
    assert len(rows) == 100
    assert {row.version for row in rows} == {3}


_RACER = """
with Journal(folder) as journal:
    won = 0
    for row in journal.list():
        try:
            mine = journal.claim(row, NOW + LEASE, lease=LEASE)
            journal.commit(mine, NOW + LEASE, State.KEYED, step="generate", detail={"by": sys.argv[2]})
            won += 1
        except StateError:
            pass
print(won, flush=True)
sys.stdin.read()
"""


def test_each_row_is_won_by_one(tmp_path: Path) -> None:
    """Four processes that want the same rows at once share them: each row has one commit."""
    in_a_process("journal = Journal(folder)\nfor _ in range(20): add(journal)", tmp_path)
    command = [sys.executable, "-c", _PRELUDE + _RACER, str(tmp_path)]
    processes = [
        subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for number in range(4)
    ]
    won = [int(process.stdout.readline()) for process in processes if process.stdout is not None]
    for process in processes:
        process.communicate(timeout=60)
    assert sum(won) == 20
    with Journal(tmp_path) as journal:
        for row in journal.list():
            assert [event.step for event in journal.history(row.id)] == ["prepare", "generate"]


def test_a_writer_waits_for_another(tmp_path: Path) -> None:
    """A transaction of another connection is waited for; nobody reads "database is locked"."""
    with Journal(tmp_path) as journal:
        journal.check()
        program = """
journal = Journal(folder)
with journal._transaction() as connection:
    connection.exec_driver_sql("UPDATE meta SET value = value")
    print("holding", flush=True)
    import time
    time.sleep(0.7)
"""
        command = [sys.executable, "-c", _PRELUDE + program, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"holding\n"
            journal.check()
    assert process.returncode == 0


def test_errors_hold_no_values(tmp_path: Path) -> None:
    """A database error is told without the statement's parameters."""
    with Journal(tmp_path) as journal:
        with sqlite3.connect(journal.path) as connection:
            connection.execute("DROP TABLE log")
        connection.close()
        with pytest.raises(JournalError) as caught:
            journal.save_probe("a-value", NOW + timedelta(0), fit=True, result={"another": "value"})
    assert "no such table" in caught.value.why
    assert "a-value" not in f"{caught.value} {caught.value.__cause__}"
