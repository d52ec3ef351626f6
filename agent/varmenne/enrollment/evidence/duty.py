"""When the agent signs the audit log: soon after something was done, once for all that was done meanwhile."""

from __future__ import annotations

import json
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

QUIET = timedelta(hours=1)
"""So long may wait what changed no state of a key: probes, answers, rehearsals of a large fleet."""

AT_ONCE = frozenset({"approve", "acknowledge", "restore", "log_key"})
"""Acts that change no state, and are rare."""

AGAIN = timedelta(minutes=5)
"""How long after a failure it is tried again."""


class LogDuty:
    """Looks whether the log is to be signed, and does it as a worker's piece of work.

    Args:
        journal: where the log is.
        failed: hears of a failure, which was logged.
    """

    def __init__(self, journal: Journal, failed: Callable[[VarmenneError], None]) -> None:
        self._log = journal.log
        self._failed = failed
        self._not_before: datetime | None = None
        self._looked = 0
        self._failing = False

    def due(self, now: datetime) -> timedelta | None:
        """Return how long it is until the log is to be signed; ``None`` if nothing was done since it was."""
        covered, size = self._log.covered()
        if covered == size:
            self._not_before, self._looked = None, size
            return None
        start = max(covered, self._looked)
        wait = TOGETHER if any(_is_act(body) for _index, body in self._log.records(start, size)) else QUIET
        self._looked = size
        if not self._failing and (self._not_before is None or self._not_before > now + wait):
            self._not_before = now + wait
        return max(timedelta(), (self._not_before or now) - now)

    def sign(self, parts: Parts, _worker: Worker | None = None) -> None:
        """Sign it and anchor that; what hinders it is told, and it is tried again later."""
        self._not_before, self._failing = parts.now + AGAIN, True
        try:
            checkpoint(parts)
            self._not_before, self._failing = None, False
        except VarmenneError as exc:
            log_event(Event.AUDIT_FAILED if isinstance(exc, EvidenceError) else Event.CHECKPOINT_FAILED, error=exc)
            self._failed(exc)


def _is_act(body: bytes) -> bool:
    """Tell whether a record tells of a key that went from one state to another, or of something that failed."""
    record = json.loads(body)
    return record["source"] != record["target"] or record["outcome"] == "failed" or record["act"] in AT_ONCE
