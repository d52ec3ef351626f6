"""What is not a well-formed request gets a fault or an HTTP error, and changes nothing."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time

import pytest

from testbench.stranger import NS, SOAP, Stranger, csr, envelope, get, sign_new
from varmenne.errors import StateError
from varmenne.testbench.http import MAX_BODY_BYTES
from varmenne.testbench.server import BenchServer

BOMB = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;">]>'
)
MALFORMED = {
    # Body → a word of the fault.
    "empty": (b"", "well-formed"),
    "not XML": (b"hello", "well-formed"),
    "cut off": (envelope(get("x"))[:-9], "well-formed"),
    "not UTF-8": (envelope(get("x")).decode().replace("TEST", "TÄST").encode("latin-1"), "UTF-8"),
    "UTF-16": (envelope(get("x")).decode().encode("utf-16"), "UTF-8"),
    "NUL": (envelope(get("x\0")), "well-formed"),
    "document type": (b"<!DOCTYPE a>" + envelope(get("x")), "Document types"),
    "external entity": (
        b'<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/hostname">]>' + envelope(get("&amp;e;")),
        "Document types",
    ),
    "entity bomb": (BOMB.encode() + envelope(get("x")).replace(b">x<", b">&c;<"), "Document types"),
    "unknown entity": (envelope(get("x")).replace(b">x<", b">&e;<"), "well-formed"),
    "no envelope": (get("x").encode(), "not a SOAP envelope"),
    "SOAP 1.2": (envelope(get("x")).replace(SOAP.encode(), b"http://www.w3.org/2003/05/soap-envelope"), "SOAP 1.1"),
    "no body": (f'<s:Envelope xmlns:s="{SOAP}"></s:Envelope>'.encode(), "Header and a Body"),
    "two bodies": (envelope(get("x") + "</s:Body><s:Body>" + get("x")), "Header and a Body"),
    "body before header": (envelope(get("x") + "</s:Body><s:Header></s:Header><s:Body>"), "Header and a Body"),
    "empty body": (envelope(""), "exactly one"),
    "two requests": (envelope(get("x") + get("x")), "exactly one"),
    "header that must be understood": (
        envelope(get("x"), header='<s:Header><a xmlns="urn:a" s:mustUnderstand="1"/></s:Header>'),
        "does not understand",
    ),
    "another namespace": (envelope(get("x").replace(NS, "urn:other")), "no request element"),
    "an answer": (envelope(get("x").replace("GetCertificateRequest", "GetCertificateResponse")), "no request element"),
    "unknown environment": (envelope(get("x", environment="DEMO")), "Environment"),
    "empty value": (envelope(get("")), "RetrievalId"),
    "value too long": (envelope(get("x" * 33)), "RetrievalId"),
    "missing element": (envelope(get("x").replace("<Environment>TEST</Environment>", "")), "CustomerId"),
    "element too many": (envelope(get("x").replace("</c:", "<More/></c:")), "More"),
    "qualified children": (
        envelope(get("x").replace("<c:Get", "<c:Get").replace("<Env", "<c:Env").replace("</Env", "</c:Env")),
        "Environment",
    ),
    "deep": (envelope("<a>" * 5000 + "</a>" * 5000), "well-formed"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_requests_get_a_fault(stranger: Stranger, case: str) -> None:
    """HTTP 500 and a SOAP fault that says what is wrong, is logged as such, and changes nothing."""
    body, word = MALFORMED[case]
    before = stranger.kept()
    answer = stranger.post(body)
    (line,) = stranger.bench.state.log()
    assert (answer.status, answer.headers["Content-Type"]) == (500, "text/xml; charset=utf-8")
    assert word in answer.fault
    assert "BENCH" in answer.fault
    assert (line.status, stranger.kept()) == ("FAULT", before)


def test_fault_codes_say_whose_mistake_it_is(stranger: Stranger) -> None:
    """SOAP 1.1, section 4.4.1: versions and headers have codes of their own."""
    codes = [
        stranger.post(MALFORMED[case][0]).text("faultcode")
        for case in ("not XML", "SOAP 1.2", "header that must be understood")
    ]
    assert codes == ["soapenv:Client", "soapenv:VersionMismatch", "soapenv:MustUnderstand"]


def test_faults_do_not_repeat_passwords(stranger: Stranger) -> None:
    """A request that is invalid at its password, or elsewhere, does not find it in the answer or in the log."""
    order = stranger.order()
    secret = "a-secret-longer-than-sixteen"
    answers = [
        stranger.call(sign_new(order, csr(stranger.keys[0]), TransferPassword=secret)),
        stranger.call(sign_new(order, csr(stranger.keys[0]), TransferPassword=secret[:10], Environment="?")),
    ]
    seen = (
        b"".join(answer.body for answer in answers)
        + json.dumps([line.as_json() for line in stranger.bench.state.log()]).encode()
    )
    assert [answer.status for answer in answers] == [500, 500]
    assert secret[:10].encode() not in seen


def test_values_are_read_as_the_schema_says(stranger: Stranger) -> None:
    """A normalizedString may be written with line breaks; they count as blanks."""
    order = stranger.bench.state.order("FI 0123")
    accepted = stranger.call(sign_new(order, csr(stranger.keys[0]), CustomerId="FI\n0123"))
    assert accepted.result == "OK"


HTTP_ERRORS = {
    # Request line and headers → status.
    "another path": ("POST / HTTP/1.1\r\nContent-Type: text/xml\r\nContent-Length: 0", 404),
    "get another path": ("GET /etc/passwd HTTP/1.1", 404),
    "get the service": ("GET /2017/10/CertificateServices HTTP/1.1", 405),
    "put the service": ("PUT /2017/10/CertificateServices HTTP/1.1\r\nContent-Length: 0", 405),
    "delete another path": ("DELETE /ca HTTP/1.1", 404),
    "unknown method": ("BREW /2017/10/CertificateServices HTTP/1.1", 501),
    "no length": ("POST {path} HTTP/1.1\r\nContent-Type: text/xml", 411),
    "no number": ("POST {path} HTTP/1.1\r\nContent-Type: text/xml\r\nContent-Length: -1", 400),
    "too large": (f"POST {{path}} HTTP/1.1\r\nContent-Type: text/xml\r\nContent-Length: {MAX_BODY_BYTES + 1}", 413),
    "absurdly large": (f"POST {{path}} HTTP/1.1\r\nContent-Type: text/xml\r\nContent-Length: {'9' * 5000}", 413),
    "SOAP 1.2": ("POST {path} HTTP/1.1\r\nContent-Type: application/soap+xml\r\nContent-Length: 0", 415),
    "a form": ("POST {path} HTTP/1.1\r\nContent-Type: multipart/form-data\r\nContent-Length: 0", 415),
    "no type": ("POST {path} HTTP/1.1\r\nContent-Length: 0", 415),
    "compressed": (
        "POST {path} HTTP/1.1\r\nContent-Type: text/xml\r\nContent-Encoding: gzip\r\nContent-Length: 0",
        415,
    ),
    "both framings": (
        "POST {path} HTTP/1.1\r\nContent-Type: text/xml\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        400,
    ),
    "other coding": ("POST {path} HTTP/1.1\r\nContent-Type: text/xml\r\nTransfer-Encoding: gzip", 501),
    "bad chunk": ("POST {path} HTTP/1.1\r\nContent-Type: text/xml\r\nTransfer-Encoding: chunked\r\n\r\n-5", 400),
    "chunk too large": (
        "POST {path} HTTP/1.1\r\nContent-Type: text/xml\r\nTransfer-Encoding: chunked\r\n\r\nffffff",
        413,
    ),
}


@pytest.mark.parametrize("case", HTTP_ERRORS)
def test_http_mistakes_get_their_status(bench: BenchServer, case: str) -> None:
    """What never becomes a SOAP request is answered by HTTP alone, and the connection ends."""
    head, status = HTTP_ERRORS[case]
    got = raw(bench, f"{head.format(path='/2017/10/CertificateServices')}\r\nHost: localhost\r\n\r\n".encode())
    if case in {"bad chunk", "chunk too large"}:
        got = raw(bench, f"{head.format(path='/2017/10/CertificateServices')}\r\n\r\n".encode())
    assert got.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"varmenne-BENCH" in got
    assert bench.state.log() == []


def test_a_client_that_sends_too_much_hears_why(stranger: Stranger) -> None:
    """The refusal reaches a client that is still sending, and the request is not in the log."""
    answer = stranger.post(envelope(get("x")) + b" " * (3 * MAX_BODY_BYTES))
    assert (answer.status, stranger.bench.state.log()) == (413, [])


def test_a_bench_whose_state_fails_says_so(stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SOAP fault of the server's own, not a connection that ends without a word."""

    def fail(*_arguments: object) -> None:
        raise StateError("broken")

    monkeypatch.setattr(stranger.bench.state.store, "begin_request", fail)
    answer = stranger.call(get("unknown"))
    assert (answer.status, answer.text("faultcode")) == (500, "soapenv:Server")


