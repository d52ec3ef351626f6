"""Renewal: the current key signs for the next one; every other signature is refused and changes nothing."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from lxml import etree

from testbench.stranger import CUSTOMER, DS, EXCLUSIVE, Stranger, csr, envelope, get, renewal, signed

OTHER = "7654321-0"
RENEWAL_OPENS = timedelta(days=59)


def near_end(stranger: Stranger, certificate: bytes, left: timedelta = RENEWAL_OPENS) -> None:
    """Move the bench's clock to a time before the certificate's end."""
    stranger.bench.state.set_clock(x509.load_der_x509_certificate(certificate).not_valid_after_utc - left)


@pytest.fixture
def current(stranger: Stranger) -> bytes:
    """A certificate for the first key, 59 days before its end."""
    certificate = stranger.enroll()
    near_end(stranger, certificate)
    return certificate


def test_a_renewed_certificate_is_of_the_same_customer_and_another_key(stranger: Stranger, current: bytes) -> None:
    """The whole walk: signed by the old key, for the new key, two more years."""
    accepted = stranger.renew(current)
    renewed = x509.load_der_x509_certificate(stranger.call(get(accepted.text("RetrievalId"))).certificate)
    old = x509.load_der_x509_certificate(current)
    (name,) = renewed.subject.get_attributes_for_oid(x509.oid.NameOID.COMMON_NAME)
    assert (accepted.result, name.value) == ("OK", CUSTOMER)
    assert renewed.public_key() == stranger.keys[1].public_key()
    assert renewed.not_valid_after_utc > old.not_valid_after_utc + timedelta(days=600)


def test_generations_can_follow_each_other(stranger: Stranger, current: bytes) -> None:
    """A renewed certificate renews the next one, years later."""
    accepted = stranger.renew(current, old=0, new=1)
    second = stranger.call(get(accepted.text("RetrievalId"))).certificate
    near_end(stranger, second)
    assert stranger.renew(second, old=1, new=2).result == "OK"


@pytest.mark.parametrize("tool", ["signxml", "xmlsec1"])
def test_requests_signed_with_other_tools_are_accepted(
    stranger: Stranger, current: bytes, tmp_path: Path, tool: str
) -> None:
    """The strict check knows the service's one shape, not one tool's habits of writing it."""
    document = TOOLS[tool](stranger, current, tmp_path)
    assert stranger.post(envelope(document)).result == "OK"


def _with_signxml(stranger: Stranger, certificate: bytes, _folder: Path) -> str:
    from signxml.algorithms import CanonicalizationMethod
    from signxml.signer import XMLSigner

    signer = XMLSigner(c14n_algorithm=CanonicalizationMethod.EXCLUSIVE_XML_CANONICALIZATION_1_0)
    root = etree.fromstring(renewal(csr(stranger.keys[1])).encode())
    chain = [x509.load_der_x509_certificate(certificate)]
    made = signer.sign(root, key=stranger.keys[0], cert=chain)
    return str(etree.tostring(made, encoding="unicode"))


def _with_xmlsec1(stranger: Stranger, certificate: bytes, folder: Path) -> str:
    empty = signed(renewal(csr(stranger.keys[1])), stranger.keys[0], certificate)
    template = etree.fromstring(empty.encode())
    for name in ("DigestValue", "SignatureValue"):
        next(template.iter(f"{{{DS}}}{name}")).text = None
    data = next(template.iter(f"{{{DS}}}X509Data"))
    data.remove(data[0])
    (folder / "template.xml").write_bytes(etree.tostring(template))
    key = stranger.keys[0].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(key)
    (folder / "cert.pem").write_bytes(
        x509.load_der_x509_certificate(certificate).public_bytes(serialization.Encoding.PEM)
    )
    subprocess.run(
        ["xmlsec1", "--sign", "--privkey-pem", "key.pem,cert.pem", "--output", "signed.xml", "template.xml"],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=30,
    )
    return str(etree.tostring(etree.parse(folder / "signed.xml").getroot(), encoding="unicode"))


TOOLS: dict[str, Callable[[Stranger, bytes, Path], str]] = {"signxml": _with_signxml, "xmlsec1": _with_xmlsec1}


@pytest.mark.parametrize(
    ("left", "result"),
    [
        (timedelta(days=60, minutes=1), "PKI145"),
        (timedelta(days=60) - timedelta(minutes=1), "OK"),
        (timedelta(minutes=1), "OK"),
        (-timedelta(seconds=5), "PKI143"),
        (timedelta(days=800), "PKI143"),
    ],
)
def test_renewal_opens_sixty_days_before_the_end_and_closes_with_it(
    stranger: Stranger, left: timedelta, result: str
) -> None:
    """Too early, in time, and too late, by the bench's clock; also before the certificate begins."""
    certificate = stranger.enroll()
    before = stranger.kept()
    near_end(stranger, certificate, left)
    assert stranger.renew(certificate).result == result
    assert (stranger.kept() == before) == (result != "OK")


