"""What is fine, due, and in need of a person: each case by rows that are made for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from varmenne.domain.concerns import Reason
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import Channel, CustomerId, EnrollmentId, Environment
from varmenne.domain.keys import KeyId
from varmenne.domain.outlook import WATCHED, Outlook, Plan, outlook
from varmenne.domain.steps import Method, State

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = timedelta(days=1)
LEAD = 21 * DAY
PLAN = Plan(spread=5 * DAY, lead=LEAD)
FIRST, SECOND = EnrollmentId("20241124-00000001"), EnrollmentId("20261101-00000002")
PASSING = {"kind": "ServiceUnreachable", "what": "No answer", "why": "it rains", "next_step": "Wait"}
LASTING = {**PASSING, "kind": "ServiceRefused", "what": "Refused"}
POISON = {**PASSING, "kind": "Poisoned"}


def _row(state: State, id_: EnrollmentId = FIRST, **values: Any) -> Enrollment:
    """Make a row of one customer's channel that began a day ago, and has nothing to tell but its state."""
    return Enrollment(
        **{
            "id": id_,
            "environment": Environment.TEST,
            "channel": Channel.WS,
            "customer_id": CustomerId("0123456-7"),
            "customer_name": None,
            "method": Method.API,
            "state": state,
            "version": 1,
            "created_at": NOW - DAY,
            "updated_at": NOW - DAY,
            "key_id": KeyId(bytes(16)),
            "key_label": "varmenne",
            **values,
        }
    )


def _active(left: timedelta = 400 * DAY, **values: Any) -> Enrollment:
    """Make a certificate in use that is valid for so long still."""
    return _row(State.ACTIVE, **{"not_after": NOW + left, "due_at": NOW + DAY, **values})


def _renewal(state: State, **values: Any) -> Enrollment:
    """Make the renewal of the first one."""
    return _row(state, SECOND, method=Method.RENEWAL, replaces=FIRST, **values)


def _look(*rows: Enrollment, plan: Plan = PLAN) -> Outlook:
    return outlook(rows, NOW, plan)


CASES: dict[str, tuple[Reason | None, str, list[Enrollment]]] = {
    # name: (the most urgent reason, words of its next step, rows)
    "in the middle of its life": (None, "", [_active()]),
    "expired": (Reason.EXPIRED, f"enroll --replaces {FIRST}", [_active(-DAY)]),
    "past the day to order": (Reason.ORDER, f"enroll --replaces {FIRST}", [_active(LEAD - DAY)]),
    "the renewal fails for two weeks": (
        Reason.ORDER,
        f"enroll --replaces {FIRST}",
        [_active(40 * DAY), _renewal(State.KEYED, problem=PASSING, created_at=NOW - 15 * DAY)],
    ),
    "the renewal fails for four days": (
        Reason.RENEWAL_FAILING,
        f"varmenne show {SECOND}",
        [_active(50 * DAY), _renewal(State.KEYED, problem=PASSING, created_at=NOW - 4 * DAY)],
    ),
    "the renewal is refused again and again": (
        Reason.RENEWAL_FAILING,
        f"varmenne show {SECOND}",
        [_active(50 * DAY), _renewal(State.REJECTED, problem=LASTING, created_at=NOW - 4 * DAY)],
    ),
    "the renewal has failed once": (
        Reason.RENEWING,
        f"varmenne show {SECOND}",
        [_active(50 * DAY), _renewal(State.KEYED, problem=PASSING)],
    ),
    "the renewal is under way": (Reason.RENEWING, "", [_active(50 * DAY), _renewal(State.KEYED)]),
    "renewed, and waits for its window": (
        Reason.STAGED,
        f"varmenne activate {SECOND}",
        [_active(20 * DAY), _renewal(State.STORED, due_at=NOW + DAY)],
    ),
    "the rehearsal failed": (
        Reason.REHEARSAL,
        f"varmenne rehearse {FIRST}",
        [_active(rehearsal={"at": "2026-11-23T00:00:00Z", "ok": False, "failed": {"token": "gone"}})],
    ),
    "the rehearsal succeeded": (
        None,
        "",
        [_active(rehearsal={"at": "2026-11-23T00:00:00Z", "ok": True, "failed": {}})],
    ),
    "the renewal cannot be begun": (
        Reason.BLOCKED,
        f"varmenne rehearse {FIRST}",
        [_active(50 * DAY, problem={**LASTING, "kind": "PinError"})],
    ),
    "the renewal could not be begun an hour ago": (
        None,
        "",
        [_active(50 * DAY, problem=PASSING, updated_at=NOW - DAY / 24)],
    ),
    "the SFTP user is not known": (Reason.SFTP_USER, f"sftp set-user {FIRST}", [_active(channel=Channel.SFTP)]),
    "the SFTP user is known": (None, "", [_active(channel=Channel.SFTP, sftp_user="u1")]),
    "uncertain": (Reason.UNCERTAIN, f"varmenne resolve {FIRST}", [_row(State.UNCERTAIN)]),
    "refused": (Reason.REJECTED, f"varmenne resolve {FIRST}", [_row(State.REJECTED, problem=LASTING)]),
    "refused, and ordered anew": (
        None,
        "",
        [_row(State.REJECTED, problem=LASTING), _active(id_=SECOND, created_at=NOW)],
    ),
    "the credentials ran out": (Reason.LAPSED, "varmenne enroll", [_row(State.EXPIRED)]),
    "the credentials run out now": (Reason.LAPSED, "varmenne enroll", [_row(State.KEYED, valid_until=NOW)]),
    "waits for credentials": (
        Reason.CREDENTIALS,
        f"resume {FIRST} --credentials FILE",
        [_row(State.KEYED, valid_until=NOW + 13 * DAY)],
    ),
    "waits for the e-service": (
        Reason.E_SERVICE,
        f"varmenne import {FIRST} FILE",
        [_row(State.KEYED, method=Method.E_SERVICE)],
    ),
    "nobody survives it": (
        Reason.POISONED,
        f"varmenne resume {FIRST}",
        [_row(State.ISSUED, problem=POISON)],
    ),
    "nobody survives its upkeep": (
        Reason.POISONED,
        f"varmenne rehearse {FIRST}",
        [_active(problem=POISON, due_at=None)],
    ),
    "nobody survives its upkeep, and its renewal is under way": (
        Reason.POISONED,
        f"varmenne rehearse {FIRST}",
        [_active(50 * DAY, problem=POISON, due_at=None), _renewal(State.KEYED)],
    ),
    "nobody survives its retirement": (
        Reason.POISONED,
        f"varmenne retire {FIRST}",
        [_row(State.SUPERSEDED, problem=POISON), _active(id_=SECOND)],
    ),
    "nobody survives the end of its key": (
        Reason.POISONED,
        f"varmenne retire {FIRST} --destroy",
        [_row(State.RETIRED, problem=POISON), _active(id_=SECOND)],
    ),
    "in use, and never looked after": (Reason.OVERDUE, f"varmenne rehearse {FIRST}", [_active(due_at=None)]),
    "blocked": (Reason.BLOCKED, f"varmenne resume {FIRST}", [_row(State.ISSUED, problem=LASTING)]),
    "disturbed for two days": (
        Reason.BLOCKED,
        f"varmenne resume {FIRST}",
        [_row(State.ISSUED, problem=PASSING, created_at=NOW - 2 * DAY)],
    ),
    "disturbed for an hour": (
        Reason.WAITING,
        f"varmenne resume {FIRST}",
        [_row(State.ISSUED, problem=PASSING, created_at=NOW - DAY / 24)],
    ),
    "being worked on": (Reason.WAITING, "", [_row(State.KEYED, owner="host 1 2", due_at=NOW + DAY)]),
    "replaced, in its grace": (
        Reason.GRACE,
        f"varmenne retire {FIRST}",
        [_row(State.SUPERSEDED, due_at=NOW + 6 * DAY), _active(id_=SECOND)],
    ),
    "due for two hours": (Reason.OVERDUE, "varmenne run", [_active(due_at=NOW - DAY / 12)]),
    "due for a minute": (None, "", [_active(due_at=NOW - DAY / 1440)]),
}


