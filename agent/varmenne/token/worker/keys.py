"""Keys: ordered by the template, read back attribute by attribute, judged, and used for signing."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, exceptions
from pkcs11.constants import MechanismFlag

from varmenne.domain.keys import RSA_BITS, KeyFacts, KeyId
from varmenne.errors import KeyNotFound, TokenError, TokenUnfit
from varmenne.token.key_policy import (
    CONCEDED_ON,
    EVIDENCE,
    EXPECTATIONS,
    PRIVATE_KEY_ORDER,
    PUBLIC_EXPONENT,
    PUBLIC_KEY_ORDER,
    Expectation,
    judge,
)
from varmenne.token.messages import Made
from varmenne.token.worker.failures import LOST_OBJECT, code
from varmenne.token.worker.objects import PrivateKeys, read
from varmenne.token.worker.session import SIGN_MECHANISMS
from varmenne.token.worker.templates import Template, checked, from_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from pkcs11.types import Object, PrivateKey, PublicKey, Session

    from varmenne.token.worker.session import TokenSession

_DIGEST_INFO_SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")
"""DER of ``DigestInfo`` for SHA-256 up to the hash itself (RFC 8017, 9.2, note 1)."""

_COMPUTED = frozenset({"MODULUS_BITS", "PUBLIC_EXPONENT"})
_SECRET = frozenset({"PRIVATE_EXPONENT", "VALUE"})

F = TypeVar("F", bound=KeyFacts)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What distinguishes one kind of key pair from another when it is ordered.

    Attributes:
        key_type: its ``CKA_KEY_TYPE``.
        mechanism: the mechanism that makes it.
        public: what the public key's template has beside the common order, such as a size or a curve.
    """

    key_type: KeyType
    mechanism: Mechanism
    public: Template


RSA: Final = Recipe(
    KeyType.RSA,
    Mechanism.RSA_PKCS_KEY_PAIR_GEN,
    {Attribute.MODULUS_BITS: RSA_BITS, Attribute.PUBLIC_EXPONENT: PUBLIC_EXPONENT.to_bytes(3, "big")},
)
"""The recipe of an enrollment's key."""


def generate(token: TokenSession, keys: PrivateKeys, key_id: KeyId, label: str) -> Made:
    """Make a key pair and read it back; if a key with this ``CKA_ID`` is there, judge that one and return it.

    Raises:
        TokenUnfit: the key is not as ordered. One that was made here is destroyed again; one that was found stays.
        KeyNotFound: more than one key has this ``CKA_ID``.
        PKCS11Error: the token refused every form of the order.
    """
    found = keys.find(key_id)
    if found is not None:
        return Made(facts=judged(_facts(token, found, key_id), label), made=False)
    public, private, deviation = order_pair(token, RSA, key_id=key_id, label=label)
    try:
        facts = judged(_facts(token, private, key_id), label, deviation)
        keys.get(key_id)  # Findable, and alone: otherwise no later call could use it.
    except TokenUnfit as exc:
        raise undone(exc, public, private) from exc
    return Made(facts=facts, made=True)


def find(token: TokenSession, keys: PrivateKeys, key_id: KeyId) -> KeyFacts | None:
    """Read back everything about a key; ``None`` if the token answers and holds none.

    Raises:
        TokenUnfit: the key breaks a demand.
    """
    found = keys.find(key_id)
    return None if found is None else judged(_facts(token, found, key_id))


def order_pair(
    token: TokenSession, recipe: Recipe, *, key_id: bytes, label: str, changes: dict[str, bool] | None = None
) -> tuple[PublicKey, PrivateKey, str]:
    """Order a key pair, in each form in turn, and return it with the deviation that its form is.

    Args:
        token: the token, logged in.
        recipe: which kind of key pair.
        key_id: the ``CKA_ID`` of both halves.
        label: the ``CKA_LABEL`` of both halves.
        changes: what the private key's order has otherwise; only the probe's control keys use this.

    Raises:
        PKCS11Error: the token refused every form of the order, or refused one by another code than
            :data:`~varmenne.token.key_policy.CONCEDED_ON` lists.
    """
    private_order = {**PRIVATE_KEY_ORDER, **(changes or {})}
    refusal: exceptions.PKCS11Error | None = None
    for form in token.forms(recipe.mechanism):
        try:
            public, private = _order(token.work, recipe, key_id, label, private_order, form.leave_out)
        except exceptions.PKCS11Error as exc:
            refusal = refusal or exc
            # NOTE: after CKR_GENERAL_ERROR "the goals of the function may have been partially achieved" (PKCS#11 2.40,
            # 5.1.1). A key that came into being is left to be found by the next call, and no second one is made.
            if code(exc) not in CONCEDED_ON or exists(token.work, key_id):
                raise
        else:
            taken = replace(form, because=form.because or (code(refusal) if refusal else ""))
            token.took(recipe.mechanism, taken)
            return public, private, taken.deviation
    raise refusal or AssertionError("there is at least one form of the order")


