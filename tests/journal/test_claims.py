"""Taking due rows: one statement, a lease, a fencing version, and an end to trying."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from journal.rows import LEASE, NOW, add, take_to
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.steps import State
from varmenne.errors import StateError
from varmenne.journal import Journal, this_process
from varmenne.journal.claims import MAX_CLAIMS, PAUSE
from varmenne.settings import JournalSettings


def due(journal: Journal, minute: int = 0) -> Enrollment:
    """Add a row that is due at a minute after the beginning."""
    return journal.release(add(journal), NOW, due_at=NOW + timedelta(minutes=minute))


def test_the_longest_due_is_taken_first_and_what_is_not_due_is_left(journal: Journal) -> None:
    """A claim moves the due time to the lease's end, and says whose the row is."""
    rows = [due(journal, minute) for minute in (2, 0, 1, 9)]
    nobody = journal.release(add(journal), NOW, due_at=None)
    now = NOW + timedelta(minutes=5)
    taken = journal.claim_due(now, 2, lease=LEASE)
    assert {row.id for row in taken} == {rows[1].id, rows[2].id}
    assert {(row.owner, row.due_at, row.claims) for row in taken} == {(this_process(), now + LEASE, 1)}
    assert {row.id: row.version for row in taken} == {row.id: row.version + 1 for row in rows[1:3]}
    assert all(journal.get(row.id) == row for row in taken)
    assert [row.id for row in journal.claim_due(now, 9, lease=LEASE)] == [rows[0].id]
    assert journal.claim_due(now, 9, lease=LEASE) == ()
    assert journal.get(nobody.id) == nobody


def test_a_lease_that_is_over_fences_its_holder_out(journal: Journal) -> None:
    """Who was too slow can neither commit, renew nor give back; what the service answered is kept all the same."""
    due(journal)
    (slow,) = journal.claim_due(NOW, 1, lease=LEASE)
    slow = take_to(journal, slow, State.SUBMITTING)
    later = NOW + 2 * LEASE
    (taken,) = journal.claim_due(later, 1, lease=LEASE)
    uncertain = journal.commit(taken, later, State.UNCERTAIN, step="settle")
    journal.record_answer(slow, later, operation="signNewCertificate", http_status=200, body=b"late")
    with pytest.raises(StateError):
        journal.commit(slow, later, State.ACCEPTED, step="submit")
    with pytest.raises(StateError):
        journal.renew(slow, later, lease=LEASE)
    with pytest.raises(StateError):
        journal.release(slow, later, due_at=None)
    assert journal.get(slow.id) == uncertain
    assert [answer.body for answer in journal.answers(slow.id)] == [b"late"]


def test_a_lease_is_renewed_without_disturbing_the_step(journal: Journal) -> None:
    """A renewed row is not due at its old time, and the step that works on it commits with the version that it has."""
    due(journal)
    (row,) = journal.claim_due(NOW, 1, lease=LEASE)
    renewed = journal.renew(row, NOW + timedelta(minutes=4), lease=LEASE)
    assert renewed == journal.get(row.id)
    assert journal.claim_due(NOW + LEASE, 1, lease=LEASE) == ()
    assert journal.commit(row, NOW + LEASE, State.KEYED, step="generate").state is State.KEYED


def test_a_poisoned_row_stops_and_asks_for_a_person(journal: Journal) -> None:
    """A row that nobody survives is taken a few times and no more; its problem and its history say so."""
    row = due(journal)
    now = NOW
    for _ in range(MAX_CLAIMS):
        assert [claimed.id for claimed in journal.claim_due(now, 1, lease=LEASE)] == [row.id]
        now += LEASE
    assert journal.claim_due(now, 1, lease=LEASE) == ()
    stopped = journal.get(row.id)
    assert (stopped.state, stopped.due_at, stopped.owner) == (State.PREPARED, None, None)
    assert stopped.problem is not None
    assert f"{MAX_CLAIMS} times" in stopped.problem["what"]
    assert "varmenne resume" in stopped.problem["next_step"]
    assert journal.history(row.id)[-1].step == "problem"
    assert journal.claim_due(now + LEASE, 1, lease=LEASE) == ()
    assert len(journal.history(row.id)) == 2
    by_hand = journal.claim(stopped, now, lease=LEASE)
    assert journal.commit(by_hand, now, State.KEYED, step="generate").claims == 0


