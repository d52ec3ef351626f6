"""Backups, and journals that went back in time: nothing that may have been sent looks unsent."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from harness.postgresql import PostgreSQL
from journal.rows import NOW, add, take_to
from varmenne.domain.steps import KNOWN_ANSWER, Method, State
from varmenne.errors import InputError, JournalError, StateError
from varmenne.journal import Journal, schema
from varmenne.journal.past import Doubt
from varmenne.journal.restore import restore
from varmenne.settings import JournalSettings

LATER = NOW + timedelta(hours=1)
SQLITE = JournalSettings()


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder, to see that nothing changed; SQLite's shared memory is not among them."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith("-shm")}


def failures(journal: Journal) -> list[str]:
    """Return what an inspection finds wrong."""
    return [check.detail for check in journal.inspect() if check.verdict == "fail"]


def go_back(settings: JournalSettings, state_dir: Path, snapshot: Path, *, take: bool = False) -> None:
    """Take a copy of the database, or put it back, as an administrator does who knows nothing of varmenne."""
    if not settings.url:
        if take:
            with Journal(state_dir) as journal:
                journal.backup(snapshot)
        else:
            for path in state_dir.glob("journal.sqlite*"):
                path.unlink()
            shutil.copy(snapshot, state_dir / "journal.sqlite")
        return
    engine = sa.create_engine(settings.url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for table in ("meta", "enrollment", "event", "answer"):
            if take:
                connection.exec_driver_sql(f"CREATE TABLE old_{table} AS SELECT * FROM {table}")  # noqa: S608
        if not take:
            for table in ("answer", "event", "enrollment", "meta"):
                connection.exec_driver_sql(f"DELETE FROM {table}")  # noqa: S608
            for table in ("meta", "enrollment", "event", "answer"):
                connection.exec_driver_sql(f"INSERT INTO {table} SELECT * FROM old_{table}")  # noqa: S608


def test_a_backup_is_private_whole_and_one_file(tmp_path: Path) -> None:
    """It is made while the journal is in use, and holds what was committed."""
    with Journal(tmp_path / "state") as journal:
        row = take_to(journal, add(journal), State.ACCEPTED)
        journal.backup(tmp_path / "backup.sqlite")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["backup.sqlite"]
    assert stat.S_IMODE((tmp_path / "backup.sqlite").stat().st_mode) == 0o600
    connection = sqlite3.connect(tmp_path / "backup.sqlite")
    assert connection.execute("SELECT id, state FROM enrollment").fetchall() == [(row.id, "accepted")]
    connection.close()


def test_a_backup_replaces_no_file(tmp_path: Path) -> None:
    """An older backup is not overwritten by a slip."""
    (tmp_path / "backup.sqlite").write_text("precious")
    with Journal(tmp_path / "state") as journal, pytest.raises(JournalError, match="exists"):
        journal.backup(tmp_path / "backup.sqlite")
    assert (tmp_path / "backup.sqlite").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.sqlite", "state"]


def test_a_damaged_journal_gives_no_backup(tmp_path: Path) -> None:
    """Damage is told when the backup is made, not when it is needed."""
    with Journal(tmp_path / "state") as journal:
        for _ in range(30):
            add(journal)
    path = tmp_path / "state" / "journal.sqlite"
    content = bytearray(path.read_bytes())
    place = content.rindex(b"prepared") & ~4095  # a page of rows, not of the schema
    content[place : place + 4096] = b"\xff" * 4096
    path.write_bytes(content)
    with Journal(tmp_path / "state") as journal, pytest.raises(JournalError):
        journal.backup(tmp_path / "backup.sqlite")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_journal_that_went_back_in_time_is_refused_and_reconciled(tmp_path: Path, database: JournalSettings) -> None:
    """What was sent since the copy becomes uncertain, with its CSR; what was not known at all comes back as well."""
    state_dir = tmp_path / "state"
    with Journal(state_dir, database) as journal:
        done = take_to(journal, add(journal, transfer_hash="d" * 64), State.ACTIVE)
        prepared = add(journal, transfer_hash="a" * 64)
        keyed = take_to(journal, add(journal, transfer_hash="b" * 64), State.KEYED)
        waiting = take_to(journal, add(journal, transfer_hash="c" * 64), State.KEYED)
    go_back(database, state_dir, tmp_path / "snapshot", take=True)
    with Journal(state_dir, database) as journal:
        take_to(journal, journal.get(prepared.id), State.ACTIVE)
        take_to(journal, journal.get(keyed.id), State.SUBMITTING)
        new = take_to(journal, add(journal, transfer_hash="e" * 64), State.ACCEPTED)
    go_back(database, state_dir, tmp_path / "snapshot")

    with pytest.raises(JournalError, match="gone back in time") as caught:
        Journal(state_dir, database)
    assert "4 requests were begun by this host's knowledge, this journal knows 1" in caught.value.why
    assert "varmenne journal restore" in caught.value.next_step

    result = restore(state_dir, database, None, LATER)
    assert result.recorded
    assert result.newest == done.updated_at
    assert set(result.doubts) == {
        Doubt(prepared.id, State.PREPARED),
        Doubt(keyed.id, State.KEYED),
        Doubt(new.id, None),
    }
    with Journal(state_dir, database) as journal:
        for row in (prepared, keyed, new):
            found = journal.get(row.id)
            assert (found.state, found.owner, found.due_at) == (State.UNCERTAIN, None, None)
            assert (found.csr, found.public_key, found.key_id) == (f"CSR of {row.id}", b"key", row.key_id)
            assert found.problem is not None
            assert found.problem["next_step"] == f"varmenne resolve {row.id}"
            assert journal.history(row.id)[-1].step == "restore"
        assert journal.by_transfer(new.environment, "e" * 64) == journal.get(new.id)
        assert journal.get(waiting.id).state is State.KEYED
        assert journal.get(done.id) == done
        assert failures(journal) == []

    again = restore(state_dir, database, None, LATER)
    assert again.doubts == ()


def test_a_backup_since_which_nothing_was_sent_is_no_danger(tmp_path: Path, database: JournalSettings) -> None:
    """Only what must not be repeated counts: the copy is taken without a word, and its rows go on."""
    state_dir = tmp_path / "state"
    with Journal(state_dir, database) as journal:
        sent = take_to(journal, add(journal), State.ACCEPTED)
    go_back(database, state_dir, tmp_path / "snapshot", take=True)
    with Journal(state_dir, database) as journal:
        take_to(journal, journal.get(sent.id), State.ACTIVE)
    go_back(database, state_dir, tmp_path / "snapshot")
    with Journal(state_dir, database) as journal:
        assert take_to(journal, journal.get(sent.id), State.ACTIVE).state is State.ACTIVE


def test_restoring_a_file_keeps_what_it_replaces(tmp_path: Path) -> None:
    """The journal that was there stays beside it under another name, and opens."""
    state_dir = tmp_path / "state"
    with Journal(state_dir) as journal:
        keyed = take_to(journal, add(journal), State.KEYED)
        journal.backup(tmp_path / "backup.sqlite")
        accepted = take_to(journal, keyed, State.ACCEPTED)
    result = restore(state_dir, SQLITE, tmp_path / "backup.sqlite", LATER)
    assert result.doubts == (Doubt(keyed.id, State.KEYED),)
    assert result.replaced == state_dir / "journal.replaced-20261124T130000Z.sqlite"
    with Journal(state_dir) as journal:
        assert journal.get(keyed.id).state is State.UNCERTAIN
        assert failures(journal) == []
    kept = tmp_path / "kept"
    kept.mkdir()
    assert result.replaced is not None
    shutil.copy(result.replaced, kept / "journal.sqlite")
    connection = sqlite3.connect(kept / "journal.sqlite")
    assert connection.execute("SELECT state FROM enrollment").fetchall() == [(accepted.state.value,)]
    connection.close()


def test_a_deleted_journal_is_noticed_and_comes_back_from_the_record(tmp_path: Path) -> None:
    """A new, empty journal in the old one's place would find every order unspent."""
    with Journal(tmp_path) as journal:
        sent = take_to(journal, add(journal, transfer_hash="a" * 64), State.ACCEPTED)
    for path in tmp_path.glob("journal.sqlite*"):
        path.unlink()
    with pytest.raises(JournalError, match="gone back in time"):
        Journal(tmp_path)
    assert restore(tmp_path, SQLITE, None, LATER).doubts == (Doubt(sent.id, None),)
    with Journal(tmp_path) as journal:
        assert journal.get(sent.id).state is State.UNCERTAIN
        assert failures(journal) == []


