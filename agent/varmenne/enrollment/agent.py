"""The agent: carries every enrollment on when it is due, and looks after the certificates in use, unattended.

One thread looks for what is due and hands it out; a few workers do it, each with parts of its own: a session with the
token, a connection to the service and one to Vault. Nobody waits for anything but work: an answer that takes time is a
due time in the journal. Whatever happens to the agent, the journal knows where everything stands.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

from varmenne.domain import calendar
from varmenne.domain.enrollment import Enrollment
from varmenne.enrollment.engine import Engine, lease
from varmenne.enrollment.parts import Parts
from varmenne.enrollment.work import Work
from varmenne.errors import NotFinished, StateError, VarmenneError
from varmenne.journal import Among

if TYPE_CHECKING:
    from varmenne.enrollment.progress import Progress
    from varmenne.settings import Settings

log = logging.getLogger(__name__)

IDLE = timedelta(minutes=5)
"""After so long without work a worker lets go of token, service and Vault."""

AFTER_DEFECT = timedelta(seconds=30)
"""How long the agent waits before it looks again at a journal that it could not read."""

STUCK = timedelta(minutes=30)
"""A worker that is at one piece of work for so long hangs; then the service manager is not told `alive` any more."""


@dataclass(slots=True)
class Tally:
    """What the agent has done since it began."""

    wake_ups: int = 0
    carried: int = 0
    failed: int = 0
    waiting: int = 0
    errors: list[VarmenneError] = field(default_factory=list)
    """The last errors of :meth:`Agent.once`, for its exit code."""


class Wake:
    """Wakes one waiting thread, from any thread and from signal handlers."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        for end in (self._reader, self._writer):
            os.set_blocking(end, False)

    def wake(self) -> None:
        """End the present or the next wait."""
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._writer, b"!")

    def wait(self, seconds: float) -> None:
        """Wait at most so long."""
        if select.select([self._reader], [], [], max(0.0, seconds))[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._reader, 4096)

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self._reader)
        os.close(self._writer)


class Worker(threading.Thread):
    """Does one piece of work after the other, with parts that it opens when it has some and closes when it has none."""

    def __init__(self, number: int, agent: Agent) -> None:
        super().__init__(name=f"worker-{number}")
        self._agent = agent
        self._given: queue.SimpleQueue[Enrollment | None] = queue.SimpleQueue()
        self._parts: Parts | None = None
        self._settings: Settings | None = None
        self.row: Enrollment | None = None
        self.since: datetime | None = None

    def give(self, row: Enrollment) -> None:
        """Hand it a claimed row."""
        self.row, self.since = row, self._agent.now
        self._given.put(row)

    def finish(self) -> None:
        """Let it end when it has done what it was given."""
        self._given.put(None)

    def run(self) -> None:
        """Work until told to finish."""
        try:
            while True:
                try:
                    row = self._given.get(timeout=IDLE.total_seconds())
                except queue.Empty:
                    self._rest()
                    continue
                if row is None:
                    return
                self._agent.carry(self._ready(), row, self._hold)
                self.row = self.since = None
                self._agent.wake.wake()
        finally:
            self._close()

    def _hold(self, row: Enrollment) -> None:
        """Keep the newest version of the row in hand, whose lease the agent renews."""
        self.row = row

    def _ready(self) -> Parts:
        """Return the parts, opened anew if the settings were read anew."""
        if self._parts is None or self._settings is not self._agent.settings:
            self._close()
            self._settings = self._agent.settings
            self._parts = self._agent.make_parts(self._settings)
        return self._parts

    def _rest(self) -> None:
        """Close what is open, unless the PIN could not be read a second time."""
        if self._settings is not None and not self._settings.token.pin.startswith(("fd:", "prompt")):
            self._close()

    def _close(self) -> None:
        """Close what is open; what cannot be closed has ended anyway."""
        parts, self._parts = self._parts, None
        if parts is not None:
            with contextlib.suppress(VarmenneError):
                parts.close()


