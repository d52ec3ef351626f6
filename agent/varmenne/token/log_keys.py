"""The kinds of key that may sign the audit log, best first. A table: another kind is another row.

Names of key types, mechanisms and attributes are those of PKCS#11 without their prefix. Nothing here knows the PKCS#11
library; signatures are verified in software.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class LogKeyKind:
    """One kind of key: how it is ordered, how its public half reads, and how it signs.

    Attributes:
        name: as :class:`~varmenne.domain.keys.LogSigner` has it.
        key_type: ``CKA_KEY_TYPE``.
        making: the mechanism that makes it.
        signing: the mechanism that signs.
        orders: what names the curve in the public key's template, in each spelling that tokens are known to take.
        public_attribute: the public object's attribute that holds the public key.
        public_bytes: length of the public key without any wrapping.
        spki_prefix: DER of ``SubjectPublicKeyInfo`` up to the public key's bytes.
        input: what is handed to the mechanism for some data.
        output: the signature for what the mechanism gives.
        check: raises ``InvalidSignature`` or ``ValueError`` if a signature is wrong.
    """

    name: str
    key_type: str
    making: str
    signing: str
    orders: tuple[Mapping[str, bytes], ...]
    public_attribute: str
    public_bytes: int
    spki_prefix: bytes
    input: Callable[[bytes], bytes]
    output: Callable[[bytes], bytes]
    check: Callable[[Any, bytes, bytes], None]

    def public_key(self, value: bytes) -> bytes | None:
        """Return the DER ``SubjectPublicKeyInfo`` for the public attribute's value; ``None`` if it cannot be one.

        PKCS#11 wants the point in a DER OCTET STRING, and some tokens give it bare: both, and nothing else, are taken.
        """
        wrapping = bytes((0x04, self.public_bytes))
        if len(value) == len(wrapping) + self.public_bytes and value.startswith(wrapping):
            value = value[len(wrapping) :]
        return self.spki_prefix + value if len(value) == self.public_bytes else None

    def verifies(self, public_key: bytes, signature: bytes, data: bytes) -> bool:
        """Tell whether a signature over ``data`` is by the key with this ``SubjectPublicKeyInfo``, of this kind."""
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_der_public_key

        if not public_key.startswith(self.spki_prefix):
            return False
        try:
            self.check(load_der_public_key(public_key), signature, data)
        except (InvalidSignature, UnsupportedAlgorithm, ValueError):
            return False
        return True


def _check_ed25519(key: Ed25519PublicKey, signature: bytes, data: bytes) -> None:
    """Verify as RFC 8032, 5.1.7."""
    key.verify(signature, data)


def _check_ecdsa(key: EllipticCurvePublicKey, signature: bytes, data: bytes) -> None:
    """Verify ECDSA over SHA-256 (FIPS 186-5, 6.4.2)."""
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    key.verify(signature, data, ECDSA(SHA256()))


def _der_signature(raw: bytes) -> bytes:
    """Turn *r* and *s* side by side, as PKCS#11 gives them, into ``ECDSA-Sig-Value`` (RFC 3279, 2.2.3)."""
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    half = len(raw) // 2
    return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))


KINDS: Final = (
    LogKeyKind(
        name="ed25519",
        key_type="EC_EDWARDS",
        making="EC_EDWARDS_KEY_PAIR_GEN",
        signing="EDDSA",
        # The object identifier of RFC 8410, and the name of PKCS#11 3.0, 6.3.4 as a PrintableString.
        orders=({"EC_PARAMS": bytes.fromhex("06032b6570")}, {"EC_PARAMS": b"\x13\x0cedwards25519"}),
        public_attribute="EC_POINT",
        public_bytes=32,
        spki_prefix=bytes.fromhex("302a300506032b6570032100"),  # RFC 8410, 4
        input=bytes,
        output=bytes,
        check=_check_ed25519,
    ),
    LogKeyKind(
        name="ecdsa-p256",
        key_type="EC",
        making="EC_KEY_PAIR_GEN",
        # Not ECDSA_SHA256, which SoftHSM lacks.
        signing="ECDSA",
        orders=({"EC_PARAMS": bytes.fromhex("06082a8648ce3d030107")},),  # RFC 5480, 2.1.1.1: secp256r1
        public_attribute="EC_POINT",
        public_bytes=65,
        spki_prefix=bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200"),  # RFC 5480, 2
        input=lambda data: hashlib.sha256(data).digest(),
        output=_der_signature,
        check=_check_ecdsa,
    ),
)
"""Tried in this order where the token lists the mechanisms."""

BY_NAME: Final[Mapping[str, LogKeyKind]] = {kind.name: kind for kind in KINDS}
