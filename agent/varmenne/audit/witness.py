"""A witness: somebody elsewhere who signs beside the log that it only ever grew (C2SP ``tlog-witness``).

It remembers the newest checkpoint of each log that it signed, and signs another only if that one is proven to begin
with it. Requests and replies are the bytes of the protocol, so that they may go by HTTP, mail or a stick alike.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from varmenne.audit import verifier
from varmenne.audit.growth import verify_consistency
from varmenne.audit.note import refusing, signature_line, with_lines
from varmenne.audit.verifier import Checkpoint, Key, Refused
from varmenne.errors import InputError, JournalError

MAX_PROOF = 63
"""So many hashes prove the growth of the largest tree."""
OPEN_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Reply:
    """What a witness answers, as HTTP has it.

    Attributes:
        status: 200 signed; 400 cannot be read; 403 not signed by the log; 404 a log that is not known; 409 not the size
            that was signed last, which ``body`` tells; 422 not proven to have only grown.
        body: lines of signatures, or the size, or a sentence for people.
        content_type: of the body.
    """

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


class WitnessKey:
    """A witness's own key, from a file. It signs nothing but that logs have grown, and is the key of no certificate."""

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        if not verifier.NAME.fullmatch(name):
            raise InputError(f"{name!r} cannot be a witness's name", why="it may have neither spaces nor +")
        self._private = private
        self.public = Key(name, verifier.COSIGNATURE, private.public_key().public_bytes_raw())

    def cosign(self, checkpoint: Checkpoint, now: datetime) -> str:
        """Return the line of a cosignature (C2SP ``tlog-cosignature``, version 1)."""
        seconds = int(now.timestamp())
        signature = self._private.sign(b"cosignature/v1\ntime %d\n" % seconds + checkpoint.note.text)
        return signature_line(self.public, seconds.to_bytes(8) + signature)


def read_witness_key(name: str, path: Path) -> WitnessKey:
    """Read a witness's key: Ed25519 in PEM (PKCS #8), in a file that only its owner may read.

    Raises:
        InputError: it is not such a file, or others may read it.
    """
    next_step = f"Make one: (umask 077; openssl genpkey -algorithm ed25519 -out {path})"
    try:
        with path.open("rb") as file:
            mode, data = os.fstat(file.fileno()).st_mode, file.read(4096)
    except OSError as exc:
        raise InputError(f"{path} cannot be read", why=exc.strerror or str(exc), next_step=next_step) from exc
    if mode & OPEN_TO_OTHERS:
        raise InputError(f"Others than its owner may read {path}", next_step=f"chmod 600 {path}")
    try:
        private = load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise InputError(f"{path} holds no Ed25519 key in PEM without a password", next_step=next_step)
    return WitnessKey(name, private)


