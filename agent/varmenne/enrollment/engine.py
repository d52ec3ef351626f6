"""The loop that walks an enrollment through the table of steps: claim, act, commit, go on or wait."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from varmenne.domain.calendar import back_off
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.steps import BY_ORDER, ENDED, KNOWN_ANSWER, UPKEEP, State, Step, StepName, step_from
from varmenne.enrollment import facts, hooks
from varmenne.enrollment.acts import ACTS, BEFOREHAND
from varmenne.enrollment.preflight import refuse_key_elsewhere
from varmenne.enrollment.upkeep import next_due
from varmenne.enrollment.work import REQUESTS, Outcome, Work
from varmenne.errors import NotFinished, StateError, Transient, VarmenneError

if TYPE_CHECKING:
    from varmenne.domain.hooks import NewHook
    from varmenne.enrollment.parts import Parts
    from varmenne.enrollment.progress import Progress

LEASE_MARGIN = timedelta(seconds=60)
DEFECT = "This is a defect in varmenne. What was done is safe. Run the command again with -vv and report what it shows"
TRIES_TO_END = 5
"""So often it is tried to end an enrollment that another worker changes at the same moment, such as by a rehearsal."""
UNATTENDED_DELAY = timedelta(hours=6)
"""When the agent looks again at a row that failed for a reason that does not pass: somebody may have mended it."""


def lease(parts: Parts) -> timedelta:
    """Return how long a row is ours without a sign of life: longer than the slowest single act may take."""
    settings = parts.settings
    slowest = max(
        settings.token.generate_timeout_seconds,
        settings.service.connect_timeout_seconds + settings.service.read_timeout_seconds,
        settings.service.longest_poll_seconds,
    )
    return timedelta(seconds=2 * slowest) + LEASE_MARGIN


class Engine:
    """Walks enrollments on. Whoever calls it decides how long it may wait."""

    def __init__(self, work: Work, progress: Progress, *, unattended: bool = False) -> None:
        self._work = work
        self._parts = work.parts
        self._progress = progress
        self._unattended = unattended
        self._row: Enrollment

    @property
    def row(self) -> Enrollment:
        """The enrollment as it was committed last."""
        return self._row

    def walk(self, row: Enrollment, *, until: datetime) -> Enrollment:
        """Take the enrollment as far as it goes, waiting for the service at most until the given moment.

        Returns the row in a state that has no further step, or that waits for a person.

        Raises:
            NotFinished: the certificate was not there in time; `resume` goes on.
            HookFailed: it went as far as it goes, but a hook that was run after it failed.
            VarmenneError: an act failed. What is durable stays, and the row says what the problem is.
        """
        self._refuse_key_elsewhere(row)
        with self._holding(row):
            self._go(until)
        return self._finished()

    def carry(self, claimed: Enrollment) -> Enrollment:
        """Take an enrollment that this process has claimed as far as it goes without waiting, upkeep included.

        Raises:
            NotFinished: it waits, and is due again when that is over.
            VarmenneError: an act failed. What is durable stays, and the row says what the problem is.
        """
        self._row = claimed
        with self._parking():
            facts.refuse_other_environment(self._parts.settings, claimed)
            self._upkeep(UPKEEP[claimed.state]) if claimed.state in UPKEEP else self._go(self._parts.now)
        return self._given_back()

    def upkeep(self, row: Enrollment) -> Enrollment:
        """Do now what is to be done, when it is due, with a certificate that is in use or was.

        Raises:
            StateError: nothing is ever due in its state.
            VarmenneError: the act failed.
        """
        if row.state not in UPKEEP:
            raise StateError(f"Nothing of this kind is done with enrollment {row.id}", why=f"it is {row.state}")
        self._refuse_key_elsewhere(row)
        with self._holding(row, as_seen=True):
            self._upkeep(UPKEEP[row.state])
        return self._given_back()

    def order(
        self,
        row: Enrollment,
        target: State,
        *,
        changes: Mapping[str, Any],
        until: datetime,
        detail: Mapping[str, Any] | None = None,
        begun: Step | None = None,
        act: str = "order",
    ) -> Enrollment:
        """Move the enrollment to ``target`` because a person has ordered it, then walk on from there.

        Args:
            row: the enrollment.
            target: a state that :data:`varmenne.domain.steps.BY_ORDER` has for it.
            changes: values for the row.
            until: how long to wait for the service, at most.
            detail: facts for its history.
            begun: the step whose intent the target is; its act follows at once.
            act: what the history calls it.

        Raises:
            StateError: the table does not have the move, or the enrollment is not any more as the person saw it.
            HookFailed, VarmenneError: as in :meth:`walk`.
        """
        with self._holding(row, as_seen=True):
            self._commit(
                act,
                target,
                {"problem": None, **changes},
                {**(detail or {}), **({} if begun is None else self._before_sending())},
            )
            if begun is not None:
                self._progress.begins(begun.doing)
                self._act(begun, until)
            self._go(until)
        return self._finished()

    def _finished(self) -> Enrollment:
        """Give the row back, and run the hooks that became due with it: somebody waits to see how they end."""
        row = self._given_back()
        hooks.finish(self._parts, self._progress, row)
        return row

    def _refuse_key_elsewhere(self, row: Enrollment) -> None:
        """Leave a row of a journal of several hosts untouched, problem included, if its key is in another's token."""
        if self._parts.journal.shared and (next_step(row) is not None or row.state in UPKEEP):
            refuse_key_elsewhere(self._parts, row)

    def _given_back(self) -> Enrollment:
        """Give the row back where it has come as far as it goes; an end has given it back already."""
        if self._row.owner is None:
            return self._row
        return self._parts.journal.release(self._row, self._parts.now, due_at=self._last_due())

    def _upkeep(self, step: Step) -> None:
        """Take the one step that an end may still have."""
        self._progress.begins(step.doing)
        self._act(step, self._parts.now)

    @contextlib.contextmanager
    def _holding(self, row: Enrollment, *, as_seen: bool = False) -> Iterator[None]:
        """Claim the row for the block; after a failure, give it back with the problem.

        With ``as_seen``, only a row that is still the one that was looked at: an order is about what its giver saw.
        """
        facts.refuse_other_environment(self._parts.settings, row)
        self._row = self._parts.journal.claim(row, self._parts.now, lease=lease(self._parts))
        if as_seen and (self._row.state, self._row.updated_at) != (row.state, row.updated_at):
            self._parts.journal.release(self._row, self._parts.now, due_at=row.due_at)
            raise StateError(
                f"Enrollment {row.id} was changed meanwhile",
                why=f"it was {row.state}, and is {self._row.state} since {self._row.updated_at:%H:%M:%S} UTC",
                next_step=f"Look again before you decide: varmenne show {row.id}",
            )
        with self._parking():
            yield

    @contextlib.contextmanager
    def _parking(self) -> Iterator[None]:
        """Give the row back with the problem, whatever ends the block."""
        try:
            yield
        except VarmenneError as exc:
            self._park(exc)
            raise
        except Exception as exc:
            defect = VarmenneError(
                f"An unexpected error in enrollment {self._row.id}: {type(exc).__name__}", next_step=DEFECT
            )
            self._park(defect)
            raise defect from exc
        except BaseException as exc:
            self._park(exc)
            raise

    def _go(self, until: datetime) -> None:
        """Take one step after the other: commit the intent where there is one, then act."""
        while (step := next_step(self._row)) is not None:
            if self._work.stopping():
                raise NotFinished(f"Enrollment {self._row.id} was parked: varmenne ends", due_at=self._parts.now)
            self._progress.begins(step.doing)
            if step.intent is not None:
                self._intend(step, step.intent)
            self._act(step, until)

    def _intend(self, step: Step, intent: State) -> None:
        """Commit what is done before a request is sent; or that there is nothing left to send."""
        before = BEFOREHAND[step.name](self._work, self._row)
        if not isinstance(before, Outcome):
            self._commit(step.name, intent, before, self._before_sending())
        elif before.error is not None:
            self._commit("expire", before.target, {"problem": facts.problem(before.error)}, before.detail)
            raise before.error

    def _act(self, step: Step, until: datetime) -> None:
        """Act, commit the outcome, and only then tell of it; wait if the outcome says so."""
        outcome = ACTS[step.name](self._work, self._row)
        problem = None if outcome.error is None else facts.problem(outcome.error)
        told_before = outcome.target is self._row.state and problem == self._row.problem and not outcome.changes
        if outcome.error is not None and told_before:
            raise outcome.error  # Nothing is new: looking again adds nothing to the history.
        then: tuple[NewHook, ...] = ()
        if step.name is StepName.ACTIVATE and outcome.target is State.ACTIVE:
            self._supersede()
            then = hooks.after_activation(self._parts, self._row, outcome)
        changes = {"problem": problem, **outcome.changes}
        if outcome.wait is not None:
            at_an_end = outcome.target in ENDED
            changes["due_at"] = self._parts.now + outcome.wait + (timedelta() if at_an_end else lease(self._parts))
        self._commit(step.name, outcome.target, changes, outcome.detail, then)
        if outcome.error is not None:
            raise outcome.error
        if outcome.target is not step.source or step.source in UPKEEP:
            self._progress.done(outcome.told)
        if outcome.wait is not None and outcome.target not in ENDED:
            self._wait(outcome, self._parts.now + outcome.wait, until)

    def _commit(
        self,
        step: str,
        target: State,
        changes: Mapping[str, Any],
        detail: Mapping[str, Any],
        then: tuple[NewHook, ...] = (),
    ) -> None:
        """Make a new state durable, and renew the lease; at an end there is no owner, and what is due is upkeep."""
        now = self._parts.now
        if target in ENDED:
            values = {"due_at": next_due(self._parts, self._row, target), "owner": None, **changes}
        else:
            values = {"due_at": now + lease(self._parts), **changes}
        self._row = self._parts.journal.commit(
            self._row, now, target, step=step, changes=values, detail=detail, hooks=then
        )
        self._progress.reached(self._row)

    def _before_sending(self) -> dict[str, int]:
        """Note the newest answer that is there before a request is begun: it cannot be the answer to that request."""
        answers = self._parts.journal.answers(self._row.id, REQUESTS[self._row.method])
        return {KNOWN_ANSWER: answers[0].id if answers else 0}

    def _supersede(self) -> None:
        """Mark the enrollments whose place this one takes: whatever was current for the same customer and channel.

        Two may have been begun side by side; Vault has one record for both, and that is this one's now. Marking comes
        first, so that a crash in between repeats harmlessly. A renewal of what is replaced has no purpose any more.
        """
        row, journal = self._row, self._parts.journal
        for old in journal.current(row.environment, row.customer_id, row.channel):
            if old.id == row.id:
                continue
            for renewal in journal.renewals(old.id):
                open_still = renewal.id != row.id and renewal.state not in ENDED
                if open_still and State.ABANDONED in BY_ORDER.get(renewal.state, ()):
                    self._end(renewal, State.ABANDONED, "abandon")
            self._end(old, State.SUPERSEDED, "supersede")

    def _end(self, other: Enrollment, target: State, step: str) -> None:
        """Take another enrollment to an end, since this one takes its place, also if somebody is at work on it."""
        source = other.state
        for left in reversed(range(TRIES_TO_END)):
            changes = {"due_at": next_due(self._parts, other, target), "owner": None}
            try:
                self._parts.journal.commit(
                    other, self._parts.now, target, step=step, changes=changes, detail={"by": self._row.id}
                )
            except StateError as exc:
                other = self._parts.journal.get(other.id)
                if not exc.facts.get("overtaken") or other.state is not source or not left:
                    raise
            else:
                return

    def _wait(self, outcome: Outcome, due: datetime, until: datetime) -> None:
        """Wait until the row is due, telling so every second; give up where that is later than allowed."""
        if due > until:
            lacks = "in use" if self._row.state is State.STORED else "there"
            when = facts.moment(due, self._parts.now)
            raise NotFinished(
                f"The certificate of enrollment {self._row.id} is not {lacks} yet",
                why=outcome.told,
                next_step=f"Nothing is lost. After {when}: varmenne resume {self._row.id}",
                due_at=due,
            )
        left = (due - self._parts.now).total_seconds()
        while left > 0 and self._parts.now < due:  # Counted down as well, lest a clock that steps back hold us here.
            self._progress.waits(outcome.told, due)
            self._parts.sleep(min(left, 1.0))
            left -= 1.0

    def _park(self, exc: BaseException) -> None:
        """Give the row back with what is known of the problem. The journal may be the problem; then nothing is done."""
        now, row = self._parts.now, self._row
        if row.owner is None:
            return  # Its outcome was an end, and that is durable.
        with contextlib.suppress(VarmenneError):
            problem = facts.problem(exc) if isinstance(exc, VarmenneError) else None
            if problem is not None and not isinstance(exc, NotFinished) and row.problem != problem:
                row = self._parts.journal.commit(
                    row, now, row.state, step="problem", changes={"problem": problem}, detail=problem
                )
            tries = row.tries + (problem is not None and not isinstance(exc, NotFinished))
            self._row = self._parts.journal.release(row, now, due_at=self._due(exc, tries), tries=tries)

    def _due(self, exc: BaseException, tries: int) -> datetime | None:
        """Return when to look again at a row that was left: as the error says, or after a while if it may pass.

        What does not pass by itself waits for a person. The agent looks again all the same: the person may have mended
        the cause without a word to us.
        """
        now = self._parts.now
        if isinstance(exc, NotFinished) and "due_at" in exc.facts:
            told = exc.facts["due_at"]
            return told if isinstance(told, datetime) else None
        if isinstance(exc, (Transient, KeyboardInterrupt)):
            return now + back_off(tries - 1, self._row.id)
        return now + UNATTENDED_DELAY if self._unattended else self._last_due()

    def _last_due(self) -> datetime | None:
        """Return when to look again at a row at which nothing goes on by itself; ``None``: never.

        The upkeep of a certificate comes again, and credentials that are never sent come to their end.
        """
        if self._row.state in UPKEEP:
            return next_due(self._parts, self._row, self._row.state)
        return self._row.valid_until if self._row.state in {State.PREPARED, State.KEYED} else None


def next_step(row: Enrollment) -> Step | None:
    """Return the step that leads on, or ``None`` if the row is at an end or waits for a person."""
    return step_from(row.state, row.method)