def test_a_journal_that_sent_nothing_may_be_deleted(tmp_path: Path) -> None:
    """Trying things out leaves nothing that could be spent."""
    with Journal(tmp_path) as journal:
        add(journal)
    for path in tmp_path.glob("journal.sqlite*"):
        path.unlink()
    with Journal(tmp_path) as journal:
        assert journal.list() == ()


def test_a_backup_on_a_new_machine(tmp_path: Path) -> None:
    """Without the record nobody knows what was sent since: all that could have been is uncertain."""
    with Journal(tmp_path / "old") as journal:
        done = take_to(journal, add(journal), State.ACTIVE)
        prepared = add(journal)
        keyed = take_to(journal, add(journal), State.KEYED)
        carried = take_to(journal, add(journal, method=Method.E_SERVICE), State.KEYED)
        journal.backup(tmp_path / "backup.sqlite")
    (tmp_path / "new").mkdir(mode=0o700)
    shutil.copy(tmp_path / "backup.sqlite", tmp_path / "new" / "journal.sqlite")
    with pytest.raises(JournalError, match="without the record of what was sent"):
        Journal(tmp_path / "new")
    result = restore(tmp_path / "new", SQLITE, tmp_path / "backup.sqlite", LATER)
    assert not result.recorded
    assert {doubt.id for doubt in result.doubts} == {prepared.id, keyed.id}
    with Journal(tmp_path / "new") as journal:
        states = {row.id: row.state for row in journal.every()}
        assert failures(journal) == []
    assert states == {
        done.id: State.ACTIVE,
        prepared.id: State.UNCERTAIN,
        keyed.id: State.UNCERTAIN,
        carried.id: State.KEYED,
    }


