"""Tells a person at a terminal what a use case does: each step with its result, and a countdown while it waits."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from varmenne.cli.common import App
    from varmenne.domain.enrollment import Enrollment

CLEAR_LINE = "\r\x1b[2K"


class Teller:
    """Prints on standard error; on a terminal the countdown rewrites its line, elsewhere a wait is told once."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._live = sys.stderr.isatty()
        self._waiting: datetime | None = None
        self._known: str | None = None
        self._doing: str | None = None

    def begins(self, doing: str) -> None:
        """Name the step, once however often it is tried."""
        self._end_wait()
        if self._doing != doing:
            self._doing = doing
            self._app.say(f"{click.style('•', fg='cyan')} {doing} …")

    def done(self, result: str) -> None:
        """Tell its result."""
        self._end_wait()
        self._doing = None
        self._app.say(f"  {click.style('✓', fg='green')} {result}")

    def waits(self, what: str, until: datetime) -> None:
        """Count down."""
        left = max(0, round((until - datetime.now(UTC)).total_seconds()))
        if self._live:
            _rewrite_line(f"  {what}", f"; asking in {left} s. Ctrl-C is safe.")
        elif self._waiting != until:
            self._app.say(f"  {what}; asking in {left} s")
        self._waiting = until

    def warns(self, sentence: str) -> None:
        """Tell what is unusual."""
        self._end_wait()
        self._app.warn(sentence)

    def reached(self, row: Enrollment) -> None:
        """Name a new enrollment once, so that a person knows what to resume after an interruption."""
        if self._known != row.id:
            self._known = row.id
            self._app.if_interrupted = self._app.if_interrupted_later or self._app.if_interrupted
            self._app.say(f"{click.style('•', fg='cyan')} Enrollment {click.style(row.id, bold=True)}")

    def _end_wait(self) -> None:
        """Leave the countdown's line."""
        if self._waiting is not None and self._live:
            _rewrite_line("", "")
        self._waiting = None


def _rewrite_line(text: str, tail: str) -> None:
    """Put one line in the place of the last one; a longer one than the terminal is wide could not be taken back.

    It goes round click, which would leave the control sequence out where colours are not wanted.
    """
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        columns = 80
    room = max(0, columns - 1 - len(tail))
    if len(text) > room:
        text = text[: max(0, room - 1)] + "…"
    sys.stderr.write(f"{CLEAR_LINE}{text}{tail}"[: len(CLEAR_LINE) + columns - 1])
    sys.stderr.flush()
