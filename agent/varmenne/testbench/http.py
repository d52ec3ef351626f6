"""HTTP around the bench's service: paths, methods, limits, and bodies of any transfer form.

One handler class per listener: the service over TLS, and the publication of certificates and CRLs over plain HTTP, as
certificates name it (a list that is fetched over TLS would need itself to be checked).
"""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from varmenne import __version__
from varmenne.clock import Clock, system_clock
from varmenne.testbench.faults import Delivery, Reply

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

SERVICE_PATH = "/2017/10/CertificateServices"
MAX_BODY_BYTES = 256 * 1024
"""Largest request that is read. The schema's greatest CSR makes less than a tenth of it."""
SILENCE_SECONDS = 10.0
"""Longest silence of a client, in the TLS handshake and between two bytes of a request."""
BODY_SECONDS = 30.0
"""Longest time for a whole body."""
MAX_CHUNK_LINE_BYTES = 256
LINGER_SECONDS = 0.5
LINGER_READS = 256
"""After an error, so many pieces of an unread body are read, and so long is waited for each."""

_XML_TYPES = {"text/xml", "application/xml"}


class _HttpRefusal(Exception):
    """The request is answered with an HTTP error, and the connection is closed. Never leaves this module."""

    def __init__(self, status: HTTPStatus, text: str, **headers: str) -> None:
        super().__init__(text)
        self.reply = Reply(
            status,
            f"BENCH: {text}\n".encode(),
            "text/plain; charset=utf-8",
            headers=tuple((name.replace("_", "-"), value) for name, value in headers.items()),
        )


@dataclass(frozen=True, slots=True)
class Site:
    """What a listener serves.

    Attributes:
        document: path with query → (content type, content), or None if there is nothing.
        post: answers a body posted to :data:`SERVICE_PATH`: the reply and a line for the log; None if there is no
            service at this listener.
        clock: tells the time that answers carry.
    """

    document: Callable[[str], tuple[str, bytes] | None]
    post: Callable[[bytes], tuple[Reply, str]] | None = None
    clock: Clock = system_clock


