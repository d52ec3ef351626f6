"""The terminal while somebody types a PIN."""

from __future__ import annotations

import contextlib
import os
import termios
from collections.abc import Iterator


@contextlib.contextmanager
def terminal_kept() -> Iterator[None]:
    """Put the terminal back if the worker is ended while it asks for the PIN, when echo is off."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        yield  # There is none: the worker will say so.
        return
    try:
        before = termios.tcgetattr(terminal)
        try:
            yield
        except BaseException:
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)
            raise
    finally:
        os.close(terminal)
