"""Genuine answers in every form that a SOAP stack may give them. Each has a name, and must be accepted."""

from __future__ import annotations

import itertools
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from lxml import etree

from harness.forge import (
    C14N,
    C14N_1_1,
    DIGEST,
    ENC,
    ENVELOPED,
    EXCLUSIVE,
    MORE,
    VALUE,
    Forge,
    Sample,
    b64,
    envelope,
    signature_text,
)
from varmenne.service.interface import NAMESPACE, Operation
from varmenne.testbench.family import KeyPair, der, key_pem, pem

Build = Callable[[Forge], Sample]

EXCLUSIVE_TOO = ((ENVELOPED, ""), (EXCLUSIVE, ""))
FORMS: dict[str, dict[str, Any]] = {
    "observed": {},
    "inclusive named": {"transforms": ((ENVELOPED, ""), (C14N, ""))},
    "exclusive": {"transforms": EXCLUSIVE_TOO, "c14n": EXCLUSIVE},
    "exclusive digest, inclusive signature": {"transforms": EXCLUSIVE_TOO},
    "inclusive digest, exclusive signature": {"c14n": EXCLUSIVE},
    "canonical XML 1.1": {"transforms": ((ENVELOPED, ""), (C14N_1_1, "")), "c14n": C14N_1_1},
}
NAMES = {
    # name: prefixes of envelope, message and signature
    "usual prefixes": ("soapenv:", "cs:", "ds:"),
    "default namespaces": ("", "", ""),
    "one letter": ("S:", "n:", "d:"),
    "strange prefixes": ("_ä.1:", "xmlish:", "soapenv:"),
}
ERROR = "<Status>FAIL</Status><ErrorInfo><ErrorCode>PKI110</ErrorCode><ErrorMessage>{}</ErrorMessage></ErrorInfo>"


def _formed(form: str, names: str, newline: str) -> Build:
    """Return the builder of one form of signature, prefixes and layout."""
    outer, inner, own = NAMES[names]

    def build(forge: Forge) -> Sample:
        message = forge.message(Operation.GET, prefix=inner, newline=newline)
        text = forge.signed(message=message, prefix=own, newline=newline, **FORMS[form])
        return Sample(envelope(text, prefix=outer, newline=newline), Operation.GET)

    return build


def _with(message: dict[str, str] | None = None, around: dict[str, str] | None = None, **plan: Any) -> Build:
    """Return the builder of an answer with something unusual in message, envelope or signature."""
    return lambda forge: Sample(
        envelope(forge.signed(message=forge.message(**_words(message)), **plan), **(around or {}))
    )


def _words(message: dict[str, str] | None) -> dict[str, Any]:
    """Return the arguments of a message."""
    return dict(message or {})


def _echoed_key(forge: Forge) -> Sample:
    """KeyInfo names the certificate's key in every way that XML Signature has."""
    numbers = forge.signer.key.public_key().public_numbers()
    value = (
        f"<ds:KeyName>the service</ds:KeyName><ds:KeyValue><ds:RSAKeyValue><ds:Modulus>{b64(numbers.n.to_bytes(256))}"
        "</ds:Modulus><ds:Exponent>AQAB</ds:Exponent></ds:RSAKeyValue></ds:KeyValue>"
    )
    more = (
        "<ds:X509SubjectName>CN=the service</ds:X509SubjectName><ds:X509IssuerSerial><ds:X509IssuerName>CN=its CA"
        "</ds:X509IssuerName><ds:X509SerialNumber>5</ds:X509SerialNumber></ds:X509IssuerSerial>"
        "<ds:X509SKI>AAAA</ds:X509SKI>"
    )
    return Sample(forge.answer(key_info_more=value, x509_more=more))


def _chain(forge: Forge) -> Sample:
    """The signature carries the whole chain, as signers like to send it."""
    certificates = [der(pair.certificate) for pair in (forge.signer, forge.services, forge.root)]
    return Sample(forge.answer(certificates=certificates))


def _no_extensions_of_use(forge: Forge) -> Sample:
    """RFC 5280 does not ask an end entity's certificate for a key usage."""
    return Sample(forge.answer(signer=forge.issue(forge.services, usage=None)))


