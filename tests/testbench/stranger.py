"""A stranger's client of the certificate service: strings, ``requests`` and ``cryptography``, no code of varmenne's.

What it needs of XML signatures is written here once more, by hand, so that bench and tests cannot share a mistake.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from lxml import etree

from varmenne.testbench.server import BenchServer
from varmenne.testbench.state import Order

NS = "http://certificates.vero.fi/2017/10/certificateservices"
DS = "http://www.w3.org/2000/09/xmldsig#"
SOAP = "http://schemas.xmlsoap.org/soap/envelope/"
EXCLUSIVE = "http://www.w3.org/2001/10/xml-exc-c14n#"
CUSTOMER = "0123456-7"
NAME = "Åkerlund & Öljy Oy"


def envelope(payload: str, *, header: str = "") -> bytes:
    """Put a payload's text into an envelope, as strangers do."""
    return f'<s:Envelope xmlns:s="{SOAP}">{header}<s:Body>{payload}</s:Body></s:Envelope>'.encode()


def csr(key: rsa.RSAPrivateKey, algorithm: hashes.HashAlgorithm | None = None) -> bytes:
    """Make a CSR in DER."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, CUSTOMER)]))
        .sign(key, algorithm or hashes.SHA256())  # type: ignore[arg-type]  # any hash, to be refused
        .public_bytes(serialization.Encoding.DER)
    )


def sign_new(order: Order, request: bytes, **changes: str) -> str:
    """Write a SignNewCertificateRequest."""
    fields = {
        "Environment": "TEST",
        "CustomerId": order.customer_id,
        "TransferId": order.transfer_id,
        "TransferPassword": order.one_time_password,
        "CertificateRequest": base64.b64encode(request).decode(),
    }
    return message("SignNewCertificateRequest", fields | changes)


def get(retrieval_id: str, customer: str = CUSTOMER, environment: str = "TEST") -> str:
    """Write a GetCertificateRequest."""
    fields = {"Environment": environment, "CustomerId": customer, "RetrievalId": retrieval_id}
    return message("GetCertificateRequest", fields)


def message(name: str, fields: dict[str, str], more: str = "") -> str:
    """Write a message: qualified root, unqualified children."""
    children = "".join(f"<{field}>{escape(value)}</{field}>" for field, value in fields.items())
    return f'<c:{name} xmlns:c="{NS}">{children}{more}</c:{name}>'


def renewal(request: bytes, customer: str = CUSTOMER, environment: str = "TEST") -> str:
    """Write a RenewCertificateRequest without its signature."""
    fields = {
        "Environment": environment,
        "CustomerId": customer,
        "CertificateRequest": base64.b64encode(request).decode(),
    }
    return message("RenewCertificateRequest", fields)


def exclusive(element: etree._Element) -> bytes:
    """Exclusive C14N of an element in its place."""
    octets: bytes = etree.tostring(element, method="c14n", exclusive=True, with_tail=False)
    return octets


def signed(document: str, key: rsa.RSAPrivateKey, certificate: bytes) -> str:
    """Sign a document as the service demands: template, digest, signature; then everything is text again."""
    digest = hashlib.sha256(exclusive(etree.fromstring(document.encode()))).digest()
    info = (
        f'<ds:SignedInfo xmlns:ds="{DS}">'
        f'<ds:CanonicalizationMethod Algorithm="{EXCLUSIVE}"></ds:CanonicalizationMethod>'
        '<ds:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"></ds:SignatureMethod>'
        '<ds:Reference URI=""><ds:Transforms>'
        f'<ds:Transform Algorithm="{DS}enveloped-signature"></ds:Transform>'
        f'<ds:Transform Algorithm="{EXCLUSIVE}"></ds:Transform></ds:Transforms>'
        '<ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmlenc#sha256"></ds:DigestMethod>'
        f"<ds:DigestValue>{base64.b64encode(digest).decode()}</ds:DigestValue></ds:Reference></ds:SignedInfo>"
    )
    value = base64.b64encode(key.sign(info.encode(), padding.PKCS1v15(), hashes.SHA256())).decode()
    signature = (
        f'<ds:Signature xmlns:ds="{DS}">{info}<ds:SignatureValue>{value}</ds:SignatureValue><ds:KeyInfo><ds:X509Data>'
        f"<ds:X509Certificate>{base64.b64encode(certificate).decode()}</ds:X509Certificate>"
        "</ds:X509Data></ds:KeyInfo></ds:Signature>"
    )
    head, end = document.rsplit("</", 1)
    return f"{head}{signature}</{end}"


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, taken apart without believing it."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def root(self) -> etree._Element:
        """The payload as a document of its own."""
        body = etree.fromstring(self.body).find(f"{{{SOAP}}}Body")
        root = copy.deepcopy(body[0])
        root.tail = None
        return root

    @property
    def document(self) -> bytes:
        """The payload's bytes."""
        octets: bytes = etree.tostring(self.root)
        return octets

    def text(self, path: str) -> str:
        """The text at a path in the payload, or an empty one."""
        return str(self.root.findtext(path, ""))

    @property
    def result(self) -> str:
        """``OK``, or the error's code."""
        status = self.text("Result/Status")
        return status if status == "OK" else self.text("Result/ErrorInfo/ErrorCode")

    @property
    def fault(self) -> str:
        """Code and text of a SOAP fault."""
        return f"{self.text('faultcode')} {self.text('faultstring')}"

    @property
    def certificate(self) -> bytes:
        """The certificate in DER."""
        return base64.b64decode(self.text("Certificate"))


