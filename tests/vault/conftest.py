"""What the tests of the Vault room share: stores, a record, and a proxy that loses answers."""

from __future__ import annotations

import contextlib
import http.client
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
import pytest

from harness.openbao import Vault, openbao, vault
from varmenne.clock import system_clock
from varmenne.domain.identifiers import Channel, CustomerId, Environment
from varmenne.vault import CertificateStore, Location, Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from varmenne.settings import VaultSettings

__all__ = ["openbao", "vault"]

IMPATIENT = Patience(attempts=4, first_wait_seconds=0.02, longest_wait_seconds=0.1, total_seconds=5)


def _where(settings: VaultSettings) -> Location:
    """Return the location of one customer's record under the settings' prefix."""
    return Location(
        prefix=settings.prefix,
        environment=Environment.TEST,
        customer=CustomerId("1234567-8"),
        channel=Channel.WS,
    )


@pytest.fixture
def where(vault: Vault) -> Location:
    """The location of one customer's record."""
    return _where(vault.settings)


@pytest.fixture
def where_of() -> Callable[[VaultSettings], Location]:
    """The location of one customer's record, for other settings."""
    return _where


@pytest.fixture
def store(vault: Vault) -> Iterator[CertificateStore]:
    """A store with the agent's rights and little patience."""
    with CertificateStore(vault.settings, clock=system_clock, patience=IMPATIENT) as made:
        yield made


@dataclass(frozen=True)
class Fault:
    """What shall happen to one request.

    Attributes:
        method: the HTTP method of the request.
        how: ``drop`` (close without an answer), ``stall`` (never answer), ``redirect`` (to itself), or an HTTP status.
        executed: whether the server gets the request first.
    """

    method: str
    how: str | int
    executed: bool


@dataclass
class Meddler:
    """A proxy in front of the server that spoils chosen requests on the way."""

    address: str
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def due(self, method: str) -> Fault | None:
        """Take the next fault for a request's method; who is in a loop of redirects stays there."""
        with self.lock:
            fault = next((fault for fault in self.faults if fault.method == method), None)
            if fault is not None and fault.how != "redirect":
                self.faults.remove(fault)
            return fault

    def settings(self, settings: VaultSettings, **changes: Any) -> VaultSettings:
        """Return settings that lead through the proxy."""
        return msgspec.structs.replace(settings, address=self.address, **changes)


class _Server(ThreadingHTTPServer):
    """Listens, and knows where requests go and what shall go wrong."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.done = threading.Event()
        self.meddler = Meddler(f"http://127.0.0.1:{self.server_address[1]}")


class _Handler(BaseHTTPRequestHandler):
    """Passes requests on, and spoils those that have a fault coming."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # One packet for head and body.
    server: _Server

    def handle_one_request(self) -> None:
        """Take the caller's hanging up as the end of the connection."""
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def forward(self) -> None:
        """Pass one request on and its answer back, unless a fault is due."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        meddler = self.server.meddler
        meddler.seen.append((self.command, self.path))
        fault = meddler.due(self.command)
        if fault is None:
            return self._answer(*self._ask(body))
        if fault.executed:
            self._ask(body)
        if isinstance(fault.how, int):
            return self._answer(fault.how, b'{"errors":["spoiled"]}')
        if fault.how == "redirect":
            return self._answer(307, b"", Location=self.path)
        if fault.how == "stall":
            self.server.done.wait(10)
        self.close_connection = True
        return None

    do_GET = do_POST = do_PUT = do_PATCH = forward  # noqa: N815 - http.server looks for these names

    def _ask(self, body: bytes) -> tuple[int, bytes]:
        """Put the request to the real server."""
        with contextlib.closing(http.client.HTTPConnection(self.server.upstream, timeout=10)) as connection:
            connection.request(self.command, self.path, body, {**self.headers})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def _answer(self, status: int, content: bytes, **headers: str) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": len(content)} | headers).items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def meddler(vault: Vault) -> Iterator[Meddler]:
    """Run a proxy in front of the shared server."""
    with _Server(urlsplit(vault.server.address).netloc) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.meddler
        server.done.set()
        server.shutdown()
        thread.join()