@pytest.mark.parametrize("name", CASES)
def test_each_case_is_told_with_its_next_step(name: str) -> None:
    """The most urgent thing comes first, and says what to type."""
    reason, words, rows = CASES[name]
    found = _look(*rows).concerns
    assert (found[0].reason if found else None) is reason
    assert words in (found[0].next_step if found else "")
    assert all(one.told and not one.told.endswith(".") for one in found)


def test_only_what_needs_a_person_is_among_the_needs() -> None:
    """What goes on by itself is told, and nobody is called for it."""
    staged = _look(_active(20 * DAY), _renewal(State.STORED, due_at=NOW + DAY))
    assert (staged.needs, [one.reason for one in staged.concerns]) == ((), [Reason.STAGED])


def test_a_renewal_that_nobody_begins_is_due() -> None:
    """Where the agent does not renew by itself, a person is called when the window opens."""
    by_hand = Plan(spread=5 * DAY, lead=LEAD, automatic=False)
    (told,) = _look(_active(54 * DAY), plan=by_hand).needs
    assert (told.reason, told.next_step) == (Reason.RENEW, f"varmenne renew {FIRST}")
    assert _look(_active(54 * DAY)).needs == ()
    assert _look(_active(61 * DAY), plan=by_hand).needs == ()


def test_the_day_to_order_comes_earlier_when_renewals_fail() -> None:
    """It counts from the first failure: a refused renewal that is begun anew does not put it off."""
    fine = _look(_active(50 * DAY)).prospects[0]
    assert fine.order_by == NOW + 50 * DAY - LEAD
    refused = _renewal(State.REJECTED, problem=LASTING, created_at=NOW - 10 * DAY)
    again = _row(State.KEYED, EnrollmentId("20261120-00000003"), method=Method.RENEWAL, replaces=FIRST, problem=PASSING)
    failing = _look(_active(50 * DAY), refused, again).prospects[0]
    assert (failing.failing_since, failing.order_by) == (NOW - 10 * DAY, NOW + 4 * DAY)


def test_the_most_urgent_comes_first() -> None:
    """An expired certificate is told before a lost answer, and that before what can wait."""
    rows = [
        _row(State.KEYED, EnrollmentId("20261101-00000003"), customer_id=CustomerId("3")),
        _row(State.UNCERTAIN, SECOND, customer_id=CustomerId("2")),
        _active(-DAY),
    ]
    assert [one.reason for one in _look(*rows).needs] == [Reason.EXPIRED, Reason.UNCERTAIN, Reason.CREDENTIALS]


@pytest.mark.parametrize("state", sorted(WATCHED))
def test_every_state_has_something_to_tell_or_is_fine(state: State) -> None:
    """No state is forgotten: what is not at an end, and not in use, is told of."""
    told = _look(_row(state, due_at=NOW + DAY)).concerns
    assert bool(told) == (state not in {State.ACTIVE, State.RETIRED})
