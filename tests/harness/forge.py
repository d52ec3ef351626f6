"""Makes answers of the certificate service, genuine and forged, in every form that XML allows.

Written by hand over text, so that a sample is exactly what its author meant: no library tidies it up, and none of the
verifier's code is used. Keys are made when it starts; all else follows from the seed.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from lxml import etree

from varmenne.service.interface import DSIG, NAMESPACE, SOAP_ENVELOPE, Operation
from varmenne.testbench.family import KeyPair, bench_name, build_certificate, der, key_usage

SEED = 20_171_024
AT = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
YEAR = timedelta(days=365)

ENVELOPED = f"{DSIG}enveloped-signature"
C14N = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"
C14N_1_1 = "http://www.w3.org/2006/12/xml-c14n11"
EXCLUSIVE = "http://www.w3.org/2001/10/xml-exc-c14n#"
MORE = "http://www.w3.org/2001/04/xmldsig-more#"
ENC = "http://www.w3.org/2001/04/xmlenc#"
RSA_SHA256 = f"{MORE}rsa-sha256"
SHA256 = f"{ENC}sha256"

SIGNATURE_HERE = "\N{SNOWMAN}"
"""Stands in a message's text where the signature will be."""
DIGEST, VALUE = "@digest@", "@value@"


@dataclass(frozen=True, slots=True)
class Plan:
    """How a message is signed. Texts are put into the signature as they are, whatever that makes of it."""

    signer: KeyPair
    prefix: str = "ds:"
    transforms: Sequence[tuple[str, str]] = ((ENVELOPED, ""),)
    transforms_text: str | None = None
    c14n: str = C14N
    c14n_inside: str = ""
    method: str = RSA_SHA256
    method_inside: str = ""
    signature_hash: hashes.HashAlgorithm = field(default_factory=hashes.SHA256)
    sign_octets: Callable[[bytes], bytes] | None = None
    digest_method: str = SHA256
    digest_hash: hashes.HashAlgorithm = field(default_factory=hashes.SHA256)
    reference: str = 'URI=""'
    digested: str = ""
    more_references: str = ""
    certificates: Sequence[bytes] | None = None
    key_info: str | None = None
    x509_more: str = ""
    key_info_more: str = ""
    attributes: str = ""
    after: str = ""
    newline: str = ""
    base64_break: str = ""


def b64(octets: bytes, line_break: str = "") -> str:
    """Encode, with a line break after every 64 characters where one is given."""
    text = base64.b64encode(octets).decode()
    return line_break.join(text[i : i + 64] for i in range(0, len(text), 64)) if line_break else text


def signature_text(plan: Plan) -> str:
    """Write the signature with places left for digest and value."""
    p, n = plan.prefix, plan.newline
    declared = f'xmlns:{p[:-1]}="{DSIG}"' if p else f'xmlns="{DSIG}"'
    certificates = [der(plan.signer.certificate)] if plan.certificates is None else plan.certificates
    data = "".join(
        f"<{p}X509Certificate>{b64(certificate, plan.base64_break)}</{p}X509Certificate>{n}"
        for certificate in certificates
    )
    key_info = plan.key_info
    if key_info is None:
        key_info = (
            f"<{p}KeyInfo>{n}{plan.key_info_more}<{p}X509Data>{n}{data}{plan.x509_more}</{p}X509Data>{n}</{p}KeyInfo>"
        )
    transforms = plan.transforms_text
    if transforms is None:
        listed = "".join(
            f'<{p}Transform Algorithm="{name}">{inside}</{p}Transform>{n}' for name, inside in plan.transforms
        )
        transforms = f"<{p}Transforms>{n}{listed}</{p}Transforms>"
    return (
        f"<{p}Signature {declared}{plan.attributes}>{n}<{p}SignedInfo>{n}"
        f'<{p}CanonicalizationMethod Algorithm="{plan.c14n}">{plan.c14n_inside}</{p}CanonicalizationMethod>{n}'
        f'<{p}SignatureMethod Algorithm="{plan.method}">{plan.method_inside}</{p}SignatureMethod>{n}'
        f"<{p}Reference {plan.reference}>{n}{transforms}{n}"
        f'<{p}DigestMethod Algorithm="{plan.digest_method}"/>{n}<{p}DigestValue>{DIGEST}</{p}DigestValue>{n}'
        f"</{p}Reference>{plan.more_references}{n}</{p}SignedInfo>{n}"
        f"<{p}SignatureValue>{VALUE}</{p}SignatureValue>{n}{key_info}{n}{plan.after}</{p}Signature>"
    )


