"""The loop that walks an enrollment through the table of steps: claim, act, commit, go on or wait."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from varmenne.domain.enrollment import Enrollment
from varmenne.domain.steps import ENDED, KNOWN_ANSWER, State, Step, step_from
from varmenne.enrollment import facts
from varmenne.enrollment.acts import ACTS, BEFOREHAND, Outcome, Work
from varmenne.errors import NotFinished, StateError, Transient, VarmenneError
from varmenne.service.interface import Operation

if TYPE_CHECKING:
    from varmenne.enrollment.parts import Parts
    from varmenne.enrollment.progress import Progress

LEASE_MARGIN = timedelta(seconds=60)
DEFECT = "This is a defect in varmenne. What was done is safe. Run the command again with -vv and report what it shows"
RETRY_DELAY = timedelta(minutes=5)
"""When a row that failed for a passing reason is due again."""


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

    def __init__(self, work: Work, progress: Progress) -> None:
        self._work = work
        self._parts = work.parts
        self._progress = progress
        self._row: Enrollment

    def walk(self, row: Enrollment, *, until: datetime) -> Enrollment:
        """Take the enrollment as far as it goes, waiting for the service at most until the given moment.

        Returns the row in a state that has no further step, or that waits for a person.

        Raises:
            NotFinished: the certificate was not there in time; `resume` goes on.
            VarmenneError: an act failed. What is durable stays, and the row says what the problem is.
        """
        with self._holding(row):
            self._go(until)
        return self._parts.journal.release(self._row, self._parts.now, due_at=None)

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
            VarmenneError: an act failed, as in :meth:`walk`.
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
        return self._parts.journal.release(self._row, self._parts.now, due_at=None)

    @contextlib.contextmanager
    def _holding(self, row: Enrollment, *, as_seen: bool = False) -> Iterator[None]:
        """Claim the row for the block; after a failure, give it back with the problem.

        With ``as_seen``, only a row that is still the one that was looked at: an order is about what its giver saw.
        """
        facts.refuse_other_environment(self._parts.settings, row)
        self._row = self._parts.journal.claim(row, self._parts.now, lease=lease(self._parts))
        if as_seen and self._row.state is not row.state:
            self._parts.journal.release(self._row, self._parts.now, due_at=row.due_at)
            raise StateError(
                f"Enrollment {row.id} was changed meanwhile",
                why=f"it was {row.state}, and is {self._row.state}",
                next_step=f"Look again before you decide: varmenne show {row.id}",
            )
        try:
            yield
        except VarmenneError as exc:
            self._park(exc)
            raise
        except Exception as exc:
            defect = VarmenneError(
                f"An unexpected error in enrollment {row.id}: {type(exc).__name__}", next_step=DEFECT
            )
            self._park(defect)
            raise defect from exc
        except BaseException as exc:
            self._park(exc)
            raise

    def _go(self, until: datetime) -> None:
        """Take one step after the other: commit the intent where there is one, then act."""
        while (step := next_step(self._row)) is not None:
            self._progress.begins(step.doing)
            if step.intent is not None:
                changes = BEFOREHAND[step.name](self._work, self._row)
                self._commit(step.name, step.intent, changes, self._before_sending())
            self._act(step, until)

    def _act(self, step: Step, until: datetime) -> None:
        """Act, commit the outcome, and only then tell of it; wait if the outcome says so."""
        outcome = ACTS[step.name](self._work, self._row)
        problem = None if outcome.error is None else facts.problem(outcome.error)
        if outcome.error is not None and outcome.target is self._row.state and problem == self._row.problem:
            raise outcome.error  # Nothing is new: looking again adds nothing to the history.
        if outcome.target is State.ACTIVE:
            self._supersede()
        changes = {"problem": problem, **outcome.changes}
        if outcome.wait is not None:
            changes["due_at"] = self._parts.now + outcome.wait + lease(self._parts)
        self._commit(step.name, outcome.target, changes, outcome.detail)
        if outcome.error is not None:
            raise outcome.error
        if outcome.target is not step.source:
            self._progress.done(outcome.told)
        if outcome.wait is not None:
            self._wait(outcome, self._parts.now + outcome.wait, until)

    def _commit(self, step: str, target: State, changes: Mapping[str, Any], detail: Mapping[str, Any]) -> None:
        """Make a new state durable, and renew the lease; at an end there is nothing to come back to, and no owner."""
        now = self._parts.now
        values = {"due_at": now + lease(self._parts), **changes}
        if target in ENDED:
            values |= {"due_at": None, "owner": None}
        self._row = self._parts.journal.commit(self._row, now, target, step=step, changes=values, detail=detail)
        self._progress.reached(self._row)

    def _before_sending(self) -> dict[str, int]:
        """Note the newest answer that is there before a request is begun: it cannot be the answer to that request."""
        answers = self._parts.journal.answers(self._row.id, Operation.SIGN_NEW)
        return {KNOWN_ANSWER: answers[0].id if answers else 0}

    def _supersede(self) -> None:
        """Mark the enrollments whose place this one takes: whatever was current for the same customer and channel.

        Two may have been begun side by side; Vault has one record for both, and that is this one's now. Marking comes
        first, so that a crash in between repeats harmlessly.
        """
        row = self._row
        for old in self._parts.journal.current(row.environment, row.customer_id, row.channel):
            if old.id != row.id:
                self._parts.journal.commit(
                    old, self._parts.now, State.SUPERSEDED, step="supersede", detail={"by": row.id}
                )

    def _wait(self, outcome: Outcome, due: datetime, until: datetime) -> None:
        """Wait until the row is due, telling so every second; give up where that is later than allowed."""
        if due > until:
            raise NotFinished(
                f"The certificate of enrollment {self._row.id} is not there yet",
                why=outcome.told,
                next_step=f"Nothing is lost. After {due:%H:%M:%S} UTC: varmenne resume {self._row.id}",
                due_at=due,
            )
        left = (due - self._parts.now).total_seconds()
        while left > 0 and self._parts.now < due:  # Counted down as well, lest a clock that steps back hold us here.
            self._progress.waits(outcome.told, due)
            self._parts.sleep(min(left, 1.0))
            left -= 1.0

    def _park(self, exc: BaseException) -> None:
        """Give the row back with what is known of the problem. The journal may be the problem; then nothing is done."""
        now = self._parts.now
        with contextlib.suppress(VarmenneError):
            if isinstance(exc, VarmenneError) and not isinstance(exc, NotFinished):
                problem = facts.problem(exc)
                if self._row.problem != problem:
                    changes = {"problem": problem, "tries": self._row.tries + 1}
                    self._row = self._parts.journal.commit(
                        self._row, now, self._row.state, step="problem", changes=changes, detail=problem
                    )
            self._parts.journal.release(self._row, now, due_at=_due(exc, now))


def _due(exc: BaseException, now: datetime) -> datetime | None:
    """Return when to look again at a row that was left: as the error says, or after a while if it may pass."""
    told = exc.facts.get("due_at") if isinstance(exc, NotFinished) else None
    if isinstance(told, datetime):
        return told
    return now + RETRY_DELAY if isinstance(exc, (Transient, KeyboardInterrupt)) else None


def next_step(row: Enrollment) -> Step | None:
    """Return the step that leads on, or ``None`` if the row is at an end or waits for a person."""
    return step_from(row.state, row.method)
