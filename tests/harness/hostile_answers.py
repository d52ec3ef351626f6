"""Hostile answers: what an attacker on the wire, or with a certificate of the family, could send instead.

Each has a name, a family, and the check that must refuse it. The builders say in code what the attacker does; the
signature of "the service" on an odd shape shows that the shape alone is refused, whoever signed it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.forge import (
    C14N,
    ENVELOPED,
    EXCLUSIVE,
    SIGNATURE_HERE,
    Forge,
    Sample,
    b64,
    envelope,
    sign,
)
from varmenne.service.interface import DSIG, NAMESPACE, SOAP_ENVELOPE, Operation

Build = Callable[[Forge], "Sample | bytes"]


@dataclass(frozen=True, slots=True)
class Attack:
    """A hostile answer.

    Attributes:
        family: what kind of attack it is.
        check: the check that must refuse it.
        build: makes it.
    """

    family: str
    check: str
    build: Build

    def sample(self, forge: Forge) -> Sample:
        """Return the answer; most are to signNewCertificate, at an honest client."""
        built = self.build(forge)
        return built if isinstance(built, Sample) else Sample(built)


def family(name: str, table: dict[str, tuple[str, Build]]) -> dict[str, Attack]:
    """Return a table of attacks of one family, named with it."""
    return {f"{name}: {title}": Attack(name, check, build) for title, (check, build) in table.items()}


def _split(text: str) -> tuple[str, str]:
    """Part a signed message into what is before its signature and the signature itself."""
    begin, end = text.index("<ds:Signature"), text.index("</ds:Signature>") + len("</ds:Signature>")
    return text[:begin] + SIGNATURE_HERE + text[end:], text[begin:end]


def _original(forge: Forge, **changes: Any) -> tuple[str, str, str]:
    """Return a genuine message, the attacker's in its place (without signature), and the genuine signature."""
    text = forge.signed(**changes)
    bare, signature = _split(text)
    return text, forge.evil(bare), signature


def _placed(where: str, **changes: Any) -> Build:
    """Put the genuine message somewhere into the attacker's, which carries the genuine signature.

    ``where`` is a template: {good} the genuine message, {bare} it without signature, {evil} the attacker's message
    with the genuine signature, {unsigned} without, {s} the genuine signature.
    """

    def build(forge: Forge) -> bytes:
        good, evil, signature = _original(forge, **changes)
        parts = {
            "good": good,
            "bare": good.replace(signature, ""),
            "evil": evil.replace(SIGNATURE_HERE, signature),
            "unsigned": evil.replace(SIGNATURE_HERE, ""),
            "first": evil.replace(SIGNATURE_HERE, "").replace("<RetrievalId>", f"{signature}<RetrievalId>"),
            "s": signature,
        }
        text = where
        for name, part in parts.items():
            text = text.replace(f"{{{name}}}", part)
        head = f'<soapenv:Envelope xmlns:soapenv="{SOAP_ENVELOPE}" xmlns:ds="{DSIG}">'
        return f"{head}{text}</soapenv:Envelope>".encode()

    return build


def _inside(tag: str, content: str = "{good}") -> Build:
    """Put the genuine message into an element of the attacker's message, at its end."""

    def build(forge: Forge) -> bytes:
        good, evil, signature = _original(forge)
        bare = good.replace(signature, "")
        inner = content.replace("{good}", good).replace("{bare}", bare)
        text = evil.replace(SIGNATURE_HERE, signature)
        assert f"</{tag}>" in text
        return envelope(text.replace(f"</{tag}>", f"{inner}</{tag}>", 1))

    return build


BODY = "<soapenv:Body>{}</soapenv:Body>"
HEADER = "<soapenv:Header>{}</soapenv:Header>"
OBJECT = "<ds:Object>{good}</ds:Object>"

