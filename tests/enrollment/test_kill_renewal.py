"""Killed before and after every effect of every step of a renewal and of retiring: nothing is lost, all is finished.

The places come from the tables of steps, so a new step is covered by itself.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from harness.approvals import approve
from harness.killer import killed, places, upkeep_places
from harness.stage import Stage
from varmenne.domain.check import Verdict
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.steps import Method, State
from varmenne.enrollment.reconcile import reconcile

AGE = timedelta(days=730 - 40)
PLACES = tuple(places(Method.RENEWAL))
UPKEEP_PLACES = tuple(upkeep_places())

SEEN = {"after the service in renew", "before the answer in renew"}
"""Where the far end has taken the CSR and no answer is stored: sending the same CSR again, it refuses the key."""


BEGUN = {
    *SEEN,
    "before the mark of an intent",
    "after the mark of an intent",
    "after commit keyed to submitting",
    "before the service in renew",
}
"""Where a request may have been sent: the agent asks again some hours later, a person at once."""


def rows_of(stage: Stage, customer: str) -> list[Enrollment]:
    """Return a customer's enrollments, oldest first."""
    found = [row for row in stage.rows() if row.customer_id == customer]
    return sorted(found, key=lambda row: row.created_at)


def asked(stage: Stage, customer: str) -> int:
    """Return how often the bench was asked for a renewal."""
    lines = [line.as_json() for line in stage.bench.state.log()]
    return sum((line["operation"], line["customer_id"]) == ("renewCertificate", customer) for line in lines)


def check_promises(stage: Stage, customer: str) -> None:
    """One certificate is in use, each key is explained, and Vault has what the journal says."""
    rows = rows_of(stage, customer)
    assert [row.owner for row in rows] == [None] * len(rows)
    (current,) = (row for row in rows if row.state is State.ACTIVE)
    assert all(stage.keys_of(row) == (row.public_key is not None) for row in rows)
    (newest, *_rest) = sorted(stage.versions(customer), key=int, reverse=True)
    assert int(newest) == current.vault_version
    with stage.parts() as parts:
        parts.journal.check()
        histories = [parts.journal.history(row.id) for row in rows]
        differences = [check for check in reconcile(parts) if check.verdict is not Verdict.OK]
    ours = [check for check in differences if any(row.id in check.detail for row in rows)]
    assert [check for check in ours if check.name == "journal and token"] == []
    for history in histories:
        assert [event.source for event in history[1:]] == [event.target for event in history[:-1]]


@pytest.mark.parametrize("place", PLACES)
def test_killed(shared_stage: Stage, place: str) -> None:
    """After a kill at any place of a renewal the agent finishes it, or the command does, with another key."""
    customer = f"{PLACES.index(place):07d}-2"
    first = shared_stage.aged(shared_stage.order(customer), AGE)
    killed(shared_stage, place, "renew", first.id)
    after = shared_stage.run("run", "--once", "--wait", "5")
    if place in BEGUN:
        (_first, waiting) = rows_of(shared_stage, customer)
        assert (waiting.state, waiting.tries) == (State.KEYED, 1)
        after = shared_stage.run("renew", first.id)
    if place in SEEN:
        assert [row.state for row in rows_of(shared_stage, customer)] == [State.ACTIVE, State.REJECTED]
    if place in SEEN or place == "before the first row":
        after = shared_stage.run("renew", first.id)
    rows = rows_of(shared_stage, customer)
    assert (rows[0].state, rows[-1].state) == (State.SUPERSEDED, State.ACTIVE), after
    assert len(rows) == (3 if place in SEEN else 2)
    assert asked(shared_stage, customer) == (3 if place in SEEN else 1)
    check_promises(shared_stage, customer)


@pytest.mark.parametrize("place", UPKEEP_PLACES)
def test_killed_while_retiring(shared_stage: Stage, place: str) -> None:
    """After a kill at any place, the same command retires and destroys the old key, and no other."""
    customer = f"{UPKEEP_PLACES.index(place):07d}-3"
    first = shared_stage.aged(shared_stage.order(customer), AGE)
    assert shared_stage.run("renew", first.id).code == 0
    with shared_stage.parts() as parts:
        approve(parts, first)
    order = ["retire", first.id, "--destroy", "--confirm", first.id]
    killed(shared_stage, place, *order)
    shared_stage.run(*order)
    old, new = rows_of(shared_stage, customer)
    assert (old.state, new.state) == (State.DESTROYED, State.ACTIVE)
    assert (shared_stage.keys_of(old), shared_stage.keys_of(new)) == (0, 1)


def test_places_cover_the_tables() -> None:
    """Each step of a renewal is killed around, and so are the moves that it makes of others."""
    assert {"before the service in renew", "after commit active to superseded", "before commit stored to active"} <= {
        *PLACES
    }
    assert {"before the token in destroy", "after commit superseded to retired"} <= {*UPKEEP_PLACES}