@dataclass
class Stranger:
    """Talks to a bench over real HTTPS."""

    bench: BenchServer
    keys: Sequence[rsa.RSAPrivateKey]
    timeout: float = 20.0
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/xml; charset=utf-8"})

    def post(self, body: bytes, url: str | None = None, **headers: str) -> Answer:
        """Post a body. Each call is a connection of its own."""
        with requests.Session() as session:
            session.trust_env = False
            sent = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
            got = session.post(
                url or self.bench.url,
                data=body,
                headers=sent,
                verify=str(self.bench.tls_ca),
                timeout=self.timeout,
                allow_redirects=False,
            )
            return Answer(got.status_code, got.content, dict(got.headers))

    def fetch(self, url: str) -> Answer:
        """Get a URL."""
        with requests.Session() as session:
            session.trust_env = False
            got = session.get(url, verify=str(self.bench.tls_ca), timeout=self.timeout)
            return Answer(got.status_code, got.content, dict(got.headers))

    def call(self, payload: str) -> Answer:
        """Send a payload in an envelope."""
        return self.post(envelope(payload))

    def order(self, customer: str = CUSTOMER, name: str | None = NAME) -> Order:
        """Order a certificate in the e-service."""
        return self.bench.state.order(customer, name=name)

    def enroll(self, key: int = 0, customer: str = CUSTOMER) -> bytes:
        """Get a certificate for one of the keys, in DER."""
        accepted = self.call(sign_new(self.order(customer), csr(self.keys[key])))
        assert accepted.result == "OK"
        issued = self.call(get(accepted.text("RetrievalId"), customer))
        assert issued.result == "OK"
        return issued.certificate

    def renew(self, certificate: bytes, old: int = 0, new: int = 1, customer: str = CUSTOMER) -> Answer:
        """Renew a certificate with one of the keys for another of them."""
        return self.call(signed(renewal(csr(self.keys[new]), customer), self.keys[old], certificate))

    def kept(self) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
        """What a refusal must not change: which orders are used, and what is issued."""
        return kept(self.bench.state.directory)


def kept(directory: Path) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """Read orders and issued certificates from a bench's database."""
    db = sqlite3.connect(directory / "bench.sqlite3")
    try:
        orders = db.execute("SELECT transfer_id, used_at, valid_until FROM orders ORDER BY transfer_id").fetchall()
        return orders, db.execute("SELECT * FROM issued ORDER BY retrieval_id").fetchall()
    finally:
        db.close()