def test_an_endless_chunked_body_is_cut_off(bench: BenchServer) -> None:
    """The limit holds where no length was announced."""
    head = b"POST /2017/10/CertificateServices HTTP/1.1\r\nContent-Type: text/xml\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    assert raw(bench, head + chunk * 5).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_ends_early_is_no_request(bench: BenchServer) -> None:
    """A client that goes away in the middle of its body leaves no trace."""
    head = b"POST /2017/10/CertificateServices HTTP/1.1\r\nContent-Type: text/xml\r\nContent-Length: 99\r\n\r\n<a>"
    with connected(bench) as tls:
        tls.sendall(head)
    whole = b"GET /2017/10/CertificateServices HTTP/1.1\r\nConnection: close\r\n\r\n"
    assert raw(bench, whole).startswith(b"HTTP/1.1 405 ")
    assert bench.state.log() == []


def test_a_slow_client_stops_nobody_else(stranger: Stranger) -> None:
    """A client that connects and says nothing, in the handshake or after it, is served beside the others."""
    address = _address(stranger.bench)
    with socket.create_connection(address), connected(stranger.bench) as idle:
        idle.sendall(b"POST /2017")
        begun = time.monotonic()
        assert stranger.call(get("unknown")).result == "PKI130"
        assert time.monotonic() - begun < 5