def test_another_host_learns_of_a_restore(tmp_path: Path, new_postgresql_url: object) -> None:
    """Each host has its own record; one that did not reconcile yet is refused, and so is a process that runs on."""
    assert callable(new_postgresql_url)
    database = JournalSettings(url=new_postgresql_url())
    hosts = tmp_path / "a", tmp_path / "b"
    rows = []
    go = []
    for host in hosts:
        with Journal(host, database) as journal:
            rows.append(take_to(journal, add(journal), State.KEYED))
    go_back(database, hosts[0], tmp_path / "unused", take=True)
    for host, row in zip(hosts, rows, strict=True):
        with Journal(host, database) as journal:
            take_to(journal, row, State.ACCEPTED)
    running = Journal(hosts[1], database)
    go_back(database, hosts[0], tmp_path / "unused")
    go.append(restore(hosts[0], database, None, LATER))
    with running, pytest.raises(JournalError, match="was restored while this process had it open"):
        take_to(running, running.get(rows[1].id), State.SUBMITTING)
    with pytest.raises(JournalError, match="gone back in time"):
        Journal(hosts[1], database)
    go.append(restore(hosts[1], database, None, LATER))
    assert [result.doubts for result in go] == [(Doubt(row.id, State.KEYED),) for row in rows]


def test_postgresql_kept_elsewhere_is_noticed_by_hosts_that_saw_nothing(
    tmp_path: Path, postgresql: PostgreSQL, new_postgresql_url: Callable[[], str]
) -> None:
    """A copy of the database tells by itself that it is one, also to a host that never heard of what was sent since."""
    there = JournalSettings(url=new_postgresql_url())
    with Journal(tmp_path / "b", there) as journal:
        keyed = take_to(journal, add(journal), State.KEYED)
    name = sa.make_url(there.url).database
    postgresql.execute(f"CREATE DATABASE {name}_copy TEMPLATE {name}")
    copy = JournalSettings(url=postgresql.url(f"{name}_copy"))
    with Journal(tmp_path / "a", there) as journal:
        take_to(journal, keyed, State.SUBMITTING)
    for host in ("a", "b", "new"):
        with pytest.raises(JournalError, match="gone back in time"):
            Journal(tmp_path / host, copy)
    result = restore(tmp_path / "a", copy, None, LATER)
    assert (result.recorded, result.doubts) == (True, (Doubt(keyed.id, State.KEYED),))
    with Journal(tmp_path / "b", copy) as journal:
        assert journal.get(keyed.id).state is State.UNCERTAIN


