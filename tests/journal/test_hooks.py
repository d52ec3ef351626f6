"""The journal's hooks: each is claimed by one process, tried again alone, and told once."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from journal.rows import LEASE, NOW, add
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.hooks import HookEvent, HookOutcome, HookRun, NewHook
from varmenne.domain.identifiers import Channel, Environment
from varmenne.domain.steps import State
from varmenne.errors import StateError
from varmenne.journal import Among, Journal
from varmenne.settings import JournalSettings

ANY = Among()
DAY = timedelta(days=1)


def hook(row: Enrollment, name: str = "mail", *, at: datetime = NOW, reason: str = "away") -> NewHook:
    """Return a hook that is due at once."""
    return NewHook(
        enrollment_id=row.id,
        event=HookEvent.FAILED,
        name=name,
        at=at,
        facts={"reason": {"what": reason}, "customer_name": "Öljy Oy"},
        due_at=at,
    )


def test_hooks_of_a_commit_are_all_or_nothing(journal: Journal) -> None:
    """They are there with the new state, or neither is."""
    row = add(journal)
    journal.commit(row, NOW, State.KEYED, step="generate", hooks=[hook(row, "a"), hook(row, "b")])
    assert [run.name for run in journal.hooks.of(row.id)] == ["a", "b"]
    with pytest.raises(StateError):
        journal.commit(row, NOW, State.KEYED, step="generate", hooks=[hook(row, "c")])
    assert [run.name for run in journal.hooks.of(row.id)] == ["a", "b"]


def test_a_hook_is_claimed_once(journal: Journal, tmp_path: Path, database: JournalSettings) -> None:
    """Two processes share the work; a lease that is over gives it to the next one."""
    row, neighbour = add(journal), add(journal, channel=Channel.SFTP)
    journal.hooks.add([hook(row, "a"), hook(neighbour, "b")], unless_since=NOW - DAY)
    with Journal(tmp_path / "state", database) as other:
        first = journal.hooks.claim(NOW, lease=LEASE, among=ANY)
        second = other.hooks.claim(NOW, lease=LEASE, among=ANY)
        assert first is not None
        assert second is not None
        assert (first.enrollment_id, second.enrollment_id) == (row.id, neighbour.id)
        assert (first.outcome, first.tries, first.facts["customer_name"]) == (HookOutcome.RUNNING, 1, "Öljy Oy")
        assert other.hooks.claim(NOW, lease=LEASE, among=ANY) is None
        assert journal.hooks.next_due() == NOW + LEASE
        again = other.hooks.claim(NOW + LEASE, lease=LEASE, among=ANY)
    assert again is not None
    assert (again.name, again.tries) == ("a", 2)


def test_hooks_of_one_event_are_run_one_after_the_other(journal: Journal) -> None:
    """While one is run, the next one is not due, for nobody; so an agent does not look for it in vain all the time."""
    row = add(journal)
    journal.hooks.add([hook(row, "a"), hook(row, "b")], unless_since=NOW - DAY)
    first = journal.hooks.claim(NOW, lease=LEASE, among=ANY)
    assert first is not None
    assert journal.hooks.claim(NOW, lease=LEASE, among=ANY) is None
    assert journal.hooks.next_due() == NOW + LEASE
    again = journal.hooks.claim(NOW + LEASE, lease=LEASE, among=ANY)
    assert again is not None
    assert again.id == first.id
    journal.hooks.settle(again, HookOutcome.FAILING, "exit 1", due_at=NOW + DAY)
    assert journal.hooks.next_due() == NOW
    second = journal.hooks.claim(NOW, lease=LEASE, among=ANY)
    assert second is not None
    assert second.name == "b"


def test_hooks_of_one_channel_are_run_one_after_the_other(
    journal: Journal, tmp_path: Path, database: JournalSettings
) -> None:
    """Also those of its other generations, at other processes: a slow one of the old must not end after the new one's.

    One whose process has died holds nobody up once its lease is over, and those of other channels not at all.
    """
    first, second, other = add(journal), add(journal), add(journal, channel=Channel.SFTP)
    journal.hooks.add([hook(first, "a"), hook(second, "b"), hook(other, "c")], unless_since=NOW - DAY)
    with Journal(tmp_path / "state", database) as beside:
        old = journal.hooks.claim(NOW, lease=LEASE, among=ANY, enrollment=first.id)
        assert old is not None
        assert beside.hooks.claim(NOW, lease=LEASE, among=ANY, enrollment=second.id) is None
        assert beside.hooks.held(NOW, ANY, second.id) == beside.hooks.next_due(ANY, second.id) == NOW + LEASE
        assert beside.hooks.held(NOW, ANY, other.id) is None
        assert beside.hooks.claim(NOW, lease=LEASE, among=ANY, enrollment=other.id) is not None
        assert beside.hooks.claim(NOW + LEASE, lease=LEASE, among=ANY, enrollment=second.id) is not None


def test_many_processes_run_one_hook_of_a_channel_at_a_time(
    journal: Journal, tmp_path: Path, database: JournalSettings
) -> None:
    """However close together they look."""
    rows = [add(journal) for _ in range(6)]
    journal.hooks.add([hook(row) for row in rows], unless_since=NOW - DAY)
    begin = threading.Barrier(len(rows))

    def claim(row: Enrollment) -> HookRun | None:
        with Journal(tmp_path / "state", database) as one:
            begin.wait(30)
            return one.hooks.claim(NOW, lease=LEASE, among=ANY, enrollment=row.id)

    with ThreadPoolExecutor(len(rows)) as pool:
        claimed = list(pool.map(claim, rows))
    assert len([run for run in claimed if run is not None]) == 1


def test_old_hooks_are_forgotten(journal: Journal) -> None:
    """With the answers of their age, unless they are to be run still."""
    row = add(journal)
    journal.hooks.add([hook(row, "a"), hook(row, "b")], unless_since=NOW - DAY)
    run = journal.hooks.claim(NOW, lease=LEASE, among=ANY)
    assert run is not None
    journal.hooks.settle(run, HookOutcome.OK, "exit 0")
    journal.prune(NOW + 700 * DAY)
    assert len(journal.hooks.of(row.id)) == 2
    journal.prune(NOW + 731 * DAY)
    assert [run.name for run in journal.hooks.of(row.id)] == ["b"]


def test_a_failing_hook_waits_and_a_settled_one_is_never_due(journal: Journal) -> None:
    """What failed is due again when it was said; what is over is not."""
    row = add(journal)
    journal.hooks.add([hook(row)], unless_since=NOW - DAY)
    run = journal.hooks.claim(NOW, lease=LEASE, among=ANY)
    assert run is not None
    told = journal.hooks.settle(run, HookOutcome.FAILING, "exit 1", due_at=NOW + DAY)
    assert journal.hooks.of(row.id) == (told,)
    assert journal.hooks.claim(NOW, lease=LEASE, among=ANY) is None
    assert journal.hooks.next_due() == NOW + DAY
    run = journal.hooks.claim(NOW + DAY, lease=LEASE, among=ANY)
    assert run is not None
    journal.hooks.settle(run, HookOutcome.OK, "exit 0")
    assert journal.hooks.next_due() is None
    assert journal.hooks.revive(NOW, ANY) == 0
    assert journal.hooks.counts() == {**dict.fromkeys(HookOutcome, 0), HookOutcome.OK: 1}


def test_only_ours_are_claimed(journal: Journal) -> None:
    """Neither another environment's, nor another token's, nor another enrollment's."""
    row, other = add(journal), add(journal)
    journal.hooks.add([hook(row)], unless_since=NOW - DAY)
    assert journal.hooks.claim(NOW, lease=LEASE, among=Among(Environment.PRODUCTION)) is None
    assert journal.hooks.next_due(Among(Environment.PRODUCTION)) is None
    assert journal.hooks.claim(NOW, lease=LEASE, among=ANY, enrollment=other.id) is None
    keyed = journal.commit(row, NOW, State.KEYED, step="generate", changes={"token": "theirs"})
    assert journal.hooks.claim(NOW, lease=LEASE, among=Among(token="ours")) is None
    assert journal.hooks.claim(NOW, lease=LEASE, among=Among(Environment.TEST, keyed.token)) is not None