def test_two_requests_may_share_a_connection(bench: BenchServer) -> None:
    """Connections are kept open, as HTTP/1.1 clients expect."""
    body = envelope(get("unknown"))
    head = b"POST /2017/10/CertificateServices HTTP/1.1\r\nContent-Type: text/xml\r\n"
    request = head + b"Content-Length: %d\r\n%s\r\n"
    both = request % (len(body), b"") + body + request % (len(body), b"Connection: close\r\n") + body
    assert raw(bench, both).count(b"HTTP/1.1 200 ") == 2


def test_plain_http_and_old_tls_are_refused(bench: BenchServer) -> None:
    """HTTPS only, TLS 1.2 or later."""
    with socket.create_connection(_address(bench), timeout=10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        got = b""
        with contextlib.suppress(ConnectionResetError):
            got = plain.recv(64)
        assert not got.startswith(b"HTTP")
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(bench.tls_ca)
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(_address(bench), timeout=10) as wire, pytest.raises(ssl.SSLError):
        old.wrap_socket(wire, server_hostname="localhost")


def test_the_interface_is_published(stranger: Stranger) -> None:
    """WSDL with the bench's own address, and the schemas that it imports, without document types."""
    base = stranger.bench.url.rpartition("/")[0]
    wsdl = stranger.fetch(f"{stranger.bench.url}?WSDL")
    schemas = [stranger.fetch(f"{base}/{name}.xsd") for name in ("CertificateServices", "xmldsig-core-schema")]
    assert f'location="{stranger.bench.url}"'.encode() in wsdl.body
    assert [answer.status for answer in (wsdl, *schemas)] == [200, 200, 200]
    assert b"<!DOCTYPE" not in b"".join(answer.body for answer in schemas)


@contextlib.contextmanager
def connected(bench: BenchServer):  # type: ignore[no-untyped-def]  # a generator of an SSLSocket
    """Connect with TLS, by the name localhost."""
    context = ssl.create_default_context(cafile=str(bench.tls_ca))
    with (
        socket.create_connection(_address(bench), timeout=20) as wire,
        context.wrap_socket(wire, server_hostname="localhost") as tls,
    ):
        yield tls


def raw(bench: BenchServer, octets: bytes) -> bytes:
    """Send bytes as they are and read until the bench closes."""
    got = b""
    with connected(bench) as tls:
        with contextlib.suppress(OSError):
            tls.sendall(octets)
        with contextlib.suppress(OSError):
            while part := tls.recv(65536):
                got += part
    return got


def _address(bench: BenchServer) -> tuple[str, int]:
    return "127.0.0.1", int(bench.url.split(":")[2].partition("/")[0])
