"""Makes a new token: a free slot is initialised with random PINs, which go to two files and nowhere else."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from pkcs11 import exceptions
from pkcs11.constants import TokenFlag

from varmenne.errors import TokenError

if TYPE_CHECKING:
    from varmenne.token.status import TokenStatus
    from varmenne.token.worker.session import TokenSession

_PIN_BYTES = 16
"""Random bytes of a PIN, written as hexadecimal: 128 bits, in characters that every tool and keyboard has."""


def init_token(session: TokenSession, label: str, *, pin_file: str, so_pin_file: str) -> TokenStatus:
    """Initialise the first uninitialised slot, set its user PIN, and tell about it.

    The files are written before the token knows the PINs, so that a crash in between leaves no token that nobody can
    open.

    Raises:
        TokenError: there is no uninitialised slot, or the token refused.
    """
    module = session.module
    free = [slot for slot in module.slots() if not slot.get_token().flags & TokenFlag.TOKEN_INITIALIZED]
    if not free:
        raise TokenError(
            "There is no free slot to make a token in", why="every slot of the module holds a token already"
        )
    pin, so_pin = secrets.token_hex(_PIN_BYTES), secrets.token_hex(_PIN_BYTES)
    _write(Path(pin_file), pin)
    _write(Path(so_pin_file), so_pin)
    before = {status.identity.serial for status in session.list_tokens() if status.initialized}
    module.init_token(free[0].slot_id, so_pin, label)
    new = [
        slot
        for slot in module.slots()
        if (token := slot.get_token()).flags & TokenFlag.TOKEN_INITIALIZED
        and token.serial.decode(errors="replace").strip("\0 ") not in before
    ]
    if len(new) != 1:
        raise TokenError("The new token does not show itself", why=f"{len(new)} new tokens are listed")
    try:
        with new[0].get_token().open(rw=True, so_pin=so_pin) as officer:
            officer.init_pin(pin)
    except exceptions.PKCS11Error as exc:
        raise TokenError("The user PIN of the new token could not be set", why=type(exc).__name__) from exc
    return next(status for status in session.list_tokens() if status.slot == new[0].slot_id)


def _write(path: Path, text: str) -> None:
    """Write a new file that only its owner can read. An existing file is never touched."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
