"""What a row may go through: compare-and-set, one owner at a time, and every change with its event."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa

from journal.rows import LEASE, NOW, add, new, take_to
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import EnrollmentId, Environment
from varmenne.domain.keys import KeyId
from varmenne.domain.steps import Method, State
from varmenne.errors import InputError, StateError
from varmenne.journal import Journal, owner, schema, this_process
from varmenne.journal.journal import MAX_ANSWER_BYTES


def test_a_new_row_is_ours_and_has_its_key_id(journal: Journal) -> None:
    """An enrollment begins as prepared, with its CKA_ID, its owner and its first event durable."""
    row = add(journal, key_id=KeyId(b"k" * 16))
    assert (row.state, row.version, row.key_id, row.tries) == (State.PREPARED, 1, b"k" * 16, 0)
    assert row.owner == this_process()
    assert row.due_at == NOW + LEASE
    assert row.key_label == f"varmenne-{row.id}"
    assert journal.get(row.id) == row
    assert [(event.step, event.source, event.target) for event in journal.history(row.id)] == [
        ("prepare", None, State.PREPARED)
    ]


def test_commit_is_compare_and_set(journal: Journal) -> None:
    """Whoever read an older version commits nothing: neither values nor an event."""
    old = add(journal)
    newest = journal.commit(old, NOW, State.KEYED, step="generate", changes={"public_key": b"1"})
    with pytest.raises(StateError, match="changed by somebody else") as caught:
        journal.commit(old, NOW, State.KEYED, step="generate", changes={"public_key": b"2"})
    assert "varmenne show" in caught.value.next_step
    assert journal.get(old.id) == newest
    assert newest.public_key == b"1"
    assert len(journal.history(old.id)) == 2


def test_release_and_claim_are_compare_and_set_too(journal: Journal) -> None:
    """Giving back what has changed in between is refused."""
    old = add(journal)
    journal.commit(old, NOW, State.KEYED, step="generate")
    with pytest.raises(StateError):
        journal.release(old, NOW, due_at=None)


def test_moves_that_the_table_does_not_have_are_refused(journal: Journal) -> None:
    """The table of steps is the law, whoever calls."""
    row = add(journal)
    with pytest.raises(StateError, match="cannot go from prepared to active"):
        journal.commit(row, NOW, State.ACTIVE, step="nonsense")
    assert journal.get(row.id) == row


def test_unknown_columns_are_refused(journal: Journal) -> None:
    """A misspelt name is a defect, found before anything is written."""
    row = add(journal)
    with pytest.raises(ValueError, match="no such columns"):
        journal.commit(row, NOW, State.KEYED, step="generate", changes={"publickey": b""})
    assert journal.get(row.id) == row


def test_tries_are_counted_anew_in_a_new_state(journal: Journal) -> None:
    """They belong to the present state."""
    row = journal.commit(add(journal), NOW, State.PREPARED, step="problem", changes={"tries": 3})
    assert journal.commit(row, NOW, State.PREPARED, step="problem").tries == 3
    assert journal.commit(journal.get(row.id), NOW, State.KEYED, step="generate").tries == 0


def test_the_same_transfer_id_has_one_row(journal: Journal) -> None:
    """Two rows of one transfer ID are refused in one environment, and are two orders in two."""
    row = add(journal, transfer_hash="a" * 64)
    with pytest.raises(StateError, match="Another enrollment with this transfer ID"):
        add(journal, transfer_hash="a" * 64)
    assert journal.list() == (row,)
    add(journal, transfer_hash="a" * 64, environment=Environment.PRODUCTION)
    assert journal.by_transfer(Environment.TEST, "a" * 64) == row
    assert journal.by_transfer(Environment.TEST, "b" * 64) is None


def test_unknown_enrollment(journal: Journal) -> None:
    """An ID that is not there says so, and where to look."""
    with pytest.raises(InputError, match="There is no enrollment 20261124-00000000") as caught:
        journal.get(EnrollmentId("20261124-00000000"))
    assert "varmenne list" in caught.value.next_step


_CLAIM = """
import sys, datetime, pathlib
from varmenne.journal import Journal
from varmenne.domain.identifiers import EnrollmentId
from varmenne.settings import JournalSettings
with Journal(pathlib.Path(sys.argv[1]), JournalSettings(url=sys.argv[4])) as journal:
    now = datetime.datetime.fromisoformat(sys.argv[3])
    journal.claim(journal.get(EnrollmentId(sys.argv[2])), now, lease=datetime.timedelta(minutes=5))
