"""The worker process as its parent sees it: start it, ask it one thing at a time within a time limit, end it."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from varmenne.errors import ConfigError, TokenUnavailable
from varmenne.token import messages as say

logger = logging.getLogger(__name__)

_MAX_TAIL_BYTES = 4096
"""How much of the module's chatter is kept for the case that it crashes."""

_MAX_TOLD_CHARACTERS = 400

_GRACE_SECONDS = 2.0
"""How long a worker may take to log out when it is no longer needed."""

_KEPT_FROM_WORKER = ("VAULT_TOKEN", "BAO_TOKEN")
"""Environment variables that hold secrets of other rooms, which a foreign module has no business with."""


class Lost(Exception):
    """The worker ended or was ended in the middle of a verb. ``over_time`` tells that it exceeded the time limit."""

    def __init__(self, error: TokenUnavailable, *, over_time: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.over_time = over_time


class WorkerProcess:
    """One worker process: spawned, never forked with a module inside.

    The protocol has a socket of its own; whatever the module prints to standard output or standard error goes to a pipe
    whose tail is kept. Not for use by several threads at once.

    Args:
        environment: variables for the module, on top of this process's own.
        pass_descriptor: a descriptor that the worker inherits, to read the PIN from.

    Raises:
        ConfigError: the descriptor is not open.
        TokenUnavailable: the process could not be started.
    """

    def __init__(self, environment: Mapping[str, str], pass_descriptor: int | None = None) -> None:
        self.owner = os.getpid()
        self.logged_in = False
        self._tail = bytearray()
        self._socket, theirs = socket.socketpair()
        self._chatter, chatter_end = os.pipe()
        os.set_blocking(self._chatter, False)
        try:
            with theirs:
                self._process = self._spawn(theirs.fileno(), chatter_end, environment, pass_descriptor)
        except BaseException:
            self._close_descriptors()
            raise
        finally:
            os.close(chatter_end)
        logger.debug("worker %d started", self._process.pid)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """False once the process has ended, for example because somebody killed it between two verbs.

        Between two verbs there is nothing to be read from the socket, so if there is, it is the end of the file.
        """
        if self._process.poll() is not None:
            return False
        idle = select.poll()
        idle.register(self._socket, select.POLLIN)
        return not idle.poll(0)

    def setup(self, setup: say.Setup, timeout_seconds: float) -> say.Done | say.Failed:
        """Have the module loaded.

        Raises:
            Lost: the worker ended, or was ended at the time limit.
        """
        return self._exchange(setup, timeout_seconds, "be reached")

    def ask(self, verb: say.Verb[Any], timeout_seconds: float | None) -> say.Done | say.Failed:
        """Have one verb carried out. ``None`` waits as long as it takes, for people who type.

        Raises:
            Lost: the worker ended, or was ended at the time limit.
        """
        return self._exchange(verb, timeout_seconds, verb.doing)

    def close(self) -> None:
        """Let the worker log out and end; end it the hard way if it takes too long."""
        if self.owner != os.getpid():  # A fork of the owner: the worker is not ours to end.
            self._close_descriptors()
            return
        self._socket.close()
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._gone()

    def kill(self) -> None:
        """End the worker now, whatever it is doing."""
        self._process.kill()
        self._gone()

    def _spawn(
        self, descriptor: int, chatter: int, environment: Mapping[str, str], pass_descriptor: int | None
    ) -> subprocess.Popen[bytes]:
        """Start the process. Nothing secret is on its command line; ``-P`` keeps the working directory from import."""
        own = {name: value for name, value in os.environ.items() if name not in _KEPT_FROM_WORKER}
        on_main_thread = threading.current_thread() is threading.main_thread()
        command = [sys.executable, "-P", "-m", "varmenne.token.worker"]
        command += [str(descriptor), str(os.getpid()), "main" if on_main_thread else "other"]
        descriptors = (descriptor,) if pass_descriptor is None else (descriptor, pass_descriptor)
        try:
            if pass_descriptor is not None:
                os.fstat(pass_descriptor)
        except OSError as exc:
            raise ConfigError(
                f"The user PIN is to come from descriptor {pass_descriptor}, which is not open", why=exc.strerror or ""
            ) from exc
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=chatter,
                stderr=chatter,
                pass_fds=descriptors,
                env={**own, **environment},
            )
        except OSError as exc:
            raise TokenUnavailable("The worker process for the token could not be started", why=str(exc)) from exc

    def _exchange(self, message: object, timeout_seconds: float | None, doing: str) -> say.Done | say.Failed:
        """Send a message and wait for its answer. If anything at all goes wrong on the way, the worker is ended."""
        started = time.monotonic()
        deadline = None if timeout_seconds is None else started + timeout_seconds
        frame = say.pack(message)
        try:
            answer = self._converse(frame, deadline)
        except TimeoutError as exc:
            self.kill()
            raise Lost(self._over_time(timeout_seconds, doing), over_time=True) from exc
        except (OSError, EOFError, ValueError, msgspec.MsgspecError) as exc:
            self._reap()
            raise Lost(self._crashed(doing), over_time=False) from exc
        except BaseException:
            self.kill()  # Interrupted in the middle: what comes next from the worker would be the wrong answer.
            raise
        logger.debug("worker %d: %s took %.3f s", self.pid, type(message).__name__, time.monotonic() - started)
        return answer

    def _converse(self, frame: bytes, deadline: float | None) -> say.Done | say.Failed:
        """Send one frame, receive one, and keep the module's chatter flowing meanwhile."""
        answer = bytearray()
        self._socket.settimeout(_left(deadline))
        self._socket.sendall(frame)
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._chatter, selectors.EVENT_READ)
            while (missing := _missing(answer)) > 0:
                events = selector.select(_left(deadline))
                if not events:
                    raise TimeoutError
                for key, _ in events:
                    if key.fileobj is self._socket:
                        answer += self._socket.recv(missing) or _end_of_file()
                    elif not self._listen():
                        selector.unregister(self._chatter)
        return msgspec.msgpack.decode(answer[say.HEADER_BYTES :], type=say.Done | say.Failed)

    def _listen(self) -> bool:
        """Take in what the module printed. False when there will be no more."""
        try:
            while chunk := os.read(self._chatter, 65_536):
                self._tail += chunk
                del self._tail[:-_MAX_TAIL_BYTES]
        except BlockingIOError:
            return True
        return False

    def _over_time(self, timeout_seconds: float | None, doing: str) -> TokenUnavailable:
        """Put in words that the time limit ended the worker."""
        return TokenUnavailable(
            f"The token could not {doing}",
            why=f"the module did not answer within {timeout_seconds:g} seconds, so its process was ended",
            next_step="Check the token and the way to it; a slow token needs greater token.call_timeout_seconds or "
            "token.generate_timeout_seconds",
            timeout_seconds=timeout_seconds,
        )

    def _crashed(self, doing: str) -> TokenUnavailable:
        """Put in words that the process ended by itself, or was ended by somebody else."""
        status = self._process.returncode
        how = f"by signal {_signal_name(-status)}" if status < 0 else f"with exit status {status}"
        tail = self._last_words()
        return TokenUnavailable(
            f"The token could not {doing}",
            why=f"the process of the PKCS#11 module ended {how}" + (f", saying: {tail}" if tail else ""),
            next_step="Run the command again; if it happens again, the module or its settings are to blame",
            exit_status=status,
        )

    def _last_words(self) -> str:
        """Return the tail of the chatter, fit to print. Debugging modules print PINs, so then nothing is told."""
        text = " ".join(self._tail.decode("utf-8", errors="replace").split())
        text = "".join(char for char in text if char.isprintable())
        if "pin" in text.lower() or "login" in text.lower():
            return "(withheld, because it may hold a PIN)"
        return text[-_MAX_TOLD_CHARACTERS:]

    def _reap(self) -> None:
        """Wait for a process that has closed its socket, or has been killed, and close what belongs to it."""
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._gone()

    def _gone(self) -> None:
        """Collect the ended process and close the descriptors."""
        self._process.wait()
        with contextlib.suppress(OSError):
            self._listen()
        self._close_descriptors()
        logger.debug("worker %d ended with status %s", self.pid, self._process.returncode)

    def _close_descriptors(self) -> None:
        """Close the socket and the pipe; safe to call again."""
        self._socket.close()
        if self._chatter >= 0:
            os.close(self._chatter)
            self._chatter = -1


def _left(deadline: float | None) -> float | None:
    """Return the seconds until the deadline.

    Raises:
        TimeoutError: it has passed.
    """
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _missing(answer: bytearray) -> int:
    """Return how many bytes of the frame are still to come."""
    if len(answer) < say.HEADER_BYTES:
        return say.HEADER_BYTES - len(answer)
    return say.HEADER_BYTES + say.frame_size(bytes(answer[: say.HEADER_BYTES])) - len(answer)


def _end_of_file() -> bytes:
    """Raise where the worker has closed its end."""
    raise EOFError


def _signal_name(number: int) -> str:
    """Return a signal's name, or its number where it has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
