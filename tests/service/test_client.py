"""The client against a real bench over real HTTPS: what is sent, what comes back, and what is known after a failure."""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from harness.signers import SoftwareSigner
from varmenne.clock import system_clock
from varmenne.csr import build_csr
from varmenne.domain.credentials import Credentials
from varmenne.domain.identifiers import CustomerId, CustomerName, Environment, RetrievalId, TransferId
from varmenne.domain.secret import Secret
from varmenne.errors import ConfigError, InputError, OutcomeUncertain, ServiceUnreachable, VerificationError
from varmenne.service.answers import verify_answer
from varmenne.service.certificates import verify_certificate
from varmenne.service.client import ENDPOINTS, CertificateService
from varmenne.service.interface import Operation
from varmenne.service.transport import MAX_BODY_BYTES, RawAnswer
from varmenne.service.trust import load_trust
from varmenne.settings import ServiceSettings
from varmenne.testbench.server import BenchServer
from varmenne.testbench.signing import SignatureForm

CUSTOMER = CustomerId("0123456-7")
NAME = CustomerName("Åkerlund & Öljy <Oy>")


def settings_for(bench: BenchServer) -> ServiceSettings:
    """Return settings for a bench."""
    return ServiceSettings(
        endpoint=bench.url, ca_file=str(bench.tls_ca), read_timeout_seconds=5, connect_timeout_seconds=2
    )


def client_of(bench: BenchServer) -> CertificateService:
    """Return a client for a bench."""
    return CertificateService(Environment.TEST, settings_for(bench))


def ordered(bench: BenchServer) -> Credentials:
    """Order a certificate at a bench."""
    order = bench.state.order(CUSTOMER, name=NAME)
    return Credentials(TransferId(order.transfer_id), Secret(order.one_time_password))


@pytest.mark.parametrize("form", list(SignatureForm))
def test_certificate_is_got_and_proven(
    start_bench: Callable[..., BenchServer], signer: SoftwareSigner, form: SignatureForm
) -> None:
    """The whole conversation works in both forms of signature, and everything in it verifies."""
    bench = start_bench(signature_form=form)
    trust = load_trust(bench.trust_dir / "test", Environment.TEST, system_clock())
    with client_of(bench) as client:
        raw = client.sign_new_certificate(CUSTOMER, NAME, ordered(bench), build_csr(signer, CUSTOMER, NAME))
        accepted = verify_answer(raw.body, Operation.SIGN_NEW, trust.services, system_clock())
        assert accepted.ok
        assert accepted.retrieval_id is not None
        raw = client.get_certificate(CUSTOMER, NAME, RetrievalId(accepted.retrieval_id))
    answer = verify_answer(raw.body, Operation.GET, trust.services, system_clock())
    assert answer.certificate is not None
    issued = verify_certificate(
        answer.certificate, public_key=signer.public_key, customer=CUSTOMER, trust=trust, at=system_clock()
    )
    assert issued.warnings == ()
    assert len(issued.chain) == 2
    assert (issued.not_after - issued.not_before).days in {730, 731}


def test_refusal_is_proven_too(bench: BenchServer, signer: SoftwareSigner) -> None:
    """A FAIL is signed like any answer; its codes and messages come as they were."""
    trust = load_trust(bench.trust_dir / "test", Environment.TEST, system_clock())
    wrong = Credentials(TransferId("0000"), Secret("nonsense"))
    with client_of(bench) as client:
        raw = client.sign_new_certificate(CUSTOMER, None, wrong, build_csr(signer, CUSTOMER, None))
    answer = verify_answer(raw.body, Operation.SIGN_NEW, trust.services, system_clock())
    assert not answer.ok
    assert answer.retrieval_id is None
    assert [code[:3] for code, _message in answer.errors] == ["PKI"]


def test_providers_ca_does_not_sign_answers(bench: BenchServer, signer: SoftwareSigner) -> None:
    """The two issuing CAs of the family are not interchangeable, and neither stands for the other."""
    trust = load_trust(bench.trust_dir / "test", Environment.TEST, system_clock())
    with client_of(bench) as client:
        raw = client.sign_new_certificate(CUSTOMER, NAME, ordered(bench), build_csr(signer, CUSTOMER, NAME))
    with pytest.raises(VerificationError) as caught:
        verify_answer(raw.body, Operation.SIGN_NEW, trust.providers, system_clock())
    assert caught.value.check == "chain"


