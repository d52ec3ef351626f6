"""Objects in the token: searching by ``CKA_ID``, an index of private keys, reading attributes, and certificates."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from pkcs11 import Attribute, ObjectClass, exceptions

from varmenne.errors import InputError, KeyNotFound
from varmenne.token.worker.failures import LOST_OBJECT, code
from varmenne.token.worker.templates import Template, checked

if TYPE_CHECKING:
    from pkcs11.types import Object

    from varmenne.token.worker.session import TokenSession

UNTOLD = (exceptions.AttributeTypeInvalid, exceptions.AttributeSensitive, exceptions.FunctionFailed)
"""By these a token does not tell an attribute. (The library also raises the last when the length is nonsense.)"""


def read(thing: Object, attribute: Attribute) -> Any:
    """Read one attribute. ``None`` if the token does not tell, or tells something that is not of the right type."""
    try:
        return thing[attribute]
    except UNTOLD:
        return None
    except (ValueError, struct.error):
        return None


def search(token: TokenSession, template: Template) -> list[Object]:
    """Find objects. An empty answer is believed only after the token itself has answered.

    Raises:
        TokenUnavailable: the token is not there any more.
    """
    found = list(token.work.get_objects(checked(template)))
    if not found:
        token.prove_present()
    return found


class PrivateKeys:
    """Private keys by ``CKA_ID``.

    A search costs time for every object in the token, so the first one that is asked for by :meth:`cached` fills an
    index with all of them. An index entry is only a hint: it is believed if the object still carries its ``CKA_ID``.

    Attributes:
        by_hash: SHA-256 of a public key → ``CKA_ID`` of the private key that bore it when it was read. A hint, too.
    """

    def __init__(self, token: TokenSession) -> None:
        self._token = token
        self._index: dict[bytes, list[Object]] | None = None
        self.by_hash: dict[str, bytes] = {}

    def forget(self) -> None:
        """Drop the index, as all handles end with their session."""
        self._index = None

    def find(self, key_id: bytes) -> Object | None:
        """Search the token for a private key.

        Raises:
            KeyNotFound: more than one object answers.
            TokenUnavailable: none answers, and neither does the token.
        """
        found = search(self._token, {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: key_id})
        if self._index is not None:
            self._index[key_id] = found
        return _only(found, key_id)

    def get(self, key_id: bytes) -> Object:
        """Search as :meth:`find` does, and insist.

        Raises:
            KeyNotFound: none answers (``matches`` is 0), or more than one.
        """
        return _insist(self.find(key_id), key_id)

    def cached(self, key_id: bytes) -> Object:
        """Return a private key, from the index if that is still right.

        Raises:
            KeyNotFound: none answers (``matches`` is 0), or more than one.
        """
        if self._index is None:
            self._index = {}
            for thing in self.all():
                self._index.setdefault(read(thing, Attribute.ID) or b"", []).append(thing)
        known = _only(self._index.get(key_id, []), key_id)
        if known is not None and _still(known, key_id):
            return known
        return self.get(key_id)

    def all(self) -> list[Object]:
        """Return every private key of the token."""
        return search(self._token, {Attribute.CLASS: ObjectClass.PRIVATE_KEY})


def certificates(token: TokenSession, key_id: bytes) -> tuple[bytes, ...]:
    """Return the certificates with this ``CKA_ID``, each once: some tokens keep identical ones side by side."""
    found = search(token, {Attribute.CLASS: ObjectClass.CERTIFICATE, Attribute.ID: key_id})
    return tuple(dict.fromkeys(value for thing in found if (value := read(thing, Attribute.VALUE))))


def store_certificate(token: TokenSession, key_id: bytes, label: str, certificate: bytes, *, public_key: bytes) -> bool:
    """Put a certificate into the token, beside the key that it is for. False if it is there already.

    Raises:
        InputError: it is not one DER certificate, or it is for another key than ``public_key``.
    """
    from asn1crypto.x509 import Certificate
    from pkcs11.util.x509 import decode_x509_certificate

    try:
        parsed = Certificate.load(certificate, strict=True)
        key_in_certificate = parsed.public_key.dump()
        template = decode_x509_certificate(certificate)
    except (ValueError, TypeError, KeyError) as exc:
        raise InputError("The certificate is not one certificate in DER") from exc
    if key_in_certificate != public_key:
        raise InputError(
            "The certificate is not for the key that it is to be stored with",
            why=f"the key with CKA_ID {key_id.hex()} is another one",
        )
    if certificate in certificates(token, key_id):
        return False
    extra = {Attribute.TOKEN: True, Attribute.PRIVATE: False, Attribute.ID: key_id, Attribute.LABEL: label}
    token.work.create_object(checked(template | extra))
    return True


def _only(found: list[Object], key_id: bytes) -> Object | None:
    """Return the one object, or ``None`` of none; never guess between two."""
    if len(found) > 1:
        raise KeyNotFound(
            f"{len(found)} private keys have the CKA_ID {key_id.hex()}",
            why="varmenne makes one key for one CKA_ID, so another program copied, imported or renamed one",
            next_step="Find out which is the right one, and delete or rename the others with the token's tools",
            key_id=key_id.hex(),
            matches=len(found),
        )
    return found[0] if found else None


def _insist(found: Object | None, key_id: bytes) -> Object:
    """Return the object, or say that there is none."""
    if found is None:
        raise KeyNotFound(
            f"No private key has the CKA_ID {key_id.hex()}",
            why="the token answers, but holds no such key",
            next_step="Check that this is the token that the key was made in",
            key_id=key_id.hex(),
            matches=0,
        )
    return found


def _still(thing: Object, key_id: bytes) -> bool:
    """Tell whether an index entry still is what it was: handles are used again after an object is destroyed."""
    try:
        return bool(thing[Attribute.ID] == key_id and thing[Attribute.CLASS] == ObjectClass.PRIVATE_KEY)
    except exceptions.PKCS11Error as exc:
        if code(exc) in LOST_OBJECT:
            return False
        raise