def test_the_upkeep_of_a_certificate_is_tried_again_once_a_day(journal: Journal) -> None:
    """A certificate whose upkeep nobody survives must not end forgotten; the problem stays until a try succeeds."""
    row = journal.release(take_to(journal, add(journal), State.ACTIVE), NOW, due_at=NOW)
    now = NOW
    for _ in range(MAX_CLAIMS):
        assert len(journal.claim_due(now, 1, lease=LEASE)) == 1
        now += LEASE
    for _ in range(3):
        assert journal.claim_due(now, 1, lease=LEASE) == ()
        stopped = journal.get(row.id)
        assert (stopped.state, stopped.due_at, stopped.owner) == (State.ACTIVE, now + PAUSE, None)
        assert stopped.problem is not None
        assert "once a day" in stopped.problem["next_step"]
        now += PAUSE
        (again,) = journal.claim_due(now, 1, lease=LEASE)
        assert again.id == row.id
        now += LEASE
    journal.claim_due(now, 1, lease=LEASE)
    (again,) = journal.claim_due(now + PAUSE, 1, lease=LEASE)
    assert journal.commit(again, now + PAUSE, State.ACTIVE, step="tend", changes={"problem": None}).claims == 0


@pytest.mark.parametrize("sign", ["commit", "release"])
def test_any_sign_of_progress_counts_anew(journal: Journal, sign: str) -> None:
    """A row that waits for its certificate for weeks is no poison."""
    due(journal)
    (row,) = journal.claim_due(NOW, 1, lease=LEASE)
    assert row.claims == 1
    if sign == "commit":
        row = journal.commit(row, NOW, State.PREPARED, step="problem")
    else:
        row = journal.release(row, NOW, due_at=NOW)
    assert row.claims == 0


_WORKER = """
import datetime, pathlib, sys
from varmenne.domain.steps import State
from varmenne.journal import Journal
from varmenne.settings import JournalSettings
lease = datetime.timedelta(minutes=5)
now = datetime.datetime(2026, 11, 24, 13, tzinfo=datetime.UTC)
taken = []
with Journal(pathlib.Path(sys.argv[1]), JournalSettings(url=sys.argv[2])) as journal:
    print("ready", flush=True)
    sys.stdin.readline()
    while rows := journal.claim_due(now, 3, lease=lease):
        for row in rows:
            row = journal.commit(row, now, State.KEYED, step="generate", detail={"by": sys.argv[3]})
            journal.release(row, now, due_at=None)
            taken.append(row.id)
print(*taken, flush=True)
"""


def test_eight_processes_on_forty_rows(tmp_path: Path, database: JournalSettings) -> None:
    """Each row has one commit, no process sees an error, and none waits for another for ever."""
    state_dir = tmp_path / "state"
    with Journal(state_dir, database) as journal:
        ids = {due(journal).id for _ in range(40)}
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", _WORKER, str(state_dir), database.url, str(number)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for number in range(8)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()
        ends = [process.communicate(timeout=60) for process in processes]
        assert [(process.returncode, err) for process, (_out, err) in zip(processes, ends, strict=True)] == [
            (0, b"")
        ] * 8
        taken = [name for out, _err in ends for name in out.decode().split()]
        assert sorted(taken) == sorted(ids)
        for row in journal.every():
            assert [event.step for event in journal.history(row.id)] == ["prepare", "generate"]


def test_postgresql_passes_over_rows_that_another_claim_has_locked(tmp_path: Path, new_postgresql_url: object) -> None:
    """Two claims at once do not wait for each other: the second takes other rows, or none."""
    assert callable(new_postgresql_url)
    from varmenne.journal import claims

    with Journal(tmp_path, JournalSettings(url=new_postgresql_url())) as journal:
        rows = {due(journal).id for _ in range(3)}
        with journal._transaction() as connection:
            first = claims.claim_due(connection, NOW, 2, lease=LEASE)
            second = journal.claim_due(NOW, 2, lease=LEASE)
        assert (len(first), len(second)) == (2, 1)
        assert {row.id for row in first + second} == rows