def canonical(element: Any, algorithm: str, prefixes: Sequence[str] = ()) -> bytes:
    """Return canonical octets; what does not name exclusive C14N gets inclusive C14N.

    lxml canonicalises only whole documents well, so the element becomes one, with the declarations in scope for it.
    That xmlsec1 sees it the same way is tested.
    """
    element = etree.fromstring(etree.tostring(element, with_tail=False))
    exclusive = algorithm.startswith(EXCLUSIVE)
    inclusive = list(prefixes) if exclusive and prefixes else None
    octets: bytes = etree.tostring(
        element,
        method="c14n",
        exclusive=exclusive,
        with_comments=False,
        inclusive_ns_prefixes=inclusive,
        with_tail=False,
    )
    return octets


def _prefixes(element: Any) -> list[str]:
    """Return the PrefixList of a canonicalisation."""
    lists = [child.get("PrefixList", "") for child in element if str(child.tag).endswith("InclusiveNamespaces")]
    return " ".join(lists).split()


def sign(message: str, plan: Plan) -> str:
    """Put a signature into a message, over the whole of it, or over what XPath ``plan.digested`` finds."""
    text = message.replace(SIGNATURE_HERE, signature_text(plan))
    root = etree.fromstring(text.encode())
    wanted = root
    signature = next(root.iter(f"{{{DSIG}}}Signature"))
    transforms = list(signature.iter(f"{{{DSIG}}}Transform"))
    if plan.digested:
        (wanted,) = root.xpath(plan.digested, namespaces={"ds": DSIG})
    else:
        _cut(signature)
    last = transforms[-1] if transforms else etree.Element("none", Algorithm="")
    octets = canonical(wanted, last.get("Algorithm", ""), _prefixes(last))
    text = text.replace(DIGEST, b64(_digest(octets, plan.digest_hash)))
    info = next(etree.fromstring(text.encode()).iter(f"{{{DSIG}}}SignedInfo"))
    method = info[0]
    signed = canonical(info, plan.c14n, _prefixes(method))
    by_key = plan.sign_octets or (lambda data: plan.signer.key.sign(data, padding.PKCS1v15(), plan.signature_hash))
    return text.replace(VALUE, b64(by_key(signed), plan.base64_break))


def _cut(signature: Any) -> None:
    """Take a signature out of its document; the text after it stays."""
    parent, previous = signature.getparent(), signature.getprevious()
    if previous is None:
        parent.text = (parent.text or "") + (signature.tail or "")
    else:
        previous.tail = (previous.tail or "") + (signature.tail or "")
    parent.remove(signature)


