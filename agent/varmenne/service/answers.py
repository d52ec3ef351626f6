"""Verification of the service's answers: bytes of an HTTP body in, proven values out. Pure, without I/O.

The checks run in this order, and each refusal names its check:

``size`` → ``encoding`` → ``doctype`` → ``xml`` → ``node`` → ``envelope`` → ``fault`` → ``operation`` → ``schema`` →
``signature-shape`` → ``signer`` → ``chain`` → ``signature`` → ``values``

Nothing is read from what was received before all of them have passed; values are read from the octets that the
signature covers. A signature does not tie an answer to a question: whoever asks must compare RetrievalId, customer and
public key with its own. See W3C XML Signature Syntax and Processing, 2nd edition, sections 4 and 8.
"""

from __future__ import annotations

import copy
import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from varmenne.domain.identifiers import RetrievalId, retrieval_id
from varmenne.errors import InputError, VerificationError
from varmenne.service.doubt import base64_octets, printable, refuse
from varmenne.service.interface import DSIG, NAMESPACE, SOAP_ENVELOPE, Operation, message_schema
from varmenne.service.signature_shape import DIGEST_METHODS, SIGNATURE_METHODS, checked_signature
from varmenne.service.transport import MAX_BODY_BYTES
from varmenne.service.trust import tolerant, validate_path

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography import x509
    from signxml.verifier import XMLVerifier

CHECKS = (
    "size",
    "encoding",
    "doctype",
    "xml",
    "node",
    "envelope",
    "fault",
    "operation",
    "schema",
    "signature-shape",
    "signer",
    "chain",
    "signature",
    "values",
)
"""The names of the checks, in the order in which they run."""

MIN_SIGNER_RSA_BITS = 2048

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
XML_DECLARATION = re.compile(
    rb"""<\?xml[ \t\r\n]+version[ \t\r\n]*=[ \t\r\n]*(["'])1\.0\1"""
    rb"""([ \t\r\n]+encoding[ \t\r\n]*=[ \t\r\n]*(["'])(?i:utf-?8|(us-)?ascii)\3)?"""
    rb"""([ \t\r\n]+standalone[ \t\r\n]*=[ \t\r\n]*(["'])(yes|no)\6)?[ \t\r\n]*\?>"""
)
"""The declarations that we take: XML 1.0, in UTF-8 or in the part of it that is ASCII."""


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
        signed_by: the certificate that signed, then the services CA that issued it, in DER. Whether it is revoked is
            not looked at here, since that needs the network: see :mod:`varmenne.enrollment.revoked`.
    """

    operation: Operation
    ok: bool
    errors: tuple[tuple[str, str], ...]
    retrieval_id: RetrievalId | None
    certificate: bytes | None
    signer: str
    signed_by: tuple[bytes, ...]


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
        document = _as_document(_payload(_parse(body), operation))
        signer = _signer(_signature(document))
        at = tolerant(at, _load(signer).certificate.not_valid_before_utc)
        signed_by = validate_path(signer, services, at, what="The certificate that signed the answer")
        signed = _signed_document(document, signer, at)
        return _values(signed, operation, signed_by)
    except VerificationError:
        raise
    except Exception as exc:
        # The libraries below raise what they like on hostile input; whatever it is, the answer is not proven.
        raise VerificationError(
            "The answer could not be verified",
            check="unexpected",
            why=printable(f"{type(exc).__name__}: {exc}"),
            next_step="Nothing of it was used. Please report this: each refusal should name its check",
        ) from exc


def _parse(body: bytes) -> Any:
    """Parse the envelope after the checks that a parser would be too late for."""
    from lxml import etree

    if len(body) > MAX_BODY_BYTES:
        refuse("size", f"{len(body)} bytes, at most {MAX_BODY_BYTES} are read")
    text = body.removeprefix(BYTE_ORDER_MARK)
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        refuse("encoding", "it is not UTF-8")
    if b"\0" in text:
        refuse("encoding", "it holds NUL bytes")
    if text.startswith(BYTE_ORDER_MARK):
        refuse("encoding", "it begins with two byte order marks")
    if re.match(rb"<\?xml[ \t\r\n]", text) and not XML_DECLARATION.match(text):
        refuse("encoding", "it declares something else than XML 1.0 in UTF-8")
    if b"<!DOCTYPE" in text:
        refuse("doctype", "it has a document type declaration")
    parser = etree.XMLParser(
        encoding="UTF-8",
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
        refuse("xml", f"it is not well-formed XML ({exc.msg})")
    if root.getprevious() is not None or root.getnext() is not None:
        refuse("node", "there is something beside the envelope")
    if any(not isinstance(node.tag, str) for node in root.iter()):
        refuse("node", "it holds a comment, a processing instruction or an entity")
    return root


def _payload(envelope: Any, operation: Operation) -> Any:
    """Return the envelope's message, if it is an answer to the operation."""
    message = _only_message(envelope)
    if message.tag == f"{{{SOAP_ENVELOPE}}}Fault":
        refuse("fault", f"it is an unsigned SOAP fault: {(message.findtext('faultstring') or '').strip()}")
    if message.tag != f"{{{NAMESPACE}}}{operation.response_element}":
        refuse("operation", f"it holds {message.tag}, not {operation.response_element}")
    return message


