"""Clients that know nothing of varmenne enroll at the bench, and believe its answers."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import requests
import zeep
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from lxml import etree

from harness.bench import StartBench
from testbench.proofs import VERIFIERS
from testbench.stranger import CUSTOMER, NAME, NS, SOAP, Answer, Stranger, csr, envelope, get, sign_new
from varmenne.testbench.server import BenchServer
from varmenne.testbench.signing import SignatureForm


def test_zeep_enrolls_straight_from_the_published_wsdl(bench: BenchServer, keys: Sequence[rsa.RSAPrivateKey]) -> None:
    """A WSDL-driven client needs the URL and the TLS CA, nothing else."""
    order = bench.state.order(CUSTOMER, name=NAME)
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(bench.tls_ca)
        transport = zeep.Transport(session=session)  # type: ignore[no-untyped-call]  # zeep ships no types
        service = zeep.Client(f"{bench.url}?wsdl", transport=transport).service  # type: ignore[no-untyped-call]
        accepted = service.signNewCertificate(
            Environment="TEST",
            CustomerId=CUSTOMER,
            CustomerName=NAME,
            TransferId=order.transfer_id,
            TransferPassword=order.one_time_password,
            CertificateRequest=csr(keys[0]),
        )
        issued = service.getCertificate(Environment="TEST", CustomerId=CUSTOMER, RetrievalId=accepted.RetrievalId)
    certificate = x509.load_der_x509_certificate(issued.Certificate)
    assert (accepted.Result.Status, issued.Result.Status) == ("OK", "OK")
    assert certificate.public_key() == keys[0].public_key()


PAYLOAD = (
    "<{p}SignNewCertificateRequest {x}>\n  <Environment>TEST</Environment>\n  <CustomerId>{customer}</CustomerId>\n"
    "  <CustomerName>Ab PKI &amp; Company</CustomerName>\n  <TransferId>{transfer}</TransferId>\n"
    "  <TransferPassword>{password}</TransferPassword>\n  <CertificateRequest>\n{csr}\n  </CertificateRequest>\n"
    "</{p}SignNewCertificateRequest>"
)
FORMS = {
    # How envelopes of public clients differ: (envelope, prefix and declaration of the payload).
    "soapenv with an empty header": (
        '<v:Envelope xmlns:v="{soap}" xmlns:c="{ns}"><v:Header/><v:Body>{payload}</v:Body></v:Envelope>',
        "c:",
        "",
    ),
    "no header": ('<S:Envelope xmlns:S="{soap}"><S:Body>{payload}</S:Body></S:Envelope>', "ns2:", 'xmlns:ns2="{ns}"'),
    "default namespace": (
        '<Envelope xmlns="{soap}"><Header></Header><Body>{payload}</Body></Envelope>',
        "v:",
        'xmlns:v="{ns}" xmlns=""',
    ),
    "declaration, byte order mark and comments": (
        '\ufeff<?xml version="1.0"?><e:Envelope xmlns:e="{soap}"><!-- a --><e:Body>{payload}</e:Body></e:Envelope>',
        "n:",
        'xmlns:n="{ns}"',
    ),
}
ACTIONS = {
    "quoted": ['-HSOAPAction: "signNewCertificate"'],
    "unquoted": ["-HSOAPAction: signNewCertificate"],
    "empty": ['-HSOAPAction: ""'],
    "another": ["-HSOAPAction: getCertificate"],
    "absent": [],
}


def curl(bench: BenchServer, body: bytes, folder: Path, *options: str) -> Answer:
    """Post a body with curl."""
    (folder / "body.xml").write_bytes(body)
    arguments = ["curl", "-sS", "--cacert", str(bench.tls_ca), "--noproxy", "*", "-w", "\n%{http_code}", *options]
    done = subprocess.run(
        [*arguments, "-HContent-Type: text/xml;charset=UTF-8", "--data-binary", f"@{folder / 'body.xml'}", bench.url],
        capture_output=True,
        timeout=30,
        check=True,
    )
    answered, _, status = done.stdout.rpartition(b"\n")
    return Answer(int(status), answered, {})


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_curl_enrolls_with_hand_made_xml(
    bench: BenchServer, keys: Sequence[rsa.RSAPrivateKey], tmp_path: Path, form: str, action: str
) -> None:
    """Envelope, prefixes and SOAPAction are the client's choice; the element in the Body tells the operation."""
    order = bench.state.order(CUSTOMER)
    whole, prefix, declaration = FORMS[form]
    payload = PAYLOAD.format(
        p=prefix,
        x=declaration.format(ns=NS),
        customer=CUSTOMER,
        transfer=order.transfer_id,
        password=order.one_time_password,
        csr=_wrapped(csr(keys[0])),
    )
    accepted = curl(bench, whole.format(soap=SOAP, ns=NS, payload=payload).encode(), tmp_path, *ACTIONS[action])
    issued = curl(bench, envelope(get(accepted.text("RetrievalId"))), tmp_path)
    assert (accepted.status, accepted.result, issued.result) == (200, "OK", "OK")
    assert x509.load_der_x509_certificate(issued.certificate).public_key() == keys[0].public_key()


def test_curl_enrolls_with_a_chunked_body(
    bench: BenchServer, keys: Sequence[rsa.RSAPrivateKey], tmp_path: Path
) -> None:
    """A client that streams its request does not know its length."""
    body = envelope(sign_new(bench.state.order(CUSTOMER), csr(keys[0])))
    assert curl(bench, body, tmp_path, "-HTransfer-Encoding: chunked").result == "OK"