def test_longest_values_fit_and_longer_ones_are_not_sent(bench: BenchServer, signer: SoftwareSigner) -> None:
    """The schema's limits hold before anything is sent, and the message does not quote the password."""
    csr = build_csr(signer, CUSTOMER, NAME)
    with client_of(bench) as client:
        client.sign_new_certificate(
            CustomerId("c" * 30), CustomerName("n" * 100), Credentials(TransferId("t" * 32), Secret("p" * 16)), csr
        )
        before = len(bench.state.log())
        with pytest.raises(InputError) as caught:
            client.sign_new_certificate(CUSTOMER, NAME, Credentials(TransferId("t"), Secret("s3cret" * 3)), csr)
    assert len(bench.state.log()) == before == 1
    assert "s3cret" not in str(caught.value) + repr(caught.value.__context__)


def test_nobody_listens(bench: BenchServer, signer: SoftwareSigner) -> None:
    """A refused connection is known to have sent nothing."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{unused.getsockname()[1]}/2017/10/CertificateServices"
        settings = msgspec.structs.replace(settings_for(bench), endpoint=url)
        with CertificateService(Environment.TEST, settings) as client, pytest.raises(ServiceUnreachable) as caught:
            client.sign_new_certificate(CUSTOMER, NAME, ordered(bench), build_csr(signer, CUSTOMER, NAME))
    assert "refused" in caught.value.why


def test_tls_of_a_stranger(bench: BenchServer, tmp_path: Path, signer: SoftwareSigner) -> None:
    """A TLS certificate that our CA file does not vouch for ends the handshake before anything is sent."""
    other = tmp_path / "other.pem"
    other.write_bytes(next((bench.trust_dir / "test" / "chain").glob("*.pem")).read_bytes())
    settings = msgspec.structs.replace(settings_for(bench), ca_file=str(other))
    with CertificateService(Environment.TEST, settings) as client, pytest.raises(ServiceUnreachable) as caught:
        client.sign_new_certificate(CUSTOMER, NAME, ordered(bench), build_csr(signer, CUSTOMER, NAME))
    assert "TLS certificate was refused" in caught.value.why
    assert bench.state.log() == []


@contextmanager
def tls_server(bench: BenchServer, behave: Callable[[ssl.SSLSocket], object], host: str = "127.0.0.1") -> Iterator[str]:
    """Run a TLS server with the bench's certificate that treats one connection as it is told."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    folder = bench.state.directory / "tls"
    context.load_cert_chain(*_tls_files(folder))
    listener = socket.create_server((host, 0))

    def serve() -> None:
        connection, _address = listener.accept()
        with contextlib.suppress(ssl.SSLError):  # The client may end the handshake.
            connection = context.wrap_socket(connection, server_side=True)
        with connection:
            if isinstance(connection, ssl.SSLSocket):
                behave(connection)

    listener.settimeout(10)
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"https://{host}:{listener.getsockname()[1]}/2017/10/CertificateServices"
    finally:
        thread.join(10)
        listener.close()


def test_tls_of_another_name(bench: BenchServer, signer: SoftwareSigner) -> None:
    """A certificate that our CA file vouches for, and that is for another name, ends it before anything is sent."""
    came: list[bytes] = []

    def listen(connection: ssl.SSLSocket) -> None:
        with contextlib.suppress(OSError):
            came.append(connection.recv(65536))

    with tls_server(bench, listen, host="127.0.0.2") as url:
        settings = msgspec.structs.replace(settings_for(bench), endpoint=url)
        with CertificateService(Environment.TEST, settings) as client, pytest.raises(ServiceUnreachable) as caught:
            client.sign_new_certificate(CUSTOMER, NAME, ordered(bench), build_csr(signer, CUSTOMER, NAME))
    assert "127.0.0.2" in caught.value.why
    assert b"".join(came) == b""


def _tls_files(folder: Path) -> tuple[Path, Path]:
    """Find the certificate and the key of the bench's TLS server."""
    (key,) = [path for path in folder.glob("*.key.pem") if "ca" not in path.name]
    (certificate,) = [path for path in folder.glob("*.pem") if "key" not in path.name and "ca" not in path.name]
    return certificate, key


def _read_request(connection: ssl.SSLSocket) -> bytes:
    """Read a request to its end."""
    data = b""
    while b"</soap-env:Envelope>" not in data:
        data += connection.recv(65536)
    return data


