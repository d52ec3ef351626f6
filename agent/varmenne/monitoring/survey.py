"""Metrics of what the journal knows, read when somebody asks for them.

A series of each certificate has no customer in its labels: who may see metrics need not know whose agent this is. The
enrollment's ID leads to the customer, by ``varmenne show``.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from varmenne.clock import Clock
from varmenne.domain import approvals
from varmenne.domain.concerns import Concern, Reason
from varmenne.domain.hooks import HookOutcome
from varmenne.domain.outlook import WATCHED, Outlook, Prospect, outlook, overdue
from varmenne.errors import VarmenneError
from varmenne.monitoring.events import Event, log_event
from varmenne.settings import Settings

if TYPE_CHECKING:
    from varmenne.domain.enrollment import Enrollment
    from varmenne.domain.identifiers import EnrollmentId
    from varmenne.journal import Journal

CERTIFICATE = ("environment", "channel", "enrollment")
"""The labels of a certificate in use."""


class SurveyCollector(Collector):
    """Reads the journal when metrics are collected: one reader at a time, with a journal of its own."""

    def __init__(self, settings: Settings, open_journal: Callable[[], Journal], clock: Clock) -> None:
        self.settings = settings
        """May be replaced while it runs."""
        self._open_journal = open_journal
        self._clock = clock
        self._turn = threading.Lock()
        self._journal: Journal | None = None
        self._failed = False

    def close(self) -> None:
        """Close the journal, unless somebody is reading it, who closes nothing then and ends with the process."""
        if self._turn.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._turn.release()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the metrics; of a journal that cannot be read, only that."""
        with self._turn:
            try:
                found = [*self._read()]
            except Exception as exc:  # noqa: BLE001 - whatever it is, the other metrics are worth having
                found = []
                self._tell(exc)
                self._drop()
            else:
                self._failed = False
        up = "Whether the journal could be read for these metrics."
        yield GaugeMetricFamily("varmenne_journal_up", up, value=float(not self._failed))
        yield from found

    def _tell(self, exc: Exception) -> None:
        """Log a failure, once until it is over. The text of an exception that is not ours may be anything."""
        if not self._failed:
            error = exc if isinstance(exc, VarmenneError) else None
            log_event(Event.METRICS_FAILED, error=error, kind=type(exc).__name__)
        self._failed = True

    def _drop(self) -> None:
        """Close the journal, so that the next reader opens it anew."""
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.close()

    def _read(self) -> Iterator[GaugeMetricFamily]:
        """Read the journal."""
        if self._journal is None:
            self._journal = self._open_journal()
        journal, settings, now = self._journal, self.settings, self._clock()
        environment = settings.environment
        every = journal.every(states=WATCHED, documents=False)
        rows = tuple(row for row in every if row.environment is environment)
        found = outlook(rows, now, settings.renewal.plan).plus(_approvals(journal, settings, now))
        yield from _certificates(found)
        given_up = sum(run.outcome is HookOutcome.FAILED for run in journal.hooks.in_trouble())
        yield from _attention(found, environment, given_up)
        yield from _late(overdue(rows, now), environment)
        yield _family(
            "varmenne_enrollments",
            "Enrollments in each state.",
            ("environment", "state"),
            (((environment, state), number) for state, number in journal.survey.states(environment).items()),
        )
        yield _family(
            "varmenne_unfinished_since_timestamp_seconds",
            "Since when an unfinished enrollment has been in its state.",
            ("environment", "channel", "enrollment", "state"),
            _unfinished(rows, journal.survey.since(environment)),
        )
        yield _family(
            "varmenne_hooks",
            "Runs of hooks by what became of them.",
            ("outcome",),
            (((outcome,), number) for outcome, number in journal.hooks.counts().items()),
        )


def _approvals(journal: Journal, settings: Settings, now: datetime) -> Iterator[Concern]:
    """Yield what waits for somebody's approval."""
    keys = journal.log.acts_on_keys(approvals.ACT, approvals.DESTROYABLE)
    policies, days = journal.log.acts(approvals.ACT), settings.renewal.destroy_after_days
    return approvals.awaited(keys, policies, settings.environment, days, now)


