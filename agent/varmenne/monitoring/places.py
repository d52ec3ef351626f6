"""The places of metrics: HTTP at a Unix socket or a loopback port, and a file for node_exporter."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app

from varmenne.errors import ConfigError
from varmenne.monitoring.events import Event, log_event

SOCKET_MODE = 0o660
FILE_MODE = 0o644
"""node_exporter runs as another user."""

EVERY_SECONDS = 60.0
"""How often the file is written."""

PATIENCE_SECONDS = 10.0
"""How long a client may take to ask, or to read on."""

MOST_CLIENTS = 8


class _Handler(WSGIRequestHandler):
    """Answers one request, and logs none."""

    timeout = PATIENCE_SECONDS  # Read by socketserver.StreamRequestHandler.

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Log nothing."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """Serves a few clients at once, each in a thread that keeps nobody from ending."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, family: socket.AddressFamily, address: Any) -> None:
        self.address_family = family
        self._room = threading.BoundedSemaphore(MOST_CLIENTS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind, without asking the DNS for our own name; nobody can connect to a socket file before it listens."""
        socketserver.TCPServer.server_bind(self)
        if self.address_family == socket.AF_UNIX:
            Path(str(self.server_address)).chmod(SOCKET_MODE)
        self.server_name, self.server_port = "localhost", 0
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept a client; those of a Unix socket have no address."""
        client, address = super().get_request()
        return client, address if isinstance(address, tuple) else ("", 0)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a client, or hang up if there are too many."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Make room when it is served."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or was too slow is no news."""


@contextlib.contextmanager
def served(registry: CollectorRegistry, listen: str) -> Iterator[None]:
    """Serve metrics by HTTP during the block, at ``unix:PATH`` or a loopback address and a port.

    Raises:
        ConfigError: nothing can be served there.
    """
    kind, _, rest = listen.partition(":")
    path = Path(rest) if kind == "unix" else None
    try:
        if path is not None:
            _make_way(path)
            server = _Server(socket.AF_UNIX, str(path))
        else:
            host, _, port = listen.rpartition(":")
            family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
            server = _Server(family, (host.strip("[]"), int(port)))
    except (OSError, OverflowError) as exc:
        raise ConfigError(
            f"Metrics cannot be served at {listen}",
            why=(exc.strerror if isinstance(exc, OSError) else "") or str(exc),
            next_step="Correct `metrics.listen`, or leave it out",
        ) from exc
    server.set_app(make_wsgi_app(registry))
    threading.Thread(target=server.serve_forever, args=(0.5,), name="metrics", daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        if path is not None:
            path.unlink(missing_ok=True)


def _make_way(path: Path) -> None:
    """Remove the socket file of a process that has ended.

    Raises:
        ConfigError: the path is not absolute, or another process serves there.
        OSError: it cannot be removed.
    """
    if not path.is_absolute():
        raise ConfigError(
            f"Metrics cannot be served at unix:{path}",
            why="the path has to be absolute",
            next_step="Correct `metrics.listen`, or leave it out",
        )
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as other:
        try:
            other.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ConfigError(
        f"Metrics cannot be served at unix:{path}",
        why="another process serves there",
        next_step="Is another agent running? Give each a `metrics.listen` of its own",
    )


@contextlib.contextmanager
def written(registry: CollectorRegistry, path: str) -> Iterator[None]:
    """Write metrics to a file now, every minute during the block, and at its end.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        write(registry, Path(path))
    except OSError as exc:
        raise ConfigError(
            f"Metrics cannot be written to {path}",
            why=exc.strerror or str(exc),
            next_step="Correct `metrics.textfile`, or leave it out",
        ) from exc
    ended = threading.Event()

    def keep_writing() -> None:
        while True:
            over = ended.wait(EVERY_SECONDS)
            try:
                write(registry, Path(path))
            except OSError as exc:
                log_event(Event.METRICS_FAILED, file=path, why=exc.strerror or str(exc))
            if over:
                return

    writer = threading.Thread(target=keep_writing, name="metrics-file", daemon=True)
    writer.start()
    try:
        yield
    finally:
        ended.set()
        writer.join(PATIENCE_SECONDS)  # A journal that hangs shall not keep the agent from ending.


def write(registry: CollectorRegistry, path: Path) -> None:
    """Write metrics to a file, which is always whole: it takes the place of the one before at once.

    Raises:
        OSError: it cannot be written.
    """
    text = generate_latest(registry)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with new.open("wb") as file:
            os.fchmod(file.fileno(), FILE_MODE)
            file.write(text)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
