"""How bytes reach the service: TLS always verified, no redirects, no proxies, bounded time and size.

What matters most here is to know, after a failure, whether the request may have been received. The connection counts
the bytes that were handed to its socket, so the answer is known and not guessed: none handed over means not sent.
"""

from __future__ import annotations

import http.client
import math
import ssl
import time
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool

from varmenne import __version__
from varmenne.errors import ConfigError, OutcomeUncertain, ServiceUnreachable
from varmenne.measure import Part, measured

if TYPE_CHECKING:
    from varmenne.settings import ServiceSettings

MAX_BODY_BYTES = 256 * 1024
"""Largest answer that is verified. A certificate of the schema's greatest size makes less than a quarter of it."""

SILENCES = 2
"""An answer may take as long as so many of the longest silences, ``service.read_timeout_seconds``, all in all."""

CHUNK_BYTES = 16 * 1024

TEXT_XML = "text/xml; charset=utf-8"


@dataclass(slots=True)
class Exchange:
    """What one request has handed to the socket, and until when its answer may take (by the monotonic clock)."""

    bytes_handed_over: int = 0
    deadline: float = math.inf

    def reset(self) -> None:
        """Begin a new request."""
        self.bytes_handed_over = 0
        self.deadline = math.inf

    @property
    def is_late(self) -> bool:
        """Tell whether the answer has taken too long."""
        return time.monotonic() >= self.deadline


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An HTTP answer as it came: nothing in it is believed yet.

    Attributes:
        status: of HTTP.
        content_type: of the body, as the header says.
        body: what came of it; at most a byte more than :data:`MAX_BODY_BYTES`, by which verification sees its size.
        date: the header.
        retry_after: the header.
        problem: why the body may not be whole or not be readable; empty if nothing is known to be wrong.
    """

    status: int
    content_type: str
    body: bytes
    date: str = ""
    retry_after: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a TLS handshake and an empty request tell of an endpoint."""

    tls_version: str
    subject: str
    not_after: str
    date: str

    @property
    def time(self) -> datetime | None:
        """The far end's time, by its Date header (RFC 9110, 6.6.1); what cannot be read says nothing."""
        try:
            moment = parsedate_to_datetime(self.date)
        except (ValueError, TypeError):
            return None
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


@dataclass(slots=True)
class Endpoint:
    """One HTTPS endpoint. Not for use by several threads at once."""

    url: str
    settings: ServiceSettings
    _exchange: Exchange = field(default_factory=Exchange)
    _session: requests.Session | None = None

    def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def post(self, body: bytes, action: str) -> RawAnswer:
        """Post ``body`` once and return the answer, whatever its status, and what came of it if it is not whole.

        The answer to a request that cannot be repeated is worth keeping in any shape: the end that is missing may be
        white space, and its signature tells.

        Raises:
            ServiceUnreachable: no byte of the request was handed to the network.
            OutcomeUncertain: some were, and then the connection failed before anything of an answer's body came.
        """
        with measured(Part.SERVICE, action):
            return self._post(body, action)

    def _post(self, body: bytes, action: str) -> RawAnswer:
        """Post, as :meth:`post` says."""
        session = self._session = self._session or self._new_session()
        self._exchange.reset()
        try:
            with session.post(
                self.url,
                data=body,
                headers={
                    "Content-Type": TEXT_XML,
                    "SOAPAction": f'"{action}"',
                    "Accept": "text/xml",
                    "Accept-Encoding": "gzip",
                },
                timeout=(self.settings.connect_timeout_seconds, self.settings.read_timeout_seconds),
                allow_redirects=False,
                stream=True,
            ) as response:
                answer, problem = _body(response, self._exchange)
                return RawAnswer(
                    response.status_code,
                    response.headers.get("Content-Type", ""),
                    answer,
                    response.headers.get("Date", ""),
                    response.headers.get("Retry-After", ""),
                    problem,
                )
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as exc:
            raise self._translated(exc) from exc

    def greet(self) -> Greeting:
        """Shake hands and ask for the page itself, without an operation (for ``doctor``): nothing is spent.

        Raises:
            ServiceUnreachable: connecting or the TLS handshake failed.
            OutcomeUncertain: the connection was cut after the handshake.
        """
        with measured(Part.SERVICE, "greet"):
            return self._greet()

    def _greet(self) -> Greeting:
        """Greet, as :meth:`greet` says."""
        address = urllib3.util.parse_url(self.url)
        self._exchange.reset()
        connection = http.client.HTTPSConnection(
            address.host or "",
            address.port,
            timeout=self.settings.connect_timeout_seconds,
            context=tls_context(self.settings.ca_file),
        )
        try:
            connection.connect()
            certificate: Any = connection.sock.getpeercert()
            version: Any = connection.sock.version()
            connection.request("GET", address.request_uri, headers={"User-Agent": f"varmenne/{__version__}"})
            date = connection.getresponse().getheader("Date", "")
        except (http.client.HTTPException, OSError) as exc:
            raise self._translated(exc) from exc
        finally:
            connection.close()
        subject = ", ".join(value for part in certificate["subject"] for _name, value in part)
        return Greeting(version, subject, certificate["notAfter"], date)

    def _new_session(self) -> requests.Session:
        """Make a session that takes nothing from the environment: no proxy, no netrc, no CA bundle of other tools."""
        session = requests.Session()
        session.trust_env = False
        session.headers["User-Agent"] = f"varmenne/{__version__}"
        session.mount("https://", _Adapter(tls_context(self.settings.ca_file), self._exchange, self.settings))
        return session

    def _translated(self, exc: Exception) -> ServiceUnreachable | OutcomeUncertain:
        """Say what a failure means: the only question is whether a byte of the request may have left."""
        reason = _reason(exc)
        if self._exchange.bytes_handed_over == 0:
            return ServiceUnreachable(
                f"The certificate service at {self.url} could not be reached",
                why=reason,
                next_step="Nothing was sent. Check the network, the firewall and `service.ca_file`, then try again",
                url=self.url,
            )
        return OutcomeUncertain(
            "The connection failed after the request, or a part of it, had been sent",
            why=reason,
            url=self.url,
            bytes_sent=self._exchange.bytes_handed_over,
        )