print("claimed", flush=True)
sys.stdin.read()
"""


def other_claims(journal: Journal, row: Enrollment) -> subprocess.Popen[bytes]:
    """Have another process claim a row, and live on."""
    process = subprocess.Popen(
        [sys.executable, "-c", _CLAIM, str(journal._state_dir), row.id, NOW.isoformat(), journal._settings.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"claimed\n"
    return process


def test_a_living_process_keeps_its_row_and_a_dead_one_loses_it_at_once(journal: Journal) -> None:
    """While its owner lives, nobody else gets a row; after ``kill -9``, everybody does without waiting."""
    row = journal.release(add(journal), NOW, due_at=None)
    with other_claims(journal, row) as process:
        with pytest.raises(StateError, match="Another process is at work") as caught:
            journal.claim(row, NOW + timedelta(minutes=4), lease=LEASE)
        assert str(process.pid) in caught.value.why
        process.kill()
    taken = journal.claim(row, NOW + timedelta(seconds=1), lease=LEASE)
    assert taken.owner == this_process()
    assert taken.due_at == NOW + timedelta(seconds=1) + LEASE


def test_a_lease_ends(journal: Journal) -> None:
    """A process that lives but gives no sign of it loses the row when its lease is over, and cannot commit then."""
    row = journal.release(add(journal), NOW, due_at=None)
    with other_claims(journal, row) as process:
        theirs = journal.get(row.id)
        mine = journal.claim(row, NOW + LEASE, lease=LEASE)
        assert mine.owner == this_process()
        with pytest.raises(StateError):
            journal.commit(theirs, NOW + LEASE, State.KEYED, step="generate")
        process.kill()


def test_claiming_our_own_row_again_renews_it(journal: Journal) -> None:
    """The engine may be called twice by one process."""
    row = add(journal)
    assert journal.claim(row, NOW + timedelta(minutes=1), lease=LEASE).due_at == NOW + timedelta(minutes=6)


def test_claims_leave_no_event_and_no_new_time(journal: Journal) -> None:
    """History tells of changes, not of looks."""
    row = journal.release(add(journal), NOW, due_at=None)
    journal.release(journal.claim(row, NOW + LEASE, lease=LEASE), NOW + LEASE, due_at=None)
    assert len(journal.history(row.id)) == 1
    assert journal.get(row.id).updated_at == NOW


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({}, False),
        ({"started": "1"}, True),  # The number was used again.
        ({"pid": "4194305"}, True),  # Above the kernel's greatest.
        ({"pid": "4194305", "host": "elsewhere"}, False),  # Nobody here can know.
        ({"pid": "4194305", "namespace": "4026539999"}, False),  # In a container, which has numbers of its own.
        ({"pid": "4194305", "namespace": "unknown"}, False),
        ({"boot": "00000000"}, True),  # The host was started anew.
        ({"boot": "00000000", "namespace": "4026539999"}, False),  # Or it is a container of another machine.
        ({"boot": "unknown"}, False),
    ],
)
def test_whether_a_process_is_gone(changes: dict[str, str], gone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process is known by host, boot, number, start and namespace; one that nobody here can see is never gone."""
    monkeypatch.setattr(owner, "_namespace", lambda: owner.INITIAL_NAMESPACE)
    names = ("host", "boot", "pid", "started", "namespace")
    ours = dict(zip(names, this_process().split("/"), strict=True)) | {"namespace": owner.INITIAL_NAMESPACE}
    assert owner.is_gone("/".join((ours | changes).values())) is gone