class Witness:
    """A witness of certain logs.

    Args:
        key: its own.
        logs: the keys of the logs that it knows; the name of each is that of its log.
        folder: where it keeps, for each log, the newest checkpoint that it signed.
    """

    def __init__(self, key: WitnessKey, logs: Iterable[Key], folder: Path) -> None:
        self._key, self._logs, self._folder = key, tuple(logs), folder

    def add_checkpoint(self, request: bytes, now: datetime) -> Reply:
        """Sign a checkpoint that a log brings, if the log is proven to have grown from what was signed last.

        That it was signed is on the disk before the signature is given out.

        Raises:
            JournalError: what was signed last cannot be read or written. Nothing is signed then.
        """
        try:
            old, proof, checkpoint = parse_request(request)
        except Refused as exc:
            return Reply(400, f"{exc}\n".encode())
        keys = [key for key in self._logs if key.name == checkpoint.origin]
        if not keys:
            return Reply(404, b"the log is not known here\n")
        try:
            verifier.signed_by_log(checkpoint, keys)
        except Refused as exc:
            return Reply(403, f"{exc}\n".encode())
        with self._locked():
            last = self._last(checkpoint.origin)
            refusal = _refusal(last, old, proof, checkpoint)
            if refusal is not None:
                return refusal
            line = self._key.cosign(checkpoint, now)
            self._keep(checkpoint)
        return Reply(200, f"{line}\n".encode())

    def size_of(self, origin: str) -> int:
        """Return the size up to which a log was signed last; 0 if it never was."""
        last = self._last(origin)
        return 0 if last is None else last[0]

    def _place(self, origin: str) -> Path:
        """Return where the newest checkpoint of a log is kept."""
        return self._folder / f"{quote(origin, safe='')}.checkpoint"

    def _last(self, origin: str) -> tuple[int, bytes] | None:
        """Return size and root that were signed last."""
        place = self._place(origin)
        try:
            lines = place.read_text("utf-8").split("\n")
            if len(lines) != 4 or lines[0] != origin or lines[3]:
                raise Refused("it is not the text of a checkpoint of this log")
            return verifier.number(lines[1]), verifier.hash_of(lines[2])
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as exc:
            raise JournalError(
                f"What the witness signed last for {origin} cannot be read",
                why=str(exc),
                next_step=f"Nothing is signed for it until {place} is as it was: a new beginning forgets what was seen",
            ) from exc

    def _keep(self, checkpoint: Checkpoint) -> None:
        """Put the text of the newest checkpoint on the disk: whole, or not at all."""
        place = self._place(checkpoint.origin)
        draft = place.with_name(f".{secrets.token_hex(8)}")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(checkpoint.note.text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(place)
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as exc:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise JournalError(
                f"The witness cannot keep what it signs, so it signs nothing: {place}", why=exc.strerror or str(exc)
            ) from exc

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes of this witness out, from looking at what was signed last to keeping the new one."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise JournalError(
                f"The witness's folder {self._folder} cannot be used", why=exc.strerror or str(exc)
            ) from exc
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _refusal(
    last: tuple[int, bytes] | None, old: int, proof: tuple[bytes, ...], checkpoint: Checkpoint
) -> Reply | None:
    """Return why a checkpoint is not signed, or ``None``."""
    size, root = last or (0, verifier.EMPTY_ROOT)
    if old > checkpoint.size:
        return Reply(400, b"the old size is larger than the new one\n")
    if old != size or (size == checkpoint.size and root != checkpoint.root):
        return Reply(409, b"%d\n" % size, "text/x.tlog.size")
    try:
        verify_consistency(size, root, checkpoint.size, checkpoint.root, proof)
    except Refused as exc:
        return Reply(422, f"{exc}\n".encode())
    return None


def parse_request(body: bytes) -> tuple[int, tuple[bytes, ...], Checkpoint]:
    """Read a request: the old size, the proof that the log grew from it, and the new checkpoint.

    Raises:
        Refused: it is none.
    """
    head, blank, note = body.partition(b"\n\n")
    first, *lines = verifier.utf8(head).split("\n")
    if not blank or not first.startswith("old ") or len(lines) > MAX_PROOF:
        raise Refused("it is not a request as C2SP tlog-witness has it")
    proof = tuple(map(verifier.hash_of, lines))
    return verifier.number(first.removeprefix("old ")), proof, verifier.parse_checkpoint(note)


def make_request(old: int, proof: Iterable[bytes], checkpoint: str) -> bytes:
    """Return the request to a witness that signed the log at an old size before.

    Args:
        old: that size, 0 at first.
        proof: the consistency proof from there to the checkpoint's size; empty from 0.
        checkpoint: the signed note.
    """
    lines = "".join(f"{base64.b64encode(found).decode()}\n" for found in proof)
    return f"old {old}\n{lines}\n{checkpoint}".encode()


def add_cosignatures(checkpoint: str, reply: bytes, witnesses: Iterable[Key]) -> str:
    """Return a checkpoint with the signatures that a witness replied. One that it gave before is replaced.

    Raises:
        EvidenceError: the reply has no signature by one of the witnesses, or one that does not verify.
    """
    with refusing("The witness's reply is not proven"):
        lines = verifier.utf8(reply).splitlines()
        parsed = verifier.parse_checkpoint(checkpoint.encode())
        answered = verifier.Note(parsed.note.text, tuple(map(verifier.parse_signature, lines)))
        signers = answered.signers(witnesses)
        if not signers:
            raise Refused("it has no signature by a witness that is known")
        return with_lines(checkpoint, [signature_line(key, signature) for key, signature in signers.items()])
