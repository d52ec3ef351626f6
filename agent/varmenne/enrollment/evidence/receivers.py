"""Where a feed of audit records may go, and when it counts as taken there.

==============  ==================================================================================================
``FILE``        it was appended, and the file's content has reached the disk
``tcp://…``     the receiver has read to the end of the stream and closed its own: nothing was left unread
``tls://…``     the same, which the receiver says by its *close_notify* (RFC 5425, section 4.4)
``unix:PATH``   a datagram socket, such as ``/dev/log``, has it in its queue; a stream socket is as ``tcp://…``
==============  ==================================================================================================

UDP is not there: nobody would ever know whether something was taken.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import ssl
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from varmenne.errors import FeedFailed, InputError
from varmenne.journal.copies import to_disk

Receiver = Callable[[Sequence[bytes]], None]
"""Takes messages, each without an end, and returns when they are taken.

Raises:
    FeedFailed: they may not have been.
"""

TIMEOUT_SECONDS = 30.0
"""Longest silence of a receiver."""
_CHUNK = 65_536
_ADDRESS = re.compile(r"(?P<scheme>tcp|tls)://(?P<host>\[[^\]]+\]|[^\[\]/:]+):(?P<port>[0-9]{1,5})/?")


def by_line(message: bytes) -> bytes:
    """End a message by a line break."""
    return message + b"\n"


def by_count(message: bytes) -> bytes:
    """Put a message's length before it, as syslog over streams has it (RFC 6587, section 3.4.1; RFC 5425)."""
    return b"%d %s" % (len(message), message)


def receiver(to: str, *, counted: bool, ca_file: Path | None = None) -> Receiver:
    """Return what sends to an address.

    Args:
        to: ``tcp://HOST:PORT``, ``tls://HOST:PORT``, ``unix:PATH``, or a file's path.
        counted: in a stream, put each message's length before it, and no line break behind it.
        ca_file: certificates of the CAs that may vouch for a receiver by TLS; ``None``: the system's.

    Raises:
        InputError: the address cannot be understood, or the CA file not be used.
    """
    frame = by_count if counted else by_line
    if to.startswith("unix:"):
        return partial(_guarded, to, partial(_to_unix, to.removeprefix("unix:"), frame))
    found = _ADDRESS.fullmatch(to)
    if found is not None:
        host, port = found["host"].strip("[]"), int(found["port"])
        context = _context(ca_file) if found["scheme"] == "tls" else None
        return partial(_guarded, to, partial(_to_network, host, port, context, frame))
    if "://" in to:
        raise InputError(f"{to} cannot be fed", next_step="Give tcp://HOST:PORT, tls://HOST:PORT, unix:PATH or a file")
    return partial(_guarded, to, partial(_to_file, Path(to)))


def _context(ca_file: Path | None) -> ssl.SSLContext:
    """Return how TLS is spoken: the receiver has to prove its name."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as exc:
        raise InputError(f"{ca_file} cannot be used as certificates of CAs", why=str(exc)) from exc


def _guarded(to: str, send: Receiver, messages: Sequence[bytes]) -> None:
    """Send, and tell of what fails in our own words."""
    try:
        send(messages)
    except OSError as exc:  # Those of TLS are of this family.
        raise FeedFailed(
            f"{to} did not take the audit records",
            why=exc.strerror or str(exc),
            next_step="Nothing is lost: what may not have been taken is sent again",
        ) from exc


def _to_file(path: Path, messages: Sequence[bytes]) -> None:
    """Append lines, durably. The file is opened each time, so that it may be moved away meanwhile."""
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        # A line that a crash has cut is ended; its record comes again, whole.
        cut = about.st_size > 0 and os.pread(handle, 1, about.st_size - 1) != b"\n"
        data = b"\n" * cut + b"".join(map(by_line, messages))
        while data:
            data = data[os.write(handle, data) :]
        os.fsync(handle)
        if about.st_size == 0:
            to_disk(path.parent)
    finally:
        os.close(handle)


def _to_network(
    host: str, port: int, context: ssl.SSLContext | None, frame: Callable[[bytes], bytes], messages: Sequence[bytes]
) -> None:
    """Send by a connection of its own: its orderly end is the receiver's word that it has read all."""
    with socket.create_connection((host, port), timeout=TIMEOUT_SECONDS) as plain:
        if context is None:
            return _to_stream(plain, frame, messages)
        with context.wrap_socket(plain, server_hostname=host) as secured:
            secured.sendall(b"".join(map(frame, messages)))
            secured.unwrap()
    return None


def _to_unix(path: str, frame: Callable[[bytes], bytes], messages: Sequence[bytes]) -> None:
    """Send to a socket of this host, of whichever of the two kinds it is."""
    with _connected(path, socket.SOCK_DGRAM) as datagrams:
        if datagrams is not None:
            for message in messages:
                datagrams.send(message)
            return
    with _connected(path, socket.SOCK_STREAM) as stream:
        if stream is None:
            raise OSError(errno.EPROTOTYPE, os.strerror(errno.EPROTOTYPE))
        _to_stream(stream, frame, messages)


@contextlib.contextmanager
def _connected(path: str, kind: socket.SocketKind) -> Iterator[socket.socket | None]:
    """Connect to a socket of this host; ``None``: it is of another kind."""
    with socket.socket(socket.AF_UNIX, kind) as made:
        made.settimeout(TIMEOUT_SECONDS)
        code = made.connect_ex(path)
        if code not in {0, errno.EPROTOTYPE}:
            raise OSError(code, os.strerror(code))
        yield made if code == 0 else None


def _to_stream(stream: socket.socket, frame: Callable[[bytes], bytes], messages: Sequence[bytes]) -> None:
    """Send, end our direction, and wait until the receiver ends its own. One that dies with unread data resets it."""
    stream.sendall(b"".join(map(frame, messages)))
    stream.shutdown(socket.SHUT_WR)
    while stream.recv(_CHUNK):
        pass
