"""Checkpoints, as the log writes them: signed notes of C2SP ``signed-note`` and ``tlog-checkpoint``.

How they are read and verified is in :mod:`varmenne.audit.verifier` alone, for us and for auditors.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from varmenne.audit import verifier
from varmenne.audit.verifier import Checkpoint, Key
from varmenne.errors import EvidenceError

if TYPE_CHECKING:
    from varmenne.domain.keys import LogSigner

KINDS = {"ed25519": verifier.ED25519, "ecdsa-p256": verifier.ECDSA}
"""Kind of a log key → type of its signatures in notes."""

_ED25519_SPKI = bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of an Ed25519 key in its ``SubjectPublicKeyInfo`` (RFC 8410, 4)."""


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn what the verifier refuses into an error for people.

    Args:
        what: what did not hold, one sentence without a full stop.

    Raises:
        EvidenceError: something was refused.
    """
    try:
        yield
    except verifier.Refused as exc:
        raise EvidenceError(
            what,
            why=str(exc),
            next_step="Keep everything as it is, and compare it with checkpoints that were kept elsewhere",
        ) from exc


def key_of(origin: str, kind: str, public_key: bytes) -> Key:
    """Return a log's key under the log's name, from its kind and DER ``SubjectPublicKeyInfo``."""
    material = public_key.removeprefix(_ED25519_SPKI) if kind == "ed25519" else public_key
    return Key(origin, KINDS[kind], material)


def vkey(origin: str, kind: str, public_key: bytes) -> str:
    """Return a log's key as auditors are told it (C2SP ``signed-note``), from its kind and DER."""
    return key_of(origin, kind, public_key).vkey


def folder(origin: str) -> str:
    """Return the last part of a log's name, by which files and Vault's paths of its checkpoints are known."""
    return origin.rpartition("/")[2]


def checkpoint_text(origin: str, size: int, root: bytes) -> bytes:
    """Return what is signed: the log's name, its number of records, and the root of its tree."""
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n".encode()


def signature_line(key: Key, signature: bytes) -> str:
    """Return the line of a signature, without its line feed."""
    return f"\N{EM DASH} {key.name} {base64.b64encode(key.id + signature).decode()}"


def checkpoint(origin: str, size: int, root: bytes, signer: LogSigner) -> str:
    """Sign how far the log has come, and return the note. It was read back, and its signature verified.

    Raises:
        TokenError: the token did not sign.
        EvidenceError: what it signed does not verify.
    """
    text, key = checkpoint_text(origin, size, root), key_of(origin, signer.kind, signer.public_key)
    note = f"{text.decode()}\n{signature_line(key, signer.sign(text))}\n"
    read_checkpoint(note, [key])
    return note


def read_checkpoint(note: str, keys: Iterable[Key] | None = None) -> Checkpoint:
    """Return a checkpoint that one of the keys of a log has signed; without keys, only its form is verified.

    Raises:
        EvidenceError: it is no checkpoint, or signed by none of them.
    """
    with refusing("The checkpoint is not proven"):
        found = verifier.parse_checkpoint(note.encode())
        if keys is not None:
            verifier.signed_by_log(found, keys)
    return found


def with_lines(note: str, lines: Iterable[str]) -> str:
    """Return a note with lines of signatures added. One by a key that signed already takes the place of the old one."""
    text, _blank, signed = note.rpartition("\n\n")
    by_key = {verifier.parse_signature(line)[:2]: line for line in (*signed.splitlines(), *lines)}
    return "\n".join([f"{text}\n", *by_key.values(), ""])
