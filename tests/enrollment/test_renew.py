"""Renewal: the key in use asks for its successor, which is staged, put to use, and can be taken back."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Any

import pytest

from harness.approvals import approve
from harness.stage import CUSTOMER, NAME, Listener, Stage, order_for
from harness.years import DAY, IN_THE_WINDOW, WAIT, Years
from varmenne.clock import system_clock
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import Channel
from varmenne.domain.steps import Method, State
from varmenne.enrollment.enroll import enroll, go_on
from varmenne.enrollment.renew import activate, rehearse, renew, retire
from varmenne.enrollment.resolve import abandon, choices
from varmenne.errors import InputError, KeyNotFound, NotFinished, ServiceRefused, StateError, VarmenneError
from varmenne.journal import Journal
from varmenne.service.interface import Operation


@pytest.fixture
def years(stage: Stage) -> Years:
    """Return a stage whose time can be moved on."""
    return Years(stage)


def test_a_renewal_takes_the_place(years: Years) -> None:
    """A new key, a request signed by the old one, a new generation; the old one is superseded and keeps its key."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    second = years.renewed(first)
    old = years.get(first)
    assert (second.state, second.method, second.generation) == (State.ACTIVE, Method.RENEWAL, 2)
    assert (second.replaces, second.customer_name, second.transfer_hash) == (first.id, NAME, None)
    assert second.key_id != first.key_id
    assert second.public_key != first.public_key
    assert old.state is State.SUPERSEDED
    assert old.due_at is not None
    assert timedelta(days=6.9) < old.due_at - old.updated_at < timedelta(days=7.1)
    assert years.stage.keys_of(first) == years.stage.keys_of(second) == 1
    assert years.operations().count("renewCertificate") == 1
    assert years.operations().count("signNewCertificate") == 1
    current, staged, earlier = years.record(), years.record("generation-2"), years.record("generation-1")
    assert current["serial_number"] == staged["serial_number"] == second.serial_number
    assert earlier["serial_number"] == first.serial_number
    assert current["generation"] == 2
    assert [event.target for event in _history(years, second)] == [
        State.PREPARED,
        State.KEYED,
        State.SUBMITTING,
        *(event.target for event in _history(years, second)[3:-3]),
        State.ISSUED,
        State.STORED,
        State.ACTIVE,
    ]


