"""Three ways to verify an answer, none of them the bench's own: by hand, with signxml, with xmlsec1."""

from __future__ import annotations

import base64
import copy
import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from lxml import etree

DS = "{http://www.w3.org/2000/09/xmldsig#}"
EXCLUSIVE = "http://www.w3.org/2001/10/xml-exc-c14n#"


def by_hand(document: bytes, trust: Path) -> bool:
    """Recompute digest and signature, and check that the services CA issued the signer's certificate."""
    root = etree.fromstring(document)
    signature = root[-1]
    algorithms = [transform.get("Algorithm") for transform in signature.iter(f"{DS}Transform")]
    bare = copy.deepcopy(root)
    bare.remove(bare[-1])
    digest = hashlib.sha256(_c14n(bare, EXCLUSIVE in algorithms)).digest()
    info = signature.find(f"{DS}SignedInfo")
    method = info.find(f"{DS}CanonicalizationMethod").get("Algorithm")
    certificate = x509.load_der_x509_certificate(_octets(signature, "X509Certificate"))
    services = x509.load_pem_x509_certificate((trust / "services" / "bench-services.pem").read_bytes())
    certificate.verify_directly_issued_by(services)
    key = certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    key.verify(
        _octets(signature, "SignatureValue"), _c14n(info, method == EXCLUSIVE), padding.PKCS1v15(), hashes.SHA256()
    )
    return digest == _octets(signature, "DigestValue")


def with_signxml(document: bytes, trust: Path) -> bool:
    """Verify with signxml, the services CA as the only anchor."""
    from signxml.algorithms import DigestAlgorithm, SignatureMethod
    from signxml.verifier import SignatureConfiguration, XMLVerifier

    config = SignatureConfiguration(
        require_x509=True,
        location="./",
        expect_references=1,
        signature_methods=frozenset({SignatureMethod.RSA_SHA256}),
        digest_algorithms=frozenset({DigestAlgorithm.SHA256}),
    )
    anchor = str(trust / "services" / "bench-services.pem")
    verified = XMLVerifier().verify(document, ca_pem_file=anchor, expect_config=config)
    return not isinstance(verified, list) and verified.signed_xml is not None


def with_xmlsec1(document: bytes, trust: Path) -> bool:
    """Verify with xmlsec1, the root as the anchor and the rest of the chain beside it."""
    file = trust / "answer.xml"
    file.write_bytes(document)
    done = subprocess.run(
        [
            "xmlsec1",
            "--verify",
            "--trusted-pem",
            trust / "chain" / "bench-root.pem",
            "--untrusted-pem",
            trust / "chain" / "bench-intermediate.pem",
            "--untrusted-pem",
            trust / "services" / "bench-services.pem",
            file,
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode == 0


VERIFIERS: dict[str, Callable[[bytes, Path], bool]] = {
    "by hand": by_hand,
    "signxml": with_signxml,
    "xmlsec1": with_xmlsec1,
}


def _c14n(element: etree._Element, exclusive: bool) -> bytes:
    octets: bytes = etree.tostring(element, method="c14n", exclusive=exclusive, with_tail=False)
    return octets


def _octets(signature: etree._Element, name: str) -> bytes:
    return base64.b64decode(next(signature.iter(f"{DS}{name}")).text)
