"""Custody probes: kept in the audit log and nowhere else, so that what a key did not pass cannot be made undone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import EnrollmentId
from varmenne.domain.steps import State
from varmenne.journal import log, schema, tree

ACT = "probe"

_TABLE = schema.log
_IS_PROBE = sa.and_(tree.is_act(ACT), tree.IN_TREE)
_OF_TOKENS = sa.select(_TABLE.c.body).where(_TABLE.c.enrollment_id.is_(None), _IS_PROBE).order_by(_TABLE.c.seq.desc())


def append(connection: sa.Connection, now: datetime, found: Mapping[str, Any], row: Enrollment | None) -> None:
    """Append the record of a custody probe: of a token, or of an enrollment's live key.

    Tries that ended alike stand together, since each key is probed every week for years.
    """
    tries: dict[tuple[str, str], list[str]] = {}
    for one in found.get("results", ()):
        tries.setdefault((one["outcome"], one["detail"]), []).append(one["name"])
    detail = {name: value for name, value in found.items() if name != "results"}
    detail["tries"] = [[*ended, names] for ended, names in sorted(tries.items())]
    log.append(connection, log.ours(ACT, now, row, outcome="done" if found["fit"] else "failed", detail=detail))


def latest(connection: sa.Connection, token: str) -> tuple[datetime, bool, dict[str, Any]] | None:
    """Return time, fitness and tries of the newest probe of a token, by the name of what was probed.

    Raises:
        EvidenceError: somebody else has written a record.
    """
    for body in connection.execute(_OF_TOKENS).scalars():
        record = tree.parsed(body)
        detail = record["detail"]
        if detail["token"] == token:
            results = [
                {"name": name, "outcome": outcome, "detail": why}
                for outcome, why, names in detail["tries"]
                for name in names
            ]
            return datetime.fromisoformat(record["at"]), detail["fit"], {"results": results}
    return None


def unfit(connection: sa.Connection, token: str) -> tuple[EnrollmentId, ...]:
    """Return the enrollments whose keys in a token (a hash of its identity) did not pass their newest probe, in order.

    Raises:
        EvidenceError: somebody else has written a record.
    """
    row = schema.enrollment
    newest = (
        sa.select(sa.func.max(_TABLE.c.seq))
        .join(row, row.c.id == _TABLE.c.enrollment_id)
        .where(row.c.token == token, row.c.state != State.DESTROYED, _IS_PROBE)
        .group_by(_TABLE.c.enrollment_id)
    )
    query = sa.select(_TABLE.c.enrollment_id, _TABLE.c.body).where(_TABLE.c.seq.in_(newest))
    found = connection.execute(query.order_by(_TABLE.c.enrollment_id)).all()
    return tuple(EnrollmentId(one.enrollment_id) for one in found if tree.parsed(one.body)["outcome"] != "done")
