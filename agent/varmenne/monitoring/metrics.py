"""The metrics: what was counted in this process, and what the journal knows when they are read."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from varmenne import __version__
from varmenne.clock import Clock
from varmenne.errors import ServiceError, TokenError, VarmenneError, VaultError, family
from varmenne.measure import OK, Part
from varmenne.monitoring.events import Event
from varmenne.monitoring.survey import SurveyCollector
from varmenne.settings import Settings

if TYPE_CHECKING:
    from varmenne.journal import Journal

BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Seconds. A signature takes milliseconds, a key seconds, and the service up to its time limit."""


FAMILIES: dict[Part, type[VarmenneError]] = {
    Part.TOKEN: TokenError,
    Part.SERVICE: ServiceError,
    Part.VAULT: VaultError,
}
"""Errors that are expected of each part: their counters begin at 0, since the first increase could not be seen else."""


class Counts:
    """Counts calls and events; an observer of :mod:`varmenne.measure`."""

    def __init__(self, registry: CollectorRegistry, clock: Clock) -> None:
        self._clock = clock
        self._seconds = Histogram(
            "varmenne_call_duration_seconds",
            "How long calls of the token, the service and Vault took, failed ones as well.",
            ("part", "call"),
            buckets=BUCKETS,
            registry=registry,
        )
        self._errors = Counter(
            "varmenne_call_errors",
            "Failed calls, by the class of the error.",
            ("part", "error"),
            registry=registry,
        )
        self._success = Gauge(
            "varmenne_call_last_success_timestamp_seconds",
            "When a call of each part last ended well.",
            ("part",),
            registry=registry,
        )
        self._events = Counter(
            "varmenne_events", "Events, by the names that they have in the log.", ("event",), registry=registry
        )
        for event in Event:
            self._events.labels(event.value)
        for part, error in FAMILIES.items():
            for cls in family(error):
                self._errors.labels(part.value, cls.__name__)

    def called(self, part: Part, call: str, seconds: float, outcome: str) -> None:
        """Count a call."""
        self._seconds.labels(part.value, call).observe(seconds)
        if outcome == OK:
            self._success.labels(part.value).set(self._clock().timestamp())
        else:
            self._errors.labels(part.value, outcome).inc()

    def happened(self, event: str) -> None:
        """Count an event."""
        self._events.labels(event).inc()


class Metrics:
    """A registry with all of them."""

    def __init__(self, settings: Settings, open_journal: Callable[[], Journal], clock: Clock) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # They would double the number of series and tell nothing.
        self.registry = CollectorRegistry()
        self.counts = Counts(self.registry, clock)
        self.survey = SurveyCollector(settings, open_journal, clock)
        self.registry.register(self.survey)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        Info("varmenne_build", "This varmenne.", registry=self.registry).info(
            {"version": __version__, "python": platform.python_version()}
        )

    def close(self) -> None:
        """Close the journal of the metrics."""
        self.survey.close()
