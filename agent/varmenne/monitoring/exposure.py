"""Where the metrics are to be seen, while the agent runs: a socket, a port, a file, or nowhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from varmenne.clock import Clock
from varmenne.errors import ConfigError
from varmenne.settings import Settings

if TYPE_CHECKING:
    from varmenne.journal import Journal
    from varmenne.monitoring.metrics import Metrics


class Exposure:
    """Metrics as the settings want them at present. Made by :func:`exposed`."""

    def __init__(self, open_journal: Callable[[], Journal], clock: Clock) -> None:
        self._open_journal = open_journal
        self._clock = clock
        self._settings: Settings | None = None
        self._metrics: Metrics | None = None
        self._kept = contextlib.ExitStack()
        self._places = contextlib.ExitStack()

    def reload(self, settings: Settings) -> None:
        """Go by other settings from now on. What was counted goes on.

        Raises:
            ConfigError: the new place cannot be used; the metrics stay where they were.
        """
        before = self._settings
        if before is None or settings.metrics != before.metrics:
            self._places.close()
            try:
                self._open(settings)
            except ConfigError:
                with contextlib.suppress(ConfigError):
                    if before is not None:
                        self._open(before)
                raise
        if self._metrics is not None:
            self._metrics.survey.settings = settings
        self._settings = settings

    def close(self) -> None:
        """Write the file a last time, and take everything down."""
        self._places.close()
        self._kept.close()

    def _open(self, settings: Settings) -> None:
        """Serve and write, where that is wanted."""
        wanted = settings.metrics
        if not wanted.listen and not wanted.textfile:
            return
        from varmenne.measure import observed_by
        from varmenne.monitoring.metrics import Metrics
        from varmenne.monitoring.places import served, written

        if self._metrics is None:
            self._metrics = Metrics(settings, self._open_journal, self._clock)
            self._kept.callback(self._metrics.close)
            self._kept.enter_context(observed_by(self._metrics.counts))
        with contextlib.ExitStack() as opening:
            if wanted.listen:
                opening.enter_context(served(self._metrics.registry, wanted.listen))
            if wanted.textfile:
                opening.enter_context(written(self._metrics.registry, wanted.textfile))
            self._places = opening.pop_all()


@contextlib.contextmanager
def exposed(settings: Settings, open_journal: Callable[[], Journal], clock: Clock) -> Iterator[Exposure]:
    """Show metrics while the block runs, if the settings want any; otherwise nothing is loaded or opened.

    They are read by threads of their own, with a journal of their own: whatever hinders them does not hinder the agent.

    Args:
        settings: ``metrics`` says where; ``renewal`` and ``environment`` what they are about.
        open_journal: opens the journal; called in a thread of the metrics when they are first read.
        clock: tells the time.

    Raises:
        ConfigError: the socket, the port or the file cannot be used.
    """
    exposure = Exposure(open_journal, clock)
    try:
        exposure.reload(settings)
        yield exposure
    finally:
        exposure.close()