def test_in_a_container_another_boot_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers of two machines may have one name, and one number of their namespace."""
    monkeypatch.setattr(owner, "_namespace", lambda: "4026539999")
    host, boot, pid, started, _namespace = this_process().split("/")
    assert not owner.is_gone(f"{host}/00000000/{pid}/{started}/4026539999")
    assert owner.is_gone(f"{host}/{boot}/{pid}/1/4026539999")


def test_a_name_of_before_is_read_and_judged_by_its_lease() -> None:
    """Without a namespace in it, its process may be one of a container."""
    host, boot, _pid, _started, _namespace = this_process().split("/")
    assert not owner.is_gone(f"{host}/{boot}/4194305/1")


def test_a_process_does_not_die_by_being_unseen(tmp_path: Path) -> None:
    """Seen from another PID namespace of this host, its number is nobody's."""
    program = "import sys\nfrom varmenne.journal.owner import is_gone\nprint(is_gone(sys.argv[1]))"
    command = [sys.executable, "-c", program]
    apart = ["unshare", "--pid", "--fork", "--mount-proc"]
    try:
        done = subprocess.run([*apart, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not make PID namespaces")
    done = subprocess.run([*apart, *command, this_process()], check=True, capture_output=True, cwd=tmp_path)
    assert done.stdout == b"False\n"


def test_answers_are_kept_as_they_came_compressed_and_bounded(journal: Journal) -> None:
    """The newest answer comes first; a body over the limit is cut, and what is on disk is smaller than the text."""
    row = add(journal)
    body = b"<answer>" + b" " * 100_000
    first = journal.record_answer(row, NOW, operation="signNewCertificate", http_status=200, body=body)
    journal.record_answer(row, NOW, operation="getCertificate", http_status=503, body=b"x" * (MAX_ANSWER_BYTES + 1))
    journal.judge_answer(first, "verified")
    newest, oldest = journal.answers(row.id)
    assert (newest.operation, newest.http_status, newest.verdict) == ("getCertificate", 503, None)
    assert len(newest.body) == MAX_ANSWER_BYTES
    assert (oldest.body, oldest.verdict, oldest.at) == (body, "verified", NOW)
    assert journal.answers(row.id, "signNewCertificate") == (oldest,)
    with journal._reading() as connection:
        sizes = connection.execute(sa.select(sa.func.length(schema.answer.c.body))).scalars().all()
    assert sum(sizes) < len(body)


def test_times_are_utc_to_the_microsecond(journal: Journal) -> None:
    """Another offset is converted, and a time without one is refused."""
    helsinki = NOW.astimezone(timezone(timedelta(hours=2)))
    row = journal.add(new(valid_until=helsinki), helsinki, lease=LEASE)
    read = journal.get(row.id)
    assert (read.created_at, read.valid_until) == (NOW, NOW)
    assert read.created_at.tzinfo is UTC
    from varmenne.errors import JournalError

    with pytest.raises((ValueError, JournalError)):
        journal.add(new(valid_until=datetime(2026, 1, 1)), NOW, lease=LEASE)  # noqa: DTZ001 - what is refused
    assert len(journal.list()) == 1


def test_lists_in_pages_and_by_state(journal: Journal) -> None:
    """A page ends where it should, and the next one begins after it."""
    rows = [add(journal) for _ in range(5)]
    keyed = journal.commit(rows[0], NOW, State.KEYED, step="generate")
    ids = sorted(row.id for row in rows)
    first = journal.list(limit=3)
    assert [row.id for row in first] == ids[:3]
    assert [row.id for row in journal.list(after=first[-1].id, limit=3)] == ids[3:]
    assert journal.list(states=frozenset({State.KEYED})) == (keyed,)


def test_the_newest_key_is_the_newest_by_time(journal: Journal) -> None:
    """IDs of one day are in no order; the anchor of a token goes by time, and by what is still needed."""
    found = []
    for minute in range(6):
        row = journal.add(new(), NOW + timedelta(minutes=minute), lease=LEASE)
        changes = {"public_key": bytes([minute]), "token": "t"}
        found.append(journal.commit(row, NOW, State.KEYED, step="generate", changes=changes))
    newest = journal.newest_key("t")
    assert newest is not None
    assert newest.public_key == b"\x05"
    journal.commit(found[5], NOW, State.ABANDONED, step="order")
    newest = journal.newest_key("t")
    assert newest is not None
    assert newest.public_key == b"\x04"
    assert journal.newest_key("other") is None


def test_probes_are_kept_by_token(journal: Journal) -> None:
    """The newest probe of a token counts."""
    assert journal.latest_probe("t") is None
    refused = {"results": [{"name": "wrap", "outcome": "refused", "detail": "CKR"}]}
    journal.save_probe("t", NOW, fit=False, result={"results": [{**refused["results"][0], "outcome": "allowed"}]})
    journal.save_probe("t", NOW + LEASE, fit=True, result=refused)
    journal.save_probe("other", NOW + LEASE, fit=False, result={})
    journal.save_probe("t", NOW + LEASE, fit=False, result={}, row=take_to(journal, add(journal), State.KEYED))
    assert journal.latest_probe("t") == (NOW + LEASE, True, refused)


def test_keys_that_failed_their_newest_probe_are_unfit(journal: Journal) -> None:
    """The newest probe of a key counts, by the log; keys of other tokens and destroyed ones do not."""
    good, bad, gone, elsewhere = (take_to(journal, add(journal), State.KEYED) for _ in range(4))
    for row, fit in ((good, False), (good, True), (bad, True), (bad, False), (gone, False), (elsewhere, False)):
        journal.save_probe(f"token/{row.id}", NOW, fit=fit, result={}, row=row)
    with journal._transaction() as connection:
        connection.execute(
            sa.update(schema.enrollment).where(schema.enrollment.c.id == gone.id).values(state=State.DESTROYED)
        )
        connection.execute(
            sa.update(schema.enrollment).where(schema.enrollment.c.id == elsewhere.id).values(token="other")
        )
    assert journal.unfit_keys("token") == (bad.id,)
    assert journal.unfit_keys("other") == (elsewhere.id,)


def test_only_what_is_in_use_is_renewed(journal: Journal) -> None:
    """Who looked before somebody put another certificate in its place is refused, and no renewal is begun."""
    old = take_to(journal, add(journal), State.ACTIVE)
    renewal = add(journal, method=Method.RENEWAL, replaces=old.id)
    assert renewal.state is State.PREPARED
    journal.commit(renewal, NOW, State.ABANDONED, step="test")
    journal.commit(old, NOW, State.SUPERSEDED, step="test")
    with pytest.raises(StateError, match="cannot be renewed") as caught:
        add(journal, method=Method.RENEWAL, replaces=old.id)
    assert "it is superseded" in caught.value.why
    with pytest.raises(StateError, match="cannot be renewed"):
        add(journal, method=Method.RENEWAL, replaces=EnrollmentId("20200101-00000000"))
    assert len(journal.list()) == 2


def test_a_key_that_was_destroyed_is_not_the_newest(journal: Journal) -> None:
    """A token is known by a key that is still needed."""
    first = take_to(journal, add(journal), State.ACTIVE)
    second = take_to(journal, journal.add(new(), NOW + LEASE, lease=LEASE), State.ACTIVE)
    assert journal.newest_key("token") == second
    for state in (State.SUPERSEDED, State.RETIRED, State.DESTROYED):
        second = journal.commit(second, NOW, state, step="test")
    assert journal.newest_key("token") == first
