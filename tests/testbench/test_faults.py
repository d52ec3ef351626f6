"""Each fault does what the table says, the number of times that was asked, and nothing else."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from datetime import timedelta

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from harness.bench import StartBench
from testbench.proofs import VERIFIERS
from testbench.stranger import CUSTOMER, Answer, Stranger, csr, get, sign_new
from varmenne.errors import InputError
from varmenne.service.interface import Operation
from varmenne.testbench import faults
from varmenne.testbench.faults import FAULTS
from varmenne.testbench.server import BenchServer


def submit(stranger: Stranger, fault: str) -> tuple[Answer | None, bool]:
    """Submit a CSR under a fault. Returns the answer, or None if none came, and whether the order was spent."""
    order = stranger.order()
    stranger.bench.state.fault(fault, operation=Operation.SIGN_NEW)
    try:
        answer = stranger.call(sign_new(order, csr(stranger.keys[0])))
    except requests.RequestException:
        answer = None
    stored = stranger.bench.state.store.find_order(order.transfer_id)
    assert stored is not None
    return answer, stored.used


NOT_PROCESSED = {"http-503": 503, "html-page": 200, "redirect": 302, "drop-unread": None, "temporary-error": 200}


@pytest.mark.parametrize("fault", NOT_PROCESSED)
def test_faults_before_processing_spend_nothing(stranger: Stranger, fault: str) -> None:
    """The client is answered wrongly or not at all, and the same credentials work afterwards."""
    answer, spent = submit(stranger, fault)
    assert (answer and answer.status, spent) == (NOT_PROCESSED[fault], False)
    assert stranger.enroll()


PROCESSED = {"drop-after-receipt": None, "half-answer": None, "http-502-after-receipt": 502, "huge": 200}


@pytest.mark.parametrize("fault", PROCESSED)
def test_faults_after_processing_spend_the_credentials(stranger: Stranger, fault: str) -> None:
    """The request took effect, whatever the client saw; the log says so."""
    answer, spent = submit(stranger, fault)
    (line,) = stranger.bench.state.log()
    assert (answer and answer.status, spent) == (PROCESSED[fault], True)
    assert (line.status, line.fault) == ("OK", fault)


def test_a_huge_answer_is_over_every_clients_limit(stranger: Stranger) -> None:
    """More than 256 KiB."""
    answer, _ = submit(stranger, "huge")
    assert answer
    assert len(answer.body) > 1024 * 1024


def test_a_slow_answer_comes_late(stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client with a short read timeout gives up; a patient one gets the answer."""
    from dataclasses import replace

    slow = replace(FAULTS["slow"], reply=lambda reply: replace(reply, wait_seconds=0.5))
    monkeypatch.setitem(faults.FAULTS, "slow", slow)
    begun = time.monotonic()
    answer, _ = submit(stranger, "slow")
    assert answer
    assert answer.result == "OK"
    assert time.monotonic() - begun > 0.5
    stranger.timeout = 0.1
    assert submit(stranger, "slow")[0] is None


UNTRUSTED = ("tampered", "unsigned", "wrong-signer", "customer-signs", "expired-signer")


@pytest.mark.parametrize("fault", UNTRUSTED)
def test_answers_under_a_fault_of_trust_do_not_verify(stranger: Stranger, fault: str) -> None:
    """Independent verifiers with the services CA as anchor refuse what the fault made."""
    answer, spent = submit(stranger, fault)
    assert answer
    assert (answer.status, answer.text("Result/Status"), spent) == (200, "OK", True)
    with pytest.raises(Exception, match=r".*"):  # each verifier has errors of its own
        assert VERIFIERS["signxml"](answer.document, stranger.bench.trust_dir / "test")


def test_a_revoked_signer_signs_well_and_is_in_the_list(stranger: Stranger) -> None:
    """The signature of `revoked-signer` verifies; only the services CA's list, which lists no other, tells."""
    answer, _ = submit(stranger, "revoked-signer")
    assert answer
    assert VERIFIERS["signxml"](answer.document, stranger.bench.trust_dir / "test")
    text = answer.document.decode().partition("X509Certificate>")[2].partition("<")[0]
    signer = x509.load_der_x509_certificate(base64.b64decode(text))
    port = stranger.bench.state.publication_port()
    with requests.get(f"http://127.0.0.1:{port}/crl/services.crl", timeout=5) as published:
        listed = x509.load_der_x509_crl(published.content)
    assert [entry.serial_number for entry in listed] == [signer.serial_number]


def test_a_customers_signature_is_of_the_same_root(stranger: Stranger) -> None:
    """The trap of `customer-signs`: who trusts the common root believes it."""
    answer, _ = submit(stranger, "customer-signs")
    trust = stranger.bench.trust_dir / "test"
    (trust / "services" / "bench-services.pem").write_bytes((trust / "providers" / "bench-providers.pem").read_bytes())
    assert answer
    assert VERIFIERS["xmlsec1"](answer.document, trust)