def test_a_host_that_saw_others_send_refuses_an_older_journal(
    tmp_path: Path, new_postgresql_url: Callable[[], str]
) -> None:
    """It cannot tell which requests are missing, so all that could have been sent becomes uncertain."""
    database = JournalSettings(url=new_postgresql_url())
    with Journal(tmp_path / "a", database) as journal:
        done, sent, kept = (take_to(journal, add(journal), State.KEYED) for _ in range(3))
        take_to(journal, done, State.ACTIVE)
    go_back(database, tmp_path / "a", tmp_path / "unused", take=True)
    with Journal(tmp_path / "a", database) as journal:
        take_to(journal, sent, State.SUBMITTING)
    with Journal(tmp_path / "b", database) as journal:
        assert len(journal.list()) == 3
    go_back(database, tmp_path / "a", tmp_path / "unused")
    with pytest.raises(JournalError, match="gone back in time"):
        Journal(tmp_path / "b", database)
    result = restore(tmp_path / "b", database, None, LATER)
    assert not result.recorded
    assert set(result.doubts) == {Doubt(sent.id, State.KEYED), Doubt(kept.id, State.KEYED)}


def test_a_process_that_runs_on_notices_at_its_next_request(
    tmp_path: Path, new_postgresql_url: Callable[[], str]
) -> None:
    """The database went back behind an open connection, by means that left everything else as it was."""
    database = JournalSettings(url=new_postgresql_url())
    with Journal(tmp_path, database) as journal:
        first, second = (take_to(journal, add(journal), State.KEYED) for _ in range(2))
        go_back(database, tmp_path, tmp_path / "unused", take=True)
        take_to(journal, first, State.SUBMITTING)
        go_back(database, tmp_path, tmp_path / "unused")
        for row in (first, second):
            with pytest.raises(JournalError, match="while this process had it open"):
                take_to(journal, row, State.SUBMITTING)
            assert journal.get(row.id).state is State.KEYED


def test_another_journal_beside_a_record_of_nothing_is_refused(tmp_path: Path) -> None:
    """A record in which nothing was sent yet vouches for its own journal only."""
    with Journal(tmp_path / "other") as journal:
        take_to(journal, add(journal), State.ACCEPTED)
        journal.backup(tmp_path / "backup.sqlite")
    with Journal(tmp_path / "state") as journal:
        add(journal)
    go_back(SQLITE, tmp_path / "state", tmp_path / "backup.sqlite")
    with pytest.raises(JournalError, match="without the record of what was sent"):
        Journal(tmp_path / "state")


def test_an_answer_in_the_backup_is_not_taken_for_a_later_requests(tmp_path: Path, database: JournalSettings) -> None:
    """The history names the newest answer from before the lost request, so that only a later one settles it."""
    with Journal(tmp_path, database) as journal:
        row = take_to(journal, add(journal), State.SUBMITTING)
        old = journal.record_answer(row, NOW, operation="signNewCertificate", http_status=200, body=b"refused")
        row = journal.commit(row, NOW, State.REJECTED, step="test")
    go_back(database, tmp_path, tmp_path / "snapshot", take=True)
    with Journal(tmp_path, database) as journal:
        journal.commit(row, NOW, State.SUBMITTING, step="test")
    go_back(database, tmp_path, tmp_path / "snapshot")
    assert restore(tmp_path, database, None, LATER).doubts == (Doubt(row.id, State.REJECTED),)
    with Journal(tmp_path, database) as journal:
        told = [(event.target, event.detail.get(KNOWN_ANSWER)) for event in journal.history(row.id)[-2:]]
    assert told == [(State.SUBMITTING, old.id), (State.UNCERTAIN, None)]


def test_a_restore_needs_the_journal_alone(tmp_path: Path) -> None:
    """While another process has it open, nothing is touched."""
    with Journal(tmp_path / "state") as journal:
        add(journal)
        journal.backup(tmp_path / "backup.sqlite")
    program = (
        "import pathlib, sys\nfrom varmenne.journal import Journal\n"
        "with Journal(pathlib.Path(sys.argv[1])):\n    print('open', flush=True)\n    sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "state")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        before = files(tmp_path / "state")
        with pytest.raises(JournalError, match="in use by another process"):
            restore(tmp_path / "state", SQLITE, tmp_path / "backup.sqlite", LATER)
        assert files(tmp_path / "state") == before
        process.kill()
    restore(tmp_path / "state", SQLITE, tmp_path / "backup.sqlite", LATER)


@pytest.mark.parametrize("content", [b"", b"this is no database\n" * 100, None])
def test_something_that_is_no_backup_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """The journal stays as it is."""
    with Journal(tmp_path / "state") as journal:
        row = add(journal)
    before = files(tmp_path / "state")
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError):
        restore(tmp_path / "state", SQLITE, tmp_path / "file", LATER)
    assert files(tmp_path / "state") == before
    with Journal(tmp_path / "state") as journal:
        assert journal.list() == (row,)