BEHAVIOURS: dict[str, Callable[[ssl.SSLSocket], object]] = {
    "cut after the request": lambda connection: _read_request(connection) and None,
    "no body": lambda connection: (
        _read_request(connection) and connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n")
    ),
    "half a status": lambda connection: _read_request(connection) and connection.send(b"HTTP/1.1 2"),
    "silence": lambda connection: _read_request(connection) and threading.Event().wait(3) and None,
    "garbage": lambda connection: _read_request(connection) and connection.send(b"SSH-2.0-nonsense\r\n"),
}


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_lost_answer_is_uncertain(bench: BenchServer, signer: SoftwareSigner, name: str) -> None:
    """After the request was handed over, any failure of the connection leaves its fate uncertain."""
    with tls_server(bench, BEHAVIOURS[name]) as url:
        settings = msgspec.structs.replace(settings_for(bench), endpoint=url, read_timeout_seconds=1)
        with CertificateService(Environment.TEST, settings) as client, pytest.raises(OutcomeUncertain) as caught:
            client.sign_new_certificate(CUSTOMER, NAME, ordered(bench), build_csr(signer, CUSTOMER, NAME))
    sent = caught.value.facts["bytes_sent"]
    assert isinstance(sent, int)
    assert sent > 1000


def ask(bench: BenchServer, behave: Callable[[ssl.SSLSocket], object]) -> RawAnswer:
    """Ask a server that behaves as it is told, with a read timeout of a second."""
    with tls_server(bench, behave) as url:
        settings = msgspec.structs.replace(settings_for(bench), endpoint=url, read_timeout_seconds=1)
        with CertificateService(Environment.TEST, settings) as client:
            return client.get_certificate(CUSTOMER, NAME, RetrievalId("1"))


def refused_by(raw: RawAnswer) -> str:
    """Return the check that refuses an answer."""
    with pytest.raises(VerificationError) as caught:
        verify_answer(raw.body, Operation.GET, (), system_clock())
    return caught.value.check


@pytest.mark.parametrize(
    ("head", "sent", "came"),
    [
        (b"Content-Length: 999\r\n", b"<half", b"<half"),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\n<half\r\n99\r\n<oth", b"<half<oth"),
        (b"Content-Encoding: gzip\r\n", gzip.compress(b"<half", mtime=0)[:-8], b"<half"),
        (b"Content-Encoding: gzip\r\nContent-Length: 999\r\n", gzip.compress(b"<half", mtime=0), b"<half"),
    ],
)
def test_what_came_of_an_answer_is_kept(bench: BenchServer, head: bytes, sent: bytes, came: bytes) -> None:
    """A connection that breaks half-way loses nothing of what came before, and it is told that there was more."""
    raw = ask(bench, _answering(head, sent))
    assert (raw.status, raw.body) == (200, came)
    assert "cut off" in raw.problem


def test_an_answer_that_drips_comes_to_an_end(bench: BenchServer) -> None:
    """No silence is too long, but all of it is: what came by then is kept."""

    def drip(connection: ssl.SSLSocket) -> None:
        _read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(30):
                connection.sendall(b"<")
                time.sleep(0.3)

    begun = time.monotonic()
    raw = ask(bench, drip)
    assert time.monotonic() - begun < 4
    assert raw.problem == "too slow"
    assert raw.body.startswith(b"<<<")


def test_a_head_that_drips_comes_to_an_end(bench: BenchServer) -> None:
    """Also before there is a status, the whole time is limited; then nothing of an answer came."""

    def drip(connection: ssl.SSLSocket) -> None:
        _read_request(connection)
        with contextlib.suppress(OSError):
            for octet in b"HTTP/1.1 200 OK\r\nX-Filler: and so on, and on\r\n":
                connection.sendall(bytes([octet]))
                time.sleep(0.3)

    begun = time.monotonic()
    with pytest.raises(OutcomeUncertain, match="after the request"):
        ask(bench, drip)
    assert time.monotonic() - begun < 4


def test_huge_answer_is_refused(bench: BenchServer) -> None:
    """An answer over the limit is not read to its end; its beginning is kept, and refused for its size."""

    def flood(connection: ssl.SSLSocket) -> None:
        _read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\n\r\n")
        try:
            for _ in range(1000):
                connection.sendall(b"x" * 65536)
        except OSError:
            return
        raise AssertionError("the client read 65 MB")

    raw = ask(bench, flood)
    assert raw.body == b"x" * (MAX_BODY_BYTES + 1)
    assert raw.problem == f"larger than {MAX_BODY_BYTES} bytes"
    assert refused_by(raw) == "size"