def _order(  # noqa: PLR0917 - one call, from just above
    session: Session,
    recipe: Recipe,
    key_id: bytes,
    label: str,
    private_order: dict[str, bool],
    leave_out: frozenset[str],
) -> tuple[PublicKey, PrivateKey]:
    """Order a key pair in one form. Both templates are complete: the library's own defaults do not show through."""
    names: Template = {Attribute.ID: key_id, Attribute.LABEL: label}
    private = from_names(private_order, leave_out=leave_out) | names
    public = from_names(dict(PUBLIC_KEY_ORDER), leave_out=leave_out) | names
    public = public | recipe.public | {Attribute.TOKEN: private[Attribute.TOKEN]}
    return session.create_domain_parameters(recipe.key_type, {}, local=True).generate_keypair(
        id=key_id,
        label=label,
        store=bool(private[Attribute.TOKEN]),
        capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
        mechanism=recipe.mechanism,
        public_template=checked(public),
        private_template=checked(private),
    )


def exists(session: Session, key_id: bytes) -> bool:
    """Tell whether a private key with this ``CKA_ID`` is in the token."""
    template: Template = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: key_id}
    return bool(list(session.get_objects(checked(template))))


def public_key(token: TokenSession, private: Object) -> bytes:
    """Build the DER ``SubjectPublicKeyInfo`` from the private object's own modulus and exponent.

    The public object is asked only for an exponent that the private one does not tell, and only if its modulus is the
    same: anybody may delete or replace public objects.

    Raises:
        TokenError: it is not an RSA key, or the token tells neither.
    """
    from asn1crypto.keys import PublicKeyInfo, RSAPublicKey

    modulus, exponent = _numbers(token, private)
    if not modulus or not exponent:
        raise TokenError(
            "The token does not tell the public half of a key", why="modulus or exponent of the RSA key cannot be read"
        )
    numbers = RSAPublicKey({"modulus": modulus, "public_exponent": exponent})
    der: bytes = PublicKeyInfo.wrap(numbers, "rsa").dump()
    return der


def sign(token: TokenSession, keys: PrivateKeys, key_id: bytes, data: bytes) -> bytes:
    """Sign with SHA-256 and PKCS #1 v1.5 padding. A handle that has gone stale is looked for once more.

    Raises:
        KeyNotFound: no key, or more than one, has this ``CKA_ID``.
        PKCS11Error: the token did not sign; its work session is dropped, since an operation may be stuck in it.
    """
    return with_key(token, keys, key_id, lambda private: _sign(token, private, data))


def with_key(token: TokenSession, keys: PrivateKeys, key_id: bytes, sign: Callable[[Object], bytes]) -> bytes:
    """Sign with the key of a ``CKA_ID``, and look for it once more where its handle has gone stale.

    Raises:
        KeyNotFound: no key, or more than one, has this ``CKA_ID``.
        PKCS11Error: as ``sign`` raised it; the work session is dropped.
    """
    try:
        return sign(keys.cached(key_id))
    except exceptions.PKCS11Error as exc:
        start_afresh(token, keys)
        if code(exc) not in LOST_OBJECT:
            raise
    return sign(keys.get(key_id))


def start_afresh(token: TokenSession, keys: PrivateKeys) -> None:
    """Drop the work session, in which an operation may be stuck, and the handles that ended with it."""
    token.drop_work()
    keys.forget()


def holds(token: TokenSession, keys: PrivateKeys, public_key_sha256: str) -> bool:
    """Tell whether a private key with this hash of its ``SubjectPublicKeyInfo`` is in the token.

    Reading every key takes time for each, so the key that bore the hash before is read first; if it does not bear it
    now, all are.
    """
    hint = keys.by_hash.get(public_key_sha256)
    with contextlib.suppress(KeyNotFound):
        if hint and _bears(token, keys.cached(hint), public_key_sha256):
            return True
    for thing in keys.all():
        if _bears(token, thing, public_key_sha256):
            keys.by_hash[public_key_sha256] = read(thing, Attribute.ID) or b""
            return True
    return False


