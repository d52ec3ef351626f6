"""What is refused before it reaches a token."""

from __future__ import annotations

from typing import Final

from varmenne.domain.keys import KEY_ID_BYTES
from varmenne.errors import InputError

_MAX_LABEL_BYTES: Final = 255


def key_id(value: bytes) -> None:
    """Refuse an empty ``CKA_ID``, which some tokens would take for "any"."""
    if not value:
        raise InputError("The CKA_ID is empty")


def new_key(new_id: bytes, new_label: str) -> None:
    """Refuse a ``CKA_ID`` or a label that no new key can have."""
    if len(new_id) != KEY_ID_BYTES:
        raise InputError(f"A CKA_ID has {KEY_ID_BYTES} bytes, not {len(new_id)}")
    label(new_label)


def label(value: str) -> None:
    """Refuse a label that tokens could cut, garble or not take."""
    if not value.isprintable() or not 0 < len(value.encode()) <= _MAX_LABEL_BYTES:
        raise InputError(f"The label must have 1 to {_MAX_LABEL_BYTES} bytes of printable characters")