def _family(
    name: str, told: str, labels: Iterable[str], samples: Iterable[tuple[tuple[str, ...], float | None]]
) -> GaugeMetricFamily:
    """Make a metric of its samples, leaving out those without a value."""
    family = GaugeMetricFamily(name, told, labels=[*labels])
    for values, number in samples:
        if number is not None:
            family.add_metric([str(value) for value in values], number)
    return family


def _seconds(moment: datetime | None) -> float | None:
    """Return a moment as Prometheus has it."""
    return None if moment is None else moment.timestamp()


def _rehearsed(one: Prospect) -> float | None:
    """Return when the renewal was rehearsed last."""
    return None if one.row.rehearsal is None else _seconds(datetime.fromisoformat(one.row.rehearsal["at"]))


_EACH: tuple[tuple[str, str, Callable[[Prospect], float | None]], ...] = (
    (
        "varmenne_certificate_not_after_timestamp_seconds",
        "When the certificate in use ends.",
        lambda one: _seconds(one.row.not_after),
    ),
    (
        "varmenne_certificate_renewal_due_timestamp_seconds",
        "When its renewal is begun.",
        lambda one: _seconds(one.renewal_due),
    ),
    (
        "varmenne_certificate_order_by_timestamp_seconds",
        "By when people must order new credentials, should it not be renewed.",
        lambda one: _seconds(one.order_by),
    ),
    (
        "varmenne_certificate_renewal_failing_since_timestamp_seconds",
        "Since when its renewal has failed; there is no series while it has not.",
        lambda one: _seconds(one.failing_since),
    ),
    (
        "varmenne_certificate_rehearsal_ok",
        "Whether everything that its renewal needs was there at the last rehearsal.",
        lambda one: None if one.row.rehearsal is None else float(bool(one.row.rehearsal["ok"])),
    ),
    ("varmenne_certificate_rehearsal_timestamp_seconds", "When that was.", _rehearsed),
)
"""One series of each for every certificate in use: name, meaning, value."""


def _certificates(found: Outlook) -> Iterator[GaugeMetricFamily]:
    """Yield what is told of each certificate in use."""
    labels = [(one.row.environment, one.row.channel, one.row.id) for one in found.prospects]
    for name, told, value in _EACH:
        pairs = zip(labels, found.prospects, strict=True)
        yield _family(name, told, CERTIFICATE, ((label, value(one)) for label, one in pairs))


def _attention(found: Outlook, environment: str, hooks: int) -> Iterator[GaugeMetricFamily]:
    """Yield how much needs a person, by reason; those that the journal does not know are left to `status`."""
    counted = Counter(concern.reason for concern in found.needs)
    counted[Reason.HOOKS] = hooks
    reasons = (reason for reason in Reason if reason.person and reason is not Reason.TRUST)
    yield _family(
        "varmenne_attention",
        "What needs a person, by reason, as `varmenne status` tells it.",
        ("environment", "reason"),
        (((environment, reason), counted[reason]) for reason in reasons),
    )


def _late(late: tuple[Enrollment, ...], environment: str) -> Iterator[GaugeMetricFamily]:
    """Yield how much is overdue, and since when."""
    told = "Enrollments whose work has been due for an hour, and that nothing takes."
    yield _family("varmenne_overdue", told, ("environment",), [((environment,), len(late))])
    since = min((row.due_at for row in late if row.due_at is not None), default=None)
    yield _family(
        "varmenne_overdue_since_timestamp_seconds",
        "Since when the longest of them has been due; there is no series if there are none.",
        ("environment",),
        [((environment,), _seconds(since))],
    )


def _unfinished(
    rows: Iterable[Enrollment], since: Mapping[EnrollmentId, datetime]
) -> Iterator[tuple[tuple[str, ...], float | None]]:
    """Yield since when each unfinished enrollment has been in its state."""
    for row in rows:
        if row.id in since:
            yield (row.environment, row.channel, row.id, row.state), _seconds(since[row.id])
