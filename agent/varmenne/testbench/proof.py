"""The signature on a renewal request, verified strictly and by hand.

Exactly one shape is accepted (see ``docs/testbench.md``): an enveloped signature as the last child, one Reference with
URI ``""``, the transforms *enveloped-signature* and *exclusive C14N* in that order, SHA-256, RSA-SHA256, SignedInfo by
exclusive C14N, and KeyInfo/X509Data with one certificate and nothing else. Since the whole document is covered, with
nothing but the signature itself left out, values may be read from it. That the certificate is worth anything is for
the caller to check.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from varmenne.service.interface import DSIG
from varmenne.testbench.refusals import SIGNATURE_SHAPE, SIGNATURE_WRONG, refuse
from varmenne.testbench.signing import ENVELOPED, EXCLUSIVE_C14N, RSA_SHA256, SHA256, canonical

if TYPE_CHECKING:
    from lxml import etree

_SHAPE: tuple[tuple[int, str, dict[str, str]], ...] = (
    # Depth, element, attributes: the one accepted shape, in document order.
    (0, "Signature", {}),
    (1, "SignedInfo", {}),
    (2, "CanonicalizationMethod", {"Algorithm": EXCLUSIVE_C14N}),
    (2, "SignatureMethod", {"Algorithm": RSA_SHA256}),
    (2, "Reference", {"URI": ""}),
    (3, "Transforms", {}),
    (4, "Transform", {"Algorithm": ENVELOPED}),
    (4, "Transform", {"Algorithm": EXCLUSIVE_C14N}),
    (3, "DigestMethod", {"Algorithm": SHA256}),
    (3, "DigestValue", {}),
    (1, "SignatureValue", {}),
    (1, "KeyInfo", {}),
    (2, "X509Data", {}),
    (3, "X509Certificate", {}),
)
_EXPECTED = [(depth, f"{{{DSIG}}}{name}", attributes) for depth, name, attributes in _SHAPE]


def signer_of(root: etree._Element) -> x509.Certificate:
    """Verify the signature over a request document and return the certificate whose key made it.

    Does not establish who issued that certificate, nor that it is valid.

    Refuses a signature whose shape is not the one accepted, and one that does not verify.
    """
    signature = root[-1]
    if list(_outline(signature)) != _EXPECTED:
        refuse(SIGNATURE_SHAPE)
    try:
        certificate = x509.load_der_x509_certificate(_octets(signature, "X509Certificate"))
        public_key = certificate.public_key()
    except ValueError:
        refuse(SIGNATURE_SHAPE)
    if not isinstance(public_key, rsa.RSAPublicKey):
        refuse(SIGNATURE_SHAPE)
    digest = hashlib.sha256(canonical(_without_signature(root), EXCLUSIVE_C14N)).digest()
    if not hmac.compare_digest(digest, _octets(signature, "DigestValue")):
        refuse(SIGNATURE_WRONG)
    try:
        public_key.verify(
            _octets(signature, "SignatureValue"),
            canonical(_find(signature, "SignedInfo"), EXCLUSIVE_C14N),
            padding.PKCS1v15(),
            hashes.SHA256(),
        )
    except InvalidSignature:
        refuse(SIGNATURE_WRONG)
    return certificate


def _outline(element: etree._Element, depth: int = 0) -> list[tuple[int, object, dict[str, str]]]:
    """List an element and all below it, with depth and attributes; a processing instruction fits no shape."""
    found: list[tuple[int, object, dict[str, str]]] = [(depth, element.tag, dict(element.attrib))]
    for child in element:
        found += _outline(child, depth + 1)
    return found


def _find(signature: etree._Element, name: str) -> etree._Element:
    """Return the one element of a name; the outline has shown that it is there."""
    return next(signature.iter(f"{{{DSIG}}}{name}"))


def _octets(signature: etree._Element, name: str) -> bytes:
    """Decode an element's base64; the schema has shown that it is base64."""
    return base64.b64decode(_find(signature, name).text or "")


def _without_signature(root: etree._Element) -> etree._Element:
    """Return a copy without its last element, as the enveloped-signature transform orders; text after it stays."""
    bare = copy.deepcopy(root)
    signature = bare[-1]
    previous = signature.getprevious()
    previous.tail = (previous.tail or "") + (signature.tail or "")
    bare.remove(signature)
    return bare
