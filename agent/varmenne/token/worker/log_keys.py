"""The audit log's key: made by the template of all keys, of the best kind that the token really makes.

A private key of an elliptic curve does not tell its public half, and anybody who is logged in can put another public
object beside it. So the public half is what a signature verifies with, made for the purpose: no attribute is believed.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, exceptions

from varmenne.domain.keys import KeyFacts, KeyId, LogKey
from varmenne.errors import TokenError, TokenUnfit
from varmenne.token.key_policy import CONCEDED_ON, LOG_KEY_EXPECTATIONS
from varmenne.token.log_keys import KINDS, LogKeyKind
from varmenne.token.messages import MadeLogKey
from varmenne.token.worker.failures import Kind, code, meaning
from varmenne.token.worker.keys import Recipe, exists, judged, order_pair, read_back, start_afresh, undone, with_key
from varmenne.token.worker.objects import PrivateKeys, read, search

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pkcs11.types import Object

    from varmenne.token.worker.session import TokenSession

_CHALLENGE: Final = b"varmenne asks which public key belongs to this private key: "
"""What is signed to find the public half, before 32 random bytes: no checkpoint, as those have several lines."""


def make(token: TokenSession, keys: PrivateKeys, key_id: KeyId, label: str) -> MadeLogKey:
    """Make the log's key, of the first kind that works, and read it back; a key with this ``CKA_ID`` is returned.

    Raises:
        TokenUnfit: the key is not as ordered, or does not sign. One that was made here is destroyed again.
        KeyNotFound: more than one key has this ``CKA_ID``.
        TokenError: the token lists no mechanisms for such keys.
        PKCS11Error: the token refused to make one of any kind.
    """
    found = keys.find(key_id)
    if found is not None:
        return MadeLogKey(facts=_read_back(token, found, key_id, label), made=False)
    failures: list[tuple[str, exceptions.PKCS11Error | TokenUnfit]] = []
    for kind, recipe in _recipes(token):
        try:
            facts = _make(token, keys, recipe, key_id, label)
        except (exceptions.PKCS11Error, TokenUnfit) as exc:
            if _final(exc) or exists(token.work, key_id):
                raise
            failures.append((kind.name, exc))
        else:
            without = [f"no {name} key: {_reason(error)}" for name, error in failures if name != facts.kind]
            deviations = (*dict.fromkeys(without), *facts.deviations)
            return MadeLogKey(facts=replace(facts, deviations=deviations), made=True)
    if not failures:
        raise TokenError(
            "The token makes no key for the audit log",
            why="it lists neither the mechanisms of Ed25519 nor those of ECDSA",
            next_step="See docs/tokens.md for what a token must have",
        )
    raise failures[-1][1]


def find(token: TokenSession, keys: PrivateKeys, key_id: KeyId) -> LogKey:
    """Read back everything about the log's key, and have it sign.

    Raises:
        KeyNotFound: no key, or more than one, has this ``CKA_ID``.
        TokenUnfit: the key breaks a demand, is not one of the log, or does not sign.
    """
    try:
        return _read_back(token, keys.get(key_id), key_id)
    except (exceptions.PKCS11Error, TokenUnfit):
        start_afresh(token, keys)
        raise


def sign(token: TokenSession, keys: PrivateKeys, kind: LogKeyKind, key_id: bytes, data: bytes) -> bytes:
    """Sign by the mechanism of the key's kind. A handle that has gone stale is looked for once more.

    Raises:
        KeyNotFound: no key, or more than one, has this ``CKA_ID``.
        PKCS11Error: the token did not sign; its work session is dropped, since an operation may be stuck in it.
    """
    return with_key(token, keys, key_id, lambda private: _sign(kind, private, data))


def _recipes(token: TokenSession) -> Iterator[tuple[LogKeyKind, Recipe]]:
    """Yield how to order each kind of key of which the token lists the mechanisms."""
    for kind in KINDS:
        making = Mechanism[kind.making]
        if {int(making), int(Mechanism[kind.signing])} <= token.mechanisms:
            for order in kind.orders:
                public = {Attribute[name]: value for name, value in order.items()}
                yield kind, Recipe(KeyType[kind.key_type], making, public)


def _make(token: TokenSession, keys: PrivateKeys, recipe: Recipe, key_id: KeyId, label: str) -> LogKey:
    """Make a key by one recipe and read it back.

    Raises:
        TokenUnfit: the key is not as ordered, or does not sign, and has been destroyed again.
    """
    public, private, deviation = order_pair(token, recipe, key_id=key_id, label=label)
    try:
        facts = _read_back(token, private, key_id, label, deviation)
        keys.get(key_id)  # Findable, and alone: otherwise no later call could use it.
    except TokenUnfit as exc:
        error = undone(exc, public, private)
        start_afresh(token, keys)
        raise error from exc
    return facts


def _read_back(
    token: TokenSession, private: Object, key_id: KeyId, label: str | None = None, deviation: str = ""
) -> LogKey:
    """Read everything that the policy names, judge it, and have the key sign.

    Raises:
        TokenUnfit: the key breaks a demand, is not of a kind for the log, or does not sign.
    """
    facts = KeyFacts(
        key_id=key_id,
        label=read(private, Attribute.LABEL) or "",
        public_key=b"",
        attributes=read_back(token, private, LOG_KEY_EXPECTATIONS),
        deviations=(),
        token=token.status().identity,
    )
    facts = judged(facts, label, deviation, LOG_KEY_EXPECTATIONS)
    kind, public_key = _recognised(token, private)
    return LogKey(
        key_id=facts.key_id,
        label=facts.label,
        public_key=public_key,
        attributes={**facts.attributes, "KEY_TYPE": int(KeyType[kind.key_type])},
        deviations=facts.deviations,
        token=facts.token,
        kind=kind.name,
    )


def _recognised(token: TokenSession, private: Object) -> tuple[LogKeyKind, bytes]:
    """Return a key's kind and its public half, which is the one that a fresh signature verifies with.

    Raises:
        TokenUnfit: it is not a key for the log, it does not sign, or no public object beside it is its own.
    """
    key_id = read(private, Attribute.ID) or b""
    key_type = read(private, Attribute.KEY_TYPE)
    kind = next((one for one in KINDS if key_type == KeyType[one.key_type]), None)
    if kind is None:
        raise _unfit(key_id, "it is of another type")
    data = _CHALLENGE + secrets.token_bytes(32)
    try:
        signature = _sign(kind, private, data)
    except exceptions.PKCS11Error as exc:
        if meaning(exc).kind is not Kind.NO:
            raise
        raise _unfit(key_id, f"it does not sign ({code(exc)})") from exc
    template = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: key_id}
    values = [read(thing, Attribute[kind.public_attribute]) or b"" for thing in search(token, template)]
    for public_key in filter(None, map(kind.public_key, values)):
        if kind.verifies(public_key, signature, data):
            return kind, public_key
    raise _unfit(key_id, f"its signature verifies with none of the {len(values)} public keys beside it")


def _unfit(key_id: bytes, why: str) -> TokenUnfit:
    """Say that a key cannot be the log's."""
    return TokenUnfit(
        f"The key with CKA_ID {key_id.hex()} cannot sign the audit log",
        why=why,
        next_step="Look with the token's tools at what has this CKA_ID, and find out who changed it",
        key_id=key_id.hex(),
    )


def _sign(kind: LogKeyKind, private: Object, data: bytes) -> bytes:
    """Sign once.

    Raises:
        TokenUnfit: the token says of the key that it does not sign.
    """
    if not hasattr(private, "sign"):
        raise _unfit(read(private, Attribute.ID) or b"", "SIGN is false")
    return kind.output(private.sign(kind.input(data), mechanism=Mechanism[kind.signing]))


def _final(error: exceptions.PKCS11Error | TokenUnfit) -> bool:
    """Tell whether an error says nothing about one kind of key, so that another kind is not tried."""
    if isinstance(error, exceptions.PKCS11Error):
        return meaning(error).kind is not Kind.NO and code(error) not in CONCEDED_ON
    return not isinstance(error, TokenUnfit)


def _reason(error: exceptions.PKCS11Error | TokenUnfit) -> str:
    """Say in short why no key of a kind was made."""
    return code(error) if isinstance(error, exceptions.PKCS11Error) else error.why
