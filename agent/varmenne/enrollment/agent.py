"""The agent: carries every enrollment on when it is due, and looks after the certificates in use, unattended.

One thread looks for what is due and hands it out; a few workers do it, each with parts of its own: a session with the
token, a connection to the service and one to Vault. Nobody waits for anything but work: an answer that takes time is a
due time in the journal. Whatever happens to the agent, the journal knows where everything stands.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Self

from varmenne.domain.enrollment import Enrollment
from varmenne.domain.hooks import HookEvent, HookOutcome, HookRun
from varmenne.domain.steps import State
from varmenne.enrollment import facts, hooks
from varmenne.enrollment.engine import Engine, lease
from varmenne.enrollment.evidence.duty import LogDuty
from varmenne.enrollment.parts import Parts
from varmenne.enrollment.unattended import refuse_unusable
from varmenne.enrollment.upkeep import latest_due
from varmenne.enrollment.work import Work
from varmenne.enrollment.workers import Job, Teller, Wake, Worker
from varmenne.errors import ChecksFailed, JournalError, NotFinished, StateError, TokenError, VarmenneError
from varmenne.journal import Among
from varmenne.monitoring.events import Event, log_event

if TYPE_CHECKING:
    from varmenne.domain.identifiers import EnrollmentId
    from varmenne.settings import Settings

AFTER_OUTAGE = timedelta(seconds=30)
"""How long the agent waits before it looks again at a journal, or a token, that it could not look at."""

STUCK = timedelta(minutes=30)
"""A worker that is at one piece of work for so long hangs; then the service manager is not told `alive` any more."""

EVENTS: dict[type[VarmenneError], Event] = {ChecksFailed: Event.REHEARSAL_FAILED, JournalError: Event.JOURNAL_FAILED}
"""Errors that are an event of their own, wherever they come from."""


@dataclass(slots=True)
class Tally:
    """What the agent has done since it began: pieces of work, and how they ended."""

    wake_ups: int = 0
    carried: int = 0
    waiting: int = 0
    hooks: int = 0
    errors: list[VarmenneError] = field(default_factory=list)
    hooks_failing: set[int] = field(default_factory=set)
    lasting: bool = False
    """An agent that runs for years tells its errors and keeps none."""

    def failed(self, error: VarmenneError) -> None:
        """Keep an error, without the frames that it came through and all that they hold."""
        if not self.lasting:
            error.__cause__ = error.__context__ = None
            self.errors.append(error.with_traceback(None))

    def heard(self, run: HookRun) -> None:
        """Count a run of a hook, and keep which failed and did not succeed since."""
        self.hooks += 1
        failing = run.outcome in {HookOutcome.FAILING, HookOutcome.FAILED} and not self.lasting
        (self.hooks_failing.add if failing else self.hooks_failing.discard)(run.id)


class Agent:
    """Carries on what is due. A context manager; within it, call :meth:`run` or :meth:`once`.

    Args:
        settings: the settings.
        open_parts: opens the parts that one thread works with.

    Raises:
        ConfigError: the settings cannot be used.
        JournalError: the journal cannot be opened.
    """

    def __init__(self, settings: Settings, *, open_parts: Callable[[Settings], Parts] = Parts) -> None:
        refuse_unusable(settings)
        self.settings = settings
        self.tally = Tally()
        self.wake = Wake()
        self._open_parts = open_parts
        self._stopping = threading.Event()
        self._parts = open_parts(settings)
        self._workers: list[Worker] = []
        self._token: str | None = None
        self._pruned: date | None = None
        self._duty = LogDuty(self._parts.journal, self.tally.failed)

    def __enter__(self) -> Self:
        self._parts.journal.take_back(self.now)  # A journal that cannot be used is told at once.
        self._parts.journal.pull_in(self.now, self.now + latest_due(self.settings))
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

    def run(self, tick: Callable[[], float]) -> None:
        """Work until told to stop.

        Args:
            tick: called at each wake-up; returns within how many seconds it is to be called again.
        """
        self.tally.lasting = True
        while not self._stopping.is_set():
            self._woke()
            try:
                self._hand_out()
                seconds = self._until_due()
            except VarmenneError as exc:
                log_event(Event.TOKEN_FAILED if isinstance(exc, TokenError) else _event_of(exc), error=exc)
                seconds = AFTER_OUTAGE.total_seconds()
            self._prune()
            self.wake.wait(min(seconds, tick()))

    def once(self, patience: timedelta = timedelta()) -> None:
        """Do everything that is due, then what becomes due within ``patience`` from there, and return.

        Raises:
            JournalError: the journal cannot be read or written.
            TokenError: in a journal of several hosts, the token cannot be asked which rows are ours.
        """
        self._work_until(self.now)
        self._work_until(self.now + patience)
        self._prune()
        if self._duty.due(self.now) is not None and not self._stopping.is_set():
            with self._open_parts(self.settings) as parts:
                self._duty.sign(parts)

    def _work_until(self, moment: datetime) -> None:
        """Do what is due up to a moment, and wait for it. What is due later is left, however late it gets meanwhile.

        So it ends: what fails, or is looked at again and again, is due later each time.
        """
        while not self._stopping.is_set():
            self._woke()
            due = self._next_due()
            left = due is not None and due <= moment
            self._hand_out() if left else self._keep_leases()
            if not all(worker.free for worker in self._workers):
                self.wake.wait(1.0)
            elif due is None or not left:
                return
            elif due > self.now:
                self.wake.wait((due - self.now).total_seconds())

    def reload(self, settings: Settings, *, also: Callable[[Settings], None] = lambda _settings: None) -> None:
        """Work by other settings from the next piece of work on: all of them, or none.

        Args:
            settings: the other settings.
            also: takes them over elsewhere; called when they are found fit, and if it raises, they are not taken here.

        Raises:
            ConfigError: they cannot be used. The old ones stay.
            StateError: they name another journal or another environment, which takes a restart. The old ones stay.
        """
        refuse_unusable(settings)
        if _home(settings) != _home(self.settings):
            raise StateError(
                "The settings name another journal or environment, so they are not taken over",
                next_step="Restart the agent for that",
            )
        also(settings)
        if settings.token != self.settings.token:
            self._token = None  # It may be another token.
        self.settings = settings
        self._hire()

    def stuck(self) -> bool:
        """Tell whether a worker has been at one piece of work for longer than any can take."""
        return any(worker.since is not None and self.now - worker.since > STUCK for worker in self._workers)

    def _hire(self) -> None:
        """Have as many workers as the settings say; one that is too many ends when it has nothing to do."""
        wanted = self.settings.agent.workers
        for worker in self._workers[wanted:]:
            worker.finish()
        del self._workers[wanted:]
        while len(self._workers) < wanted:
            worker = Worker(
                self._open_parts, lambda: self.settings, self._parts.clock, self.wake.wake, self._tell_defect
            )
            worker.start()
            self._workers.append(worker)

    def _woke(self) -> None:
        """Count a look at the journal."""
        self.tally.wake_ups += 1
        log_event(Event.WOKE)

    def _hand_out(self) -> None:
        """Keep the leases of what is in hand, and give each worker that is free a row or the hooks that are due."""
        self._keep_leases()
        free = [worker for worker in self._workers if worker.free]
        if not free or self._stopping.is_set():
            return
        journal, among = self._parts.journal, self._among()
        hook_due = journal.hooks.next_due(among)
        if hook_due is not None and hook_due <= self.now:
            free.pop().give(self._run_hooks(among))
        if free and self._duty.due(self.now) == timedelta():
            free.pop().give(self._duty.sign)
        if free:
            rows = journal.claim_due(self.now, len(free), lease=lease(self._parts), among=among)
            for worker, row in zip(free, rows, strict=False):
                log_event(Event.CLAIMED, row)
                worker.give(self._carry(row), row)

    def _prune(self) -> None:
        """Once a day, have the journal drop what it need not keep. It can wait, so what hinders it is only told."""
        if self._pruned == self.now.date():
            return
        self._pruned = self.now.date()
        try:
            self._parts.journal.prune(self.now)
        except VarmenneError as exc:
            log_event(_event_of(exc), error=exc)

    def _keep_leases(self) -> None:
        """Lengthen the leases of rows whose acts take long, before another host takes them for abandoned."""
        length = lease(self._parts)
        for worker in self._workers:
            row = worker.row
            if row is not None and row.due_at is not None and row.due_at - self.now < length / 2:
                with contextlib.suppress(StateError):  # It was committed in this moment, or is somebody else's by now.
                    self._parts.journal.renew(row, self.now, lease=length)

    def _until_due(self) -> float:
        """Return the seconds until there is something to do: work for a free worker, or a lease to be kept."""
        longest = self.settings.agent.longest_sleep_seconds
        if not all(worker.free for worker in self._workers):
            longest = min(longest, lease(self._parts).total_seconds() / 4)
        if not any(worker.free for worker in self._workers):
            return longest
        due, unsigned = self._next_due(), self._duty.due(self.now)
        waits = [longest]
        if due is not None:
            waits.append((due - self.now).total_seconds())
        if unsigned is not None:
            waits.append(unsigned.total_seconds())
        return max(0.0, min(waits))

    def _next_due(self) -> datetime | None:
        """Return when the next row or hook of ours is due."""
        journal, among = self._parts.journal, self._among()
        found = (journal.next_due(among), journal.hooks.next_due(among))
        return min((due for due in found if due is not None), default=None)

    def _among(self) -> Among:
        """Say which rows are ours: of our environment and, in a journal of several hosts, of our token."""
        if self._parts.journal.shared and self._token is None:
            with self._open_parts(self.settings) as parts:
                self._token = parts.token.identity().digest
        return Among(self.settings.environment, self._token)

    def _carry(self, claimed: Enrollment) -> Job:
        """Return the work of carrying a claimed row on; whatever fails is in the journal, and told."""

        def carry(parts: Parts, worker: Worker) -> None:
            teller = Teller(worker, claimed)
            work = Work(parts, warn=teller.warns, stopping=self._stopping.is_set)
            engine = Engine(work, teller, unattended=True)
            self.tally.carried += 1
            try:
                engine.carry(claimed)
            except NotFinished as exc:
                self.tally.waiting += 1
                log_event(Event.WAITS, engine.row, error=exc)
                self._call_for_help(parts, engine.row, exc)
            except VarmenneError as exc:
                if not exc.facts.get("overtaken"):  # Whoever was faster has said when it is due again.
                    self.tally.failed(exc)
                    self._tell(parts, engine.row, exc)
            self._do_hooks(parts, enrollment=claimed.id)

        return carry

    def _run_hooks(self, among: Among) -> Job:
        """Return the work of running the hooks that are due."""

        def run(parts: Parts, _worker: Worker) -> None:
            self._do_hooks(parts, among=among)

        return run

    def _do_hooks(self, parts: Parts, *, among: Among | None = None, enrollment: EnrollmentId | None = None) -> None:
        """Run the hooks that are due; a journal that cannot be used meanwhile leaves them for later."""
        try:
            hooks.run_due(
                parts, among=among, enrollment=enrollment, stopping=self._stopping.is_set, heard=self.tally.heard
            )
        except VarmenneError as exc:
            self.tally.failed(exc)
            log_event(_event_of(exc), error=exc)

    def _tell(self, parts: Parts, row: Enrollment, error: VarmenneError) -> None:
        """Tell log and hooks of a failure: one that may pass, or one that needs a person."""
        log_event(_event_of(error), row, error=error)
        hook = HookEvent.FAILED if error.transient else HookEvent.ATTENTION
        with contextlib.suppress(VarmenneError):
            hooks.queue(parts, row, hook, facts.problem(error))

    def _tell_defect(self, row: Enrollment | None, error: VarmenneError) -> None:
        """Tell of an error that nobody foresaw; its row is looked at again when its lease is over."""
        self.tally.failed(error)
        log_event(Event.DEFECT, row, error=error)

    def _call_for_help(self, parts: Parts, row: Enrollment, error: NotFinished) -> None:
        """Tell hooks of an enrollment that waits for what only a person has."""
        if row.state is State.KEYED and row.problem is not None:
            with contextlib.suppress(VarmenneError):
                hooks.queue(parts, row, HookEvent.FAILED, facts.problem(error))


def _event_of(error: VarmenneError) -> Event:
    """Return the event of a failure: by its class where that has one, and else by whether it may pass."""
    found = (event for cls, event in EVENTS.items() if isinstance(error, cls))
    return next(found, Event.FAILED if error.transient else Event.ATTENTION)


def _home(settings: Settings) -> tuple[object, ...]:
    """Return what cannot change while an agent runs."""
    return settings.environment, settings.state_dir, settings.journal