WRAPPING: dict[str, tuple[str, Build]] = {
    "genuine in the header, attacker's with the signature in the body": (
        "signature",
        _placed(HEADER.format("{good}") + BODY.format("{evil}")),
    ),
    "genuine in the header, attacker's without signature": (
        "schema",
        _placed(HEADER.format("{good}") + BODY.format("{unsigned}")),
    ),
    "genuine in a header block": (
        "signature",
        _placed(HEADER.format('<w:Wrap xmlns:w="urn:w">{good}</w:Wrap>') + BODY.format("{evil}")),
    ),
    "genuine second in the body": ("envelope", _placed(BODY.format("{evil}{good}"))),
    "genuine first in the body": ("envelope", _placed(BODY.format("{good}{evil}"))),
    "genuine second, attacker's unsigned": ("envelope", _placed(BODY.format("{unsigned}{good}"))),
    "genuine first, attacker's unsigned": ("envelope", _placed(BODY.format("{good}{unsigned}"))),
    "genuine in a wrapper in the body": ("operation", _placed(BODY.format('<w:Wrap xmlns:w="urn:w">{good}</w:Wrap>'))),
    "genuine before the header": ("envelope", _placed("{good}" + HEADER.format("") + BODY.format("{evil}"))),
    "genuine after the body": ("envelope", _placed(BODY.format("{evil}") + "{good}")),
    "genuine beside the body in a wrapper": (
        "envelope",
        _placed(BODY.format("{evil}") + '<w:Wrap xmlns:w="urn:w">{good}</w:Wrap>'),
    ),
    "genuine in a second body": ("envelope", _placed(BODY.format("{evil}") + BODY.format("{good}"))),
    "genuine in a first body": ("envelope", _placed(BODY.format("{good}") + BODY.format("{evil}"))),
    "genuine in an Object of the signature": ("signature-shape", _inside("ds:Signature", OBJECT)),
    "genuine in two Objects": ("signature-shape", _inside("ds:Signature", OBJECT * 2)),
    "genuine's bare message in an Object": ("schema", _inside("ds:Signature", "<ds:Object>{bare}</ds:Object>")),
    "genuine in KeyInfo": ("signature-shape", _inside("ds:KeyInfo")),
    "genuine's bare message in KeyInfo": ("schema", _inside("ds:KeyInfo", "{bare}")),
    "genuine in X509Data": ("signature-shape", _inside("ds:X509Data")),
    "genuine in SignatureValue": ("schema", _inside("ds:SignatureValue")),
    "genuine in DigestValue": ("schema", _inside("ds:DigestValue")),
    "genuine in Transform": ("signature-shape", _inside("ds:Transform")),
    "genuine in Transforms": ("schema", _inside("ds:Transforms")),
    "genuine in CanonicalizationMethod": ("signature-shape", _inside("ds:CanonicalizationMethod")),
    "genuine in SignatureMethod": ("signature-shape", _inside("ds:SignatureMethod")),
    "genuine in Result": ("schema", _inside("Result")),
    "genuine in Status": ("schema", _inside("Status")),
    "genuine in RetrievalId": ("schema", _inside("RetrievalId")),
    "attacker's message around the genuine": (
        "schema",
        lambda forge: envelope(
            forge.message(value=f"<RetrievalId>666</RetrievalId>{forge.signed()}").replace(SIGNATURE_HERE, "")
        ),
    ),
    "attacker's message with the signature first": (
        "schema",
        _placed(BODY.format("{first}")),
    ),
    "genuine signature moved to the header": (
        "schema",
        _placed(HEADER.format("{s}") + BODY.format("{unsigned}")),
    ),
    "genuine signature moved to the envelope": ("envelope", _placed(BODY.format("{unsigned}") + "{s}")),
    "genuine signature beside the message": ("envelope", _placed(BODY.format("{unsigned}{s}"))),
    "signature of signature": ("operation", _placed(BODY.format("{s}"))),
    "two genuine signatures": (
        "schema",
        lambda forge: envelope(forge.signed().replace("</cs:", _original(forge)[2] + "</cs:")),
    ),
    "body in a body": ("operation", _placed(BODY.format(BODY.format("{good}")))),
    "envelope in an envelope": (
        "operation",
        lambda forge: envelope(envelope(forge.signed()).decode()),
    ),
}


def _identified(name: str, xpath: str, **changes: Any) -> Build:
    """The service signs only a part, by its Id; the attacker changes the rest."""

    def build(forge: Forge) -> bytes:
        text = forge.signed(reference=f'URI="#{name}"', digested=xpath, **changes)
        return envelope(forge.evil(text))

    return build


def _reference(attributes: str) -> Build:
    """The service signs the whole document, but the reference says so in another way."""
    return lambda forge: forge.answer(reference=attributes)


