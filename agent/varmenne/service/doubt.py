"""How an answer is refused: the check is named, and nothing that a stranger wrote can harm whoever reads the reason."""

from __future__ import annotations

import base64
import binascii
from typing import NoReturn

from varmenne.errors import VerificationError

MAX_REASON_CHARACTERS = 300


def refuse(check: str, why: str) -> NoReturn:
    """Refuse the service's answer.

    Args:
        check: the name of the check that failed.
        why: the reason. It may quote what was received: what cannot be printed is taken out, since a terminal would
            obey it, and it is cut to a line or two.

    Raises:
        VerificationError: always.
    """
    raise VerificationError(
        "The service's answer was refused",
        check=check,
        why=printable(why),
        next_step="Nothing of it was used. It is kept as evidence; if the network is trustworthy, contact the service",
    )


def printable(text: str, limit: int = MAX_REASON_CHARACTERS) -> str:
    """Return text of a stranger for people: without control characters and line breaks, and not too long."""
    shown = "".join(char if char.isprintable() else " " if char.isspace() else "?" for char in text[: limit + 1])
    return shown if len(shown) <= limit else f"{shown[:limit]}…"


def base64_octets(text: str, check: str) -> bytes:
    """Decode base64 text, in which XML's white space is allowed and nothing else (XML Schema Part 2, 3.2.16)."""
    try:
        return base64.b64decode(text.translate(dict.fromkeys(map(ord, " \t\r\n"))), validate=True)
    except (binascii.Error, ValueError):
        refuse(check, "base64 text is garbled")
