"""Proofs that a record is in the log, as files of their own (C2SP ``tlog-proof``)."""

from __future__ import annotations

import base64
from collections.abc import Iterable

from varmenne.audit import verifier

SUFFIX = ".tlog-proof"


def proof_text(index: int, hashes: Iterable[bytes], checkpoint: str, *, record: bytes | None = None) -> bytes:
    """Return the proof that the record of an index is in the log of a checkpoint.

    Args:
        index: the record's, counted from 0.
        hashes: the inclusion proof, from the leaf upwards.
        checkpoint: the signed note.
        record: the record itself, for readers that do not have it. It stands in the line ``extra``, which proves
            nothing by itself; a reader believes it because its hash is the leaf.
    """
    extra = "" if record is None else f"extra {_base64(record)}\n"
    lines = "".join(f"{_base64(found)}\n" for found in hashes)
    return f"{verifier.PROOF}\n{extra}index {index}\n{lines}\n{checkpoint}".encode()


def _base64(data: bytes) -> str:
    """Encode in base64 (RFC 4648, 4)."""
    return base64.b64encode(data).decode()
