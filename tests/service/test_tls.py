"""TLS to the service: what is too old is refused before anything is sent."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator

import pytest

from varmenne.errors import ServiceUnreachable
from varmenne.service.transport import Endpoint
from varmenne.settings import ServiceSettings
from varmenne.testbench.server import BenchServer

ANY_CIPHER = "ALL:@SECLEVEL=0"


@contextlib.contextmanager
def tls_1_1_server(bench: BenchServer) -> Iterator[tuple[int, list[bytes]]]:
    """Speak TLS 1.1 alone, with the bench's certificate; yields the port and what was received."""
    folder = bench.state.directory / "tls"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(ANY_CIPHER)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.load_cert_chain(folder / "tls-server.pem", folder / "tls-server.key.pem")
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _time in range(2):
                plain, _address = listener.accept()
                with contextlib.suppress(OSError), plain, context.wrap_socket(plain, server_side=True) as secured:
                    received.append(secured.recv(1000))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], received
        thread.join(5)


def test_tls_1_1_is_refused(bench: BenchServer) -> None:
    """A careless client talks to the old server; ours does not, and says that nothing was sent."""
    with tls_1_1_server(bench) as (port, received):
        careless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        careless.set_ciphers(ANY_CIPHER)
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            careless.minimum_version = ssl.TLSVersion.TLSv1_1
        careless.load_verify_locations(bench.tls_ca)
        plain = socket.create_connection(("127.0.0.1", port))
        with careless.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
            assert secured.version() == "TLSv1.1"
            secured.sendall(b"hello")
        settings = ServiceSettings(ca_file=str(bench.tls_ca), connect_timeout_seconds=2, read_timeout_seconds=2)
        endpoint = Endpoint(f"https://127.0.0.1:{port}/", settings)
        with contextlib.closing(endpoint), pytest.raises(ServiceUnreachable) as caught:
            endpoint.post(b"<secret/>", "x")
    assert "protocol version" in caught.value.why.lower()
    assert received == [b"hello"]
