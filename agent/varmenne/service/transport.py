"""How bytes reach the service: TLS always verified, no redirects, no proxies, bounded time and size.

What matters most here is to know, after a failure, whether the request may have been received. The connection counts
the bytes that were handed to its socket, so the answer is known and not guessed: none handed over means not sent.
"""

from __future__ import annotations

import http.client
import ssl
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool

from varmenne import __version__
from varmenne.errors import ConfigError, OutcomeUncertain, ServiceUnreachable, VerificationError

if TYPE_CHECKING:
    from varmenne.settings import ServiceSettings

MAX_BODY_BYTES = 256 * 1024
"""Largest answer that is read. A certificate of the schema's greatest size makes less than a quarter of it."""

TEXT_XML = "text/xml; charset=utf-8"


@dataclass(slots=True)
class Sent:
    """Counts what has been handed to the socket since :meth:`reset`."""

    bytes_handed_over: int = 0

    def reset(self) -> None:
        """Begin a new request."""
        self.bytes_handed_over = 0


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An HTTP answer as it came: nothing in it is believed yet."""

    status: int
    content_type: str
    body: bytes
    date: str = ""
    retry_after: str = ""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a TLS handshake and an empty request tell of an endpoint."""

    tls_version: str
    subject: str
    not_after: str
    date: str


@dataclass(slots=True)
class Endpoint:
    """One HTTPS endpoint. Not for use by several threads at once."""

    url: str
    settings: ServiceSettings
    _sent: Sent = field(default_factory=Sent)
    _session: requests.Session | None = None

    def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def post(self, body: bytes, action: str) -> RawAnswer:
        """Post ``body`` once and return the answer, whatever its status.

        Raises:
            ServiceUnreachable: no byte of the request was handed to the network.
            OutcomeUncertain: some were, and then the connection failed, or the answer was cut off or too large.
        """
        session = self._session = self._session or self._new_session()
        self._sent.reset()
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
                return RawAnswer(
                    response.status_code,
                    response.headers.get("Content-Type", ""),
                    _bounded_body(response),
                    response.headers.get("Date", ""),
                    response.headers.get("Retry-After", ""),
                )
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as exc:
            raise self._translated(exc) from exc

    def greet(self) -> Greeting:
        """Shake hands and ask for the page itself, without an operation (for ``doctor``): nothing is spent.

        Raises:
            ServiceUnreachable: connecting or the TLS handshake failed.
            OutcomeUncertain: the connection was cut after the handshake.
        """
        address = urllib3.util.parse_url(self.url)
        self._sent.reset()
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
        session.mount("https://", _Adapter(tls_context(self.settings.ca_file), self._sent))
        return session

    def _translated(self, exc: Exception) -> ServiceUnreachable | OutcomeUncertain:
        """Say what a failure means: the only question is whether a byte of the request may have left."""
        reason = _reason(exc)
        if self._sent.bytes_handed_over == 0:
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
            bytes_sent=self._sent.bytes_handed_over,
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
    """Gives every connection our TLS context and our counter, and never retries."""

    def __init__(self, context: ssl.SSLContext, sent: Sent) -> None:
        self._context = context
        self._sent = sent
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pool, with connections that count."""
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        sent = self._sent

        class Connection(HTTPSConnection):
            """Counts the bytes of requests that reach the socket."""

            def send(self, data: Any) -> None:
                if self.sock is None:
                    self.connect()
                sent.bytes_handed_over += len(data)
                super().send(data)

        class Pool(HTTPSConnectionPool):
            """A pool of such connections."""

            ConnectionCls = Connection

        self.poolmanager.pool_classes_by_scheme = {"https": Pool}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Leave certificate checking to the context, which always does it."""


def _bounded_body(response: requests.Response) -> bytes:
    """Read the body up to the limit, inflating gzip where the server used it.

    The inflating is our own, step by step: the library's would inflate a whole chunk, and layer upon layer, before
    anybody could look at the size.
    """
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in {"identity", "gzip", "x-gzip", ""}:
        raise VerificationError(
            "The answer is coded in a way that was not asked for", check="encoding", why=f"Content-Encoding {coding!r}"
        )
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS) if "gzip" in coding else None
    body = bytearray()
    for chunk in response.raw.stream(16 * 1024, decode_content=False):
        room = MAX_BODY_BYTES + 1 - len(body)
        try:
            body += inflater.decompress(chunk, room) if inflater else chunk
        except zlib.error as exc:
            raise VerificationError("The answer's compression is broken", check="encoding", why=str(exc)) from exc
        if len(body) > MAX_BODY_BYTES:
            raise VerificationError(
                "The answer is too large", check="size", why=f"more than {MAX_BODY_BYTES} bytes; nothing of it was read"
            )
    return bytes(body)


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
