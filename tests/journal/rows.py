"""Rows for the journal's tests."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import Channel, CustomerId, CustomerName, Environment
from varmenne.domain.keys import new_key_id
from varmenne.domain.steps import Method, State
from varmenne.journal import Journal, NewEnrollment

NOW = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
LEASE = timedelta(minutes=5)


def new(**changes: object) -> NewEnrollment:
    """Return what is known of a new enrollment."""
    usual = NewEnrollment(
        environment=Environment.TEST,
        channel=Channel.WS,
        customer_id=CustomerId("0123456-7"),
        customer_name=CustomerName("Öljy Oy"),
        method=Method.API,
        key_id=new_key_id(),
        transfer_hash=None,
    )
    return dataclasses.replace(usual, **changes)  # type: ignore[arg-type]  # the tests' own names


def add(journal: Journal, **changes: object) -> Enrollment:
    """Begin an enrollment."""
    return journal.add(new(**changes), NOW, lease=LEASE)


WAY = (State.PREPARED, State.KEYED, State.SUBMITTING, State.ACCEPTED, State.ISSUED, State.STORED, State.ACTIVE)


def take_to(journal: Journal, row: Enrollment, target: State, now: datetime = NOW) -> Enrollment:
    """Take a row along the usual way to a state."""
    for state in WAY[WAY.index(row.state) + 1 : WAY.index(target) + 1]:
        changes: dict[str, object] = {}
        if state is State.KEYED:
            changes = {"public_key": b"key", "token": "token"}
        elif state is State.SUBMITTING:
            changes = {"csr": f"CSR of {row.id}", "sent_at": now}
        row = journal.commit(row, now, state, step="test", changes=changes)
    return row
