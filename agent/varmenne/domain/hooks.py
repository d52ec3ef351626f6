"""Hooks: programs of the operator's that are run when something happens to an enrollment. Words and values, no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from varmenne.domain.identifiers import EnrollmentId

MOST_TRIES = 10
"""So often a hook is run before it is given up; with the growing wait between two tries, that is about a day."""


class HookEvent(StrEnum):
    """What hooks are run for. Each has a folder of its own, of the same name."""

    PRE_ACTIVATE = "pre-activate"
    POST_ACTIVATE = "post-activate"
    FAILED = "failed"
    ATTENTION = "attention"


class HookOutcome(StrEnum):
    """What became of a hook for one event."""

    WAITING = "waiting"
    """It has not been run yet."""
    RUNNING = "running"
    """It is being run; or the process that ran it has ended, and it is run again when its lease is over."""
    FAILING = "failing"
    """It failed, and is tried again."""
    OK = "ok"
    FAILED = "failed"
    """It failed, and is not tried again by itself."""
    DROPPED = "dropped"
    """It was not run: it is not in its folder any more, or another certificate was put to use meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewHook:
    """A hook that is to be run for an event.

    Attributes:
        name: of the executable in the folder of the event.
        at: when the event happened.
        facts: what the hook is told; no secret is among it.
        due_at: when it is to be run; ``None``: not by itself.
    """

    enrollment_id: EnrollmentId
    event: HookEvent
    name: str
    at: datetime
    facts: dict[str, Any]
    due_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HookRun(NewHook):
    """The same once the journal has it.

    Attributes:
        outcome: what became of it so far.
        detail: how it ended last, and the end of what it wrote.
        tries: how often it was begun.
    """

    id: int
    outcome: HookOutcome
    detail: str
    tries: int

    @property
    def in_a_line(self) -> str:
        """How it ended, and the last line of what it wrote."""
        return in_a_line(self.detail)


def in_a_line(detail: str) -> str:
    """Return the first and the last line of how a hook ended: in words, and what it wrote at last."""
    lines = detail.splitlines() or [""]
    return ": ".join(dict.fromkeys((lines[0], lines[-1])))


def gist(reason: Mapping[str, str]) -> tuple[str, ...]:
    """Return what makes a reason another one than before: what happened and why, without moments and other numbers.

    The next step is left out: it follows from the rest, and often says when.
    """
    return tuple(re.sub(r"\d+", "#", reason.get(part, "")) for part in ("kind", "what", "why"))