MANIFEST = (
    f'<ds:Object><ds:Manifest Id="man"><ds:Reference URI=""><ds:Transforms><ds:Transform Algorithm="{ENVELOPED}"/>'
    '</ds:Transforms><ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmlenc#sha256"/>'
    "<ds:DigestValue>AAAA</ds:DigestValue></ds:Reference></ds:Manifest></ds:Object>"
)
PLAIN = ((C14N, ""),)
SECOND = (
    '<ds:Reference URI="{}"><ds:Transforms><ds:Transform Algorithm="' + EXCLUSIVE + '"/></ds:Transforms>'
    '<ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmlenc#sha256"/><ds:DigestValue>AAAA</ds:DigestValue>'
    "</ds:Reference>"
)  # fmt: skip
KEY_INFO = '<ds:KeyInfo Id="k"><ds:X509Data><ds:X509Certificate>{}</ds:X509Certificate></ds:X509Data></ds:KeyInfo>'


def _signs_own_key_info(forge: Forge) -> bytes:
    """Only the signature's own KeyInfo is signed, which has an Id by the schema."""
    return _as_bytes(
        _identified(
            "k",
            "//ds:KeyInfo",
            transforms=PLAIN,
            key_info=KEY_INFO.format(b64(_leaf(forge))),
        )(forge)
    )


def _leaf(forge: Forge) -> bytes:
    """Return the service's signing certificate."""
    from varmenne.testbench.family import der

    return der(forge.signer.certificate)


def _as_bytes(built: Sample | bytes) -> bytes:
    return built if isinstance(built, bytes) else built.body


REFERENCES: dict[str, tuple[str, Build]] = {
    "own KeyInfo": ("signature-shape", _signs_own_key_info),
    "own SignatureMethod by XPointer": (
        "signature-shape",
        _identified("xpointer(//ds:SignatureMethod)", "//ds:SignatureMethod", transforms=PLAIN),
    ),
    "own SignatureValue": (
        "signature-shape",
        _reference('URI="#v"'),
    ),
    "a Manifest in an Object": (
        "signature-shape",
        _identified("man", "//ds:Manifest", transforms=PLAIN, after=MANIFEST),
    ),
    "a Manifest, with its type": (
        "signature-shape",
        lambda forge: forge.answer(reference=f'URI="" Type="{DSIG}Manifest"'),
    ),
    "an Object": (
        "signature-shape",
        _identified("o", "//ds:Object", transforms=PLAIN, after='<ds:Object Id="o">harmless</ds:Object>'),
    ),
    "no URI": ("signature-shape", _reference("")),
    "only an Id": ("signature-shape", _reference('Id="r"')),
    "a blank": ("signature-shape", _reference('URI=" "')),
    "a tab": ("signature-shape", _reference('URI="&#9;"')),
    "a fragment of nothing": ("signature-shape", _reference('URI="#"')),
    "XPointer to the root": ("signature-shape", _reference('URI="#xpointer(/)"')),
    "XPointer to an Id": ("signature-shape", _reference("URI=\"#xpointer(id('x'))\"")),
    "XPointer to here": ("signature-shape", _reference('URI="#xpointer(here()/ancestor::*)"')),
    "a local file": ("signature-shape", _reference('URI="file:///etc/hostname"')),
    "the network": ("signature-shape", _reference('URI="http://127.0.0.1:9/x"')),
    "an attachment": ("signature-shape", _reference('URI="cid:part1"')),
    "a relative path": ("signature-shape", _reference('URI="message.xml"')),
    "an Id of the Result": (
        "schema",
        lambda forge: envelope(
            forge.evil(
                sign(
                    forge.message().replace("<Result>", '<Result Id="res">'),
                    forge.plan(reference='URI="#res"', digested="//Result", transforms=PLAIN),
                )
            )
        ),
    ),
    "an Id of the message": (
        "schema",
        lambda forge: envelope(sign(forge.message(declared=' Id="m"'), forge.plan(reference='URI="#m"'))),
    ),
    "a second reference": ("signature-shape", lambda forge: forge.answer(more_references=SECOND.format(""))),
    "a second reference to the network": (
        "signature-shape",
        lambda forge: forge.answer(more_references=SECOND.format("http://127.0.0.1:9/")),
    ),
    "thirty references": ("signature-shape", lambda forge: forge.answer(more_references=SECOND.format("") * 29)),
    "an unknown type": ("signature-shape", _reference('URI="" Type="urn:unknown"')),
}

