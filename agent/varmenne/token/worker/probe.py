"""Tries to get a private key out of the token, by every way that PKCS#11 has and the token lists.

What a token says of a key (its attributes) has been seen to be wrong: NSS softokn wraps keys that it calls
non-extractable, and a TPM's module lets anybody change the flags of keys that can never leave the chip. So it is tried:

1. a throw-away *target* is made by the very order of real keys, and a *control* that may be extracted;
2. private components are read; the target is wrapped under a session key by each mechanism; it is copied as extractable
   and as not sensitive; it is used to decrypt and to unwrap; at last its flags are set, and what they open is tried
   again if the token let that happen;
3. each try is first made on the control (for uses, on an RSA key of the session that may be used so). A refusal counts
   only if the same call works there; otherwise it may just be a call that this token never carries out, and the outcome
   is "not applicable".

Nothing is done to real keys. Whatever comes out is dropped at once and only its length is told.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, exceptions
from pkcs11.constants import MechanismFlag

from varmenne.domain.keys import ProbeResult
from varmenne.token.worker.failures import code
from varmenne.token.worker.keys import RSA, order_pair
from varmenne.token.worker.templates import Template, checked
from varmenne.token.worker.tries import (
    ALLOWED,
    NOT_APPLICABLE,
    REFUSED,
    UNCLEAR,
    Try,
    attempt,
    permitted,
    reads,
    stop_if_lost,
    uses,
)

if TYPE_CHECKING:
    from pkcs11.types import Object, Session

    from varmenne.token.worker.session import TokenSession

LABEL: Final = "varmenne probe, throw-away"
_ID_MARK: Final = b"vrmnprb:"
_SWEEP_AFTER: Final = timedelta(minutes=10)
"""Throw-away objects older than this are leftovers of a crash: a probe takes seconds."""


@dataclass(frozen=True, slots=True)
class WrapMechanism:
    """A mechanism that can wrap: under which kind of key, and with which parameter."""

    mechanism: Mechanism
    under: str
    parameter: bytes | None = None


WRAP_MECHANISMS: Final = (
    WrapMechanism(Mechanism.AES_KEY_WRAP, "AES"),
    WrapMechanism(Mechanism.AES_KEY_WRAP_PAD, "AES"),
    WrapMechanism(Mechanism.AES_KEY_WRAP_KWP, "AES"),
    WrapMechanism(Mechanism.AES_KEY_WRAP_PKCS7, "AES"),
    WrapMechanism(Mechanism.AES_CBC_PAD, "AES", bytes(16)),
    WrapMechanism(Mechanism.AES_CBC, "AES", bytes(16)),
    WrapMechanism(Mechanism.AES_ECB, "AES"),
    WrapMechanism(Mechanism.DES3_CBC_PAD, "DES3", bytes(8)),
    WrapMechanism(Mechanism.DES3_CBC, "DES3", bytes(8)),
    WrapMechanism(Mechanism.DES3_ECB, "DES3"),
    WrapMechanism(Mechanism.RSA_PKCS, "RSA"),
    WrapMechanism(Mechanism.RSA_PKCS_OAEP, "RSA"),
    WrapMechanism(Mechanism.RSA_X_509, "RSA"),
)
"""Every wrap mechanism whose parameters are known here. Each is tried if the token lists it, whatever its flags say."""

_SESSION_KEYS: Final[dict[str, tuple[KeyType, int | None]]] = {
    "AES": (KeyType.AES, 256),
    "DES3": (KeyType.DES3, None),
}


def probe(token: TokenSession, now: datetime) -> tuple[ProbeResult, ...]:
    """Make every try, and leave the token as it was.

    Raises:
        PKCS11Error: no throw-away key could be made, or the token went away.
    """
    _sweep(token.work, now)
    with _throw_away(token, now) as bin_, _wrapping_keys(token, bin_) as wrapping:
        target = bin_.pair()
        control, made_extractable = _control(bin_)
        ways = [*reads(), *_wraps(token, wrapping), *_copies()]
        results = [made_extractable, *_untried_mechanisms(token)]
        results += [_outcome(way, target, control) for way in ways]
        tried = [(way, _outcome(way, target, wrapping.get(_USABLE))) for way in uses(token)]
        results += [result for _, result in tried]
        for name, value in _USAGE_FLAGS:
            opened = [way for way, result in tried if way.usage == name and result.outcome == REFUSED]
            results.append(_set_flag(name, value, target, control, opened, complete=True))
        complete = not _out_of_reach(token, wrapping)
        results += [_set_flag(name, value, target, control, ways, complete=complete) for name, value in _FLAGS]
    return tuple(results)


_FLAGS: Final = (("EXTRACTABLE", True), ("SENSITIVE", False))
_USAGE_FLAGS: Final = (("DECRYPT", True), ("UNWRAP", True))

_USABLE: Final = "RSA, private"
"""The private half of the session's RSA key, which may decrypt and unwrap: the control for uses."""