def tls_context(ca_file: str) -> ssl.SSLContext:
    """Return a context that verifies chain and host name, TLS 1.2 or later, with the given CA or the system's."""
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"The CA file {ca_file} cannot be used", why=str(exc)) from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class _Adapter(HTTPAdapter):
    """Gives every connection our TLS context, our counter and our deadline, and never retries."""

    def __init__(self, context: ssl.SSLContext, exchange: Exchange, settings: ServiceSettings) -> None:
        self._context = context
        self._exchange = exchange
        self._silence_seconds = settings.read_timeout_seconds
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pool, with connections that count and sockets that mind the deadline."""
        exchange, silence_seconds = self._exchange, self._silence_seconds

        class Socket(ssl.SSLSocket):
            """Waits no longer than to the deadline; a timeout for each read alone could be stretched without end."""

            def recv_into(self, *args: Any, **kwargs: Any) -> int:
                if exchange.deadline != math.inf:
                    left = exchange.deadline - time.monotonic()
                    if left <= 0:
                        raise TimeoutError("the answer took too long")
                    self.settimeout(min(silence_seconds, left))
                return super().recv_into(*args, **kwargs)

        class Connection(HTTPSConnection):
            """Counts the bytes of requests that reach the socket, and times their answers."""

            def send(self, data: Any) -> None:
                if self.sock is None:
                    self.connect()
                exchange.bytes_handed_over += len(data)
                super().send(data)

            def getresponse(self) -> Any:
                exchange.deadline = time.monotonic() + SILENCES * silence_seconds
                return super().getresponse()

        class Pool(HTTPSConnectionPool):
            """A pool of such connections."""

            ConnectionCls = Connection

        self._context.sslsocket_class = Socket
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"https": Pool}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Leave certificate checking to the context, which always does it."""


def _body(response: requests.Response, exchange: Exchange) -> tuple[bytes, str]:
    """Read the body up to the limits, and return what came of it, and what is wrong with it.

    gzip is inflated here, step by step: the library would inflate a whole chunk, and layer upon layer, before anybody
    could look at the size.

    Raises:
        urllib3.exceptions.HTTPError, OSError: the connection failed, and nothing had come.
    """
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    problem = ""
    if coding not in {"identity", "gzip", "x-gzip", ""}:
        problem = f"coded in a way that was not asked for, {coding!r}"
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS) if "gzip" in coding and not problem else None
    body = bytearray()
    try:
        while chunk := response.raw.read1(CHUNK_BYTES, decode_content=False):
            room = MAX_BODY_BYTES + 1 - len(body)
            body += inflater.decompress(chunk, room) if inflater else chunk[:room]
            if len(body) > MAX_BODY_BYTES:
                return bytes(body), problem or f"larger than {MAX_BODY_BYTES} bytes"
    except zlib.error as exc:
        return bytes(body), f"its compression is broken: {exc}"
    except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as exc:
        if not body:
            raise
        return bytes(body), "too slow" if exchange.is_late else f"cut off: {_reason(exc)}"
    if inflater and body and not inflater.eof:
        problem = "cut off: its compression has no end"
    return bytes(body), problem


def _reason(exc: BaseException) -> str:
    """Find the innermost cause of a library's nested exceptions, which is the one that a person understands."""
    seen: BaseException = exc
    while True:
        inner = seen.__cause__ or seen.__context__ or next((a for a in seen.args if isinstance(a, BaseException)), None)
        reason = getattr(seen, "reason", None)
        if isinstance(reason, BaseException):
            inner = reason
        if inner is None or inner is seen:
            break
        seen = inner
    if isinstance(seen, ssl.SSLCertVerificationError):
        return f"its TLS certificate was refused: {seen.verify_message}"
    if isinstance(seen, TimeoutError):
        return "it did not answer in time"
    text = seen.strerror if isinstance(seen, OSError) and seen.strerror else str(seen)
    return text or type(seen).__name__