def _only_message(envelope: Any) -> Any:
    """Return the one message in the one body of a SOAP 1.1 envelope."""
    soap = f"{{{SOAP_ENVELOPE}}}"
    if envelope.tag != f"{soap}Envelope":
        refuse("envelope", f"the root is {envelope.tag}, not a SOAP 1.1 envelope")
    parts = list(envelope)
    texts = [envelope.text, *(part.tail for part in parts)]
    if parts and parts[0].tag == f"{soap}Header":
        if any(block.get(f"{soap}mustUnderstand") not in {None, "0", "false"} for block in parts[0]):
            refuse("envelope", "a header demands to be understood")
        parts = parts[1:]
    if [part.tag for part in parts] != [f"{soap}Body"]:
        refuse("envelope", "it does not have exactly one body")
    body = parts[0]
    if any(f"{soap}encodingStyle" in part.attrib for part in (envelope, body)):
        refuse("envelope", "it uses a SOAP encoding")
    if len(body) != 1:
        refuse("envelope", f"the body holds {len(body)} messages, not one")
    if any((text or "").strip() for text in (*texts, body.text, body[0].tail)):
        refuse("envelope", "there is text between the elements")
    return body[0]


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
        refuse("schema", error.message if error is not None else "it does not match the schema")
    document: bytes = etree.tostring(alone, encoding="UTF-8")
    return document


def _signature(document: bytes) -> Any:
    """Parse the cut-out message and return its signature, the shape of which is checked."""
    from lxml import etree

    return checked_signature(etree.fromstring(document))


@dataclass(frozen=True, slots=True)
class _Carried:
    """A certificate that a signature carries, parsed. Nothing about it is trusted."""

    certificate: x509.Certificate
    public_numbers: tuple[int, int]
    is_ca: bool
    may_sign: bool


def _signer(signature: Any) -> bytes:
    """Return the signer's certificate: the only one in the signature's KeyInfo that is not a CA's."""
    found = [base64_octets(element.text or "", "signer") for element in signature.iter(f"{{{DSIG}}}X509Certificate")]
    leaves = [certificate for certificate in found if not _load(certificate).is_ca]
    if len(leaves) != 1:
        refuse("signer", f"{len(leaves)} of the signature's certificates are not a CA's, there should be one")
    carried = _load(leaves[0])
    if not carried.may_sign:
        refuse("signer", "the signer's certificate is not for signing")
    for value in signature.iter(f"{{{DSIG}}}RSAKeyValue"):
        numbers = tuple(int.from_bytes(base64_octets(child.text or "", "signer"), "big") for child in value)
        if numbers != carried.public_numbers:
            refuse("signer", "the signature names another key than its certificate's")
    return leaves[0]