class _Bin:
    """Throw-away objects. They are destroyed when the probe ends, however it ends."""

    def __init__(self, token: TokenSession, now: datetime) -> None:
        self._token = token
        self._moment = int(now.timestamp()).to_bytes(5, "big")
        self._objects: list[Object] = []

    def name(self) -> bytes:
        """Return a new ``CKA_ID`` that tells a later sweep what this is, and since when."""
        return _ID_MARK + self._moment + secrets.token_bytes(3)

    def keep(self, thing: Object) -> None:
        """Remember to destroy an object."""
        self._objects.append(thing)

    def pair(self, **changes: bool) -> Object:
        """Order a key pair as real keys are ordered, but for the changes; return its private half."""
        public, private, _ = order_pair(self._token, RSA, key_id=self.name(), label=LABEL, changes=changes)
        self.keep(public)
        self.keep(private)
        return private

    def empty(self) -> None:
        """Destroy everything; what is gone already (session objects of a lost session) is no trouble."""
        for thing in reversed(self._objects):
            try:
                thing.destroy()
            except exceptions.PKCS11Error:
                continue  # The next probe's sweep finds what is left in the token.


@contextmanager
def _throw_away(token: TokenSession, now: datetime) -> Iterator[_Bin]:
    """Hold throw-away objects for the length of a probe."""
    bin_ = _Bin(token, now)
    try:
        yield bin_
    finally:
        bin_.empty()


def _sweep(session: Session, now: datetime) -> None:
    """Destroy what a probe that crashed more than ten minutes ago left in the token."""
    for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
        template: Template = {Attribute.CLASS: kind, Attribute.LABEL: LABEL}
        for thing in list(session.get_objects(checked(template))):
            key_id = thing[Attribute.ID]
            made_at = int.from_bytes(key_id[len(_ID_MARK) : len(_ID_MARK) + 5], "big")
            if key_id.startswith(_ID_MARK) and now.timestamp() - made_at > _SWEEP_AFTER.total_seconds():
                thing.destroy()


@contextmanager
def _wrapping_keys(token: TokenSession, bin_: _Bin) -> Iterator[dict[str, Any]]:
    """Make session keys to wrap under, one of each kind that the token can make; drop them after."""
    found: dict[str, Any] = {}
    capabilities = MechanismFlag.WRAP | MechanismFlag.UNWRAP | MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT
    for kind, (key_type, bits) in _SESSION_KEYS.items():
        try:
            found[kind] = token.work.generate_key(key_type, bits, label=LABEL, capabilities=capabilities)
            bin_.keep(found[kind])
        except exceptions.PKCS11Error as exc:
            stop_if_lost(exc)
    try:
        public, private = token.work.generate_keypair(KeyType.RSA, 2048, label=LABEL, capabilities=capabilities)
        found["RSA"], found[_USABLE] = public, private
        bin_.keep(public)
        bin_.keep(private)
    except exceptions.PKCS11Error as exc:
        stop_if_lost(exc)
    yield found


def _control(bin_: _Bin) -> tuple[Object | None, ProbeResult]:
    """Make the key that may be extracted, and tell whether the token makes such keys at all.

    A token that carries out the order of real keys, but refuses the same order with ``EXTRACTABLE`` true alone changed,
    has refused for that flag: it holds no keys that could leave it. That is what a TPM answers, and it is the only
    proof to be had there, as nothing can then serve as a control.
    """
    name = "make an extractable key"
    for changes in (
        {"TOKEN": False, "SENSITIVE": False, "EXTRACTABLE": True, "MODIFIABLE": True},
        {"TOKEN": False, "EXTRACTABLE": True, "MODIFIABLE": True},
        {"EXTRACTABLE": True},
    ):
        try:
            control = bin_.pair(**changes)
        except exceptions.PKCS11Error as exc:
            stop_if_lost(exc)
            refusal = code(exc)
            continue
        return control, ProbeResult(name, NOT_APPLICABLE, "the token makes them when so ordered; it is the control")
    outcome = NOT_APPLICABLE if refusal in UNCLEAR else REFUSED
    return None, ProbeResult(name, outcome, f"{refusal}, while the same order with EXTRACTABLE false is carried out")


