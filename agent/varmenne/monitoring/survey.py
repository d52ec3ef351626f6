"""Metrics of what the journal knows, read when somebody asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.registry import Collector

from varmenne.clock import Clock
from varmenne.settings import Settings

if TYPE_CHECKING:
    from prometheus_client import Metric

    from varmenne.journal import Journal


class SurveyCollector(Collector):
    """Reads the journal."""

    def __init__(self, settings: Settings, open_journal: Callable[[], Journal], clock: Clock) -> None:
        self.settings = settings
        self._open_journal = open_journal
        self._clock = clock

    def close(self) -> None:
        """Close the journal."""

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield from ()
