"""A receiver of audit records: listens, reads what comes to its end, and keeps it."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LINGER_RESET = struct.pack("ii", 1, 0)
"""Closing resets the connection, as the kernel does for a process that dies with something unread."""


class Siem:
    """Takes one connection after the other.

    Attributes:
        data: what was read of each connection.
        dies: it closes without reading, once for each that is set.
        pause: seconds between two reads of at most 64 KiB.
    """

    def __init__(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        self.listener = listener
        self.context = context
        self.data: list[bytes] = []
        self.dies = 0
        self.pause = 0.0

    def serve(self) -> None:
        """Take connections until the listener is shut down."""
        while True:
            try:
                connection, _address = self.listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                self._take(connection)

    def _take(self, plain: socket.socket) -> None:
        if self.dies:
            self.dies -= 1
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            return None
        if self.context is None:
            return self._read(plain)
        with self.context.wrap_socket(plain, server_side=True) as secured:
            self._read(secured)
            secured.unwrap()
        return None

    def _read(self, connection: socket.socket) -> None:
        self.data.append(b"")
        while chunk := connection.recv(65_536):
            self.data[-1] += chunk
            time.sleep(self.pause)

    @property
    def size(self) -> int:
        """How many bytes have come."""
        return sum(map(len, self.data))

    def lines(self) -> list[dict[str, Any]]:
        """Return the JSON lines that came whole."""
        return [json.loads(line) for data in self.data for line in data.split(b"\n")[:-1]]

    def frames(self) -> list[bytes]:
        """Return the messages whose length stands before them, that came whole."""
        found = []
        for data in self.data:
            left = data
            while (length := re.match(rb"([1-9][0-9]*) ", left)) and len(left) >= length.end() + int(length[1]):
                end = length.end() + int(length[1])
                found.append(left[length.end() : end])
                left = left[end:]
        return found


@contextlib.contextmanager
def siem(context: ssl.SSLContext | None = None, path: Path | None = None) -> Iterator[Siem]:
    """Run a receiver at a port, or at a path."""
    with socket.socket(socket.AF_INET if path is None else socket.AF_UNIX) as listener:
        listener.bind(("127.0.0.1", 0) if path is None else str(path))
        listener.listen()
        made = Siem(listener, context)
        thread = threading.Thread(target=made.serve)
        thread.start()
        try:
            yield made
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def address(made: Siem, scheme: str = "tcp") -> str:
    """Return where a receiver listens."""
    host, port = made.listener.getsockname()
    return f"{scheme}://{host}:{port}"