def test_a_request_signed_by_another_key_is_refused(stranger: Stranger, current: bytes) -> None:
    """The certificate is shown, but the signature is not its key's."""
    _refused(stranger, signed(renewal(csr(stranger.keys[1])), stranger.keys[2], current), "PKI141")


@pytest.mark.usefixtures("current")
def test_a_self_made_certificate_is_refused(stranger: Stranger) -> None:
    """A certificate with the same names and another issuer's key proves nothing."""
    from varmenne.testbench.family import Family, customer_subject, der

    state = stranger.bench.state
    strange = Family(state.directory / "strange", "http://127.0.0.1:9", state.now())
    key = stranger.keys[2]
    subject = customer_subject(CUSTOMER, None, "1")
    begin = state.now() - timedelta(days=680)
    certificate = der(strange.issue(subject, key.public_key(), begin, issuer="providers"))
    _refused(stranger, signed(renewal(csr(stranger.keys[1])), key, certificate), "PKI142")


def test_another_customers_certificate_renews_nothing_here(stranger: Stranger, current: bytes) -> None:
    """A genuine certificate speaks for its own customer only."""
    _refused(stranger, signed(renewal(csr(stranger.keys[1]), OTHER), stranger.keys[0], current), "PKI144")


def test_a_request_of_another_environment_is_refused(stranger: Stranger, current: bytes) -> None:
    """Test and production are never mixed, however well it is signed."""
    document = renewal(csr(stranger.keys[1]), environment="PRODUCTION")
    _refused(stranger, signed(document, stranger.keys[0], current), "PKI101")


def test_the_same_key_is_refused(stranger: Stranger, current: bytes) -> None:
    """Renewal is with a new key."""
    _refused(stranger, signed(renewal(csr(stranger.keys[0])), stranger.keys[0], current), "PKI124")


def test_a_revoked_certificate_renews_nothing(stranger: Stranger, current: bytes) -> None:
    """Who had it revoked does not want it renewed."""
    stranger.bench.state.revoke(x509.load_der_x509_certificate(current).serial_number)
    _refused(stranger, signed(renewal(csr(stranger.keys[1])), stranger.keys[0], current), "PKI146")


def test_a_bad_csr_in_a_good_request_is_refused(stranger: Stranger, current: bytes) -> None:
    """The CSR is checked as strictly as at a first enrollment."""
    _refused(stranger, signed(renewal(b"nothing"), stranger.keys[0], current), "PKI120")


