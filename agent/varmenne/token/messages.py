"""What the parent and the worker say to each other: typed requests and answers, one frame each, as MessagePack.

A frame is a length (4 bytes, big-endian) and that many bytes. The first frame is a :class:`Setup`; then each
:class:`Verb` is answered by one :class:`Done` or :class:`Failed`. A PIN is in none of them: the worker reads it itself.
"""

from __future__ import annotations

import socket
import struct
from datetime import datetime
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from varmenne.domain.keys import KeyFacts, LogKey, ProbeResult
from varmenne.errors import InputError
from varmenne.token.status import TokenStatus

R = TypeVar("R")

MAX_FRAME_BYTES = 16 * 1024 * 1024
"""Far above the longest message: 5,000 key labels make about half a megabyte."""

_LENGTH = struct.Struct(">I")


class Setup(msgspec.Struct, frozen=True):
    """Which module to load, and by which criteria its token is selected. ``label`` is empty when tokens are listed."""

    module: str
    init_parameters: str = ""
    label: str = ""
    serial: str = ""
    model: str = ""


class Verb(msgspec.Struct, Generic[R], frozen=True, tag=True):
    """One request. ``doing`` completes the sentence "The token could not …"; ``returns`` is the answer's type."""

    doing: ClassVar[str]
    returns: ClassVar[Any]
    needs_login: ClassVar[bool] = True
    repeatable: ClassVar[bool] = True


class ListTokens(Verb[tuple[TokenStatus, ...]], frozen=True):
    """Tell about every token of the module."""

    doing = "be listed"
    returns = tuple[TokenStatus, ...]
    needs_login = False


class Identify(Verb[TokenStatus], frozen=True):
    """Tell about the selected token."""

    doing = "tell about itself"
    returns = TokenStatus
    needs_login = False


class ReadPin(Verb[None], frozen=True):
    """Read the user PIN from its source and keep it for one :class:`Login`."""

    source: str

    doing = "be given the PIN"
    returns = None
    needs_login = False
    repeatable = False


class Login(Verb[None], frozen=True):
    """Log in with the PIN that was read, and forget it."""

    doing = "be logged in to"
    returns = None
    needs_login = False
    repeatable = False


class Made(msgspec.Struct, frozen=True):
    """A key, and whether this request made it or found it."""

    facts: KeyFacts
    made: bool


class Generate(Verb[Made], frozen=True):
    """Make a key pair, unless a key with this ``CKA_ID`` is there."""

    key_id: bytes
    label: str

    doing = "make a key pair"
    returns = Made
    repeatable = False


class Find(Verb[KeyFacts | None], frozen=True):
    """Read back everything about a key."""

    key_id: bytes

    doing = "tell about a key"
    returns = KeyFacts | None


class PublicKey(Verb[bytes], frozen=True):
    """Give a key's public half as DER ``SubjectPublicKeyInfo``."""

    key_id: bytes

    doing = "give a public key"
    returns = bytes


class Sign(Verb[bytes], frozen=True):
    """Sign data: RSASSA-PKCS1-v1_5 with SHA-256."""

    key_id: bytes
    data: bytes

    doing = "sign"
    returns = bytes


class MadeLogKey(msgspec.Struct, frozen=True):
    """The audit log's key, and whether this request made it or found it."""

    facts: LogKey
    made: bool


class MakeLogKey(Verb[MadeLogKey], frozen=True):
    """Make a key pair for the audit log, unless a key with this ``CKA_ID`` is there."""

    key_id: bytes
    label: str

    doing = "make a key for the audit log"
    returns = MadeLogKey
    repeatable = False


class FindLogKey(Verb[LogKey], frozen=True):
    """Read back everything about the audit log's key, and have it sign."""

    key_id: bytes

    doing = "tell about the key of the audit log"
    returns = LogKey


class SignLog(Verb[bytes], frozen=True):
    """Sign data with the audit log's key, as its kind has it."""

    key_id: bytes
    kind: str
    data: bytes

    doing = "sign the audit log"
    returns = bytes


class StoreCertificate(Verb[bool], frozen=True):
    """Put a certificate beside its key; answer False if it is there already."""

    key_id: bytes
    label: str
    certificate: bytes

    doing = "store a certificate"
    returns = bool
    repeatable = False


