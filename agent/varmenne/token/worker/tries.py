"""Single tries to get at a private key, or to use it for what it is not for, and what their return codes are worth."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pkcs11 import KDF, Attribute, KeyType, Mechanism, ObjectClass, _pkcs11, exceptions
from pkcs11.constants import MechanismFlag

from varmenne.token.worker.failures import code
from varmenne.token.worker.keys import public_key
from varmenne.token.worker.objects import read

if TYPE_CHECKING:
    from pkcs11.types import Object

    from varmenne.token.worker.session import TokenSession

REFUSED, ALLOWED, NOT_APPLICABLE = "refused", "allowed", "not applicable"

_SECRET_PARTS: Final[dict[KeyType, tuple[str, ...]]] = {
    KeyType.RSA: ("PRIVATE_EXPONENT", "PRIME_1", "PRIME_2", "EXPONENT_1", "EXPONENT_2", "COEFFICIENT"),
    KeyType.EC: ("VALUE",),
    KeyType.EC_EDWARDS: ("VALUE",),
}
"""The attributes that hold the private key, by its type."""

_LOST: Final = frozenset(
    {
        "CKR_SESSION_HANDLE_INVALID",
        "CKR_SESSION_CLOSED",
        "CKR_DEVICE_REMOVED",
        "CKR_TOKEN_NOT_PRESENT",
        "CKR_USER_NOT_LOGGED_IN",
        "CKR_CRYPTOKI_NOT_INITIALIZED",
    }
)
"""These say that the token is gone, not that it refuses: a probe ends with an error instead of a verdict."""

UNCLEAR: Final = frozenset(
    {"CKR_GENERAL_ERROR", "CKR_DEVICE_ERROR", "CKR_FUNCTION_FAILED", "CKR_HOST_MEMORY", "CKR_DEVICE_MEMORY"}
)
"""These may come from a fault as well as from a refusal, so they prove nothing."""

_RSA_ENCRYPTION: Final = (Mechanism.RSA_PKCS, Mechanism.RSA_PKCS_OAEP, Mechanism.RSA_X_509)
"""Mechanisms that decrypt and unwrap with an RSA key; the first two are tried in the padding that they undo."""

_SECRET_BYTES: Final = 32

_P256_BASE_POINT: Final = bytes.fromhex(
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)
"""A public key of P-256 that is nobody's (SP 800-186, 3.2.1.3), for a derivation."""


@dataclass(frozen=True, slots=True)
class Try:
    """One try.

    Attributes:
        name: as :class:`~varmenne.domain.keys.ProbeResult` has it.
        call: makes it, and returns what came of it, or ``None`` if nothing did.
        usage: the attribute that allows this use of a key; empty if none does.
    """

    name: str
    call: Callable[[Object], str | None]
    usage: str = ""


def attempt(way: Try, thing: Object) -> tuple[bool, str]:
    """Make one try; return whether something came out, and what happened.

    Raises:
        PKCS11Error: the token went away.
    """
    try:
        came = way.call(thing)
    except exceptions.PKCS11Error as exc:
        stop_if_lost(exc)
        return False, code(exc)
    except (IndexError, ValueError):
        return False, "nonsense answered"
    return came is not None, came or "nothing came out"


def stop_if_lost(error: exceptions.PKCS11Error) -> None:
    """Let an error through that says nothing about the key, because the token is gone."""
    if code(error) in _LOST:
        raise error


def permitted(way: Try, thing: Object) -> bool:
    """Tell whether the token says of the key that it may be used so: then that is a deviation recorded at its birth."""
    return bool(way.usage) and read(thing, Attribute[way.usage]) is True


def reads(key_type: KeyType = KeyType.RSA) -> list[Try]:
    """Read the private components."""

    def component(attribute: Attribute, thing: Object) -> str | None:
        value = thing[attribute]
        return f"{len(value)} bytes came out" if value else None

    return [
        Try(f"read {name}", lambda thing, attribute=Attribute[name]: component(attribute, thing))  # type: ignore[misc]
        for name in _SECRET_PARTS.get(key_type, ())
    ]