def test_redirect_is_not_followed(bench: BenchServer, signer: SoftwareSigner) -> None:
    """A redirect is an answer like any other, and an unproven one."""

    def redirect(connection: ssl.SSLSocket) -> None:
        _read_request(connection)
        connection.sendall(
            b"HTTP/1.1 307 Temporary Redirect\r\nLocation: " + bench.url.encode() + b"\r\nContent-Length: 0\r\n\r\n"
        )

    with tls_server(bench, redirect) as url:
        settings = msgspec.structs.replace(settings_for(bench), endpoint=url)
        with CertificateService(Environment.TEST, settings) as client:
            raw = client.sign_new_certificate(CUSTOMER, NAME, ordered(bench), build_csr(signer, CUSTOMER, NAME))
    assert raw.status == 307
    assert bench.state.log() == []


def test_environment_variables_change_nothing(
    bench: BenchServer, signer: SoftwareSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No proxy and no other tool's CA bundle gets between us and the service."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent")
    with client_of(bench) as client:
        raw = client.sign_new_certificate(CUSTOMER, NAME, ordered(bench), build_csr(signer, CUSTOMER, NAME))
    assert raw.status == 200


def test_environments_are_kept_apart(bench: BenchServer) -> None:
    """The other environment's endpoint is refused, and so is one without TLS."""
    wrong = msgspec.structs.replace(settings_for(bench), endpoint=ENDPOINTS[Environment.PRODUCTION])
    with pytest.raises(InputError, match="not the one of the test environment"):
        CertificateService(Environment.TEST, wrong)
    plain = msgspec.structs.replace(wrong, endpoint="http://127.0.0.1/")
    with pytest.raises(InputError, match="not an https"):
        CertificateService(Environment.TEST, plain)


def test_missing_ca_file(bench: BenchServer) -> None:
    """A CA file that is not there is the operator's mistake, and named."""
    settings = msgspec.structs.replace(settings_for(bench), ca_file="/nonexistent/ca.pem")
    with (
        CertificateService(Environment.TEST, settings) as client,
        pytest.raises(ConfigError, match=r"/nonexistent/ca\.pem"),
    ):
        client.get_certificate(CUSTOMER, NAME, RetrievalId("1"))


def test_greeting_spends_nothing(bench: BenchServer) -> None:
    """The check-up shakes hands, reads the clock, and calls no operation."""
    with client_of(bench) as client:
        greeting = client.endpoint.greet()
    assert greeting.tls_version in {"TLSv1.2", "TLSv1.3"}
    assert greeting.date.endswith("GMT")
    assert bench.state.log() == []


def _answering(head: bytes, body: bytes) -> Callable[[ssl.SSLSocket], object]:
    """Return a behaviour: read the request, then answer with these bytes."""
    return lambda connection: (
        _read_request(connection) and connection.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + body)
    )


def _chunked(body: bytes) -> bytes:
    """Cut a body into chunks of three bytes, as HTTP's chunked coding has it."""
    parts = [body[i : i + 3] for i in range(0, len(body), 3)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (b"Transfer-Encoding: chunked\r\n", _chunked),
        (b"Content-Encoding: gzip\r\n", gzip.compress),
        (b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", lambda body: _chunked(gzip.compress(body))),
        (b"", bytes),
    ],
)
def test_body_comes_as_it_was_sent(bench: BenchServer, head: bytes, code: Callable[[bytes], bytes]) -> None:
    """Chunked, compressed, both or neither: the same bytes are verified in the end."""
    with tls_server(bench, _answering(head, code(b"<body/>" * 100))) as url:
        settings = msgspec.structs.replace(settings_for(bench), endpoint=url)
        with CertificateService(Environment.TEST, settings) as client:
            raw = client.get_certificate(CUSTOMER, NAME, RetrievalId("1"))
    assert raw.body == b"<body/>" * 100


@pytest.mark.parametrize(
    ("coding", "body", "problem", "check"),
    [
        (b"gzip", gzip.compress(bytes(50_000_000)), "larger than", "size"),
        (b"gzip, gzip", gzip.compress(gzip.compress(bytes(50_000_000))), "not asked for", "encoding"),
        (b"br", b"\x8b\x02", "not asked for", "encoding"),
        (b"gzip", b"nonsense", "compression is broken", "xml"),
    ],
)
def test_compression_is_no_way_around_the_limit(
    bench: BenchServer, coding: bytes, body: bytes, problem: str, check: str
) -> None:
    """A bomb is cut after the first bytes over the limit; what was not asked for is not inflated at all."""
    raw = ask(bench, _answering(b"Content-Encoding: " + coding + b"\r\n", body))
    assert problem in raw.problem
    assert len(raw.body) <= MAX_BODY_BYTES + 1
    assert refused_by(raw) == check
