"""Signing with a key of the token, and believing no signature that has not been verified."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from varmenne.domain.keys import KeyId
from varmenne.errors import TokenError
from varmenne.token.log_keys import LogKeyKind

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey


class VerifiedSigner:
    """A :class:`~varmenne.domain.keys.Signer` for one key.

    Args:
        key_id: the key's ``CKA_ID``, for messages.
        public_key: the key's DER ``SubjectPublicKeyInfo``; what signatures are verified with.
        ask_token: has data signed by the token.
    """

    def __init__(self, key_id: KeyId, public_key: bytes, ask_token: Callable[[bytes], bytes]) -> None:
        self._key_id = key_id
        self._public_key = public_key
        self._ask_token = ask_token

    @property
    def public_key(self) -> bytes:
        """The public key as DER ``SubjectPublicKeyInfo``."""
        return self._public_key

    def sign(self, data: bytes) -> bytes:
        """Return an RSASSA-PKCS1-v1_5 signature with SHA-256 over ``data``.

        Raises:
            TokenError: the token did not sign, or its signature does not verify.
        """
        signature = self._ask_token(data)
        self._verify(signature, data)
        return signature

    def _verify(self, signature: bytes, data: bytes) -> None:
        """Verify a signature in software. It also shows a handle that came to mean another key."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import load_der_public_key

        try:
            key = cast("RSAPublicKey", load_der_public_key(self._public_key))  # The worker reads RSA keys only.
            key.verify(signature, data, PKCS1v15(), SHA256())
        except (InvalidSignature, ValueError) as exc:
            raise _wrong(self._key_id) from exc


class VerifiedLogSigner:
    """A :class:`~varmenne.domain.keys.LogSigner` for the audit log's key.

    Args:
        key_id: the key's ``CKA_ID``, for messages.
        kind: the kind of the key.
        public_key: the key's DER ``SubjectPublicKeyInfo``; what signatures are verified with.
        ask_token: has data signed by the token.
    """

    def __init__(self, key_id: KeyId, kind: LogKeyKind, public_key: bytes, ask_token: Callable[[bytes], bytes]) -> None:
        self._key_id = key_id
        self._kind = kind
        self._public_key = public_key
        self._ask_token = ask_token

    @property
    def kind(self) -> str:
        """``ed25519`` or ``ecdsa-p256``."""
        return self._kind.name

    @property
    def public_key(self) -> bytes:
        """The public key as DER ``SubjectPublicKeyInfo``."""
        return self._public_key

    def sign(self, data: bytes) -> bytes:
        """Return a signature over ``data``, as :class:`~varmenne.domain.keys.LogSigner` has it.

        Raises:
            TokenError: the token did not sign, or its signature does not verify.
        """
        signature = self._ask_token(data)
        if not self._kind.verifies(self._public_key, signature, data):
            raise _wrong(self._key_id)
        return signature


def _wrong(key_id: KeyId) -> TokenError:
    """Say that a signature does not verify."""
    return TokenError(
        "The token gave a wrong signature",
        why=f"it does not verify with the public key of CKA_ID {key_id.hex()}",
        next_step="Do not trust this token before its maker has explained it",
        key_id=key_id.hex(),
    )
