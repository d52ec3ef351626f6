"""How moments and serial numbers are written wherever varmenne shows or stores them."""

from __future__ import annotations

from datetime import UTC, datetime


def iso(moment: datetime) -> str:
    """Return a moment in UTC as ISO 8601 to the second, with ``Z``; such texts sort as the moments do."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def colon_hex(number: int) -> str:
    """Return a serial number as Vault's PKI writes it: bytes in lower-case hexadecimal, separated by colons."""
    return number.to_bytes(max(1, (number.bit_length() + 7) // 8), "big").hex(":")
