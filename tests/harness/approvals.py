"""Other people, who approve that keys are destroyed: their records are written straight into the log."""

from __future__ import annotations

from varmenne.domain.approvals import ACT, Purpose, told_days
from varmenne.domain.audit import AuditRecord, about
from varmenne.domain.enrollment import Enrollment
from varmenne.enrollment.parts import Parts

OTHERS = ("maija@office", "veikko@office")
"""Two persons, neither of whom runs the tests."""


def approve(parts: Parts, row: Enrollment | None = None, *, people: tuple[str, ...] = OTHERS[:1]) -> None:
    """Approve destroying a key, or without one the standing policy of the settings, as others."""
    for person in people:
        actor, host = person.split("@")
        who = {"at": parts.now, "actor": actor, "host": host, "act": ACT}
        days = parts.settings.renewal.destroy_after_days
        if row is not None:
            record = about(row, **who, detail={"purpose": Purpose.KEY.value, "by": person})
        else:
            assert days is not None
            detail = {"purpose": Purpose.POLICY.value, "destroy_after_days": told_days(days), "by": person}
            record = AuditRecord(**who, environment=parts.settings.environment, detail=detail)  # type: ignore[arg-type]
        parts.journal.log.add(record)
