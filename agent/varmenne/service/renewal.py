"""The renewal request: a document of its own, signed with the key of the certificate that it renews.

The service demands one shape of signature: enveloped, as the last child; one Reference with URI ``""``; the transforms
*enveloped-signature* and *exclusive C14N*; SHA-256; SignedInfo by exclusive C14N; RSA-SHA256; KeyInfo/X509Data with the
certificate. See W3C XML Signature Syntax and Processing, 2nd edition, sections 4 and 6.

A signed document is bytes from then on. It is never parsed and written again, neither for keeping nor for sending:
whoever does that may move a namespace declaration, and the signature is dead.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, cast

from varmenne.domain.identifiers import CustomerId, CustomerName, Environment
from varmenne.errors import VerificationError
from varmenne.service.doubt import printable
from varmenne.service.interface import DSIG, NAMESPACE, Operation, check_request, message_schema
from varmenne.service.signature_shape import ENVELOPED, EXCLUSIVE_C14N

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import rsa

    from varmenne.domain.keys import Signer

RSA_SHA256 = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"
SHA256 = "http://www.w3.org/2001/04/xmlenc#sha256"

_SHAPE: tuple[tuple[str, dict[str, str]], ...] = (
    # Element and attributes, in document order; how they nest, the schema says.
    ("Signature", {}),
    ("SignedInfo", {}),
    ("CanonicalizationMethod", {"Algorithm": EXCLUSIVE_C14N}),
    ("SignatureMethod", {"Algorithm": RSA_SHA256}),
    ("Reference", {"URI": ""}),
    ("Transforms", {}),
    ("Transform", {"Algorithm": ENVELOPED}),
    ("Transform", {"Algorithm": EXCLUSIVE_C14N}),
    ("DigestMethod", {"Algorithm": SHA256}),
    ("DigestValue", {}),
    ("SignatureValue", {}),
    ("KeyInfo", {}),
    ("X509Data", {}),
    ("X509Certificate", {}),
)


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a verified renewal request says, to be compared with what it was made for.

    Attributes:
        environment: the world of the service that it is for.
        customer: whose certificate is renewed.
        name: the customer's name, if it was given.
        csr: the CSR for the new key (DER). Its own signature is not looked at here.
    """

    environment: Environment
    customer: CustomerId
    name: CustomerName | None
    csr: bytes


def sign_renewal(message: bytes, certificate: bytes, signer: Signer) -> bytes:
    """Sign a ``RenewCertificateRequest`` that lacks nothing but its signature, and verify what came of it.

    Args:
        message: the element as a document of its own.
        certificate: the certificate to be renewed (DER).
        signer: its key.

    Returns:
        The signed document's bytes, in UTF-8 without an XML declaration, so that it fits into an envelope.

    Raises:
        VerificationError: check ``certificate``: it cannot be read; ``key``: the signer is another key than its own,
            and nothing was signed; another check: what was signed is not as the service wants it.
        InputError: a value breaks the service's schema.
        TokenError: the token did not sign.
    """
    from lxml import etree
    from signxml.algorithms import CanonicalizationMethod
    from signxml.signer import XMLSigner

    own = _load(certificate)
    _require_own_key(own, signer)
    signed = XMLSigner(c14n_algorithm=CanonicalizationMethod.EXCLUSIVE_XML_CANONICALIZATION_1_0).sign(
        # signxml asks an RSA key for one thing, a signature, and _Key has nothing else to give.
        etree.fromstring(message),
        key=cast("rsa.RSAPrivateKey", _Key(signer)),
        cert=[own],
    )
    check_request(signed, Operation.RENEW)
    document: bytes = etree.tostring(signed, encoding="UTF-8")
    verify_renewal(document, certificate)
    return document


def verify_renewal(document: bytes, certificate: bytes) -> Renewal:
    """Verify a signed request as strictly as the service may, and return what it says.

    Does not establish that the certificate is valid at present, nor who issued it, nor that the service takes it.

    Args:
        document: the request as a document of its own.
        certificate: the certificate to be renewed (DER). The request must carry it, and no other.

    Raises:
        VerificationError: check ``certificate``, ``node``, ``xml``, ``operation``, ``schema``, ``signature-shape``,
            ``signer`` or ``signature`` failed, in this order.
    """
    own = _load(certificate)
    root = _parse(document)
    if root.tag != f"{{{NAMESPACE}}}{Operation.RENEW.request_element}":
        _refuse("operation", f"it is {root.tag}, not {Operation.RENEW.request_element}")
    if not message_schema().validate(root):
        _refuse("schema", "it is not as the service's schema wants it")
    signature = root[-1]
    if [(element.tag, dict(element.attrib)) for element in signature.iter()] != [
        (f"{{{DSIG}}}{name}", attributes) for name, attributes in _SHAPE
    ]:
        _refuse("signature-shape", "its signature is not of the one form that the service takes")
    if _octets(signature, "X509Certificate") != certificate:
        _refuse("signer", "it carries another certificate than the one to be renewed")
    for name in ("DigestValue", "SignatureValue"):
        _octets(signature, name)
    return _values(_signed(document, own))


