"""When the agent signs the audit log: soon after something was done, once for all that was done meanwhile."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from varmenne.enrollment.evidence.checkpoints import checkpoint
from varmenne.errors import EvidenceError, VarmenneError
from varmenne.monitoring.events import Event, log_event

if TYPE_CHECKING:
    from collections.abc import Callable

    from varmenne.enrollment.parts import Parts
    from varmenne.enrollment.workers import Worker
    from varmenne.journal import Journal

TOGETHER = timedelta(seconds=10)
"""What is done within that time has one checkpoint."""

AGAIN = timedelta(minutes=5)
"""How long after a failure it is tried again."""


class LogDuty:
    """Looks whether the log is to be signed, and does it as a worker's piece of work.

    Args:
        journal: where the log is.
        failed: hears of a failure that nobody needs to look at the log for.
    """

    def __init__(self, journal: Journal, failed: Callable[[VarmenneError], None]) -> None:
        self._log = journal.log
        self._failed = failed
        self._not_before: datetime | None = None

    def due(self, now: datetime) -> timedelta | None:
        """Return how long it is until the log is to be signed; ``None`` if nothing was done since it was."""
        if not self._log.unsigned():
            self._not_before = None
            return None
        if self._not_before is None:
            self._not_before = now + TOGETHER
        return max(timedelta(), self._not_before - now)

    def sign(self, parts: Parts, _worker: Worker | None = None) -> None:
        """Sign it and anchor that; what hinders it is told, and it is tried again later."""
        self._not_before = parts.now + AGAIN
        try:
            checkpoint(parts)
        except VarmenneError as exc:
            log_event(Event.AUDIT_FAILED if isinstance(exc, EvidenceError) else Event.CHECKPOINT_FAILED, error=exc)
            self._failed(exc)
