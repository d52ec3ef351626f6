"""The renewal request on the wire: sent unchanged, verified by strangers, taken or refused by the bench with proof."""

from __future__ import annotations

import base64
import socket
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from harness.relay import Relay, relay
from harness.renewals import CUSTOMER, NAME, Keys, by_hand, made, self_made
from testbench.stranger import kept
from varmenne.clock import system_clock
from varmenne.csr import build_csr
from varmenne.domain.credentials import Credentials
from varmenne.domain.identifiers import CustomerId, CustomerName, Environment, RetrievalId, TransferId
from varmenne.domain.keys import Signer
from varmenne.domain.secret import Secret
from varmenne.errors import OutcomeUncertain, ServiceUnreachable, VerificationError
from varmenne.service.answers import Answer, verify_answer
from varmenne.service.certificates import verify_certificate
from varmenne.service.client import CertificateService
from varmenne.service.interface import Operation
from varmenne.service.renewal import Renewal, verify_renewal
from varmenne.service.trust import load_trust
from varmenne.settings import ServiceSettings
from varmenne.testbench.envelope import Message, read_request
from varmenne.testbench.server import BenchServer
from varmenne.testbench.signing import SignatureForm

CSR_BYTES = 10_240
OTHER = CustomerId("7654321-0")
NAMES = [NAME, CustomerName("\"'>]]>&amp;<!-- <?x?>"), CustomerName("株式会社 😀"), CustomerName("Ö" * 100)]


@pytest.fixture
def relayed(bench: BenchServer) -> Iterator[Relay]:
    """A relay before the bench."""
    with relay(bench) as running:
        yield running


def client_of(bench: BenchServer, url: str = "") -> CertificateService:
    """Return a client of a bench, or of a relay before it."""
    return CertificateService(
        Environment.TEST, ServiceSettings(endpoint=url or bench.url, ca_file=str(bench.tls_ca), read_timeout_seconds=5)
    )


def verified(bench: BenchServer, body: bytes, operation: Operation = Operation.RENEW) -> Answer:
    """Verify an answer by the bench's clock."""
    trust = load_trust(bench.trust_dir / "test", Environment.TEST, system_clock())
    return verify_answer(body, operation, trust.services, bench.state.now())


def fetched(bench: BenchServer, client: CertificateService, answer: Answer, customer: CustomerId = CUSTOMER) -> bytes:
    """Fetch the certificate that an answer gives a RetrievalId for."""
    assert answer.retrieval_id is not None
    raw = client.get_certificate(customer, None, RetrievalId(answer.retrieval_id))
    certificate = verified(bench, raw.body, Operation.GET).certificate
    assert certificate is not None
    return certificate


def enrolled(
    bench: BenchServer, signer: Signer, customer: CustomerId = CUSTOMER, left: timedelta = timedelta(days=59)
) -> bytes:
    """Get a first certificate, and move the bench's clock to a time before its end."""
    order = bench.state.order(customer, name=NAME)
    credentials = Credentials(TransferId(order.transfer_id), Secret(order.one_time_password))
    with client_of(bench) as client:
        raw = client.sign_new_certificate(customer, NAME, credentials, build_csr(signer, customer, NAME))
        certificate = fetched(bench, client, verified(bench, raw.body, Operation.SIGN_NEW), customer)
    bench.state.set_clock(x509.load_der_x509_certificate(certificate).not_valid_after_utc - left)
    return certificate


def with_xmlsec1(document: bytes, bench: BenchServer) -> None:
    """Verify with xmlsec1; its anchor is the bench's root, and the authorities below are beside it."""
    trust = bench.trust_dir / "test"
    request = bench.trust_dir / "request.xml"
    request.write_bytes(document)
    command: list[str | Path] = ["xmlsec1", "--verify", "--trusted-pem", trust / "chain" / "bench-root.pem"]
    for path in (trust / "chain" / "bench-intermediate.pem", trust / "providers" / "bench-providers.pem"):
        command += ["--untrusted-pem", path]
    subprocess.run([*command, request], capture_output=True, timeout=30, check=True)


def as_received(posted: bytes) -> bytes:
    """Cut the message out of a posted envelope as the bench does, which is what any receiver has to do."""
    message = read_request(posted)
    assert isinstance(message, Message)
    document: bytes = etree.tostring(message.root, encoding="UTF-8")
    return document


