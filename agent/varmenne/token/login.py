"""Logging in to a token: one try for one PIN, if the token and the memory have nothing against it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from varmenne.clock import Clock
from varmenne.domain.keys import TokenIdentity
from varmenne.errors import PinError, TokenUnavailable
from varmenne.token import messages as say
from varmenne.token import pin_rules
from varmenne.token.answers import Refused
from varmenne.token.process import Lost, WorkerProcess
from varmenne.token.terminal import terminal_kept

if TYPE_CHECKING:
    from varmenne.settings import TokenSettings
    from varmenne.token.status import TokenStatus


class Login:
    """The way into the token for one :class:`~varmenne.token.client.Token`, whichever worker it has at the time.

    Args:
        settings: where the PIN comes from, and the time limit of a call.
        memory: remembers a refused PIN.
        clock: tells the time for that record.
        ask: has a worker carry out one verb within some seconds, or without limit.
        retry_pin: a person orders one login although the PIN was refused before, or one try is left.
    """

    def __init__(
        self,
        settings: TokenSettings,
        memory: pin_rules.PinMemory,
        clock: Clock,
        ask: Callable[[WorkerProcess, say.Verb[Any], float | None], Any],
        *,
        retry_pin: bool,
    ) -> None:
        self._settings = settings
        self._memory = memory
        self._clock = clock
        self._ask = ask
        self._retry_pin = retry_pin
        self._pin_error: PinError | None = None
        self._descriptor_spent = False

    @property
    def descriptor(self) -> int | None:
        """The descriptor that a worker is to inherit: the PIN's, unless it has been read already."""
        kind, _, number = self._settings.pin.partition(":")
        return int(number) if kind == "fd" and not self._descriptor_spent else None

    def ensure(self, worker: WorkerProcess) -> None:
        """Log in unless that has been done. The PIN is tried at most once, whatever happens.

        Raises:
            PinError: the PIN was refused, or may not be tried; all later calls get the same answer.
            Refused, Lost: the worker did not carry out one of the verbs.
        """
        if worker.logged_in:
            return
        if self._pin_error is not None:
            raise self._pin_error.with_traceback(None)
        source = self._settings.pin
        with contextlib.ExitStack() as stack:
            if not pin_rules.interactive(source):
                stack.enter_context(self._memory.one_at_a_time())
            identity, stamp = self._allowed_to_try(worker, source)
            self._read_pin(worker, source)
            self._try_pin(worker, identity, source, stamp)

    def _allowed_to_try(self, worker: WorkerProcess, source: str) -> tuple[TokenIdentity, pin_rules.FileStamp | None]:
        """Ask the token and the memory whether the PIN may be tried.

        Raises:
            PinError: it may not; all later calls of this object get the same answer.
        """
        status: TokenStatus = self._ask(worker, say.Identify(), self._settings.call_timeout_seconds)
        stamp = pin_rules.stamp(source)
        refusal = self._memory.recall(status.identity, source)
        error = pin_rules.objection(status, source, refusal=refusal, now_stamp=stamp, ordered=self._retry_pin)
        if error is not None:
            self._pin_error = error
            raise error
        return status.identity, stamp

    def _read_pin(self, worker: WorkerProcess, source: str) -> None:
        """Have the worker read the PIN. A person may take as long as it takes."""
        if self._descriptor_spent:
            raise TokenUnavailable(
                "The token cannot be logged in to again",
                why=f"the PIN could be read from {source} only once, and the process that read it has ended",
                next_step="Run the command again",
            )
        typed = pin_rules.interactive(source)
        with terminal_kept() if typed else contextlib.nullcontext():
            self._ask(worker, say.ReadPin(source), None if typed else self._settings.call_timeout_seconds)
        self._descriptor_spent = source.startswith("fd:")

    def _try_pin(
        self, worker: WorkerProcess, token: TokenIdentity, source: str, stamp: pin_rules.FileStamp | None
    ) -> None:
        """Make the one try, and remember how it went."""
        self._retry_pin = False
        try:
            self._ask(worker, say.Login(), self._settings.call_timeout_seconds)
        except Refused as exc:
            if isinstance(exc.error, PinError):
                self._pin_error = exc.error
            if exc.failed.pin_refused:
                self._memory.remember(token, source, stamp, self._clock(), str(exc.failed.facts.get("code", "")))
            raise exc.error from exc
        except Lost as exc:
            raise exc.error from exc  # Never repeated: nobody knows whether the token counted the PIN.
        worker.logged_in = True
        self._memory.forget(token, source)
