"""Destroying a key: its private key first, then what is public of it, and each only if it is of this very key.

The private key goes first, because it is what the call is for, and because it can then still be judged: some tokens
tell its exponent only beside the public object. What a crash leaves after that needs no private key to be recognised,
since public objects and certificates hold the public key themselves. So the same call, made again, finishes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pkcs11 import Attribute, ObjectClass, exceptions

from varmenne.domain.identifiers import enrollment_of_label
from varmenne.errors import TokenError
from varmenne.token.worker.failures import LOST_OBJECT, Kind, meaning
from varmenne.token.worker.keys import public_key as key_of
from varmenne.token.worker.objects import read, search

if TYPE_CHECKING:
    from pkcs11.types import Object

    from varmenne.token.worker.session import TokenSession

_IN_ORDER: Final = {
    ObjectClass.PRIVATE_KEY: "private key",
    ObjectClass.PUBLIC_KEY: "public key",
    ObjectClass.CERTIFICATE: "certificate",
}
"""What belongs to a key, in the order in which it is destroyed, and its name in sentences."""


def destroy(token: TokenSession, key_id: bytes, public_key: bytes) -> bool:
    """Destroy everything with a ``CKA_ID``, and read back that nothing is left. False if nothing was there.

    NOTE: What the token does with the memory that held the key, and what its backups hold, is not shown by PKCS#11.

    Raises:
        TokenError: something there is not of the key that has this public key, or the private key is not labelled as
            an enrollment's: then nothing was touched. Or the token did not destroy everything.
        TokenUnavailable: the token or the login is not there any more.
    """
    things = _with_id(token, key_id)
    strangers = [words for thing in things if (words := _objection(token, thing, public_key))]
    if strangers:
        raise TokenError(
            f"The key with CKA_ID {key_id.hex()} was not destroyed",
            why=f"the token holds {', '.join(strangers)} under it. Nothing was touched",
            next_step="Look with the token's tools at what has this CKA_ID, and find out who put it there",
            key_id=key_id.hex(),
        )
    refusal = _destroy_in_order(things)
    if left := _with_id(token, key_id):
        raise TokenError(
            f"The key with CKA_ID {key_id.hex()} was not destroyed altogether",
            why=f"{refusal}; still there: {', '.join(sorted(map(_name, left)))}",
            next_step="Destroy what is left with the tools of the token's maker, then run the command again",
            key_id=key_id.hex(),
        )
    return bool(things)


def _with_id(token: TokenSession, key_id: bytes) -> list[Object]:
    """Find everything with a ``CKA_ID``. That there is no private key is believed only while the login holds."""
    found = search(token, {Attribute.ID: key_id})
    if not any(_class(thing) is ObjectClass.PRIVATE_KEY for thing in found):
        token.prove_logged_in()
    return found


def _destroy_in_order(things: list[Object]) -> str:
    """Destroy objects up to the first that the token refuses to; return why it refused, or that it did not."""
    order = list(_IN_ORDER)
    for thing in sorted(things, key=lambda thing: order.index(thing[Attribute.CLASS])):
        try:
            thing.destroy()
        except exceptions.PKCS11Error as exc:
            found = meaning(exc)
            if found.code in LOST_OBJECT:
                continue  # Gone already, by another program or with the object before it; reading back decides.
            if found.kind is not Kind.NO:
                raise
            return f"{found.why} ({found.code})"
    return "the token refused nothing"


def _objection(token: TokenSession, thing: Object, public_key: bytes) -> str:
    """Say why an object is not to be destroyed; empty if it belongs to the key.

    Raises:
        TokenError: a key object does not tell its public key.
    """
    kind = _class(thing)
    if kind not in _IN_ORDER:
        return _name(thing)
    if (_certified_key(thing) if kind is ObjectClass.CERTIFICATE else key_of(token, thing)) != public_key:
        return f"a {_name(thing)} of another key"
    label = read(thing, Attribute.LABEL) or ""
    if kind is ObjectClass.PRIVATE_KEY and enrollment_of_label(label) is None:
        return f"a private key with the label {label!r}, which is not that of an enrollment,"
    return ""


def _certified_key(thing: Object) -> bytes:
    """Return the DER ``SubjectPublicKeyInfo`` of a certificate; empty if it is not one that can be read."""
    from asn1crypto.x509 import Certificate

    try:
        der: bytes = Certificate.load(read(thing, Attribute.VALUE) or b"", strict=True).public_key.dump()
    except (ValueError, TypeError, KeyError):
        return b""
    return der


def _class(thing: Object) -> ObjectClass | None:
    """Return an object's class, or ``None`` for one that only its maker knows."""
    kind: ObjectClass | None = read(thing, Attribute.CLASS)
    return kind


def _name(thing: Object) -> str:
    """Name an object by its class."""
    kind = _class(thing)
    return _IN_ORDER.get(kind) or f"an object of class {kind.name if kind else 'unknown'}"  # type: ignore[arg-type]
