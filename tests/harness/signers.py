"""Keys in software, for what needs a signature but no token. Never used where a token is what is tested."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class SoftwareSigner:
    """Implements the :class:`varmenne.domain.keys.Signer` protocol with a key made in this process."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(65_537, 2048)

    @property
    def public_key(self) -> bytes:
        """The public key as DER ``SubjectPublicKeyInfo``."""
        return self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, data: bytes) -> bytes:
        """Sign with RSASSA-PKCS1-v1_5 and SHA-256."""
        return self._key.sign(data, padding.PKCS1v15(), hashes.SHA256())


class BrokenSigner(SoftwareSigner):
    """Signs something else than it was asked to."""

    def sign(self, data: bytes) -> bytes:
        """Return a good signature over other data."""
        return super().sign(data + b"!")