@pytest.mark.parametrize("name", [None, *NAMES])
def test_strangers_verify_the_document_and_what_was_posted(
    keys: Keys, bench: BenchServer, relayed: Relay, name: CustomerName | None
) -> None:
    """A signature of the token holds for other tools, before the request is sent and cut out of what was sent."""
    document = made(keys.old, enrolled(bench, keys.old), build_csr(keys.new, CUSTOMER, name), name=name)
    with client_of(bench, relayed.url) as client:
        answer = verified(bench, client.renew_certificate(document).body)
    assert answer.ok
    (posted,) = relayed.bodies
    _before, body, after = posted.partition(b"<soap-env:Body>")
    assert body + after == b"<soap-env:Body>" + document + b"</soap-env:Body></soap-env:Envelope>"
    for proof in (document, as_received(posted)):
        by_hand(proof)
        with_xmlsec1(proof, bench)


def test_strangers_can_refuse(keys: Keys, bench: BenchServer) -> None:
    """A proof by tools that accept everything would be none."""
    document = made(keys.old, enrolled(bench, keys.old), b"csr").replace(b"0123456-7", b"0123456-8")
    with pytest.raises(AssertionError):
        by_hand(document)
    with pytest.raises(subprocess.CalledProcessError):
        with_xmlsec1(document, bench)


@pytest.mark.parametrize("form", list(SignatureForm))
def test_a_certificate_is_renewed(start_bench: Callable[..., BenchServer], keys: Keys, form: SignatureForm) -> None:
    """The whole conversation: the old key signs, the answer is proven, the new certificate is for the new key."""
    bench = start_bench(signature_form=form)
    certificate = enrolled(bench, keys.old)
    document = made(keys.old, certificate, build_csr(keys.new, CUSTOMER, NAME))
    with client_of(bench) as client:
        answer = verified(bench, client.renew_certificate(document).body)
        renewed = fetched(bench, client, answer)
    now = bench.state.now()
    issued = verify_certificate(
        renewed,
        public_key=keys.new.public_key,
        customer=CUSTOMER,
        trust=load_trust(bench.trust_dir / "test", Environment.TEST, system_clock()),
        at=now,
        older_serials={x509.load_der_x509_certificate(certificate).serial_number},
    )
    assert (answer.operation, answer.ok, answer.errors, issued.warnings) == (Operation.RENEW, True, (), ())
    assert issued.not_after > now + timedelta(days=700)


def test_the_action_is_named(keys: Keys, bench: BenchServer, relayed: Relay) -> None:
    """SOAP 1.1 wants the action in a header, in quotation marks."""
    with client_of(bench, relayed.url) as client:
        client.renew_certificate(made(keys.old, self_made(keys.old), b"csr"))
    assert relayed.actions == ['"renewCertificate"']


def test_an_answer_to_another_operation_is_no_answer(keys: Keys, bench: BenchServer) -> None:
    """What answers a renewal answers nothing else, though both carry a RetrievalId."""
    document = made(keys.old, enrolled(bench, keys.old), build_csr(keys.new, CUSTOMER, NAME))
    with client_of(bench) as client:
        raw = client.renew_certificate(document)
    with pytest.raises(VerificationError) as caught:
        verified(bench, raw.body, Operation.SIGN_NEW)
    assert caught.value.check == "operation"


def _too_early(bench: BenchServer, keys: Keys, _relayed: Relay) -> bytes:
    certificate = enrolled(bench, keys.old, left=timedelta(days=60, minutes=1))
    return made(keys.old, certificate, build_csr(keys.new, CUSTOMER, NAME))


def _expired(bench: BenchServer, keys: Keys, _relayed: Relay) -> bytes:
    certificate = enrolled(bench, keys.old, left=-timedelta(seconds=5))
    return made(keys.old, certificate, build_csr(keys.new, CUSTOMER, NAME))


def _of_another_customer(bench: BenchServer, keys: Keys, _relayed: Relay) -> bytes:
    certificate = enrolled(bench, keys.strange, OTHER)
    return made(keys.strange, certificate, build_csr(keys.new, CUSTOMER, NAME))


def _of_no_authority(bench: BenchServer, keys: Keys, _relayed: Relay) -> bytes:
    enrolled(bench, keys.old)
    return made(keys.strange, self_made(keys.strange), build_csr(keys.new, CUSTOMER, NAME))


def _signed_by_another_key(bench: BenchServer, keys: Keys, relayed: Relay) -> bytes:
    genuine, strange = enrolled(bench, keys.old), self_made(keys.strange)
    lines = [x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in (strange, genuine)]
    before, after = (b"".join(pem.splitlines(keepends=True)[1:-1]) for pem in lines)
    relayed.change = lambda body: body.replace(before, after)
    return made(keys.strange, strange, build_csr(keys.new, CUSTOMER, NAME))