class Handler(BaseHTTPRequestHandler):
    """Serves one connection."""

    protocol_version = "HTTP/1.1"
    server_version = f"varmenne-BENCH/{__version__}"
    sys_version = ""
    timeout = SILENCE_SECONDS
    # A reply leaves in one piece and at once: Nagle's algorithm would hold its second piece back for 40 ms.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: Listener

    def version_string(self) -> str:
        """Name the server in every reply as what it is."""
        return self.server_version

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Date every reply by the bench's own clock."""
        return super().date_time_string(self.server.site.clock().timestamp() if timestamp is None else timestamp)

    def do_GET(self) -> None:  # the name that http.server calls
        """Serve a document."""
        found = self.server.site.document(self.path)
        if found is not None:
            self._send(Reply(200, found[1], found[0]))
        elif self._is_service_path():
            self._refuse(_method_not_allowed())
        else:
            self._refuse(_not_found())

    def do_PUT(self) -> None:  # the name that http.server calls
        """Refuse what is neither reading nor a SOAP request."""
        self._refuse(_method_not_allowed() if self._is_service_path() else _not_found())

    do_HEAD = do_GET  # noqa: N815  # the names that http.server calls
    do_DELETE = do_PATCH = do_OPTIONS = do_PUT  # noqa: N815

    def do_POST(self) -> None:  # the name that http.server calls
        """Serve a SOAP request."""
        try:
            if self.server.site.post is None or not self._is_service_path():
                raise _not_found()
            self._require_xml()
            body = self._body()
        except _HttpRefusal as exc:
            self._refuse(exc)
            return
        reply, line = self.server.site.post(body)
        logger.info("BENCH %s", line)
        self._send(reply)

    def _is_service_path(self) -> bool:
        """Tell whether the request is for the service; its query does not matter."""
        return self.server.site.post is not None and self.path.partition("?")[0].rstrip("/") == SERVICE_PATH

    def _require_xml(self) -> None:
        """Refuse bodies that are not plain XML."""
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind not in _XML_TYPES:
            raise _HttpRefusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "SOAP 1.1 wants Content-Type: text/xml")
        if self.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _HttpRefusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Content-Encoding is not supported")

    def _body(self) -> bytes:
        """Read the body, however it is framed."""
        coding = self.headers.get("Transfer-Encoding", "").strip().lower()
        length = self.headers.get("Content-Length")
        if coding and length is not None:
            raise _HttpRefusal(HTTPStatus.BAD_REQUEST, "Content-Length and Transfer-Encoding exclude each other")
        if coding == "chunked":
            return self._chunked_body()
        if coding:
            raise _HttpRefusal(HTTPStatus.NOT_IMPLEMENTED, "the only Transfer-Encoding is chunked")
        if length is None:
            raise _HttpRefusal(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing")
        if not (length.isascii() and length.isdigit()):
            raise _HttpRefusal(HTTPStatus.BAD_REQUEST, "Content-Length is not a number")
        size = int(length) if len(length) < 20 else MAX_BODY_BYTES + 1
        _refuse_oversized(size)
        return self._read(size, time.monotonic() + BODY_SECONDS)

    def _chunked_body(self) -> bytes:
        """Read a chunked body (RFC 9112, section 7.1) up to the limit; trailers are passed over."""
        deadline = time.monotonic() + BODY_SECONDS
        body = bytearray()
        while size := self._chunk_size():
            _refuse_oversized(len(body) + size)
            body += self._read(size, deadline)
            if self.rfile.readline(3) not in {b"\r\n", b"\n"}:
                raise _bad_chunk()
        while self.rfile.readline(MAX_CHUNK_LINE_BYTES) not in {b"\r\n", b"\n", b""}:
            if time.monotonic() > deadline:
                raise _too_slow()
        return bytes(body)

    def _chunk_size(self) -> int:
        """Read the line that begins a chunk."""
        line = self.rfile.readline(MAX_CHUNK_LINE_BYTES)
        digits = line.partition(b";")[0].strip()
        if not line.endswith(b"\n") or not 1 <= len(digits) <= 8 or digits.strip(b"0123456789abcdefABCDEF"):
            raise _bad_chunk()
        return int(digits, 16)

    def _read(self, size: int, deadline: float) -> bytes:
        """Read exactly ``size`` bytes before the deadline."""
        parts = bytearray()
        while len(parts) < size:
            if time.monotonic() > deadline:
                raise _too_slow()
            part = self.rfile.read1(size - len(parts))
            if not part:
                raise _HttpRefusal(HTTPStatus.BAD_REQUEST, "the body is shorter than announced")
            parts += part
        return bytes(parts)

    def _refuse(self, refusal: _HttpRefusal) -> None:
        """Answer with an HTTP error. The body may be unread, so the connection cannot be used again."""
        self.close_connection = True
        logger.info("BENCH %s %s: HTTP %d", self.command, self.path.partition("?")[0], refusal.reply.status)
        self._send(refusal.reply)
        self.wfile.flush()
        self._let_go()

    def _let_go(self) -> None:
        """Read on for a moment: closing on unread bytes would reset the connection, and lose the answer on its way."""
        self.connection.settimeout(LINGER_SECONDS)
        with contextlib.suppress(OSError):
            for _ in range(LINGER_READS):
                if not self.rfile.read1():
                    break

    def _send(self, reply: Reply) -> None:
        """Deliver a reply, or the part of it that is to be delivered."""
        if reply.wait_seconds:
            self.server.stopping.wait(reply.wait_seconds)
        if reply.delivery is Delivery.NOTHING:
            self.close_connection = True
            return
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in reply.headers:
            self.send_header(name, value)
        if self.close_connection or reply.delivery is Delivery.HALF:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        whole = reply.delivery is Delivery.WHOLE
        self.wfile.write(reply.body if whole else reply.body[: len(reply.body) // 2])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name that http.server uses
        """Keep http.server's own lines out of sight: paths and status are logged here in our form."""
        logger.debug("BENCH %s", format % args)


def _not_found() -> _HttpRefusal:
    return _HttpRefusal(HTTPStatus.NOT_FOUND, f"nothing is here; the service is at {SERVICE_PATH}")


def _method_not_allowed() -> _HttpRefusal:
    text = "the service takes POST; ?wsdl has its description"
    return _HttpRefusal(HTTPStatus.METHOD_NOT_ALLOWED, text, Allow="POST")


def _bad_chunk() -> _HttpRefusal:
    return _HttpRefusal(HTTPStatus.BAD_REQUEST, "the chunked body is malformed")


def _too_slow() -> _HttpRefusal:
    return _HttpRefusal(HTTPStatus.REQUEST_TIMEOUT, "the body came too slowly")


def _refuse_oversized(size: int) -> None:
    """Refuse a body over the limit before it is read."""
    if size > MAX_BODY_BYTES:
        raise _HttpRefusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {MAX_BODY_BYTES} bytes")


class Listener(ThreadingHTTPServer):
    """Listens on a loopback address and serves a site, each connection in a thread of its own.

    Args:
        address: host and port; port 0 means any free one.
        site: what is served.
        context: the TLS context, or None for plain HTTP.

    Raises:
        OSError: the address cannot be listened on.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], site: Site, context: ssl.SSLContext | None = None) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.site = site
        self.stopping = threading.Event()
        self._context = context
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(address, Handler)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self.server_address[1])

    def server_bind(self) -> None:
        """Bind without asking a name server for this computer's name."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.port

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands in the connection's own thread, so that a slow client stops nobody, then serve it."""
        request.settimeout(SILENCE_SECONDS)
        with self._tracked(request):
            if self._context is None:
                super().finish_request(request, client_address)
                return
            with self._context.wrap_socket(request, server_side=True) as tls, self._tracked(tls):
                super().finish_request(tls, client_address)

    @contextlib.contextmanager
    def _tracked(self, connection: socket.socket) -> Iterator[None]:
        """Remember an open connection, so that stopping can end it."""
        with self._open_lock:
            self._open.add(connection)
        try:
            yield
        finally:
            with self._open_lock:
                self._open.discard(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  # socketserver's signature
        """Log what ended a connection: a client's mistake in one line, our own with its traceback."""
        error = sys.exception()
        if isinstance(error, OSError):
            logger.debug("BENCH connection ended: %s", error)
        else:
            logger.error("BENCH request failed", exc_info=error)

    def stop(self) -> None:
        """Stop listening, end every connection, and let the port go. Call it from another thread than the server's."""
        self.stopping.set()
        self.shutdown()
        with self._open_lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()
