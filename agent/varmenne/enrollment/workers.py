"""The agent's workers: threads that each do one piece of work after the other, with parts of their own."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from varmenne.errors import VarmenneError

if TYPE_CHECKING:
    from varmenne.clock import Clock
    from varmenne.domain.enrollment import Enrollment
    from varmenne.enrollment.parts import Parts
    from varmenne.settings import Settings

IDLE = timedelta(minutes=5)
"""After so long without work a worker lets go of token, service and Vault."""

Job = Callable[["Parts", "Worker"], None]
"""A piece of work. It keeps the newest version of its row, if it has one, in :attr:`Worker.row`."""


class Worker(threading.Thread):
    """Does one piece of work after the other; opens its parts when it has some, and closes them when it has none.

    Args:
        open_parts: opens the parts for settings.
        settings: returns the settings that hold at present.
        clock: tells the time.
        done: called after each piece of work.

    Attributes:
        row: the enrollment in hand, as it was committed last.
        since: when the present piece of work was given; ``None`` without one.
    """

    def __init__(
        self,
        open_parts: Callable[[Settings], Parts],
        settings: Callable[[], Settings],
        clock: Clock,
        done: Callable[[], None],
    ) -> None:
        super().__init__(name="varmenne worker")
        self.row: Enrollment | None = None
        self.since: datetime | None = None
        self._open_parts = open_parts
        self._settings = settings
        self._clock = clock
        self._done = done
        self._given: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._parts: Parts | None = None
        self._opened_for: Settings | None = None

    @property
    def free(self) -> bool:
        """Whether it has nothing to do."""
        return self.since is None

    def give(self, job: Job, row: Enrollment | None = None) -> None:
        """Hand it a piece of work; only if it is free."""
        self.row, self.since = row, self._clock()
        self._given.put(job)

    def finish(self) -> None:
        """Let it end when it has done what it was given."""
        self._given.put(None)

    def run(self) -> None:
        """Work until told to finish."""
        try:
            while True:
                try:
                    job = self._given.get(timeout=IDLE.total_seconds())
                except queue.Empty:
                    self._rest()
                    continue
                if job is None:
                    return
                job(self._ready(), self)
                self.row = self.since = None
                self._done()
        finally:
            self._close()

    def _ready(self) -> Parts:
        """Return the parts, opened anew if the settings were read anew."""
        settings = self._settings()
        if self._parts is None or self._opened_for is not settings:
            self._close()
            self._opened_for = settings
            self._parts = self._open_parts(settings)
        return self._parts

    def _rest(self) -> None:
        """Close what is open, unless the PIN could not be read a second time."""
        if self._opened_for is not None and not self._opened_for.token.pin.startswith(("fd:", "prompt")):
            self._close()

    def _close(self) -> None:
        """Close what is open; what cannot be closed has ended anyway."""
        parts, self._parts = self._parts, None
        if parts is not None:
            with contextlib.suppress(VarmenneError):
                parts.close()