def uses(token: TokenSession, key_type: KeyType = KeyType.RSA) -> list[Try]:
    """Use the key for what is not signing, by each mechanism that the token lists, whatever the mechanism's flags say.

    What is decrypted or unwrapped was encrypted to this very key a moment before, so a token that carries it out has
    nothing to object to. An unwrapped or derived key lives in the session alone and is destroyed at once.
    """
    found = []
    if key_type == KeyType.RSA:
        for mechanism in _RSA_ENCRYPTION:
            found.append(Try(f"decrypt {mechanism.name}", _bound(_decrypt, token, mechanism), "DECRYPT"))
            found.append(Try(f"unwrap {mechanism.name}", _bound(_unwrap, token, mechanism), "UNWRAP"))
        return [way for way in found if int(Mechanism[way.name.split()[1]]) in token.mechanisms]
    if key_type == KeyType.EC and int(Mechanism.ECDH1_DERIVE) in token.mechanisms:
        return [Try("derive ECDH1_DERIVE", _derive, "DERIVE")]
    return []


def _bound(
    use: Callable[[TokenSession, Mechanism, Object], str | None], token: TokenSession, mechanism: Mechanism
) -> Callable[[Object], str | None]:
    """Return a use by one mechanism."""
    return lambda thing: use(token, mechanism, thing)


def _decrypt(token: TokenSession, mechanism: Mechanism, thing: Object) -> str | None:
    """Have something decrypted (C_DecryptInit, C_Decrypt)."""
    came = _able(thing, "DecryptMixin").decrypt(_encrypted(token, mechanism, thing), mechanism=mechanism)
    return f"{len(came)} bytes were decrypted" if came else None


def _unwrap(token: TokenSession, mechanism: Mechanism, thing: Object) -> str | None:
    """Have a key unwrapped (C_UnwrapKey)."""
    able = _able(thing, "UnwrapMixin")
    wrapped = _encrypted(token, mechanism, thing)
    template = {Attribute.VALUE_LEN: _SECRET_BYTES} if mechanism is Mechanism.RSA_X_509 else {}
    able.unwrap_key(
        ObjectClass.SECRET_KEY,
        KeyType.AES,
        wrapped,
        mechanism=mechanism,
        store=False,
        capabilities=MechanismFlag.ENCRYPT,
        template=template,
    ).destroy()
    return "a key was unwrapped"


def _derive(thing: Object) -> str | None:
    """Have a key derived from this one and the curve's base point (C_DeriveKey, P-256)."""
    able = _able(thing, "DeriveMixin")
    able.derive_key(
        KeyType.AES,
        8 * _SECRET_BYTES,
        mechanism=Mechanism.ECDH1_DERIVE,
        mechanism_param=(KDF.NULL, None, _P256_BASE_POINT),
        store=False,
        capabilities=MechanismFlag.ENCRYPT,
    ).destroy()
    return "a key was derived"


def _able(thing: Object, mixin: str) -> Any:
    """Return the object with a method that the library offers only where the key's own flags allow it."""
    ability: type = getattr(_pkcs11, mixin)  # Its stub leaves these out.
    if isinstance(thing, ability):
        return thing
    return type("Able", (ability, *type(thing).__bases__), {})(thing.wrapper)  # type: ignore[attr-defined]


def _encrypted(token: TokenSession, mechanism: Mechanism, thing: Object) -> bytes:
    """Encrypt 32 random bytes to an RSA key in software, in the padding that the mechanism undoes."""
    from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP, PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.hashes import SHA1
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    key = load_der_public_key(public_key(token, thing))
    if not isinstance(key, RSAPublicKey):  # The worker builds it from modulus and exponent.
        raise TypeError("not an RSA key")
    text = secrets.token_bytes(_SECRET_BYTES)
    if mechanism is Mechanism.RSA_X_509:
        numbers = key.public_numbers()
        return pow(int.from_bytes(text, "big"), numbers.e, numbers.n).to_bytes((key.key_size + 7) // 8, "big")
    # OAEP with SHA-1 is what the library's mechanism asks for by itself, and all that SoftHSM does.
    padding = PKCS1v15() if mechanism is Mechanism.RSA_PKCS else OAEP(MGF1(SHA1()), SHA1(), None)  # noqa: S303
    return key.encrypt(text, padding)