CHANGED = {
    # What is changed in the signed document's text: (before, after, code).
    "customer": (f"<CustomerId>{CUSTOMER}<", f"<CustomerId>{OTHER}<", "PKI141"),
    "white space": ("<Environment>", "\n<Environment>", "PKI141"),
    "an element more": ("<CertificateRequest>", "<CustomerName>x</CustomerName><CertificateRequest>", "PKI141"),
    "reference to an ID": ('URI=""', 'URI="#a"', "PKI140"),
    "reference to another place": ('URI=""', 'URI="http://127.0.0.1/"', "PKI140"),
    "no reference URI": (' URI=""', "", "PKI140"),
    "inclusive C14N": (
        f'Transform Algorithm="{EXCLUSIVE}"',
        'Transform Algorithm="http://www.w3.org/TR/2001/REC-xml-c14n-20010315"',
        "PKI140",
    ),
    "SHA-1": ("http://www.w3.org/2001/04/xmlenc#sha256", f"{DS}sha1", "PKI140"),
    "RSA with SHA-1": ("http://www.w3.org/2001/04/xmldsig-more#rsa-sha256", f"{DS}rsa-sha1", "PKI140"),
    "enveloped transform only": (f'<ds:Transform Algorithm="{EXCLUSIVE}"></ds:Transform>', "", "PKI140"),
    "a key name beside the certificate": ("<ds:KeyInfo>", "<ds:KeyInfo><ds:KeyName>x</ds:KeyName>", "PKI140"),
    "an object": ("</ds:Signature>", "<ds:Object>x</ds:Object></ds:Signature>", "PKI140"),
    "an ID on the signature": ("<ds:Signature xmlns", '<ds:Signature Id="a" xmlns', "PKI140"),
    "processing instruction in the signature": ("<ds:KeyInfo>", "<?a?><ds:KeyInfo>", "PKI140"),
    "processing instruction behind the signature": ("</ds:Signature>", "</ds:Signature><?a?>", "PKI140"),
    "processing instruction in a value": ("<CustomerId>0", "<CustomerId>0<?a?>", "PKI141"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_signed_request_that_was_changed_is_refused(stranger: Stranger, current: bytes, case: str) -> None:
    """Whatever is changed after signing, in the document or in its signature, ends in a refusal."""
    old, new, code = CHANGED[case]
    document = signed(renewal(csr(stranger.keys[1])), stranger.keys[0], current)
    assert old in document
    _refused(stranger, document.replace(old, new), code)


def test_another_prefix_is_another_document(stranger: Stranger, current: bytes) -> None:
    """Canonical bytes keep prefixes: a client that lets a library rewrite them loses its signature."""
    document = signed(renewal(csr(stranger.keys[1])), stranger.keys[0], current)
    rewritten = document.replace("<c:", "<k:").replace("</c:", "</k:").replace("xmlns:c=", "xmlns:k=")
    _refused(stranger, rewritten, "PKI141")


def test_comments_are_nothing_to_the_signature(stranger: Stranger, current: bytes) -> None:
    """C14N leaves comments out, so one that was added on the way does no harm."""
    document = signed(renewal(csr(stranger.keys[1])), stranger.keys[0], current)
    commented = document.replace("<ds:Transforms>", "<ds:Transforms><!-- a -->").replace("0123456", "012<!-- b -->3456")
    assert stranger.post(envelope(commented)).result == "OK"


@pytest.mark.parametrize("place", range(0, 2400, 240))
def test_one_changed_byte_in_the_csr_is_refused(stranger: Stranger, current: bytes, place: int) -> None:
    """Any place of the signed values is covered by the signature."""
    document = signed(renewal(csr(stranger.keys[1])), stranger.keys[0], current)
    begin = document.index("<CertificateRequest>") + len("<CertificateRequest>")
    at = begin + place % (document.index("</CertificateRequest>") - begin - 4)
    changed = document[:at] + ("B" if document[at] == "A" else "A") + document[at + 1 :]
    _refused(stranger, changed, "PKI141")


def test_a_wrapped_original_is_not_valid(stranger: Stranger, current: bytes) -> None:
    """Signature wrapping: the genuine document inside another one has no place in the schema."""
    genuine = signed(renewal(csr(stranger.keys[1])), stranger.keys[0], current)
    forged = signed(renewal(csr(stranger.keys[2]), OTHER), stranger.keys[2], current)
    before = stranger.kept()
    wrapped = forged.replace("</ds:Signature>", f"<ds:Object>{genuine}</ds:Object></ds:Signature>")
    moved = forged.replace("<CustomerId>", f"{genuine}<CustomerId>")
    assert stranger.post(envelope(wrapped)).result == "PKI140"
    assert stranger.post(envelope(moved)).status == 500
    assert stranger.kept() == before


def test_an_unsigned_request_is_a_fault(stranger: Stranger) -> None:
    """The schema demands the signature."""
    before = stranger.kept()
    answer = stranger.post(envelope(renewal(csr(stranger.keys[1]))))
    assert (answer.status, stranger.kept()) == (500, before)


def test_the_signing_certificate_may_be_broken_in_lines(stranger: Stranger, current: bytes) -> None:
    """Base64 in lines, as signxml and Java write it, is the same certificate."""
    document = signed(renewal(csr(stranger.keys[1])), stranger.keys[0], current)
    lines = base64.encodebytes(current).decode().replace("\n", "&#13;\n")
    document = document.replace(base64.b64encode(current).decode(), lines)
    assert stranger.post(envelope(document)).result == "OK"


def _refused(stranger: Stranger, document: str, code: str) -> None:
    """Send a document, expect a code, and see that nothing changed."""
    before = stranger.kept()
    answer = stranger.post(envelope(document))
    assert (answer.result, answer.text("RetrievalId"), stranger.kept()) == (code, "", before)