def _wraps(token: TokenSession, wrapping: dict[str, Any]) -> list[Try]:
    """Wrap under a session key, by each listed mechanism that there is a key for."""

    def wrap(row: WrapMechanism, thing: Object) -> str | None:
        length = len(wrapping[row.under].wrap_key(thing, mechanism=row.mechanism, mechanism_param=row.parameter))
        return f"{length} bytes came out" if length else None

    return [
        Try(f"wrap {row.mechanism.name}", lambda thing, row=row: wrap(row, thing))  # type: ignore[misc]
        for row in WRAP_MECHANISMS
        if int(row.mechanism) in token.mechanisms and hasattr(wrapping.get(row.under), "wrap_key")
    ]


def _copies() -> list[Try]:
    """Copy into a session object that may leave, or that shows itself; the copy is destroyed at once."""

    def copy(attribute: Attribute, wanted: bool, thing: Object) -> str | None:  # noqa: FBT001 - an attribute's value
        duplicate = thing.copy(checked({Attribute.TOKEN: False, attribute: wanted}))
        try:
            kept = duplicate[attribute] is not wanted
        finally:
            duplicate.destroy()
        return None if kept else f"a copy with {attribute.name} {str(wanted).lower()} was made"

    return [
        Try(
            f"copy with {name} {str(value).lower()}",
            lambda thing, attribute=Attribute[name], value=value: copy(attribute, value, thing),  # type: ignore[misc]
        )
        for name, value in _FLAGS
    ]


def _untried_mechanisms(token: TokenSession) -> list[ProbeResult]:
    """Name the listed wrap mechanisms that nobody here knows how to call."""
    known = {int(row.mechanism) for row in WRAP_MECHANISMS}
    return [
        ProbeResult(f"wrap {_name(number)}", NOT_APPLICABLE, "listed for wrapping, but its parameters are unknown here")
        for number in sorted(token.flagged(MechanismFlag.WRAP) - known)
    ]


def _name(number: int) -> str:
    """Return a mechanism's name, or its number where it has none (makers of tokens have their own)."""
    try:
        return Mechanism(number).name.removeprefix("_")
    except ValueError:
        return f"{number:#x}"


def _out_of_reach(token: TokenSession, wrapping: dict[str, Any]) -> bool:
    """Tell whether the token lists a way to wrap that could not be tried here."""
    tried = {int(row.mechanism) for row in WRAP_MECHANISMS if hasattr(wrapping.get(row.under), "wrap_key")}
    return bool(token.flagged(MechanismFlag.WRAP) - tried)


def _outcome(way: Try, target: Object, control: Object | None) -> ProbeResult:
    """Make one try on the control and on the target, and draw the conclusion."""
    works, at_control = attempt(way, control) if control is not None else (False, "no control key")
    came_out, at_target = attempt(way, target)
    if came_out and permitted(way, target):
        words = f"{at_target}; {way.usage} is true, a deviation that is recorded with each key"
        return ProbeResult(way.name, NOT_APPLICABLE, words)
    if came_out:
        return ProbeResult(way.name, ALLOWED, at_target)
    if not works:
        return ProbeResult(way.name, NOT_APPLICABLE, f"{at_target}; control: {at_control}")
    return ProbeResult(way.name, NOT_APPLICABLE if at_target in UNCLEAR else REFUSED, at_target)


def _set_flag(
    name: str,
    value: bool,  # noqa: FBT001 - an attribute's value
    target: Object,
    control: Object | None,
    ways: list[Try],
    *,
    complete: bool,
) -> ProbeResult:
    """Set a flag that protects the key. If the token lets that happen, try everything again to see what it is worth.

    A flag that changes nothing (a TPM's module keeps flags in a file, and the key in the chip) is not a way out: the
    outcome is then "not applicable", in so many words. It is "allowed" if anything comes out, or if the token lists a
    way to wrap that could not be tried (``complete`` is False), as then nobody can tell.
    """
    attribute = Attribute[name]

    def change(thing: Object) -> str | None:
        thing[attribute] = value
        return f"{name} is now {str(value).lower()}" if thing[attribute] is value else None

    way = Try(f"set {name} {str(value).lower()}", change)
    first = _outcome(way, target, control)
    if first.outcome != ALLOWED:
        return first
    after = [(again.name, *attempt(again, target)) for again in ways if not again.name.startswith("copy")]
    leaks = [f"{what}: {words}" for what, came_out, words in after if came_out]
    if leaks:
        return ProbeResult(way.name, ALLOWED, f"{first.detail}, and then {leaks[0]}")
    if not complete:
        return ProbeResult(way.name, ALLOWED, f"{first.detail}, and the token lists ways to wrap that cannot be tried")
    return ProbeResult(way.name, NOT_APPLICABLE, f"flag only: {first.detail}, but nothing more comes out than before")