@dataclass(frozen=True, slots=True)
class _Key:
    """A key in a token, in the shape in which signxml uses private keys."""

    signer: Signer

    def sign(self, data: bytes, padding: object, algorithm: object) -> bytes:
        """Sign by the one algorithm that the service takes."""
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        if not (isinstance(padding, PKCS1v15) and isinstance(algorithm, SHA256)):
            raise TypeError("a signer makes RSASSA-PKCS1-v1_5 signatures with SHA-256 only")
        return self.signer.sign(data)


def _load(certificate: bytes) -> x509.Certificate:
    """Read the certificate to be renewed."""
    from cryptography import x509

    try:
        return x509.load_der_x509_certificate(certificate)
    except ValueError as exc:
        raise VerificationError(
            "The certificate to be renewed cannot be read", check="certificate", why=printable(str(exc))
        ) from exc


def _require_own_key(certificate: x509.Certificate, signer: Signer) -> None:
    """Refuse a key that is not the certificate's: signxml would sign with it all the same."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    own = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if own != signer.public_key:
        raise VerificationError(
            "The key in the token is not the one of the certificate to be renewed",
            check="key",
            why="their public keys differ",
            next_step="Nothing was signed. Only the certificate's own key can renew it; without it, order a new one",
        )


def _parse(document: bytes) -> Any:
    """Parse a document that is one element and nothing else, which is what fits into an envelope unchanged."""
    from lxml import etree

    if not document.startswith(b"<") or b"<?" in document or b"<!" in document:
        _refuse("node", "there is something else in it than elements and text")
    parser = etree.XMLParser(encoding="UTF-8", resolve_entities=False, no_network=True, load_dtd=False)
    try:
        return etree.fromstring(document, parser)
    except etree.XMLSyntaxError as exc:
        _refuse("xml", f"it is not well-formed XML ({exc.msg})")


def _signed(document: bytes, certificate: x509.Certificate) -> Any:
    """Verify the signature and return the element that it covers, parsed anew from the octets that were signed."""
    from signxml.algorithms import DigestAlgorithm, SignatureMethod
    from signxml.verifier import SignatureConfiguration, XMLVerifier

    configuration = SignatureConfiguration(
        location="./",
        expect_references=1,
        signature_methods=frozenset({SignatureMethod.RSA_SHA256}),
        digest_algorithms=frozenset({DigestAlgorithm.SHA256}),
        # Whether the certificate is still valid is for the caller, who has the clock.
        verification_time=certificate.not_valid_before_utc,
    )
    try:
        result = XMLVerifier().verify(
            document, x509_cert=certificate, expect_config=configuration, validate_schema=False
        )
    except Exception as exc:  # noqa: BLE001 - besides its own errors it leaks ValueError, TypeError and lxml's
        _refuse("signature", str(exc).rstrip(": ") or type(exc).__name__)
    signed = getattr(result, "signed_xml", None)
    if signed is None:
        _refuse("signature", "what was signed is not XML")
    return signed


def _values(signed: Any) -> Renewal:
    """Read the values from the signed element; the schema has been checked, so each is there at most once."""
    name = signed.findtext("CustomerName")
    return Renewal(
        environment=Environment(signed.findtext("Environment").lower()),
        customer=CustomerId(signed.findtext("CustomerId")),
        name=None if name is None else CustomerName(name),
        csr=_octets(signed, "CertificateRequest", namespace=""),
    )


def _octets(parent: Any, name: str, *, namespace: str = f"{{{DSIG}}}") -> bytes:
    """Decode the base64 text of the one element of a name; the schema's base64 lets stray characters pass."""
    text = next(parent.iter(f"{namespace}{name}")).text or ""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        _refuse("signature-shape", f"the base64 text of {name} is garbled")


def _refuse(check: str, why: str) -> NoReturn:
    """Refuse a request that is not proven."""
    raise VerificationError(
        "The renewal request did not pass verification",
        check=check,
        why=printable(why),
        next_step="Do not send it: the service would refuse it. Make a new one",
    )