class Agent:
    """Carries on what is due. Make it, then call :meth:`run` or :meth:`once`; it is a context manager.

    Args:
        settings: the settings.
        make_parts: opens the parts that one thread works with.
        wait: waits so many seconds at most, or until woken; simulations have time of their own.

    Raises:
        ConfigError: the settings cannot be used.
        JournalError: the journal cannot be opened.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        make_parts: Callable[[Settings], Parts] = Parts,
        wait: Callable[[float], None] | None = None,
    ) -> None:
        self.settings = settings
        self.make_parts = make_parts
        self.wake = Wake()
        self.tally = Tally()
        self._wait = wait or self.wake.wait
        self._stopping = threading.Event()
        self._parts = make_parts(settings)
        self._workers: list[Worker] = []
        self._token: str | None = None

    def __enter__(self) -> Self:
        refuse_unusable(self.settings)
        self._parts.journal.take_back(self.now)  # A journal that cannot be used is told at once.
        self._hire()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def now(self) -> datetime:
        """The present moment."""
        return self._parts.now

    def stop(self) -> None:
        """Take nothing new, park what is under way at its next step, and end. May be called by a signal handler."""
        self._stopping.set()
        self.wake.wake()

    def close(self) -> None:
        """End the workers, which finish the act that they are at, and close everything."""
        self._stopping.set()
        for worker in self._workers:
            worker.finish()
        for worker in self._workers:
            worker.join()
        self._workers.clear()
        self._parts.close()
        self.wake.close()

    def run(self, tick: Callable[[], float | None] = lambda: None) -> None:
        """Work until told to stop.

        Args:
            tick: called at each wake-up; returns within how many seconds it wants to be called again, if at all.
        """
        while not self._stopping.is_set():
            self.tally.wake_ups += 1
            try:
                self._hand_out()
                seconds = self._until_due()
            except VarmenneError as exc:
                log.error("%s", exc)  # noqa: TRY400 - people get sentences, not tracebacks
                seconds = AFTER_DEFECT.total_seconds()
            again = tick()
            self._wait(seconds if again is None else min(seconds, again))

    def once(self, patience: timedelta = timedelta()) -> None:
        """Do everything that is due, and what becomes due within ``patience``, and return.

        Raises:
            JournalError: the journal cannot be read or written.
        """
        while not self._stopping.is_set():
            self.tally.wake_ups += 1
            self._hand_out()
            due = self._parts.journal.next_due(self._among())
            if any(worker.row is not None for worker in self._workers):
                self._wait(1.0)
            elif due is None or due > self.now + patience:
                return
            elif due > self.now:
                self._wait((due - self.now).total_seconds())

    def reload(self, settings: Settings) -> None:
        """Work by other settings from the next piece of work on.

        Raises:
            StateError: they name another journal or another environment, which takes a restart.
        """
        if _home(settings) != _home(self.settings):
            raise StateError(
                "The settings name another journal or environment, so they are not taken over",
                next_step="Restart the agent for that",
            )
        self.settings = settings
        self._token = None
        self._hire()

    def stuck(self) -> bool:
        """Tell whether a worker has been at one piece of work for longer than any can take."""
        return any(worker.since is not None and self.now - worker.since > STUCK for worker in self._workers)

    def carry(self, parts: Parts, row: Enrollment, hold: Callable[[Enrollment], None]) -> None:
        """Carry one claimed row on; whatever fails is in the journal, and told."""
        teller = Told(hold)
        work = Work(parts, warn=teller.warns, stopping=self._stopping.is_set)
        self.tally.carried += 1
        try:
            Engine(work, teller, unattended=True).carry(row)
        except NotFinished:
            self.tally.waiting += 1
        except VarmenneError as exc:
            self.tally.failed += 1
            self.tally.errors.append(exc)
            log.warning("%s: %s", row.id, exc)

    def _hire(self) -> None:
        """Have as many workers as the settings say; one that is too many ends when it has nothing to do."""
        wanted = self.settings.agent.workers
        for worker in self._workers[wanted:]:
            worker.finish()
        del self._workers[wanted:]
        while len(self._workers) < wanted:
            worker = Worker(len(self._workers) + 1, self)
            worker.start()
            self._workers.append(worker)

    def _hand_out(self) -> None:
        """Keep the leases of what is in hand, and claim a row for each worker that has none."""
        self._keep_leases()
        free = [worker for worker in self._workers if worker.row is None]
        if not free or self._stopping.is_set():
            return
        rows = self._parts.journal.claim_due(self.now, len(free), lease=lease(self._parts), among=self._among())
        for worker, row in zip(free, rows, strict=False):
            worker.give(row)

    def _keep_leases(self) -> None:
        """Lengthen the leases of rows whose acts take long, before another host takes them for abandoned."""
        length = lease(self._parts)
        for worker in self._workers:
            row = worker.row
            if row is not None and row.due_at is not None and row.due_at - self.now < length / 2:
                with contextlib.suppress(StateError):  # It was committed in this moment, or is somebody else's by now.
                    self._parts.journal.renew(row, self.now, lease=length)

    def _until_due(self) -> float:
        """Return the seconds until there is something to do: a row, or a lease in hand."""
        longest = self.settings.agent.longest_sleep_seconds
        if all(worker.row is not None for worker in self._workers):
            return min(longest, lease(self._parts).total_seconds() / 4)
        due = self._parts.journal.next_due(self._among())
        return longest if due is None else min(longest, max(0.0, (due - self.now).total_seconds()))

    def _among(self) -> Among:
        """Say which rows are ours: of our environment and, in a journal of several hosts, of our token."""
        if self._parts.journal.shared and self._token is None:
            self._token = self._parts.token.identity().digest
            self._parts.token.close()
            del self._parts.token
        return Among(self.settings.environment, self._token)


def _home(settings: Settings) -> tuple[object, ...]:
    """Return what cannot change while an agent runs."""
    return settings.environment, settings.state_dir, settings.journal


def refuse_unusable(settings: Settings) -> None:
    """Refuse settings whose mistake would show only when a renewed certificate is to be put to use.

    Raises:
        ConfigError: a window or the time zone cannot be read.
    """
    if calendar.windows(settings.renewal.activation_windows):
        calendar.zone(settings.renewal.time_zone)


class Told:
    """Hears progress for the log, and keeps the row in hand."""

    def __init__(self, hold: Callable[[Enrollment], None]) -> None:
        self._hold = hold
        self._id = ""

    def begins(self, doing: str) -> None:
        """Tell those who want to know much."""
        log.debug("%s: %s", self._id, doing)

    def done(self, result: str) -> None:
        """Tell it."""
        log.info("%s: %s", self._id, result)

    def waits(self, what: str, until: datetime) -> None:
        """Nobody waits here."""

    def warns(self, sentence: str) -> None:
        """Tell it."""
        log.warning("%s: %s", self._id, sentence)

    def reached(self, row: Enrollment) -> None:
        """Keep the row as it is now."""
        self._id = row.id
        self._hold(row)


if TYPE_CHECKING:
    _: Progress = Told(lambda _row: None)