def test_a_certificate_that_is_looked_after_meanwhile_is_replaced(
    years: Years, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker may commit something of the old one, such as a rehearsal, between reading and replacing it."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    original, looked_after = Journal.current, list[Enrollment]()

    def current(journal: Journal, *of: Any) -> tuple[Enrollment, ...]:
        found = original(journal, *of)
        looked_after.extend(journal.commit(row, row.updated_at, row.state, step="rehearse") for row in found)
        return found

    monkeypatch.setattr(Journal, "current", current)
    second = years.renewed(first)
    assert looked_after
    assert (second.state, years.get(first).state) == (State.ACTIVE, State.SUPERSEDED)


def _history(years: Years, row: Enrollment) -> tuple[Any, ...]:
    """Return the history of an enrollment."""
    with years.parts() as parts:
        return parts.journal.history(row.id)


def test_too_early_changes_nothing(years: Years) -> None:
    """Before the 60 days nothing is made or sent, and the message tells the day."""
    first = years.first()
    before = years.stage.world()
    with years.parts() as parts, pytest.raises(StateError, match="too early") as caught:
        renew(parts, Listener(), first, wait=WAIT)
    assert first.not_after is not None
    assert f"{first.not_after - timedelta(days=60):%Y-%m-%d}" in caught.value.next_step
    assert years.stage.world() == before


def test_an_expired_certificate_needs_a_person(years: Years) -> None:
    """It cannot be renewed; the message names the new order and what to add to it."""
    first = years.first()
    years.pass_by(timedelta(days=731))
    before = years.stage.world()
    with years.parts() as parts, pytest.raises(StateError, match="expired") as caught:
        renew(parts, Listener(), first, wait=WAIT)
    assert f"--replaces {first.id}" in caught.value.next_step
    assert years.stage.world() == before


def test_only_what_is_in_use_is_renewed(years: Years) -> None:
    """A superseded certificate is not renewed, though it is still valid."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    years.renewed(first)
    before = years.stage.world()
    with years.parts() as parts, pytest.raises(StateError, match="cannot be renewed"):
        renew(parts, Listener(), parts.journal.get(first.id), wait=WAIT)
    assert years.stage.world() == before


@pytest.mark.parametrize(
    "fault", ["http-503", "html-page", "drop-after-receipt", "half-answer", "tampered", "temporary-error"]
)
def test_a_lost_answer_is_asked_for_again(years: Years, fault: str) -> None:
    """Nothing is used up: the same request is sent again after a while, and at most some times a day."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    years.stage.bench.state.fault(fault, operation=Operation.RENEW)
    with years.parts() as parts, pytest.raises(NotFinished, match="not accepted yet"):
        renew(parts, Listener(), first, wait=WAIT)
    with years.parts() as parts:
        (open_one,) = parts.journal.renewals(first.id)
    assert (open_one.state, open_one.tries, open_one.owner) == (State.KEYED, 1, None)
    assert open_one.due_at is not None
    assert timedelta(hours=5.9) < open_one.due_at - open_one.updated_at < timedelta(hours=6.7)


def test_a_refusal_ends_a_renewal_but_not_the_certificate(years: Years) -> None:
    """The far end has taken a CSR whose answer was lost, and refuses it now: another key is needed, not a person."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    years.stage.bench.state.fault("drop-after-receipt", operation=Operation.RENEW)
    with years.parts() as parts, pytest.raises(NotFinished):
        renew(parts, Listener(), first, wait=WAIT)
    with years.parts() as parts, pytest.raises(ServiceRefused, match="refused the renewal") as caught:
        renew(parts, Listener(), first, wait=WAIT)
    assert "one-time password" not in f"{caught.value.next_step} {caught.value.why}"
    with years.parts() as parts:
        (refused,) = parts.journal.renewals(first.id)
        assert (refused.state, parts.journal.get(first.id).state) == (State.REJECTED, State.ACTIVE)
        assert choices(refused) == (State.ABANDONED,)
    again = years.renewed(first)
    assert (again.state, again.generation) == (State.ACTIVE, 2)
    assert again.id != refused.id
    assert again.key_id != refused.key_id


def test_there_are_never_two_renewals(years: Years) -> None:
    """The command goes on with the renewal that is under way; a second row cannot even be written."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    with years.parts() as parts, pytest.raises(NotFinished):
        renew(parts, Listener(), first, wait=timedelta())
    with years.parts() as parts:
        (open_one,) = parts.journal.renewals(first.id)
        from varmenne.enrollment.upkeep import begin

        with pytest.raises(StateError, match="renewal of this certificate"):
            begin(parts, first)
    done = years.renewed(first)
    assert done.id == open_one.id
    assert years.operations().count("renewCertificate") == 1


def test_resume_finishes_a_renewal(years: Years) -> None:
    """A renewal that had to wait goes on by `resume` like any other enrollment."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    with years.parts() as parts, pytest.raises(NotFinished):
        renew(parts, Listener(), first, wait=timedelta())
    with years.parts() as parts:
        (open_one,) = parts.journal.renewals(first.id)
        done = go_on(parts, Listener(), open_one, wait=WAIT)
    assert done.state is State.ACTIVE
    assert years.get(first).state is State.SUPERSEDED


def test_an_open_renewal_can_be_given_up(years: Years) -> None:
    """And then another one may be begun."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    with years.parts() as parts, pytest.raises(NotFinished):
        renew(parts, Listener(), first, wait=timedelta())
    with years.parts() as parts:
        (open_one,) = parts.journal.renewals(first.id)
        assert abandon(parts, Listener(), open_one).state is State.ABANDONED
    assert years.renewed(first).state is State.ACTIVE


def test_a_new_order_ends_the_renewal_of_what_it_replaces(years: Years) -> None:
    """Otherwise the renewal would later push the newly ordered certificate aside."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    with years.parts() as parts, pytest.raises(NotFinished):
        renew(parts, Listener(), first, wait=timedelta())
    order = years.stage.order(CUSTOMER, name=NAME)
    with years.parts() as parts:
        new = enroll(
            parts,
            Listener(),
            order_for(CUSTOMER, name=NAME, replaces=first.id),
            years.stage.credentials(order),
            wait=WAIT,
        )
        (renewal,) = parts.journal.renewals(first.id)
    assert (new.state, renewal.state, years.get(first).state) == (State.ACTIVE, State.ABANDONED, State.SUPERSEDED)


def test_back_to_the_generation_before(years: Years) -> None:
    """While it is valid, a person puts an earlier one back to use, and the later one forward again."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    second = years.renewed(first)
    with years.parts() as parts:
        back = activate(parts, Listener(), second, generation=1)
    assert (back.id, back.state, years.get(second).state) == (first.id, State.ACTIVE, State.SUPERSEDED)
    assert years.record()["serial_number"] == first.serial_number
    with years.parts() as parts:
        forward = activate(parts, Listener(), parts.journal.get(second.id))
    assert (forward.id, forward.state, years.get(first).state) == (second.id, State.ACTIVE, State.SUPERSEDED)
    assert years.record()["serial_number"] == second.serial_number
    with years.parts() as parts:
        third = renew(parts, Listener(), _at_its_end(years, forward), wait=WAIT)
    assert third.generation == 3


def _at_its_end(years: Years, row: Enrollment) -> Enrollment:
    """Let time pass until the certificate can be renewed."""
    years.pass_by(IN_THE_WINDOW)
    return years.get(row)


def test_what_cannot_be_put_to_use(years: Years) -> None:
    """A generation that is not there, is in use, is over, or has lost its key is refused, and nothing changes."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    second = years.renewed(first)
    before = years.stage.world()
    with years.parts() as parts:
        with pytest.raises(InputError, match="no generation 7"):
            activate(parts, Listener(), second, generation=7)
        with pytest.raises(StateError, match="is the current one already"):
            activate(parts, Listener(), second)
    years.pass_by(timedelta(days=55))
    with years.parts() as parts, pytest.raises(StateError, match="cannot be put to use") as caught:
        activate(parts, Listener(), second, generation=1)
    assert "expired" in caught.value.why
    assert years.stage.world() == before


def test_a_lost_key_is_not_put_to_use(years: Years) -> None:
    """What the token does not hold would serve nobody."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    second = years.renewed(first)
    assert first.public_key is not None
    with years.stage.token_client() as token:
        assert token.destroy(first.key_id, first.public_key)
    with years.parts() as parts, pytest.raises(KeyNotFound, match="not in the token"):
        activate(parts, Listener(), second, generation=1)
    assert years.get(second).state is State.ACTIVE


def test_retire_and_destroy(years: Years) -> None:
    """A replaced key is retired by order, and destroyed only by another; the one in use cannot be."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    second = years.renewed(first)
    with years.parts() as parts:
        with pytest.raises(StateError, match="cannot be destroyed"):
            retire(parts, Listener(), second, destroy=True)
        retired = retire(parts, Listener(), parts.journal.get(first.id))
        assert (retired.state, retired.due_at) == (State.RETIRED, None)
        assert years.stage.keys_of(first) == 1
        with pytest.raises(StateError, match="cannot be put to use"):
            activate(parts, Listener(), retired)
        approve(parts, retired)
        destroyed = retire(parts, Listener(), retired, destroy=True)
        assert parts.journal.history(first.id)[-1].detail["was_there"] is True
    assert destroyed.state is State.DESTROYED
    assert years.stage.keys_of(first) == 0
    assert years.stage.keys_of(second) == 1


def test_a_renewed_sftp_certificate_waits_a_day(years: Years) -> None:
    """The far end takes it within 24 hours, so the old one stays in use until then."""
    first = years.first(Channel.SFTP)
    assert first.usable_from is not None
    years.pass_by(IN_THE_WINDOW)
    with years.parts() as parts, pytest.raises(NotFinished, match="not in use yet") as caught:
        renew(parts, Listener(), first, wait=WAIT)
    with years.parts() as parts:
        (staged,) = parts.journal.renewals(first.id)
    assert staged.state is State.STORED
    assert f"varmenne activate {staged.id}" in caught.value.why
    assert staged.due_at is not None
    assert timedelta(hours=23) < staged.due_at - staged.updated_at <= timedelta(hours=24)
    assert years.record(channel="sftp")["serial_number"] == first.serial_number
    years.pass_by(DAY)
    with years.parts() as parts:
        done = go_on(parts, Listener(), staged, wait=WAIT)
    assert done.state is State.ACTIVE
    assert years.record(channel="sftp")["serial_number"] == done.serial_number


def test_activation_keeps_to_its_window(years: Years) -> None:
    """Outside of the windows a renewed certificate is staged and waits."""
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    now = system_clock() + years.passed
    other = (now + 3 * DAY).strftime("%a")
    years.stage.configure(renewal={"activation_windows": [f"{other} 10:00-11:00"], "time_zone": "UTC"})
    with years.parts() as parts, pytest.raises(NotFinished, match="not in use yet"):
        renew(parts, Listener(), first, wait=WAIT)
    with years.parts() as parts:
        (staged,) = parts.journal.renewals(first.id)
    assert staged.due_at is not None
    assert (staged.due_at.strftime("%a"), staged.due_at.hour, staged.due_at.minute) == (other, 10, 0)
    with years.parts() as parts:
        assert activate(parts, Listener(), staged).state is State.ACTIVE


def test_rehearsal(years: Years) -> None:
    """A real request is signed and all else is tried; nothing is sent, and the row knows when and how it went."""
    first = years.first()
    asked = len(years.operations())
    with years.parts() as parts:
        found = rehearse(parts, Listener(), first)
    assert [check.verdict.value for check in found] == ["ok"] * 6
    assert len(years.operations()) == asked
    row = years.get(first)
    assert row.rehearsal is not None
    assert row.rehearsal["ok"] is True
    assert row.problem is None


@pytest.mark.parametrize("lost", ["service", "vault", "trust anchors", "request"])
def test_a_rehearsal_shows_what_is_lost(years: Years, lost: str) -> None:
    """Each thing that a renewal needs is missed by name, and the others are tried all the same."""
    first = years.first()
    if lost == "service":
        years.stage.configure(service={"endpoint": "https://127.0.0.1:9/"})
    elif lost == "vault":
        years.stage.configure(vault={"prefix": "elsewhere"})
    elif lost == "trust anchors":
        years.stage.configure(trust={"directory": str(years.stage.folder / "nothing")})
    else:
        assert first.public_key is not None
        with years.stage.token_client() as token:
            token.destroy(first.key_id, first.public_key)
    with years.parts() as parts, contextlib.suppress(VarmenneError):
        found = rehearse(parts, Listener(), first)
    failed = {check.name for check in found if check.verdict.value == "fail"}
    assert lost in failed
    assert failed <= ({"request", "token", "live key"} if lost == "request" else {lost})
    row = years.get(first)
    assert row.rehearsal is not None
    assert (row.rehearsal["ok"], set(row.rehearsal["failed"])) == (False, failed)
