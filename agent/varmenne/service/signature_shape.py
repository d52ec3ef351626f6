"""The one shape of signature that is believed. Whatever we do not know is refused before any cryptography is done.

One ``ds:Signature``, the last child of the message; one Reference, to the whole document; the transforms
*enveloped-signature* and at most one canonicalisation after it; digest and signature of the SHA-2 family with RSA.
See W3C XML Signature Syntax and Processing, 2nd edition, section 4.

``KeyInfo`` must carry the signer's certificate. Beside it signers of other makes put what only repeats it: a KeyName,
a KeyValue, the subject's name, the serial number, a key identifier. Names are allowed and never read. A KeyValue is
allowed and must be the certificate's own key: nobody gains from ignoring a contradiction. A key is taken from nowhere
but the certificate, so none of these can change who is believed; ways to point at a key elsewhere are refused.
"""

from __future__ import annotations

from typing import Any

from varmenne.service.doubt import base64_octets, refuse
from varmenne.service.interface import DSIG

ENVELOPED = f"{DSIG}enveloped-signature"
C14N = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"
C14N_1_1 = "http://www.w3.org/2006/12/xml-c14n11"
EXCLUSIVE_C14N = "http://www.w3.org/2001/10/xml-exc-c14n#"
INCLUSIVE_NAMESPACES = f"{{{EXCLUSIVE_C14N}}}InclusiveNamespaces"

C14N_METHODS = frozenset({C14N, C14N_1_1, EXCLUSIVE_C14N})
"""Canonical XML 1.1 differs from 1.0 in attributes of the ``xml:`` prefix only, and the schema allows none of them."""

SIGNATURE_METHODS = frozenset(f"http://www.w3.org/2001/04/xmldsig-more#rsa-sha{bits}" for bits in (256, 384, 512))
DIGEST_METHODS = frozenset(
    {
        "http://www.w3.org/2001/04/xmlenc#sha256",
        "http://www.w3.org/2001/04/xmldsig-more#sha384",
        "http://www.w3.org/2001/04/xmlenc#sha512",
    }
)

CHILDREN = {
    # Element of the signature → the child elements that it has, in this order.
    "Signature": ("SignedInfo", "SignatureValue", "KeyInfo"),
    "SignedInfo": ("CanonicalizationMethod", "SignatureMethod", "Reference"),
    "Reference": ("Transforms", "DigestMethod", "DigestValue"),
    "KeyValue": ("RSAKeyValue",),
    "RSAKeyValue": ("Modulus", "Exponent"),
    "X509IssuerSerial": ("X509IssuerName", "X509SerialNumber"),
    "SignatureMethod": (),
    "DigestMethod": (),
    "SignatureValue": (),
    "DigestValue": (),
}
ALLOWED = {
    # Element whose children may come in any order → each allowed child and how often it may be there.
    "KeyInfo": {"X509Data": (1, 1), "KeyName": (0, 1), "KeyValue": (0, 1)},
    "X509Data": {
        "X509Certificate": (1, 5),
        "X509SubjectName": (0, 5),
        "X509IssuerSerial": (0, 5),
        "X509SKI": (0, 5),
    },
}
ALGORITHMS = {
    "CanonicalizationMethod": C14N_METHODS,
    "SignatureMethod": SIGNATURE_METHODS,
    "DigestMethod": DIGEST_METHODS,
}


def checked_signature(message: Any) -> Any:
    """Return the message's signature after all of its shape has been checked. Does not verify it.

    Raises:
        VerificationError: check ``signature-shape`` failed.
    """
    signatures = list(message.iter(f"{{{DSIG}}}Signature"))
    if len(signatures) != 1 or message[-1] is not signatures[0]:
        refuse("signature-shape", "there is not exactly one signature, as the last child of the message")
    signature = signatures[0]
    _check_children(signature)
    _check_reference(signature.find(f"{{{DSIG}}}SignedInfo/{{{DSIG}}}Reference"))
    _check_algorithms(signature)
    for element in signature.iter(f"{{{DSIG}}}SignatureValue", f"{{{DSIG}}}DigestValue"):
        # The schema's base64 lets stray characters pass, and so do decoders that skip them.
        base64_octets(element.text or "", "signature-shape")
    return signature


def _check_children(signature: Any) -> None:
    """Check that each element has the children that it must have, and no others."""
    for name, expected in CHILDREN.items():
        for element in signature.iter(f"{{{DSIG}}}{name}"):
            if tuple(child.tag for child in element) != tuple(f"{{{DSIG}}}{child}" for child in expected):
                refuse("signature-shape", f"{name} does not consist of {', '.join(expected) or 'text alone'}")
    for name, allowed in ALLOWED.items():
        for element in signature.iter(f"{{{DSIG}}}{name}"):
            tags = [child.tag for child in element]
            known = {f"{{{DSIG}}}{child}": times for child, times in allowed.items()}
            if not set(tags) <= set(known) or any(not a <= tags.count(tag) <= b for tag, (a, b) in known.items()):
                refuse("signature-shape", f"{name} holds something else than {', '.join(allowed)}, or too many of them")


def _check_reference(reference: Any) -> None:
    """Check that the one reference is to the whole document, by transforms that leave nothing out but the signature."""
    if reference.get("URI") != "" or set(reference.attrib) - {"URI", "Id"}:
        refuse("signature-shape", "the reference is not to the whole document")
    transforms = [transform.get("Algorithm") for transform in reference.iter(f"{{{DSIG}}}Transform")]
    if transforms[:1] != [ENVELOPED] or len(transforms) > 2 or not C14N_METHODS.issuperset(transforms[1:]):
        refuse("signature-shape", f"the transforms are {transforms}")


def _check_algorithms(signature: Any) -> None:
    """Check the algorithms against the short list of good ones, and that only those with parameters have any."""
    for name, known in ALGORITHMS.items():
        algorithm = signature.find(f".//{{{DSIG}}}{name}").get("Algorithm")
        if algorithm not in known:
            refuse("signature-shape", f"{name} is {algorithm}")
    for element in signature.iter(f"{{{DSIG}}}Transform", f"{{{DSIG}}}CanonicalizationMethod"):
        exclusive = element.get("Algorithm") == EXCLUSIVE_C14N
        if [child.tag for child in element] not in ([], [INCLUSIVE_NAMESPACES] if exclusive else []):
            refuse("signature-shape", "a canonicalisation has parameters that it cannot have")