def test_postgresql_is_restored_by_its_own_tools(tmp_path: Path) -> None:
    """A file is refused with the two commands to run."""
    with pytest.raises(InputError, match="not restored from a file") as caught:
        restore(tmp_path, JournalSettings(url="postgresql://db/journal"), tmp_path / "file", LATER)
    assert "pg_restore" in caught.value.next_step


def test_the_record_survives_a_torn_line_and_forgets_what_is_old(tmp_path: Path) -> None:
    """A line that a power cut left unfinished spoils no other; old ones go, the last stays."""
    with Journal(tmp_path) as journal:
        take_to(journal, add(journal), State.SUBMITTING)
        with (tmp_path / "journal.sent").open("ab") as file:
            file.write(b'\n{"epoch": "torn')
        take_to(journal, add(journal), State.SUBMITTING, LATER)
        assert len(list(journal._record.begun())) == 2
        mark = journal._record.mark()
        journal.prune(LATER + timedelta(days=59, hours=23, minutes=30))
        assert len(list(journal._record.begun())) == 1
        journal.prune(LATER + timedelta(days=90))
        assert journal._record.mark() == mark
    lines = (tmp_path / "journal.sent").read_text().split()
    assert lines
    assert stat.S_IMODE((tmp_path / "journal.sent").stat().st_mode) == 0o600
    Journal(tmp_path).close()


def test_the_record_holds_what_the_row_holds(tmp_path: Path) -> None:
    """Each line is one JSON document with the whole row, written only for what must not be repeated."""
    with Journal(tmp_path) as journal:
        row = take_to(journal, add(journal), State.SUBMITTING)
        take_to(journal, row, State.ACTIVE)
    lines = [json.loads(line) for line in (tmp_path / "journal.sent").read_text().splitlines() if line]
    assert [(line["sent"], "row" in line) for line in lines] == [(0, False), (1, True)]
    assert lines[1]["row"]["csr"] == row.csr


def test_pruning_leaves_what_may_be_needed(journal: Journal) -> None:
    """Raw answers of enrollments that ended long ago go; those of open and uncertain ones stay for ever."""
    ages = {}
    for name, state in (("ended", State.ACTIVE), ("open", State.ACCEPTED)):
        row = take_to(journal, add(journal), state)
        journal.record_answer(row, NOW, operation="x", http_status=200, body=name.encode())
        ages[name] = row
    doubtful = take_to(journal, add(journal), State.SUBMITTING)
    doubtful = journal.commit(doubtful, NOW, State.UNCERTAIN, step="settle")
    journal.record_answer(doubtful, NOW, operation="x", http_status=200, body=b"uncertain")
    assert journal.prune(NOW + timedelta(days=729)) == 0
    assert journal.prune(NOW + timedelta(days=731)) == 1
    assert journal.answers(ages["ended"].id) == ()
    assert [answer.body for answer in journal.answers(ages["open"].id)] == [b"open"]
    assert [answer.body for answer in journal.answers(doubtful.id)] == [b"uncertain"]
    with journal._reading() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.answer)).scalar() == 3


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("UPDATE event SET target = 'active' WHERE target = 'keyed'", "a move from prepared to active"),
        ("UPDATE event SET target = 'nonsense' WHERE target = 'keyed'", "a move from prepared to nonsense"),
        ("DELETE FROM event WHERE target = 'keyed'", "a gap in the history of"),
        ("UPDATE enrollment SET state = 'issued'", "another state than the history tells, of"),
        ("DELETE FROM event", "another state than the history tells, of"),
    ],
)
def test_a_history_that_cannot_be_is_found(journal: Journal, damage: str, sentence: str) -> None:
    """Somebody who changed rows by hand left a trace."""
    row = take_to(journal, add(journal), State.ACCEPTED)
    assert failures(journal) == []
    with journal._transaction() as connection:
        connection.exec_driver_sql(damage)
    found = [detail for detail in failures(journal) if sentence in detail]
    assert len(found) == 1
    assert row.id in found[0]


def test_files_that_others_may_read_are_found(tmp_path: Path) -> None:
    """The check names the file and the command that puts it right."""
    with Journal(tmp_path) as journal:
        (tmp_path / "journal.sqlite").chmod(0o640)
        (found,) = [check for check in journal.inspect() if check.verdict == "warn"]
    assert found.next_step == f"chmod go= {tmp_path}/journal.sqlite"