def test_the_same_is_told_once(journal: Journal) -> None:
    """The same reason for the same hook and enrollment is not told again since a moment; anything else is."""
    row, other = add(journal), add(journal)
    add_ = journal.hooks.add
    assert add_([hook(row), hook(row, "log")], unless_since=NOW - DAY) == 2
    assert add_([hook(row), hook(row, "log"), hook(row, "new")], unless_since=NOW - DAY) == 1
    assert add_([hook(row, reason="broken"), hook(other)], unless_since=NOW - DAY) == 2
    later = {"what": "away", "next_step": "Nothing is lost. After 12:31:05 UTC: varmenne resume"}
    assert add_([dataclasses.replace(hook(row), facts={"reason": later})], unless_since=NOW - DAY) == 0
    assert add_([hook(row, at=NOW + DAY)], unless_since=NOW) == 1


def test_what_was_given_up_is_revived(journal: Journal) -> None:
    """By a person's order: with all its tries, and due now; of one enrollment only, if that is wanted."""
    row, other = add(journal), add(journal)
    for number, (one, outcome) in enumerate([(row, HookOutcome.FAILED), (other, HookOutcome.FAILING)]):
        run = journal.hooks.begin(hook(one, str(number)))
        journal.hooks.settle(run, outcome, "exit 1", due_at=NOW + DAY if outcome is HookOutcome.FAILING else None)
    counts = journal.hooks.counts()
    assert (counts[HookOutcome.FAILED], counts[HookOutcome.FAILING]) == (1, 1)
    assert journal.hooks.revive(NOW, ANY, row.id) == 1
    (run,) = journal.hooks.of(row.id)
    assert (run.outcome, run.tries, run.due_at) == (HookOutcome.WAITING, 0, NOW)
    assert journal.hooks.of(other.id)[0].due_at == NOW + DAY
    assert journal.hooks.revive(NOW, ANY) == 2


def test_a_hook_before_an_activation_is_never_due_by_itself(journal: Journal) -> None:
    """It belongs to the step that it holds up, even if the process that ran it died."""
    row = add(journal)
    pre = NewHook(enrollment_id=row.id, event=HookEvent.PRE_ACTIVATE, name="a", at=NOW, facts={}, due_at=None)
    run = journal.hooks.begin(pre)
    assert journal.hooks.claim(NOW + DAY, lease=LEASE, among=ANY) is None
    run = journal.hooks.begin(run)
    assert run.tries == 2
    journal.hooks.settle(run, HookOutcome.FAILED, "exit 1")
    assert journal.hooks.revive(NOW, ANY) == 0
