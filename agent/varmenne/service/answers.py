"""Verification of the service's answers: bytes of an HTTP body in, proven values out. Pure, without I/O.

The checks run in this order, and each refusal names its check:

``size`` → ``encoding`` → ``xml`` → ``doctype`` → ``node`` → ``envelope`` → ``fault`` → ``operation`` → ``schema`` →
``signature-shape`` → ``signer`` → ``chain`` → ``signature`` → ``values``

Nothing is read from what was received before all of them have passed; values are read from the octets that the
signature covers. A signature does not tie an answer to a question: whoever asks must compare RetrievalId, customer and
public key with its own. See W3C XML Signature Syntax and Processing, 2nd edition, sections 4 and 8.
"""

from __future__ import annotations

import base64
import binascii
import copy
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from varmenne.errors import VerificationError
from varmenne.service.interface import DSIG, NAMESPACE, SOAP_ENVELOPE, Operation, message_schema
from varmenne.service.transport import MAX_BODY_BYTES
from varmenne.service.trust import validate_path

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography import x509

MIN_SIGNER_RSA_BITS = 2048
MAX_CERTIFICATES_IN_SIGNATURE = 5

ENVELOPED = f"{DSIG}enveloped-signature"
C14N = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"
EXCLUSIVE_C14N = "http://www.w3.org/2001/10/xml-exc-c14n#"
INCLUSIVE_NAMESPACES = f"{{{EXCLUSIVE_C14N}}}InclusiveNamespaces"
C14N_METHODS = frozenset({C14N, EXCLUSIVE_C14N})

SIGNATURE_METHODS = frozenset(f"http://www.w3.org/2001/04/xmldsig-more#rsa-sha{bits}" for bits in (256, 384, 512))
DIGEST_METHODS = frozenset(
    {
        "http://www.w3.org/2001/04/xmlenc#sha256",
        "http://www.w3.org/2001/04/xmldsig-more#sha384",
        "http://www.w3.org/2001/04/xmlenc#sha512",
    }
)

