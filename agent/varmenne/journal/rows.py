"""Rows of the database and the domain's values: reading, writing by compare-and-set, and the line of history."""

from __future__ import annotations

import functools
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from varmenne.domain import identifiers as ids
from varmenne.domain.enrollment import Enrollment, Event
from varmenne.domain.keys import KeyId
from varmenne.domain.steps import Method, State
from varmenne.errors import InputError, StateError
from varmenne.journal import schema
from varmenne.journal.log import append_event
from varmenne.journal.owner import is_gone

DOCUMENTS = frozenset({"certificate", "chain", "csr", "custody", "public_key"})
"""Columns that are long, and that those who only look from afar do without."""


def is_free(row: Enrollment, now: datetime) -> bool:
    """Tell whether the row's owner has ended, or its lease has."""
    return row.owner is None or is_gone(row.owner) or row.due_at is None or row.due_at <= now


def get_row(connection: sa.Connection, enrollment_id: str) -> Enrollment:
    """Read one row."""
    row = connection.execute(sa.select(schema.enrollment).where(schema.enrollment.c.id == enrollment_id)).one_or_none()
    if row is None:
        raise InputError(f"There is no enrollment {enrollment_id}", next_step="`varmenne list` shows those that are")
    return enrollment_of(row)


def update_row(
    connection: sa.Connection, row: Enrollment, now: datetime, values: dict[str, Any], *, clock_only: bool = False
) -> Enrollment:
    """Write values by compare-and-set on the version, and return the new row.

    Raises:
        StateError: the row was changed since it was read; the fact ``overtaken`` says so.
    """
    if not clock_only:
        values = {"claims": 0, **values, "updated_at": now}
    values = values | {"version": row.version + 1}
    parameters = {f"new_{name}": value for name, value in values.items()}
    parameters |= {"row_id": row.id, "row_version": row.version}
    written = connection.execute(_update_of(tuple(values)), parameters).one_or_none()
    if written is None:
        raise StateError(
            f"Enrollment {row.id} was changed by somebody else in between",
            next_step="`varmenne show` tells where it stands",
            overtaken=True,
        )
    return enrollment_of(written)


@functools.cache
def _update_of(names: tuple[str, ...]) -> sa.sql.dml.ReturningUpdate[Any]:
    """Return the statement that writes columns of a row; building it anew would cost more than running it."""
    table = schema.enrollment
    return (
        sa.update(table)
        .where(table.c.id == sa.bindparam("row_id"), table.c.version == sa.bindparam("row_version"))
        .values({name: sa.bindparam(f"new_{name}", type_=table.c[name].type) for name in names})
        .returning(table)
    )


_INSERT_EVENT = sa.insert(schema.event)


def write_event(connection: sa.Connection, row: Enrollment, event: Event) -> None:
    """Add a line to an enrollment's history, and its record to the audit log. Whatever else is written comes before.

    Args:
        connection: the transaction that makes the change.
        row: the enrollment as the change left it.
        event: the change.
    """
    values = {name: getattr(event, name) for name in Event.__slots__} | {"enrollment_id": row.id}
    connection.execute(_INSERT_EVENT, values)
    append_event(connection, row, event)


def enrollment_of(row: sa.Row[Any]) -> Enrollment:
    """Turn a database row into the domain's value; unknown words in it would be a defect and raise ValueError.

    Of :data:`DOCUMENTS`, those that were not read are ``None``.
    """
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented way to a row's mapping
    name = values["customer_name"]
    replaces = values["replaces"]
    retrieval = values["retrieval_id"]
    return Enrollment(
        **values
        | {
            "id": ids.EnrollmentId(values["id"]),
            "environment": ids.Environment(values["environment"]),
            "channel": ids.Channel(values["channel"]),
            "customer_id": ids.CustomerId(values["customer_id"]),
            "customer_name": None if name is None else ids.CustomerName(name),
            "method": Method(values["method"]),
            "state": State(values["state"]),
            "replaces": None if replaces is None else ids.EnrollmentId(replaces),
            "key_id": KeyId(values["key_id"]),
            "retrieval_id": None if retrieval is None else ids.RetrievalId(retrieval),
        }
    )