def _changed_on_the_way(bench: BenchServer, keys: Keys, relayed: Relay) -> bytes:
    csr = build_csr(keys.new, CUSTOMER, NAME)
    other = base64.b64encode(build_csr(keys.strange, CUSTOMER, NAME))
    relayed.change = lambda body: body.replace(base64.b64encode(csr), other)
    return made(keys.old, enrolled(bench, keys.old), csr)


def _written_anew(bench: BenchServer, keys: Keys, relayed: Relay) -> bytes:
    relayed.change = lambda body: body.replace(b"<ns0:", b"<n:").replace(b"</ns0:", b"</n:").replace(b":ns0=", b":n=")
    return made(keys.old, enrolled(bench, keys.old), build_csr(keys.new, CUSTOMER, NAME))


def _for_the_same_key(bench: BenchServer, keys: Keys, _relayed: Relay) -> bytes:
    return made(keys.old, enrolled(bench, keys.old), build_csr(keys.old, CUSTOMER, NAME))


REFUSED: dict[str, tuple[Callable[[BenchServer, Keys, Relay], bytes], str]] = {
    "too early": (_too_early, "PKI145"),
    "expired": (_expired, "PKI143"),
    "another customer's certificate": (_of_another_customer, "PKI144"),
    "nobody's certificate": (_of_no_authority, "PKI142"),
    "the certificate shown is not the signer's": (_signed_by_another_key, "PKI141"),
    "another CSR was put in on the way": (_changed_on_the_way, "PKI141"),
    "a prefix was rewritten on the way": (_written_anew, "PKI141"),
    "the same key again": (_for_the_same_key, "PKI124"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_refused_with_proof(bench: BenchServer, keys: Keys, relayed: Relay, case: str) -> None:
    """A refusal of a renewal is signed like any answer, names its reason, and nothing was issued."""
    make, code = REFUSED[case]
    document = make(bench, keys, relayed)
    before = kept(bench.state.directory)
    with client_of(bench, relayed.url) as client:
        answer = verified(bench, client.renew_certificate(document).body)
    assert (answer.ok, answer.retrieval_id, [error for error, _text in answer.errors]) == (False, None, [code])
    assert relayed.bodies[0].count(document) == 1
    assert kept(bench.state.directory) == before


def test_a_lost_answer_is_uncertain(bench: BenchServer, keys: Keys) -> None:
    """The bench took the request and hung up: it may have been received, and so it was."""
    document = made(keys.old, enrolled(bench, keys.old), build_csr(keys.new, CUSTOMER, NAME))
    bench.state.fault("drop-after-receipt", operation=Operation.RENEW)
    before = kept(bench.state.directory)
    with client_of(bench) as client, pytest.raises(OutcomeUncertain) as caught:
        client.renew_certificate(document)
    sent = caught.value.facts["bytes_sent"]
    assert isinstance(sent, int)
    assert sent > len(document)
    assert kept(bench.state.directory) != before


def test_nobody_listens(bench: BenchServer, keys: Keys) -> None:
    """A refused connection is known to have sent nothing."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with (
            client_of(bench, f"https://127.0.0.1:{unused.getsockname()[1]}/") as client,
            pytest.raises(ServiceUnreachable, match="could not be reached"),
        ):
            client.renew_certificate(made(keys.old, self_made(keys.old), b"csr"))


def valid_text(longest: int) -> st.SearchStrategy[str]:
    """Texts that varmenne takes as a customer's ID or name."""
    return st.text(
        st.characters(codec="utf-8").filter(str.isprintable), min_size=1, max_size=longest
    ).filter(lambda text: text == text.strip())  # fmt: skip


VALUES = st.fixed_dictionaries(
    {
        "customer": valid_text(30).map(CustomerId),
        "name": st.none() | valid_text(100).map(CustomerName),
        "csr": st.binary(min_size=1, max_size=200) | st.integers(1, CSR_BYTES).map(bytes),
    }
)


@settings(max_examples=40, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=VALUES)
def test_any_values_are_signed_proven_and_sent_unchanged(keys: Keys, relayed: Relay, values: dict[str, Any]) -> None:
    """Whatever the values, the document verifies, says just them, and is on the wire as it was verified."""
    certificate = self_made(keys.old)
    document = made(keys.old, certificate, **values)
    assert verify_renewal(document, certificate) == Renewal(Environment.TEST, **values)
    by_hand(document)
    with client_of(relayed.bench, relayed.url) as client:
        raw = client.renew_certificate(document)
    head, _, tail = relayed.bodies[-1].partition(document)
    assert (head.count(b"<"), tail.count(b"<")) == (2, 2)
    assert [error for error, _text in verified(relayed.bench, raw.body).errors] == ["PKI142"]
