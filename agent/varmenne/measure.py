"""How long calls to the outside take and how they end, and what happens how often: told to whoever wants to count.

A part measures its calls by :func:`measured` and knows nothing of who listens; without a listener that costs nothing.
Nothing that is told holds a value of a call: its name, its seconds, and the class of its error.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from enum import StrEnum
from typing import Protocol

from varmenne.errors import VarmenneError

DEFECT = "defect"
"""The outcome of a call that ended by an exception which is none of ours."""

OK = "ok"


class Part(StrEnum):
    """What is called."""

    TOKEN = "token"  # noqa: S105 - the PKCS#11 token
    SERVICE = "service"
    VAULT = "vault"


class Observer(Protocol):
    """Hears of calls and of events, from any thread. It must be quick and must not raise."""

    def called(self, part: Part, call: str, seconds: float, outcome: str) -> None:
        """A call has ended: :data:`OK`, the class name of its error, or :data:`DEFECT`."""

    def happened(self, event: str) -> None:
        """An event of :mod:`varmenne.monitoring.events` has happened."""


_observers: tuple[Observer, ...] = ()


@contextlib.contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Let an observer hear what happens in this process during the block."""
    global _observers  # noqa: PLW0603 - calls are made in every room, and who counts them is decided in one place
    _observers = (*_observers, observer)
    try:
        yield
    finally:
        _observers = tuple(other for other in _observers if other is not observer)


@contextlib.contextmanager
def measured(part: Part, call: str) -> Iterator[None]:
    """Measure the block as one call of a part.

    Args:
        part: what is called.
        call: which of its calls, one of a few fixed words, such as ``Sign`` or ``renewCertificate``.
    """
    if not _observers:
        yield
        return
    begun, outcome = time.perf_counter(), DEFECT
    try:
        yield
        outcome = OK
    except VarmenneError as exc:
        outcome = type(exc).__name__
        raise
    finally:
        seconds = time.perf_counter() - begun
        for observer in _observers:
            observer.called(part, call, seconds, outcome)


def happened(event: str) -> None:
    """Tell that an event has happened."""
    for observer in _observers:
        observer.happened(event)
