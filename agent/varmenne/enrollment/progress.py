"""How a use case tells what it is doing. The command line prints it; other callers need not listen."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from varmenne.domain.enrollment import Enrollment


class Progress(Protocol):
    """Hears what happens, in order. Nothing that it is told is secret."""

    def begins(self, doing: str) -> None:
        """A step or a check begins."""

    def done(self, result: str) -> None:
        """It ended well."""

    def waits(self, what: str, until: datetime) -> None:
        """Something is awaited until a moment; called once at the beginning of the wait."""

    def warns(self, sentence: str) -> None:
        """Something is unusual, but no reason to stop."""

    def reached(self, row: Enrollment) -> None:
        """An enrollment has reached a new state, and that is durable."""


class Silent:
    """Listens to nothing."""

    def begins(self, doing: str) -> None:
        """Ignore it."""

    def done(self, result: str) -> None:
        """Ignore it."""

    def waits(self, what: str, until: datetime) -> None:
        """Ignore it."""

    def warns(self, sentence: str) -> None:
        """Ignore it."""

    def reached(self, row: Enrollment) -> None:
        """Ignore it."""
