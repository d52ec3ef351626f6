"""The signature on every answer: enveloped, by the service's key, over the message as it stands alone.

Written by hand from the W3C recommendation, so that the bench does not share its verifiers' library and its mistakes.
The *observed* form is the one seen from the real service: the reference has the enveloped-signature transform only, so
that its digest is over inclusive C14N. The *exclusive* form names exclusive C14N throughout.
"""

from __future__ import annotations

import base64
import hashlib
from enum import StrEnum
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from lxml import etree

from varmenne.service.interface import DSIG
from varmenne.testbench.family import der

if TYPE_CHECKING:
    from varmenne.testbench.family import KeyPair

INCLUSIVE_C14N = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"
EXCLUSIVE_C14N = "http://www.w3.org/2001/10/xml-exc-c14n#"
ENVELOPED = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
RSA_SHA256 = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"
SHA256 = "http://www.w3.org/2001/04/xmlenc#sha256"


class SignatureForm(StrEnum):
    """The two forms of the signature on answers."""

    OBSERVED = "observed"
    EXCLUSIVE = "exclusive"


_FORMS = {
    # form: (transforms of the reference, canonicalization of SignedInfo)
    SignatureForm.OBSERVED: ((ENVELOPED,), INCLUSIVE_C14N),
    SignatureForm.EXCLUSIVE: ((ENVELOPED, EXCLUSIVE_C14N), EXCLUSIVE_C14N),
}


def sign_document(root: etree._Element, signer: KeyPair, form: SignatureForm) -> bytes:
    """Append the signature as the last child of ``root`` and return the document's bytes."""
    transforms, canonicalization = _FORMS[form]
    digest = hashlib.sha256(canonical(root, transforms[-1])).digest()
    signature = etree.SubElement(root, f"{{{DSIG}}}Signature", nsmap={"ds": DSIG})
    info = _child(signature, "SignedInfo")
    _child(info, "CanonicalizationMethod", Algorithm=canonicalization)
    _child(info, "SignatureMethod", Algorithm=RSA_SHA256)
    reference = _child(info, "Reference", URI="")
    listed = _child(reference, "Transforms")
    for transform in transforms:
        _child(listed, "Transform", Algorithm=transform)
    _child(reference, "DigestMethod", Algorithm=SHA256)
    _child(reference, "DigestValue").text = _base64(digest)
    value = signer.key.sign(canonical(info, canonicalization), padding.PKCS1v15(), hashes.SHA256())
    _child(signature, "SignatureValue").text = _base64(value)
    data = _child(_child(signature, "KeyInfo"), "X509Data")
    _child(data, "X509Certificate").text = _base64(der(signer.certificate))
    document: bytes = etree.tostring(root, encoding="UTF-8", xml_declaration=False)
    return document


def canonical(element: etree._Element, algorithm: str) -> bytes:
    """Return an element's canonical bytes; whatever does not name exclusive C14N gets inclusive C14N 1.0."""
    octets: bytes = etree.tostring(element, method="c14n", exclusive=algorithm == EXCLUSIVE_C14N, with_tail=False)
    return octets


def _child(parent: etree._Element, name: str, **attributes: str) -> etree._Element:
    """Append an element of the XML Signature namespace."""
    return etree.SubElement(parent, f"{{{DSIG}}}{name}", attributes)


def _base64(octets: bytes) -> str:
    """Encode without line breaks."""
    return base64.b64encode(octets).decode()