def _committing(forge: Forge) -> Sample:
    """A key for non-repudiation signs too."""
    return Sample(forge.answer(signer=forge.issue(forge.services, usage=("content_commitment",))))


def _rolled_over(forge: Forge) -> Sample:
    """While a CA is rolled over there are two, and the one that signs is the second."""
    services = (der(forge.providers.certificate), *forge.anchors)
    return Sample(forge.answer(), services=services)


def _signxml(c14n: str, operation: Operation) -> Build:
    """Return the builder of an answer that signxml has signed."""

    def build(forge: Forge) -> Sample:
        from signxml.algorithms import CanonicalizationMethod
        from signxml.signer import XMLSigner

        root = etree.fromstring(forge.message(operation).replace("\N{SNOWMAN}", "").encode())
        signer = XMLSigner(c14n_algorithm=CanonicalizationMethod(c14n))
        signed = signer.sign(root, key=forge.signer.key, cert=[forge.signer.certificate])
        return Sample(envelope(etree.tostring(signed).decode()), operation)

    return build


def _xmlsec1(form: str, newline: str) -> Build:
    """Return the builder of an answer that xmlsec1 has signed: it fills in a template."""

    def build(forge: Forge) -> Sample:
        plan = forge.plan(newline=newline, key_info="<ds:KeyInfo><ds:X509Data/></ds:KeyInfo>", **FORMS[form])
        empty = signature_text(plan).replace(DIGEST, "").replace(VALUE, "")
        template = forge.message(newline=newline).replace("\N{SNOWMAN}", empty)
        return Sample(envelope(_run_xmlsec1(template, forge.signer).removeprefix('<?xml version="1.0"?>\n').strip()))

    return build