class Destroy(Verb[bool], frozen=True):
    """Destroy a key and what stands beside it; answer False if nothing is there."""

    key_id: bytes
    public_key: bytes

    doing = "destroy a key"
    returns = bool
    repeatable = False


class Certificates(Verb[tuple[bytes, ...]], frozen=True):
    """Give the certificates beside a key."""

    key_id: bytes

    doing = "give certificates"
    returns = tuple[bytes, ...]


class Keys(Verb[tuple[tuple[bytes, str], ...]], frozen=True):
    """Name every private key: ``CKA_ID`` and label."""

    doing = "list its keys"
    returns = tuple[tuple[bytes, str], ...]


class HoldsKey(Verb[bool], frozen=True):
    """Tell whether a private key with this hash of its ``SubjectPublicKeyInfo`` is in the token."""

    public_key_sha256: str

    doing = "look for its anchor"
    returns = bool


class Probed(msgspec.Struct, frozen=True):
    """The outcome of all tries, and the token that they were made on."""

    status: TokenStatus
    results: tuple[ProbeResult, ...]


class Probe(Verb[Probed], frozen=True):
    """Try to get throw-away keys out of the token."""

    now: datetime

    doing = "be probed"
    returns = Probed
    repeatable = False


class ProbeKey(Verb[tuple[ProbeResult, ...]], frozen=True):
    """Try on a live key what changes nothing."""

    key_id: bytes

    doing = "be asked for what a key must refuse"
    returns = tuple[ProbeResult, ...]


class InitToken(Verb[TokenStatus], frozen=True):
    """Initialise a free slot of the module, with random PINs that are written to two new files."""

    label: str
    pin_file: str
    so_pin_file: str

    doing = "be initialised"
    returns = TokenStatus
    needs_login = False
    repeatable = False


AnyVerb = (
    ListTokens
    | Identify
    | ReadPin
    | Login
    | Generate
    | Find
    | PublicKey
    | Sign
    | MakeLogKey
    | FindLogKey
    | SignLog
    | StoreCertificate
    | Destroy
    | Certificates
    | Keys
    | HoldsKey
    | Probe
    | ProbeKey
    | InitToken
)


class Done(msgspec.Struct, frozen=True, tag=True):
    """The verb's answer, still packed, and the warnings that came up on the way."""

    value: msgspec.Raw
    warnings: tuple[str, ...] = ()


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Why there is no answer: the parts of one of our errors.

    ``discard`` tells that the worker's state is in doubt, so that the next verb needs a fresh one; ``stale`` that this
    verb may well succeed on a fresh one; ``pin_refused`` that the token refused the PIN.
    """

    error: str
    what: str
    why: str = ""
    next_step: str = ""
    facts: dict[str, str | int | bool | None] = {}
    discard: bool = False
    stale: bool = False
    pin_refused: bool = False
    warnings: tuple[str, ...] = ()


def pack(message: object) -> bytes:
    """Return a message as one frame.

    Raises:
        InputError: it is longer than :data:`MAX_FRAME_BYTES`.
    """
    body = msgspec.msgpack.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise InputError(
            "That is too much data for the token", why=f"{len(body)} bytes; at most {MAX_FRAME_BYTES} are handed over"
        )
    return _LENGTH.pack(len(body)) + body


def frame_size(header: bytes) -> int:
    """Return the length that a frame's first 4 bytes announce.

    Raises:
        ValueError: the length is beyond :data:`MAX_FRAME_BYTES`, so the peer is not speaking this protocol.
    """
    (size,) = _LENGTH.unpack(header)
    if size > MAX_FRAME_BYTES:
        raise ValueError("frame too long")
    return int(size)


HEADER_BYTES = _LENGTH.size


def receive(sock: socket.socket) -> bytes | None:
    """Block for one frame and return its body, or ``None`` when the peer has closed the socket."""
    header = _exactly(sock, HEADER_BYTES)
    return None if header is None else _exactly(sock, frame_size(header))


def _exactly(sock: socket.socket, size: int) -> bytes | None:
    """Block for ``size`` bytes; ``None`` if the peer closes first."""
    data = bytearray()
    while len(data) < size:
        chunk = sock.recv(size - len(data))
        if not chunk:
            return None
        data += chunk
    return bytes(data)