XPATH = "http://www.w3.org/TR/1999/REC-xpath-19991116"
FILTER2 = "http://www.w3.org/2002/06/xmldsig-filter2"
XSLT = "http://www.w3.org/TR/1999/REC-xslt-19991116"
STYLESHEET = (
    '<x:stylesheet version="1.0" xmlns:x="http://www.w3.org/1999/XSL/Transform"><x:template match="/">'
    "<x:value-of select=\"document('file:///etc/hostname')\"/></x:template></x:stylesheet>"
)
LIST = f'<ec:InclusiveNamespaces xmlns:ec="{EXCLUSIVE}" PrefixList="cs"/>'


def _transforms(*transforms: tuple[str, str] | str, check: str = "signature-shape", **more: Any) -> tuple[str, Build]:
    """The service signs with other transforms."""
    listed = [item if isinstance(item, tuple) else (item, "") for item in transforms]
    return check, lambda forge: forge.answer(transforms=listed, **more)


TRANSFORMS: dict[str, tuple[str, Build]] = {
    "no Transforms element": ("signature-shape", lambda forge: forge.answer(transforms_text="")),
    "an empty Transforms element": ("schema", lambda forge: forge.answer(transforms_text="<ds:Transforms/>")),
    "canonicalisation alone": _transforms(EXCLUSIVE),
    "canonicalisation first": _transforms(EXCLUSIVE, ENVELOPED),
    "enveloped twice": _transforms(ENVELOPED, ENVELOPED),
    "canonicalisation twice": _transforms(ENVELOPED, C14N, EXCLUSIVE),
    "with comments": _transforms(ENVELOPED, f"{C14N}#WithComments"),
    "exclusive with comments": _transforms(ENVELOPED, f"{EXCLUSIVE}WithComments"),
    "XPath that keeps all": _transforms(ENVELOPED, (XPATH, "<ds:XPath>true()</ds:XPath>"), check="signature-shape"),
    "XPath that drops the value": _transforms(
        ENVELOPED, (XPATH, "<ds:XPath>not(ancestor-or-self::RetrievalId)</ds:XPath>")
    ),
    "XPath alone": _transforms((XPATH, "<ds:XPath>not(self::ds:Signature)</ds:XPath>")),
    "XPath filter 2": _transforms(
        ENVELOPED, (FILTER2, f'<f:XPath xmlns:f="{FILTER2}" Filter="subtract">//x</f:XPath>')
    ),
    "XPath filter 2 without filter": _transforms(ENVELOPED, FILTER2),
    "XSLT": _transforms(ENVELOPED, (XSLT, STYLESHEET)),
    "XSLT without a stylesheet": _transforms(ENVELOPED, XSLT),
    "base64": _transforms(ENVELOPED, f"{DSIG}base64"),
    "unknown": _transforms(ENVELOPED, "urn:unknown"),
    "empty name": _transforms(ENVELOPED, ""),
    "name with a blank": _transforms(f"{ENVELOPED} "),
    "in other letters": _transforms(ENVELOPED.upper()),
    "relationships": _transforms(ENVELOPED, "http://schemas.openxmlformats.org/package/2006/RelationshipTransform"),
    "decryption": _transforms("http://www.w3.org/2002/07/decrypt#XML", ENVELOPED),
    "security token": _transforms(
        "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-soap-message-security-1.0#STR-Transform", ENVELOPED
    ),
    "six transforms": _transforms(ENVELOPED, *[C14N] * 5),
    "a thousand transforms": _transforms(ENVELOPED, *[C14N] * 999),
    "parameters of inclusive C14N": _transforms(ENVELOPED, (C14N, LIST)),
    "parameters of enveloped": _transforms((ENVELOPED, LIST)),
    "parameters twice": _transforms(ENVELOPED, (EXCLUSIVE, LIST * 2)),
    "parameters with a child": _transforms(
        ENVELOPED, (EXCLUSIVE, LIST.replace("/>", "><a/></ec:InclusiveNamespaces>")), check="schema"
    ),
    "parameters with an unknown attribute": _transforms(
        ENVELOPED, (EXCLUSIVE, LIST.replace("/>", ' a=""/>')), check="schema"
    ),
    "name with a no-break space": _transforms(f"{ENVELOPED}\u00a0"),
    "XPath inside enveloped": _transforms((ENVELOPED, "<ds:XPath>true()</ds:XPath>")),
    "parameters of SignedInfo's inclusive C14N": (
        "signature-shape",
        lambda forge: forge.answer(c14n_inside=LIST),
    ),
}

__all__ = ["NAMESPACE", "REFERENCES", "TRANSFORMS", "WRAPPING", "Attack", "Build", "Operation", "family"]
