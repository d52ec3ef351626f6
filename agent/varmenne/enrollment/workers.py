"""The agent's workers: threads that each do one piece of work after the other, with parts of their own.

Beside them, how they are woken and what they tell.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import threading
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from varmenne.domain.steps import State
from varmenne.errors import VarmenneError
from varmenne.monitoring.events import Event, log_event

if TYPE_CHECKING:
    from varmenne.clock import Clock
    from varmenne.domain.enrollment import Enrollment
    from varmenne.enrollment.parts import Parts
    from varmenne.settings import Settings

IDLE = timedelta(minutes=5)
"""After so long without work a worker lets go of token, service and Vault."""

REACHED = {state: event for state in State for event in Event if event.value == state.value}
"""State → the event of having reached it."""

Job = Callable[["Parts", "Worker"], None]
"""A piece of work. It keeps the newest version of its row, if it has one, in :attr:`Worker.row`."""


class Worker(threading.Thread):
    """Does one piece of work after the other; opens its parts when it has some, and closes them when it has none.

    Args:
        open_parts: opens the parts for settings.
        settings: returns the settings that hold at present.
        clock: tells the time.
        done: called after each piece of work.
        failed: called with the enrollment in hand, if there is one, after an error that a job did not tell of itself.

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
        failed: Callable[[Enrollment | None, VarmenneError], None],
    ) -> None:
        super().__init__(name="varmenne worker")
        self.row: Enrollment | None = None
        self.since: datetime | None = None
        self._open_parts = open_parts
        self._settings = settings
        self._clock = clock
        self._done = done
        self._failed = failed
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
            while (job := self._next()) is not None:
                self._do(job)
        finally:
            self._close()

    def _next(self) -> Job | None:
        """Wait for a piece of work, letting go of everything meanwhile; ``None``: there will be no more."""
        while True:
            try:
                return self._given.get(timeout=IDLE.total_seconds())
            except queue.Empty:
                self._close()

    def _do(self, job: Job) -> None:
        """Do a piece of work. Whatever it ends with, this thread goes on: nobody would notice if it did not."""
        try:
            job(self._ready(), self)
        except Exception as exc:  # noqa: BLE001 - the last resort: a job tells of the errors that it knows
            self._failed(self.row, _defect(exc))
            self._close()
        finally:
            self.row = self.since = None
            self._done()

    def _ready(self) -> Parts:
        """Return the parts, opened anew if the settings were read anew."""
        settings = self._settings()
        if self._parts is None or self._opened_for is not settings:
            self._close()
            self._opened_for = settings
            self._parts = self._open_parts(settings)
        return self._parts

    def _close(self) -> None:
        """Close what is open; what cannot be closed has ended anyway."""
        parts, self._parts = self._parts, None
        if parts is not None:
            with contextlib.suppress(VarmenneError):
                parts.close()


def _defect(exc: Exception) -> VarmenneError:
    """Tell of an error that nobody translated: its class and its place, not its text, which may be anything."""
    *_above, (frame, line) = traceback.walk_tb(exc.__traceback__)
    return VarmenneError(
        f"An unexpected error in a worker: {type(exc).__name__}",
        why=f"in {frame.f_globals.get('__name__')}, line {line}",
        next_step="This is a defect in varmenne, please report it. The other work goes on, and this is tried again",
    )


class Wake:
    """Wakes one waiting thread, from any thread and from signal handlers."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        for end in (self._reader, self._writer):
            os.set_blocking(end, False)

    def wake(self) -> None:
        """End the present or the next wait."""
        with contextlib.suppress(OSError):  # A full pipe wakes as well; a closed one has nobody to wake.
            os.write(self._writer, b"!")

    def wait(self, seconds: float) -> None:
        """Wait at most so long."""
        if select.select([self._reader], [], [], max(0.0, seconds))[0]:
            os.read(self._reader, 4096)

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self._reader)
        os.close(self._writer)


class Teller:
    """Hears the progress of one piece of work for the log, and keeps the row in hand."""

    def __init__(self, worker: Worker, row: Enrollment) -> None:
        self._worker = worker
        self._row = row

    def begins(self, doing: str) -> None:
        """Say nothing: what is done is told when it is durable."""

    def done(self, result: str) -> None:
        """Tell it."""
        log_event(Event.DONE, self._row, told=result)

    def waits(self, what: str, until: datetime) -> None:
        """Nobody waits here."""

    def warns(self, sentence: str) -> None:
        """Tell it."""
        log_event(Event.UNUSUAL, self._row, told=sentence)

    def reached(self, row: Enrollment) -> None:
        """Keep the row, and tell of a new state."""
        new = row.state is not self._row.state
        self._worker.row = self._row = row
        if new:
            log_event(REACHED[row.state], row)
