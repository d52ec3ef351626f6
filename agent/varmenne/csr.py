"""PKCS#10 certification requests (RFC 2986), built with asn1crypto and signed by a key that stays in its token.

The service takes RSA with SHA-256 only, uses nothing of the request but its public key and its signature, and still
wants the subject to be right: CN = customer ID, O = customer name, C = FI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from varmenne.errors import TokenError

if TYPE_CHECKING:
    from varmenne.domain.identifiers import CustomerId, CustomerName
    from varmenne.domain.keys import Signer


def build_csr(signer: Signer, customer: CustomerId, name: CustomerName | None) -> bytes:
    """Return a DER ``CertificationRequest`` signed through ``signer`` and verified with its public key.

    Raises:
        TokenError: the token did not sign, or the signature does not verify.
    """
    from asn1crypto import csr, keys, x509

    subject = {"common_name": str(customer), "country_name": "FI"}
    if name is not None:
        subject["organization_name"] = str(name)
    # What asn1crypto has parsed it writes again as it was; what it has built it encodes anew each time it is looked at.
    info = csr.CertificationRequestInfo(
        {
            "version": "v1",
            "subject": x509.Name.load(x509.Name.build(subject).dump()),
            "subject_pk_info": keys.PublicKeyInfo.load(signer.public_key),
            "attributes": [],
        }
    )
    signed_bytes: bytes = info.dump()
    request = csr.CertificationRequest(
        {
            "certification_request_info": csr.CertificationRequestInfo.load(signed_bytes),
            "signature_algorithm": {"algorithm": "sha256_rsa", "parameters": None},
            "signature": signer.sign(signed_bytes),
        }
    )
    der: bytes = request.dump()
    _verify(der)
    return der


def _verify(der: bytes) -> None:
    """Check the request as its receiver will: parsed anew, by another library, with the public key that it carries."""
    from cryptography import x509

    if not x509.load_der_x509_csr(der).is_signature_valid:
        raise TokenError(
            "The certification request's signature does not verify with its own public key",
            next_step="The token signed wrongly: do not use it; `varmenne doctor` tries it again",
        )


def to_pem(der: bytes) -> str:
    """Return the request in the textual form of RFC 7468, as the e-service's form takes it."""
    from asn1crypto import pem

    text: bytes = pem.armor("CERTIFICATE REQUEST", der)
    return text.decode("ascii")