SIGNATURE_SHAPE = {
    # Element of the signature → the child elements that it may have, in order; "?" marks an optional one.
    "Signature": ("SignedInfo", "SignatureValue", "KeyInfo"),
    "SignedInfo": ("CanonicalizationMethod", "SignatureMethod", "Reference"),
    "Reference": ("Transforms", "DigestMethod", "DigestValue"),
    "KeyInfo": ("X509Data",),
    "SignatureMethod": (),
    "DigestMethod": (),
    "SignatureValue": (),
    "DigestValue": (),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service said, proven to come from it.

    Attributes:
        operation: the operation that it answers.
        ok: ``Result/Status`` is ``OK``.
        errors: (code, message) pairs of ``Result/ErrorInfo``, as they came.
        retrieval_id: of signNewCertificate and renewCertificate.
        certificate: DER, of getCertificate. Only its transport is proven: see :mod:`varmenne.service.certificates`.
        signer: subject of the certificate that signed, for people.
    """

    operation: Operation
    ok: bool
    errors: tuple[tuple[str, str], ...]
    retrieval_id: str | None
    certificate: bytes | None
    signer: str


def verify_answer(body: bytes, operation: Operation, services: tuple[bytes, ...], at: datetime) -> Answer:
    """Verify the SOAP answer to ``operation`` and return what it says.

    Args:
        body: the HTTP body, decoded from transfer and content encodings.
        operation: what was asked.
        services: the services issuing CAs (DER) of the environment.
        at: the one reference time of the verification.

    Raises:
        VerificationError: a check failed; ``check`` names it.
    """
    try:
        payload = _payload(_parse(body), operation)
        document = _as_document(payload)
        signature = _checked_signature(document)
        signer = _signer(signature)
        subject = _trusted_subject(signer, services, at)
        signed = _signed_document(document, signer, at)
        return _values(signed, operation, subject)
    except VerificationError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as exc:
        # The libraries below raise what they like on hostile input; whatever it is, the answer is not proven.
        raise VerificationError("The answer could not be verified", check="unexpected", why=str(exc)) from exc


def _refuse(check: str, why: str) -> NoReturn:
    """Refuse the answer, naming the check."""
    raise VerificationError(
        "The service's answer was refused",
        check=check,
        why=why,
        next_step="Nothing of it was used. It is kept as evidence; if the network is trustworthy, contact the service",
    )


def _parse(body: bytes) -> Any:
    """Parse the envelope after the checks that a parser would be too late for."""
    from lxml import etree

    if len(body) > MAX_BODY_BYTES:
        _refuse("size", f"{len(body)} bytes, at most {MAX_BODY_BYTES} are read")
    text = body.removeprefix(b"\xef\xbb\xbf")
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        _refuse("encoding", "it is not UTF-8")
    if b"\0" in text:
        _refuse("encoding", "it holds NUL bytes")
    if b"<!DOCTYPE" in text:
        _refuse("doctype", "it has a document type declaration")
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=False,
        remove_pis=False,
    )
    try:
        root = etree.fromstring(text, parser)
    except etree.XMLSyntaxError as exc:
        _refuse("xml", f"it is not well-formed XML ({exc.msg})")
    if (root.getroottree().docinfo.encoding or "UTF-8").upper() not in {"UTF-8", "UTF8", "ASCII", "US-ASCII"}:
        _refuse("encoding", "it declares an encoding other than UTF-8")
    if root.getprevious() is not None or root.getnext() is not None:
        _refuse("node", "there is something beside the envelope")
    if any(not isinstance(node.tag, str) for node in root.iter()):
        _refuse("node", "it holds a comment, a processing instruction or an entity")
    return root


def _payload(envelope: Any, operation: Operation) -> Any:
    """Return the one message in the one body of a SOAP 1.1 envelope."""
    soap = f"{{{SOAP_ENVELOPE}}}"
    if envelope.tag != f"{soap}Envelope":
        _refuse("envelope", f"the root is {envelope.tag}, not a SOAP 1.1 envelope")
    parts = list(envelope)
    if parts and parts[0].tag == f"{soap}Header":
        if any(block.get(f"{soap}mustUnderstand") not in {None, "0", "false"} for block in parts[0]):
            _refuse("envelope", "a header demands to be understood")
        parts = parts[1:]
    if [part.tag for part in parts] != [f"{soap}Body"]:
        _refuse("envelope", "it does not have exactly one body")
    if any(f"{soap}encodingStyle" in part.attrib for part in (envelope, parts[0])):
        _refuse("envelope", "it uses a SOAP encoding")
    messages = list(parts[0])
    if len(messages) != 1:
        _refuse("envelope", f"the body holds {len(messages)} messages, not one")
    if any((text or "").strip() for text in (envelope.text, parts[0].text, messages[0].tail, parts[0].tail)):
        _refuse("envelope", "there is text between the elements")
    message = messages[0]
    if message.tag == f"{soap}Fault":
        _refuse("fault", f"it is an unsigned SOAP fault: {(message.findtext('faultstring') or '').strip()[:200]}")
    if message.tag != f"{{{NAMESPACE}}}{operation.response_element}":
        _refuse("operation", f"it holds {message.tag}, not {operation.response_element}")
    return message


def _as_document(payload: Any) -> bytes:
    """Take the message out as a document of its own, as it stood when it was signed, and check it by the schema.

    A deep copy keeps the declarations written on the message, and of the inherited ones only those that a name needs:
    what the envelope declares does not get into the digest of an inclusive canonicalisation.
    """
    from lxml import etree

    alone = copy.deepcopy(payload)
    alone.tail = None
    schema = message_schema()
    if not schema.validate(alone):
        error = schema.error_log.last_error
        _refuse("schema", error.message if error is not None else "it does not match the schema")
    document: bytes = etree.tostring(alone, encoding="UTF-8")
    return document


def _checked_signature(document: bytes) -> Any:
    """Check the shape of the signature: one, last, over the whole document, with nothing in it that we don't know."""
    from lxml import etree

    root = etree.fromstring(document)
    signatures = list(root.iter(f"{{{DSIG}}}Signature"))
    if len(signatures) != 1 or root[-1] is not signatures[0]:
        _refuse("signature-shape", "there is not exactly one signature, as the last child of the message")
    signature = signatures[0]
    for name, children in SIGNATURE_SHAPE.items():
        for element in signature.iter(f"{{{DSIG}}}{name}"):
            if tuple(child.tag for child in element) != tuple(f"{{{DSIG}}}{child}" for child in children):
                _refuse("signature-shape", f"{name} does not consist of {', '.join(children) or 'text alone'}")
    _check_algorithms(signature)
    return signature


def _check_algorithms(signature: Any) -> None:
    """Check the reference, the transforms and the algorithms against the short list of what is good."""
    reference = signature.find(f".//{{{DSIG}}}Reference")
    if reference.get("URI") != "" or set(reference.attrib) - {"URI", "Id"}:
        _refuse("signature-shape", "the reference is not to the whole document")
    transforms = [transform.get("Algorithm") for transform in reference.iter(f"{{{DSIG}}}Transform")]
    if transforms[:1] != [ENVELOPED] or len(transforms) > 2 or not C14N_METHODS.issuperset(transforms[1:]):
        _refuse("signature-shape", f"the transforms are {transforms}")
    for name, known in (
        ("CanonicalizationMethod", C14N_METHODS),
        ("SignatureMethod", SIGNATURE_METHODS),
        ("DigestMethod", DIGEST_METHODS),
    ):
        algorithm = signature.find(f".//{{{DSIG}}}{name}").get("Algorithm")
        if algorithm not in known:
            _refuse("signature-shape", f"{name} is {algorithm}")
    for element in signature.iter(f"{{{DSIG}}}Transform", f"{{{DSIG}}}CanonicalizationMethod"):
        exclusive = element.get("Algorithm") == EXCLUSIVE_C14N
        if [child.tag for child in element] not in ([], [INCLUSIVE_NAMESPACES] if exclusive else []):
            _refuse("signature-shape", "a canonicalisation has parameters that it cannot have")


def _signer(signature: Any) -> bytes:
    """Return the signer's certificate: the only one in the signature's KeyInfo that is not a CA's."""
    found = [_base64(element.text or "", "signer") for element in signature.iter(f"{{{DSIG}}}X509Certificate")]
    if not 1 <= len(found) <= MAX_CERTIFICATES_IN_SIGNATURE:
        _refuse("signer", f"the signature carries {len(found)} certificates")
    leaves = [certificate for certificate in found if not _load(certificate)[1]]
    if len(leaves) != 1:
        _refuse("signer", f"{len(leaves)} of the signature's certificates are not a CA's, there should be one")
    return leaves[0]


@functools.lru_cache(maxsize=64)
def _load(der: bytes) -> tuple[x509.Certificate, bool]:
    """Parse a certificate of the signature and tell whether it is a CA's."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import rsa

    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        constraints = [e.value for e in certificate.extensions if isinstance(e.value, x509.BasicConstraints)]
    except ValueError as exc:
        _refuse("signer", f"a certificate in the signature cannot be read ({exc})")
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < MIN_SIGNER_RSA_BITS:
        _refuse("signer", f"the signer's key is not RSA of at least {MIN_SIGNER_RSA_BITS} bits")
    return certificate, bool(constraints and constraints[0].ca)


def _trusted_subject(signer: bytes, services: tuple[bytes, ...], at: datetime) -> str:
    """Validate the signer's path to the services CA and its key usage; return its subject."""
    from cryptography import x509

    validate_path(signer, services, at, what="The certificate that signed the answer")
    certificate = _load(signer)[0]
    usages = [e.value for e in certificate.extensions if isinstance(e.value, x509.KeyUsage)]
    if usages and not (usages[0].digital_signature or usages[0].content_commitment):
        _refuse("signer", "the signer's certificate is not for signing")
    return certificate.subject.rfc4514_string()


def _signed_document(document: bytes, signer: bytes, at: datetime) -> Any:
    """Verify the signature with the signer's certificate and return the element that it covers, parsed anew."""
    from signxml.algorithms import CanonicalizationMethod, DigestAlgorithm, SignatureMethod
    from signxml.exceptions import SignXMLException
    from signxml.verifier import SignatureConfiguration, XMLVerifier

    configuration = SignatureConfiguration(
        require_x509=True,
        location="./",
        expect_references=1,
        signature_methods=frozenset(map(SignatureMethod, SIGNATURE_METHODS)),
        digest_algorithms=frozenset(map(DigestAlgorithm, DIGEST_METHODS)),
        verification_time=at,
        default_reference_c14n_method=CanonicalizationMethod.CANONICAL_XML_1_0,
    )
    try:
        result = XMLVerifier().verify(document, x509_cert=_load(signer)[0], expect_config=configuration)
    except SignXMLException as exc:
        _refuse("signature", str(exc) or type(exc).__name__)
    signed = getattr(result, "signed_xml", None)
    if signed is None:
        _refuse("signature", "what was signed is not XML")
    return signed


def _values(signed: Any, operation: Operation, signer: str) -> Answer:
    """Read the values from the signed element; the schema has been checked, so each is there at most once."""
    if signed.tag != f"{{{NAMESPACE}}}{operation.response_element}":
        _refuse("values", f"what was signed is {signed.tag}")
    certificate = signed.findtext("Certificate")
    answer = Answer(
        operation=operation,
        ok=signed.findtext("Result/Status") == "OK",
        errors=tuple(
            (_normal(info.findtext("ErrorCode")), _normal(info.findtext("ErrorMessage")))
            for info in signed.findall("Result/ErrorInfo")
        ),
        retrieval_id=_normal(signed.findtext("RetrievalId")) or None,
        certificate=_base64(certificate, "values") if certificate else None,
        signer=signer,
    )
    wanted = answer.certificate if operation is Operation.GET else answer.retrieval_id
    if answer.ok and wanted is None:
        _refuse("values", "it says OK, but lacks what was asked for")
    return answer


def _normal(text: str | None) -> str:
    """Apply the schema's ``normalizedString``: line breaks and tabs are blanks (XML Schema Part 2, 3.3.1)."""
    return "".join(" " if char in "\t\r\n" else char for char in text or "")


def _base64(text: str, check: str) -> bytes:
    """Decode base64 text, in which white space is allowed and nothing else."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        _refuse(check, "base64 text is garbled")
