"""Public files over http: CA certificates and revocation lists. Bounded in size and time, and never trusted.

Plain http is the rule here (RFC 5280, section 8): what is fetched is signed or has a known fingerprint, and asking for
it over TLS would need the very trust that is being built. No proxy, no redirect, no credentials.
"""

from __future__ import annotations

import http.client
import socket
import time
import urllib.parse
from dataclasses import dataclass

from varmenne import __version__
from varmenne.errors import ServiceUnreachable
from varmenne.service.transport import tls_context

CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a fetch may cost, all in all."""

    max_bytes: int
    seconds: float


def fetch(url: str, limits: Limits, ca_file: str = "") -> bytes:
    """Return what a URL gives.

    Args:
        url: ``http://`` or ``https://``, from a certificate.
        limits: of size and of time from beginning to end.
        ca_file: for ``https://``, the CA to trust instead of the system's.

    Raises:
        ServiceUnreachable: nothing usable came in time. It may be tried again.
    """
    deadline = time.monotonic() + limits.seconds
    connection, path = _connection(url, limits, ca_file)
    try:
        connection.request("GET", path, headers={"User-Agent": f"varmenne/{__version__}"})
        wire = connection.sock
        with connection.getresponse() as response:
            if response.status != http.client.OK:
                raise _unreachable(url, f"it answered HTTP {response.status}")
            return _body(wire, response, url, limits, deadline)
    except (OSError, http.client.HTTPException, ValueError) as exc:
        raise _unreachable(url, str(exc) or type(exc).__name__) from exc
    finally:
        connection.close()


def _connection(url: str, limits: Limits, ca_file: str) -> tuple[http.client.HTTPConnection, str]:
    """Make a connection, which is not opened yet, and return it with the path to ask for."""
    try:
        address = urllib.parse.urlsplit(url)
        host, port = address.hostname, address.port
    except ValueError as exc:
        raise _unreachable(url, "it is not a URL") from exc
    if address.scheme not in {"http", "https"} or not host:
        raise _unreachable(url, "only http:// and https:// are fetched")
    path = urllib.parse.urlunsplit(("", "", address.path or "/", address.query, ""))
    if address.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=limits.seconds), path
    context = tls_context(ca_file)
    return http.client.HTTPSConnection(host, port, timeout=limits.seconds, context=context), path


def _body(wire: socket.socket, response: http.client.HTTPResponse, url: str, limits: Limits, deadline: float) -> bytes:
    """Read the body within what is left of size and time; a server that drips is cut off too."""
    body = bytearray()
    while not response.isclosed():  # From Python 3.13 on, the last byte closes the response, and its socket with it.
        left = deadline - time.monotonic()
        if left <= 0:
            raise _unreachable(url, f"it took longer than {limits.seconds:g} seconds")
        wire.settimeout(left)
        chunk = response.read1(CHUNK_BYTES)
        if not chunk:
            break
        body += chunk
        if len(body) > limits.max_bytes:
            raise _unreachable(url, f"it is larger than {limits.max_bytes} bytes")
    return bytes(body)


def _unreachable(url: str, why: str) -> ServiceUnreachable:
    """Say what could not be fetched."""
    return ServiceUnreachable(f"{url} could not be fetched", why=why, next_step="Check the network and the firewall")
