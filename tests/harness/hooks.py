"""Hooks that note when they are run, on a stage."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from harness.stage import CUSTOMER, NAME, Listener, Stage, order_for
from harness.years import WAIT
from varmenne.clock import system_clock
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.hooks import HookEvent, HookOutcome, HookRun
from varmenne.enrollment.enroll import enroll
from varmenne.enrollment.hooks import run_due
from varmenne.enrollment.parts import Parts

PRE, POST = HookEvent.PRE_ACTIVATE, HookEvent.POST_ACTIVATE
AWAY = {"kind": "TokenUnavailable", "what": "The token is away", "why": "unplugged", "next_step": "Plug it in"}
HOUR = timedelta(hours=1)


class Hooks:
    """A stage with a folder of hooks, each of which writes a line to a log when it is run."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.folder = stage.folder / "hooks"
        self.log = stage.folder / "hooks.log"
        self.passed = timedelta()
        for event in HookEvent:
            (self.folder / event).mkdir(parents=True)
        stage.configure(hooks={"directory": str(self.folder), "timeout_seconds": 5.0})

    def write(self, event: HookEvent, name: str, then: str = "exit 0") -> Path:
        """Write a hook that notes its run, and then does what it is for."""
        path = self.folder / event / name
        path.write_text(f'#!/bin/sh\necho "$VARMENNE_EVENT {name}" >> {self.log}\n{then}\n', encoding="utf-8")
        path.chmod(0o755)
        return path

    def runs(self) -> list[str]:
        """Return the lines of the log: what was run so far, in order."""
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []

    def parts(self) -> Parts:
        """Return the parts, at the present moment."""
        return self.stage.parts(clock=lambda: system_clock() + self.passed)

    def enrolled(self) -> Enrollment:
        """Get a certificate."""
        order = self.stage.order(CUSTOMER, name=NAME)
        with self.parts() as parts:
            given = self.stage.credentials(order)
            return enroll(parts, Listener(), order_for(CUSTOMER, name=NAME), given, wait=WAIT)

    def row(self) -> Enrollment:
        """Return the only enrollment."""
        (row,) = self.stage.rows()
        return row

    def known(self, row: Enrollment | None = None) -> list[tuple[str, HookOutcome, int]]:
        """Return name, outcome and tries of the hooks of an enrollment, as the journal has them."""
        return [(run.name, run.outcome, run.tries) for run in self.of(row)]

    def of(self, row: Enrollment | None = None) -> tuple[HookRun, ...]:
        """Return the hooks of an enrollment."""
        with self.parts() as parts:
            return parts.journal.hooks.of((row or self.row()).id)

    def later(self, time: timedelta) -> int:
        """Let time pass, and run what is due then."""
        self.passed += time
        with self.parts() as parts:
            return run_due(parts)


@pytest.fixture
def hooks(stage: Stage) -> Hooks:
    """Return a stage with hooks."""
    return Hooks(stage)


def until(true: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)