def test_postgresql_has_no_file(tmp_path: Path, new_postgresql_url: object) -> None:
    """Asking for its path or a backup of it is told, not guessed."""
    assert callable(new_postgresql_url)
    with Journal(tmp_path, JournalSettings(url=new_postgresql_url())) as journal:
        with pytest.raises(StateError, match="is not a file"):
            journal.backup(tmp_path / "file")
        assert journal.name.startswith("postgresql+psycopg://")


def test_hosts_that_prune_at_once(tmp_path: Path, database: JournalSettings) -> None:
    """One of them does the day's work, none fails, and each drops the old lines of its own record."""
    hosts = 4 if database.url else 1
    with contextlib.ExitStack() as closing:
        journals = [closing.enter_context(Journal(tmp_path / str(host), database)) for host in range(hosts)]
        for journal in journals:
            for moment in (NOW, LATER + timedelta(days=100)):
                take_to(journal, add(journal), State.SUBMITTING, moment)
        with ThreadPoolExecutor(hosts) as pool:
            for day in range(70, 90):
                together = threading.Barrier(hosts)

                def prune(journal: Journal, day: int = day, together: threading.Barrier = together) -> int:
                    together.wait(10)
                    return journal.prune(NOW + timedelta(days=day))

                assert list(pool.map(prune, journals)) == [0] * hosts
        assert [len(list(journal._record.begun())) for journal in journals] == [1] * hosts


@pytest.mark.parametrize("known", [None, State.PREPARED, State.KEYED, State.SUBMITTING])
def test_a_renewal_is_in_no_doubt(tmp_path: Path, database: JournalSettings, known: State | None) -> None:
    """Its request uses nothing up: after a restore it is keyed with the same CSR, due, and goes on by itself."""
    state_dir = tmp_path / "state"
    renewal = None
    with Journal(state_dir, database) as journal:
        old = take_to(journal, add(journal), State.ACTIVE)
        if known is not None:
            renewal = take_to(journal, add(journal, method=Method.RENEWAL, replaces=old.id), known)
    go_back(database, state_dir, tmp_path / "snapshot", take=True)
    with Journal(state_dir, database) as journal:
        if renewal is None:
            renewal = add(journal, method=Method.RENEWAL, replaces=old.id)
        elif known is State.SUBMITTING:
            renewal = journal.commit(journal.get(renewal.id), NOW, State.KEYED, step="renew")
        renewal = take_to(journal, renewal, State.SUBMITTING)
        renewal = take_to(journal, journal.commit(renewal, NOW, State.KEYED, step="renew"), State.ACCEPTED)
    go_back(database, state_dir, tmp_path / "snapshot")
    assert restore(state_dir, database, None, LATER).doubts == ()
    with Journal(state_dir, database) as journal:
        back = journal.get(renewal.id)
        assert (back.state, back.due_at, back.owner, back.problem) == (State.KEYED, LATER, None, None)
        assert (back.csr, back.key_id) == (renewal.csr, renewal.key_id)
        last = journal.history(back.id)[-1]
        assert (last.step, last.source, last.target) == ("restore", State.SUBMITTING, State.KEYED)
        assert failures(journal) == []
        assert journal.commit(back, LATER, State.SUBMITTING, step="renew").state is State.SUBMITTING
    with Journal(state_dir, database) as journal:
        told = len(journal.history(renewal.id))
    restore(state_dir, database, None, LATER)
    with Journal(state_dir, database) as journal:
        assert len(journal.history(renewal.id)) == told


def test_of_two_renewals_of_a_certificate_one_goes_on(tmp_path: Path, database: JournalSettings) -> None:
    """There is one at a time; the other is for a person to decide, who can only give it up."""
    state_dir = tmp_path / "state"
    with Journal(state_dir, database) as journal:
        old = take_to(journal, add(journal), State.ACTIVE)
    go_back(database, state_dir, tmp_path / "snapshot", take=True)
    with Journal(state_dir, database) as journal:
        first = take_to(journal, add(journal, method=Method.RENEWAL, replaces=old.id), State.SUBMITTING)
        journal.commit(first, NOW, State.REJECTED, step="renew")
        second = take_to(journal, add(journal, method=Method.RENEWAL, replaces=old.id), State.SUBMITTING)
    go_back(database, state_dir, tmp_path / "snapshot")
    assert restore(state_dir, database, None, LATER).doubts == (Doubt(first.id, None),)
    with Journal(state_dir, database) as journal:
        assert (journal.get(first.id).state, journal.get(second.id).state) == (State.UNCERTAIN, State.KEYED)