def _run_xmlsec1(template: str, signer: KeyPair) -> str:
    """Let xmlsec1 sign a template, and return what it wrote."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "key.pem").write_bytes(key_pem(signer.key))
        (folder / "certificate.pem").write_bytes(pem(signer.certificate))
        (folder / "template.xml").write_text(template, encoding="utf-8")
        command = ["xmlsec1", "--sign", "--lax-key-search", "--privkey-pem", "key.pem,certificate.pem", "template.xml"]
        if "lax" not in subprocess.run(["xmlsec1", "--help-sign"], capture_output=True, text=True, check=False).stdout:
            command.remove("--lax-key-search")
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=30).stdout


XSI = "http://www.w3.org/2001/XMLSchema-instance"
DECLARATION = '<?xml version="1.0" encoding="{}"?>'
SECURITY = '<soapenv:Header><x:Trace xmlns:x="urn:x" soapenv:mustUnderstand="0">1</x:Trace></soapenv:Header>'

GOOD: dict[str, Build] = {
    **{
        f"{form}, {names}, {'pretty' if newline else 'compact'}": _formed(form, names, newline)
        for form, names, newline in itertools.product(FORMS, NAMES, ("", "\n  "))
    },
    "byte order mark": lambda forge: Sample(b"\xef\xbb\xbf" + forge.answer()),
    "XML declaration": _with(around={"before": DECLARATION.format("UTF-8") + "\n"}),
    "XML declaration, lower case": _with(around={"before": DECLARATION.format("utf-8")}),
    "XML declaration, standalone": _with(around={"before": "<?xml version='1.0' encoding='utf8' standalone='yes' ?>"}),
    "byte order mark and declaration": lambda forge: Sample(
        b"\xef\xbb\xbf" + envelope(forge.signed(), before=DECLARATION.format("UTF-8"))
    ),
    "white space around": _with(around={"before": "\n \n", "after": "\r\n\r\n"}),
    "empty header": _with(around={"header": "<soapenv:Header/>"}),
    "header that need not be understood": _with(around={"header": SECURITY}),
    "Id on the body": _with(around={"body": ' wsu:Id="b" xmlns:wsu="urn:wsu"'}),
    "namespaces on the envelope": _with(around={"declared": f' xmlns:xsi="{XSI}" xmlns:xsd="urn:x" xmlns:a="urn:a"'}),
    "same namespace on envelope and message": _with(around={"declared": f' xmlns:cs="{NAMESPACE}"'}),
    "declared but unused on the message": _with(message={"declared": f' xmlns:xsi="{XSI}" xmlns:u="urn:u"'}),
    "schema location": _with(
        message={"declared": f' xmlns:xsi="{XSI}" xsi:schemaLocation="urn:x http://127.0.0.1:9/"'}
    ),
    "inclusive namespaces": _with(
        transforms=(
            (ENVELOPED, ""),
            (EXCLUSIVE, f'<ec:InclusiveNamespaces xmlns:ec="{EXCLUSIVE}" PrefixList="cs u"/>'),
        ),
        c14n=EXCLUSIVE,
        c14n_inside=f'<ec:InclusiveNamespaces xmlns:ec="{EXCLUSIVE}" PrefixList="ds u"/>',
        message={"declared": ' xmlns:u="urn:u"'},
    ),
    "carriage returns in base64": _with(base64_break="&#13;\n"),
    "carriage returns in the certificate": lambda forge: Sample(
        envelope(
            forge.signed(
                message=forge.message(
                    Operation.GET, value=f"<Certificate>{b64(forge.certificate, '&#xD;&#10;')}</Certificate>"
                )
            )
        ),
        Operation.GET,
    ),
    "character data section": _with(message={"value": "<RetrievalId><![CDATA[12345]]></RetrievalId>"}),
    "character references": _with(message={"value": "<RetrievalId>&#49;&#x32;345</RetrievalId>"}),
    "blanks around the value": _with(message={"value": "<RetrievalId>\n  12345\n</RetrievalId>"}),
    "longest RetrievalId": _with(message={"value": f"<RetrievalId>{'R' * 32}</RetrievalId>"}),
    "RetrievalId of strange characters": _with(message={"value": "<RetrievalId>ä/€ &amp; {1}</RetrievalId>"}),
    "Ids in the signature": _with(attributes=' Id="s"', reference='Id="r" URI=""'),
    "every name of the key": _echoed_key,
    "whole chain": _chain,
    "SHA-512": _with(
        digest_method=f"{ENC}sha512",
        digest_hash=hashes.SHA512(),
        method=f"{MORE}rsa-sha512",
        signature_hash=hashes.SHA512(),
    ),
    "SHA-384": _with(
        digest_method=f"{MORE}sha384",
        digest_hash=hashes.SHA384(),
        method=f"{MORE}rsa-sha384",
        signature_hash=hashes.SHA384(),
    ),
    "no key usage": _no_extensions_of_use,
    "key usage for commitment": _committing,
    "two services CAs": _rolled_over,
    "refusal": _with(message={"value": "", "result": ERROR.format("Siirtotunnusta ei löydy.")}),
    "refusal with markup": _with(message={"value": "", "result": ERROR.format("Fel &lt;&amp;&gt; “försök” &#9; igen")}),
    "refusal without reason": _with(message={"value": "", "result": "<Status>FAIL</Status>"}),
    "refusal with many reasons": _with(
        message={
            "value": "",
            "result": ERROR.format("x" * 255) + ERROR.format("y").removeprefix("<Status>FAIL</Status>") * 9,
        }
    ),
    "OK with a remark": _with(message={"result": ERROR.format("A remark").replace("FAIL", "OK")}),
    "answer to a renewal": lambda forge: Sample(forge.answer(Operation.RENEW), Operation.RENEW),
    **{
        f"signxml, {c14n.rpartition('/')[2]}, {operation}": _signxml(c14n, operation)
        for c14n in (C14N, C14N_1_1, EXCLUSIVE)
        for operation in (Operation.SIGN_NEW, Operation.GET)
    },
    **{
        f"xmlsec1, {form}, {'pretty' if newline else 'compact'}": _xmlsec1(form, newline)
        for form in ("observed", "exclusive", "inclusive named", "canonical XML 1.1")
        for newline in ("", "\n    ")
    },
}
"""Name → builder."""