def test_curl_enrolls_over_http_1_0(bench: BenchServer, keys: Sequence[rsa.RSAPrivateKey], tmp_path: Path) -> None:
    """An old client ends its connection after one request."""
    body = envelope(sign_new(bench.state.order(CUSTOMER), csr(keys[0])))
    assert curl(bench, body, tmp_path, "--http1.0").result == "OK"


@pytest.mark.parametrize("verifier", VERIFIERS)
@pytest.mark.parametrize("form", SignatureForm)
def test_answers_verify_as_documents_of_their_own(
    start_bench: StartBench, keys: Sequence[rsa.RSAPrivateKey], form: SignatureForm, verifier: str
) -> None:
    """Good answers of all operations, and a refusal, verify with independent code in both forms of the signature."""
    stranger = Stranger(start_bench(signature_form=form), keys)
    accepted = stranger.call(sign_new(stranger.order(), csr(keys[0])))
    issued = stranger.call(get(accepted.text("RetrievalId")))
    stranger.bench.state.set_clock(
        x509.load_der_x509_certificate(issued.certificate).not_valid_after_utc.replace(hour=0, minute=0)
    )
    renewed = stranger.renew(issued.certificate)
    stranger.bench.state.reset_clock()
    refused = stranger.call(get("unknown"))
    answers = [accepted, issued, renewed, refused]
    assert [answer.result for answer in answers] == ["OK", "OK", "OK", "PKI130"]
    trust = stranger.bench.trust_dir / "test"
    checked = answers if verifier == "by hand" else [accepted, issued, refused]  # the renewed one is of the future
    assert [VERIFIERS[verifier](answer.document, trust) for answer in checked] == [True] * len(checked)


@pytest.mark.parametrize("form", SignatureForm)
def test_the_signature_has_the_form_that_was_chosen(
    start_bench: StartBench, keys: Sequence[rsa.RSAPrivateKey], form: SignatureForm
) -> None:
    """The observed form has one transform and inclusive C14N; the exclusive form names exclusive C14N."""
    expected = {
        SignatureForm.OBSERVED: ["enveloped-signature"],
        SignatureForm.EXCLUSIVE: ["enveloped-signature", ""],
    }
    answer = Stranger(start_bench(signature_form=form), keys).call(get("unknown"))
    transforms = answer.root.iter("{http://www.w3.org/2000/09/xmldsig#}Transform")
    assert [transform.get("Algorithm").rpartition("#")[2] for transform in transforms] == expected[form]


def test_the_observed_form_fails_inside_the_envelope(stranger: Stranger) -> None:
    """The trap that the observed form sets is really there: in the envelope, the digest is over more namespaces."""
    answer = stranger.call(get("unknown"))
    body = etree.fromstring(answer.body).find(f"{{{SOAP}}}Body")
    naive = etree.tostring(body[0])
    trust = stranger.bench.trust_dir / "test"
    assert VERIFIERS["xmlsec1"](answer.document, trust)
    assert not VERIFIERS["xmlsec1"](naive, trust)


def test_signed_bytes_are_in_the_envelope_untouched(stranger: Stranger) -> None:
    """The payload's bytes on the wire are those of the signed document."""
    answer = stranger.call(get("unknown"))
    inner = answer.body.partition(b"<soapenv:Body>")[2].rpartition(b"</soapenv:Body>")[0]
    assert VERIFIERS["by hand"](inner, stranger.bench.trust_dir / "test")


def test_answers_are_valid_by_the_schema(stranger: Stranger) -> None:
    """What the bench says has the form that it publishes."""
    from varmenne.service.interface import message_schema

    accepted = stranger.call(sign_new(stranger.order(), csr(stranger.keys[0])))
    issued = stranger.call(get(accepted.text("RetrievalId")))
    for answer in (accepted, issued, stranger.call(get("unknown"))):
        message_schema().assertValid(answer.root)


def test_certificates_are_like_the_real_ones(stranger: Stranger) -> None:
    """Two years, the customer's ID as CN, usable for signing, not for issuing."""
    certificate = x509.load_der_x509_certificate(stranger.enroll())
    subject = {attribute.rfc4514_attribute_name: attribute.value for attribute in certificate.subject}
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    life = certificate.not_valid_after_utc.year - certificate.not_valid_before_utc.year
    assert (subject["C"], subject["O"], subject["CN"], life) == ("FI", NAME, CUSTOMER, 2)
    assert usage.digital_signature
    assert not usage.key_cert_sign
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)


def test_a_name_longer_than_x509_allows_is_cut(stranger: Stranger) -> None:
    """The service takes names of 100 characters, a certificate's O holds 64 (RFC 5280)."""
    order = stranger.order(name="Ö" * 100)
    accepted = stranger.call(sign_new(order, csr(stranger.keys[0])))
    certificate = x509.load_der_x509_certificate(stranger.call(get(accepted.text("RetrievalId"))).certificate)
    (name,) = certificate.subject.get_attributes_for_oid(x509.oid.NameOID.ORGANIZATION_NAME)
    assert name.value == "Ö" * 64


def _wrapped(octets: bytes) -> str:
    """Base64 in lines of 76, as many clients write it."""
    import base64

    return base64.encodebytes(octets).decode().strip()
