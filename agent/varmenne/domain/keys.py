"""Keys in a token: identifiers, what is known of them, and the protocol by which other rooms sign with them."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import NewType, Protocol

KeyId = NewType("KeyId", bytes)
"""A ``CKA_ID``: 16 random bytes that tie private key, public key and certificate in the token together."""

KEY_ID_BYTES = 16
RSA_BITS = 2048
"""The only key size that the service accepts at present."""


def new_key_id() -> KeyId:
    """Reserve a random ``CKA_ID``; it is written to the journal before a key with it is made."""
    return KeyId(secrets.token_bytes(KEY_ID_BYTES))


class Signer(Protocol):
    """Something that signs with a private key that it does not show. ``csr`` and ``service`` know keys only so."""

    @property
    def public_key(self) -> bytes:
        """The public key as DER ``SubjectPublicKeyInfo`` (RFC 5280, 4.1.2.7)."""

    def sign(self, data: bytes) -> bytes:
        """Return an RSASSA-PKCS1-v1_5 signature with SHA-256 over ``data`` (RFC 8017, 8.2).

        Raises:
            TokenError: the token did not sign, or its signature does not verify with :attr:`public_key`.
        """


class LogSigner(Protocol):
    """Something that signs with the key of the audit log, which it does not show."""

    @property
    def kind(self) -> str:
        """``ed25519`` or ``ecdsa-p256``: which signature :meth:`sign` makes."""

    @property
    def public_key(self) -> bytes:
        """The public key as DER ``SubjectPublicKeyInfo`` (RFC 5280, 4.1.2.7)."""

    def sign(self, data: bytes) -> bytes:
        """Return a signature over ``data``.

        ``ed25519``: 64 bytes (RFC 8032, 5.1.6). ``ecdsa-p256``: DER ``ECDSA-Sig-Value`` (RFC 3279, 2.2.3) over the
        SHA-256 of ``data``.

        Raises:
            TokenError: the token did not sign, or its signature does not verify with :attr:`public_key`.
        """


@dataclass(frozen=True, slots=True)
class TokenIdentity:
    """What a token says of itself (``CK_TOKEN_INFO``) and of its library (``CK_INFO``); none of it is proof alone."""

    label: str
    serial: str
    model: str
    manufacturer: str
    firmware: str
    library: str

    @property
    def digest(self) -> str:
        """SHA-256 over what names the token (label, serial, model, manufacturer), hexadecimal."""
        return _digest(self.label, self.serial, self.model, self.manufacturer)

    @property
    def digest_with_versions(self) -> str:
        """The same with the versions of its firmware and library: changes when either is updated."""
        return _digest(self.digest, self.firmware, self.library)


def _digest(*parts: str) -> str:
    """Hash texts so that no two lists of them can be confused."""
    return hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What was read back from the token about a key that varmenne made there.

    Attributes:
        key_id: its ``CKA_ID``.
        label: its ``CKA_LABEL``.
        public_key: DER ``SubjectPublicKeyInfo``, built from the private object's modulus and exponent.
        attributes: attribute name without ``CKA_`` → value as read (bool or int), or ``None`` where the token does not
            tell.
        deviations: sentences on what the token could not do as the key template orders; empty for a good token.
        token: the token that the key lives in.
        made_at: when the generation was ordered by this process, or ``None`` if the key was found, not made.
    """

    key_id: KeyId
    label: str
    public_key: bytes
    attributes: dict[str, bool | int | None]
    deviations: tuple[str, ...]
    token: TokenIdentity
    made_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LogKey(KeyFacts):
    """What was read back from the token about the key that signs the audit log's checkpoints.

    Attributes:
        kind: which signatures it makes; see :class:`LogSigner`.
    """

    kind: str = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One try to get a private key out of the token, or to use it for what it is not for.

    Attributes:
        name: what was tried, such as ``wrap AES_KEY_WRAP_PAD``.
        outcome: ``refused`` (on a throw-away key: the same call worked on a control key; on a live key, where there is
            no control: by the return code that the standard has for this refusal), ``allowed`` (key material or an
            unsafe copy came out, or the key was used) or ``not applicable`` (the try shows nothing, and ``detail``
            tells why).
        detail: the return code or reason; never key material.
    """

    name: str
    outcome: str
    detail: str

    @property
    def of_use(self) -> bool:
        """True if it is about using the key in the token, not about getting it out: it proves nothing of the latter."""
        return self.name.removeprefix("set ").lower().startswith(("decrypt", "unwrap", "derive"))


@dataclass(frozen=True, slots=True)
class CustodyProbe:
    """All tries on one token, made with throw-away keys of the same template as real ones."""

    token: TokenIdentity
    at: datetime
    results: tuple[ProbeResult, ...] = field(default=())

    @property
    def fit(self) -> bool:
        """True if nothing was allowed, and at least one refusal to let a key out is proven by a control."""
        allowed = any(result.outcome == "allowed" for result in self.results)
        return not allowed and any(result.outcome == "refused" and not result.of_use for result in self.results)