def _bears(token: TokenSession, thing: Object, public_key_sha256: str) -> bool:
    """Tell whether a private key's public half has this hash; other keys than RSA ones have none."""
    is_rsa = read(thing, Attribute.KEY_TYPE) == KeyType.RSA and bool(read(thing, Attribute.MODULUS))
    return is_rsa and hashlib.sha256(public_key(token, thing)).hexdigest() == public_key_sha256


def _sign(token: TokenSession, private: Object, data: bytes) -> bytes:
    """Sign with the best mechanism that the token lists."""
    mechanism = next((known for known in SIGN_MECHANISMS if int(known) in token.mechanisms), None)
    if mechanism is None or not hasattr(private, "sign"):
        raise TokenError("The key cannot sign", why="the token lists neither CKM_SHA256_RSA_PKCS nor CKM_RSA_PKCS")
    if mechanism is Mechanism.RSA_PKCS:
        data = _DIGEST_INFO_SHA256 + hashlib.sha256(data).digest()
    signature: bytes = private.sign(data, mechanism=mechanism)
    return signature


def _numbers(token: TokenSession, private: Object) -> tuple[int, int]:
    """Return modulus and public exponent; zero stands for what the token does not tell."""
    modulus = int.from_bytes(read(private, Attribute.MODULUS) or b"", "big")
    exponent = int.from_bytes(read(private, Attribute.PUBLIC_EXPONENT) or b"", "big")
    if modulus and not exponent:
        key_id = read(private, Attribute.ID) or b""
        template: Template = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: key_id}
        for thing in token.work.get_objects(checked(template)):
            if int.from_bytes(read(thing, Attribute.MODULUS) or b"", "big") == modulus:
                exponent = int.from_bytes(read(thing, Attribute.PUBLIC_EXPONENT) or b"", "big")
    return modulus, exponent


def _facts(token: TokenSession, private: Object, key_id: KeyId) -> KeyFacts:
    """Read everything that the policy names, one attribute at a time, without judging it."""
    attributes = read_back(token, private, EXPECTATIONS)
    told = attributes["MODULUS_BITS"] and attributes["PUBLIC_EXPONENT"]
    return KeyFacts(
        key_id=key_id,
        label=read(private, Attribute.LABEL) or "",
        public_key=public_key(token, private) if told else b"",
        attributes=attributes,
        deviations=(),
        token=token.status().identity,
    )


def read_back(
    token: TokenSession, private: Object, expectations: tuple[Expectation, ...]
) -> dict[str, bool | int | None]:
    """Read the attributes of which something is expected, and those that are evidence, one at a time.

    What holds the private key itself is only tried: ``True`` if the token shows it, otherwise ``None``.
    """
    attributes: dict[str, bool | int | None] = {}
    for name in [row.attribute for row in expectations if row.attribute not in _COMPUTED] + list(EVIDENCE):
        value = read(private, Attribute[name])
        if name in _SECRET:
            attributes[name] = True if value else None
        else:
            attributes[name] = value if isinstance(value, bool) or value is None else int(value)
    if any(row.attribute in _COMPUTED for row in expectations):
        modulus, exponent = _numbers(token, private)
        attributes |= {"MODULUS_BITS": modulus.bit_length() or None, "PUBLIC_EXPONENT": exponent or None}
    return attributes


def judged(
    facts: F,
    label: str | None = None,
    deviation: str = "",
    expectations: tuple[Expectation, ...] = EXPECTATIONS,
) -> F:
    """Add the deviations to a key's facts.

    Raises:
        TokenUnfit: the key breaks a demand.
    """
    judgement = judge(facts.attributes, expectations)
    if judgement.unfit:
        raise TokenUnfit(
            "The token made a key that is not as ordered"
            if label is not None
            else f"The key with CKA_ID {facts.key_id.hex()} is not as ordered",
            why="; ".join(judgement.unfit),
            next_step="Do not use this token for varmenne's keys",
            key_id=facts.key_id.hex(),
        )
    named = [f"LABEL is {facts.label!r}, not {label!r} as ordered"] if label not in {None, facts.label} else []
    return replace(facts, deviations=(*([deviation] if deviation else ()), *judgement.deviations, *named))


def undone(error: TokenUnfit, *made: Object) -> TokenUnfit:
    """Destroy what was made, and say in the error whether that worked."""
    try:
        for thing in made:
            thing.destroy()
    except exceptions.PKCS11Error as exc:
        ending = f"it could not be destroyed again ({code(exc)}): delete it with the token's tools"
    else:
        ending = "it has been destroyed again"
    return TokenUnfit(error.what, why=f"{error.why}; {ending}", next_step=error.next_step, **error.facts)
