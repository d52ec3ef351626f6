"""The token as a witness: what it knows of enrollments, and the journal does not.

A journal that went back in time alone is noticed by the record beside it (:mod:`varmenne.journal.past`). If both went
back together, or were begun anew, only the token is left to tell: an enrollment has its row before its key is made, so
a key whose enrollment has no row was made when the journal knew more, or by another installation. A person who knows
that it is another's acknowledges it, and that is kept in ``meta``.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from varmenne.domain.identifiers import EnrollmentId
from varmenne.journal import meta, schema
from varmenne.journal.log import append, ours
from varmenne.journal.owner import this_process

_NAME = "acknowledged "
"""Begins the names in ``meta``; an enrollment's ID comes after it."""

_AT_ONCE = 500
"""So many IDs in one question; SQLite takes some tens of thousands of parameters."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An enrollment that a person said to be another installation's; ``actor`` is the process that was told."""

    enrollment: EnrollmentId
    at: datetime
    actor: str


def unknown(connection: sa.Connection, enrollments: Collection[EnrollmentId]) -> tuple[EnrollmentId, ...]:
    """Return the enrollments that have neither a row nor an acknowledgement, in order of their IDs."""
    wanted = sorted(enrollments)
    known = {one.enrollment for one in acknowledged(connection)}
    table = schema.enrollment
    for start in range(0, len(wanted), _AT_ONCE):
        query = sa.select(table.c.id).where(table.c.id.in_(wanted[start : start + _AT_ONCE]))
        known.update(map(EnrollmentId, connection.execute(query).scalars()))
    return tuple(one for one in wanted if one not in known)


def acknowledge(connection: sa.Connection, enrollments: Collection[EnrollmentId], now: datetime) -> None:
    """Keep that enrollments are another installation's, and who was told so when; that is a record of the audit log."""
    value = json.dumps({"at": now.isoformat(), "actor": this_process()})
    for enrollment in enrollments:
        meta.put(connection, f"{_NAME}{enrollment}", value)
    named = {"enrollments": sorted(enrollments)}
    append(connection, ours("acknowledge", now, detail=named))


def acknowledged(connection: sa.Connection) -> tuple[Acknowledged, ...]:
    """Return what was acknowledged, in order of the IDs."""
    table = schema.meta
    query = sa.select(table).where(table.c.name.startswith(_NAME)).order_by(table.c.name)
    return tuple(_read(row.name, json.loads(row.value)) for row in connection.execute(query))


def _read(name: str, value: dict[str, str]) -> Acknowledged:
    """Put a line of ``meta`` together again."""
    return Acknowledged(EnrollmentId(name.removeprefix(_NAME)), datetime.fromisoformat(value["at"]), value["actor"])