@functools.lru_cache(maxsize=64)
def _load(der: bytes) -> _Carried:
    """Parse a certificate of the signature."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import rsa

    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        extensions = [extension.value for extension in certificate.extensions]
    except Exception as exc:  # noqa: BLE001 - cryptography has many errors for what cannot be read
        refuse("signer", f"a certificate in the signature cannot be read ({exc})")
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < MIN_SIGNER_RSA_BITS:
        refuse("signer", f"the signer's key is not RSA of at least {MIN_SIGNER_RSA_BITS} bits")
    numbers = key.public_numbers()
    return _Carried(
        certificate,
        (numbers.n, numbers.e),
        is_ca=any(value.ca for value in extensions if isinstance(value, x509.BasicConstraints)),
        may_sign=all(
            value.digital_signature or value.content_commitment
            for value in extensions
            if isinstance(value, x509.KeyUsage)
        ),
    )


def _signed_document(document: bytes, signer: bytes, at: datetime) -> Any:
    """Verify the signature with the signer's certificate and return the element that it covers, parsed anew."""
    from signxml.algorithms import CanonicalizationMethod, DigestAlgorithm, SignatureMethod
    from signxml.verifier import SignatureConfiguration

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
        # Its own schema knows no parameters of a canonicalisation; ours does, and has been applied.
        result = _verifier_class()().verify(
            document, x509_cert=_load(signer).certificate, expect_config=configuration, validate_schema=False
        )
    except Exception as exc:  # noqa: BLE001 - besides its own errors it leaks ValueError, TypeError and lxml's
        refuse("signature", str(exc) or type(exc).__name__)
    signed = getattr(result, "signed_xml", None)
    if signed is None:
        refuse("signature", "what was signed is not XML")
    return signed


@functools.cache
def _verifier_class() -> type[XMLVerifier]:
    """Return signxml's verifier without a mistake that it inherits from lxml."""
    from lxml import etree
    from signxml.verifier import XMLVerifier

    class Verifier(XMLVerifier):
        """Canonicalises every element as a document of its own, with the declarations that are in scope for it.

        lxml's inclusive canonicalisation of an element *inside* a document undeclares a default namespace on its
        grandchildren. Signatures whose SignedInfo is in a default namespace, as .NET writes them, would be refused.
        """

        def _c14n(self, nodes: Any, algorithm: Any, inclusive_ns_prefixes: Any = None) -> bytes:
            alone = etree.fromstring(etree.tostring(nodes, with_tail=False))
            octets: bytes = super()._c14n(alone, algorithm, inclusive_ns_prefixes)
            return octets

    return Verifier


def _values(signed: Any, operation: Operation, signed_by: tuple[bytes, ...]) -> Answer:
    """Read the values from the signed element; the schema has been checked, so each is there at most once."""
    if signed.tag != f"{{{NAMESPACE}}}{operation.response_element}":
        refuse("values", f"what was signed is {signed.tag}")
    certificate = signed.findtext("Certificate")
    answer = Answer(
        operation=operation,
        ok=signed.findtext("Result/Status") == "OK",
        errors=tuple(
            (_normal(info.findtext("ErrorCode")), _normal(info.findtext("ErrorMessage")))
            for info in signed.findall("Result/ErrorInfo")
        ),
        retrieval_id=_retrieval_id(signed.findtext("RetrievalId")),
        certificate=base64_octets(certificate, "values") if certificate else None,
        signer=_load(signed_by[0]).certificate.subject.rfc4514_string(),
        signed_by=signed_by,
    )
    wanted = answer.certificate if operation is Operation.GET else answer.retrieval_id
    if answer.ok and wanted is None:
        refuse("values", "it says OK, but lacks what was asked for")
    return answer


def _normal(text: str | None) -> str:
    """Apply the schema's ``normalizedString``: line breaks and tabs are blanks (XML Schema Part 2, 3.3.1)."""
    return "".join(" " if char in "\t\r\n" else char for char in text or "")


def _retrieval_id(text: str | None) -> RetrievalId | None:
    """Read a RetrievalId, which must be one that can be sent back; blanks around it can only be pretty-printing."""
    if text is None:
        return None
    try:
        return retrieval_id(_normal(text).strip(" "))
    except InputError as exc:
        refuse("values", exc.what)