def issued_under(stranger: Stranger, fault: str) -> tuple[x509.Certificate, x509.Certificate]:
    """Return the certificate that was really issued, and the one given under a fault, in a genuine answer."""
    accepted = stranger.call(sign_new(stranger.order(), csr(stranger.keys[0])))
    real = stranger.call(get(accepted.text("RetrievalId")))
    stranger.bench.state.fault(fault)
    given = stranger.call(get(accepted.text("RetrievalId")))
    assert VERIFIERS["by hand"](given.document, stranger.bench.trust_dir / "test")
    return x509.load_der_x509_certificate(real.certificate), x509.load_der_x509_certificate(given.certificate)


def test_another_key(stranger: Stranger) -> None:
    """As from the real public test bench: a certificate that does not fit the caller's key."""
    real, given = issued_under(stranger, "another-key")
    assert given.subject == real.subject
    assert given.public_key() != real.public_key()


def test_another_customer(stranger: Stranger) -> None:
    """The right key in a wrong name."""
    real, given = issued_under(stranger, "another-customer")
    assert given.public_key() == real.public_key()
    assert CUSTOMER not in given.subject.rfc4514_string()


def test_wrong_issuer(stranger: Stranger) -> None:
    """The services CA issues no customers' certificates."""
    real, given = issued_under(stranger, "wrong-issuer")
    assert (given.subject, given.public_key()) == (real.subject, real.public_key())
    assert given.issuer == stranger.bench.state.family()["services"].certificate.subject


def test_expired_certificate(stranger: Stranger) -> None:
    """It ended yesterday."""
    _real, given = issued_under(stranger, "expired-certificate")
    age = stranger.bench.state.now() - given.not_valid_after_utc
    assert timedelta(days=1) <= age < timedelta(days=2)


def test_never_ready(stranger: Stranger) -> None:
    """GetCertificate waits until the fault is cleared."""
    accepted = stranger.call(sign_new(stranger.order(), csr(stranger.keys[0])))
    stranger.bench.state.fault("never-ready", count=None)
    waiting = [stranger.call(get(accepted.text("RetrievalId"))).result for _ in range(3)]
    stranger.bench.state.clear_faults()
    assert [*waiting, stranger.call(get(accepted.text("RetrievalId"))).result] == ["PKI132"] * 3 + ["OK"]


def test_every_fault_is_tried_here() -> None:
    """A fault that no test switches on is a promise that nobody keeps."""
    tried = {*NOT_PROCESSED, *PROCESSED, *UNTRUSTED, "slow", "never-ready", "another-key", "another-customer"}
    assert tried | {"wrong-issuer", "expired-certificate", "revoked-signer"} == set(FAULTS)


def test_a_fault_meets_as_many_requests_as_asked(stranger: Stranger) -> None:
    """Two requests, then all is well; the log names the fault."""
    stranger.bench.state.fault("http-503", count=2)
    statuses = [stranger.call(get("unknown")).status for _ in range(3)]
    assert statuses == [503, 503, 200]
    assert [line.fault for line in stranger.bench.state.log()] == ["http-503", "http-503", None]


def test_a_fault_waits_for_its_operation(stranger: Stranger) -> None:
    """Other operations pass it by, and the order in which faults were switched on is kept for each."""
    state = stranger.bench.state
    state.fault("http-503", operation=Operation.SIGN_NEW)
    state.fault("temporary-error", operation=Operation.SIGN_NEW)
    order = stranger.order()
    assert stranger.call(get("unknown")).status == 200
    first, second, third = (stranger.call(sign_new(order, csr(stranger.keys[0]))) for _ in range(3))
    assert (first.status, second.result, third.result) == (503, "PKI001", "OK")


@pytest.mark.parametrize(
    ("name", "count", "operation"),
    [("no-such", 1, None), ("never-ready", 1, Operation.RENEW), ("http-503", 0, None), ("http-503", -1, None)],
)
def test_impossible_faults_are_refused(bench: BenchServer, name: str, count: int, operation: Operation | None) -> None:
    """An unknown name, an operation that does not fit, or no count: nothing is switched on."""
    with pytest.raises(InputError):
        bench.state.fault(name, count=count, operation=operation)
    assert bench.state.store.begin_request(bench.state.now(), Operation.GET, None, None)[1] is None


def test_a_stopped_bench_is_gone_at_once(start_bench: StartBench, keys: Sequence[rsa.RSAPrivateKey]) -> None:
    """Connections that were open do not outlive it, and it can be started again where it was."""
    bench = start_bench()
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(bench.tls_ca)
        assert session.get(f"{bench.url}?wsdl", timeout=10).status_code == 200
        url = bench.url
        bench.stop()
        with pytest.raises(requests.ConnectionError):
            session.get(f"{url}?wsdl", timeout=10)
    bench.start()
    assert bench.url == url
    assert Stranger(bench, keys).call(get("unknown")).result == "PKI130"