def _digest(octets: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(octets)
    return digest.finalize()


def envelope(
    content: str, *, prefix: str = "soapenv:", header: str = "", declared: str = "", before: str = "", after: str = "",
    body: str = "", newline: str = "", namespace: str = SOAP_ENVELOPE,
) -> bytes:  # fmt: skip
    """Put a message's text into an envelope."""
    own = f'xmlns:{prefix[:-1]}="{namespace}"' if prefix else f'xmlns="{namespace}"'
    n = newline
    return (
        f"{before}<{prefix}Envelope {own}{declared}>{n}{header}{n}<{prefix}Body{body}>{n}{content}{n}"
        f"</{prefix}Body>{n}</{prefix}Envelope>{after}"
    ).encode()


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer, and what is needed to judge it."""

    body: bytes
    operation: Operation = Operation.SIGN_NEW
    services: tuple[bytes, ...] | None = None
    at: datetime = AT


class Forge:
    """Authorities, signers of every kind, and the words of the service."""

    def __init__(self, seed: int = SEED) -> None:
        self.random = random.Random(seed)  # noqa: S311 - for repeatable samples, not for keys
        self._keys = {name: self.new_key() for name in ("root", "services", "providers", "signer", "other")}
        self.root = self._authority("FORGE Root CA", "root", None)
        self.services = self._authority("FORGE Services CA", "services", self.root)
        self.providers = self._authority("FORGE Providers CA", "providers", self.root)
        self.signer = self.issue(self.services)
        self.customer = self.issue(self.providers, name="FORGE Customer", key=self._keys["other"])
        self.retrieval = "".join(self.random.choices("0123456789", k=20))
        self.certificate = der(self.customer.certificate)

    @staticmethod
    def new_key(bits: int = 2048) -> rsa.RSAPrivateKey:
        """Make a key."""
        return rsa.generate_private_key(65_537, bits)

    @property
    def other_key(self) -> rsa.RSAPrivateKey:
        """A key that the service has nothing to do with."""
        return self._keys["other"]

    def _authority(self, name: str, key: str, issuer: KeyPair | None) -> KeyPair:
        own = self._keys[key]
        extensions = [(x509.BasicConstraints(True, None), True), (key_usage("key_cert_sign", "crl_sign"), True)]
        certificate = build_certificate(
            bench_name(name), own.public_key(), issuer, own_key=own, begin=AT - YEAR, end=AT + 9 * YEAR,
            extensions=extensions,
        )  # fmt: skip
        return KeyPair(certificate, own)

    def issue(
        self,
        issuer: KeyPair,
        *,
        name: str = "FORGE Certificate Service",
        key: Any = None,
        begin: datetime = AT - timedelta(days=30),
        end: datetime = AT + YEAR,
        ca: bool = False,
        usage: Sequence[str] | None = ("digital_signature",),
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> KeyPair:
        """Issue a signer of any kind."""
        own = key or self._keys["signer"]
        listed = [(x509.BasicConstraints(ca, None), True), *extensions]
        if usage is not None:
            listed.append((key_usage(*usage), True))
        certificate = build_certificate(
            bench_name(name), own.public_key(), issuer, begin=begin, end=end, extensions=listed
        )
        return KeyPair(certificate, own)

    @property
    def anchors(self) -> tuple[bytes, ...]:
        """The trust of an honest client."""
        return (der(self.services.certificate),)

    def message(
        self,
        operation: Operation = Operation.SIGN_NEW,
        *,
        prefix: str = "cs:",
        value: str | None = None,
        result: str = "<Status>OK</Status>",
        declared: str = "",
        newline: str = "",
        extra: str = "",
    ) -> str:
        """Write an answer's message; ``value`` is what it carries, as XML, and the empty text leaves it out."""
        if value is None:
            kind, content = (
                ("Certificate", b64(self.certificate))
                if operation is Operation.GET
                else ("RetrievalId", self.retrieval)
            )
            value = f"<{kind}>{content}</{kind}>"
        # With a default namespace on the message, its children would be in it, so they say that they are in none.
        value, result = (_unqualified(text) if not prefix else text for text in (value, f"<Result>{result}</Result>"))
        own = f'xmlns:{prefix[:-1]}="{NAMESPACE}"' if prefix else f'xmlns="{NAMESPACE}"'
        name, n = operation.response_element, newline
        return f"<{prefix}{name} {own}{declared}>{n}{value}{n}{result}{n}{extra}{SIGNATURE_HERE}{n}</{prefix}{name}>"

    def plan(self, **changes: Any) -> Plan:
        """Return the plan of the observed form, changed."""
        return replace(Plan(self.signer), **changes)

    def signed(self, operation: Operation = Operation.SIGN_NEW, *, message: str | None = None, **changes: Any) -> str:
        """Return a signed message."""
        return sign(self.message(operation) if message is None else message, self.plan(**changes))

    def answer(self, operation: Operation = Operation.SIGN_NEW, **changes: Any) -> bytes:
        """Return a signed message in its envelope."""
        return envelope(self.signed(operation, **changes))

    def evil(self, text: str) -> str:
        """Change the value of a signed message to the attacker's."""
        return text.replace(self.retrieval, "6" * len(self.retrieval))


def _unqualified(text: str) -> str:
    """Take the outermost element out of a default namespace."""
    head, bracket, rest = text.partition(">")
    return f'{head} xmlns=""{bracket}{rest}' if text else ""
