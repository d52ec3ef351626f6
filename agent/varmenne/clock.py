"""The one place where the time of day is read. Passed in, so that tests and simulations can set it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns the present moment, timezone-aware, in UTC."""


def system_clock() -> datetime:
    """Return the computer's time in UTC."""
    return datetime.now(UTC)
