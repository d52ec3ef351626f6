"""The selected token in the worker: which one it is, the login, and the session that work is done in.

Two sessions are kept. The first carries the login, which in PKCS#11 belongs to the process: python-pkcs11 logs out when
that session is closed, so it is opened once and never worked in. The second does the work, has no login of its own, and
can be thrown away whenever a failed operation may have left it in a bad state.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pkcs11 import Attribute, Mechanism, ObjectClass, exceptions
from pkcs11.constants import MechanismFlag, TokenFlag

from varmenne.domain.keys import RSA_BITS, TokenIdentity
from varmenne.errors import TokenError, TokenUnavailable
from varmenne.secret_sources import read_secret
from varmenne.token.key_policy import FORMS, Form
from varmenne.token.status import TokenStatus
from varmenne.token.worker.module import Module
from varmenne.token.worker.templates import Template, checked, mapper

if TYPE_CHECKING:
    from pkcs11.types import Session, Slot, Token

    from varmenne.domain.secret import Secret
    from varmenne.token.messages import Setup

SIGN_MECHANISMS = (Mechanism.SHA256_RSA_PKCS, Mechanism.RSA_PKCS)
"""The mechanisms that varmenne signs with, best first."""

_KNOWN_FLAGS = sum(MechanismFlag)


class TokenSession:
    """A module, the token that the settings select in it, and the way into that token."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._module = Module(setup.module, setup.init_parameters)
        self._slot: Slot | None = None
        self._pin: Secret | None = None
        self._login: Session | None = None
        self._work: Session | None = None
        self._mechanisms: frozenset[int] | None = None
        self._forms: dict[str, Form] = {}

    @property
    def module(self) -> Module:
        """The loaded module."""
        return self._module

    def list_tokens(self) -> tuple[TokenStatus, ...]:
        """Tell about every token of the module, in the order of the slots."""
        return tuple(self._status(slot, token) for slot, token in self._tokens())

    def status(self) -> TokenStatus:
        """Tell about the selected token; asked anew from the token each time.

        Raises:
            TokenUnavailable: no token answers to the settings.
            TokenError: more than one does.
        """
        return self._status(self.slot, self._present())

    @property
    def slot(self) -> Slot:
        """The slot of the selected token, found once: a token that moves needs a fresh worker."""
        if self._slot is None:
            self._slot = self._select()
        return self._slot

    def prove_present(self) -> None:
        """Ask the token itself, not only its session, whether it is there and is the one that was selected.

        A search that finds nothing proves nothing without this: SoftHSM answers "no objects" when its folder is gone.

        Raises:
            TokenUnavailable: it does not answer, or another token is in its place.
        """
        token = self._present()
        if not self._answers_to_settings(token):
            raise TokenUnavailable(
                "The token went away",
                why=f"its slot now holds a token labelled {token.label!r}",
                next_step="Put the token back, or correct token.label in the settings",
            )

    def prove_logged_in(self) -> None:
        """Make sure that the token has not dropped the login: it would hide private objects instead of refusing.

        Only a logged-in user can make a private object, here one byte that lives in the session alone. Without login,
        SoftHSM answers by the code for that, and a TPM's module calls this session, which may write, read-only. A token
        that makes no such objects at all refuses by another code, which tells nothing.

        Raises:
            UserNotLoggedIn: the login has been lost.
        """
        template: Template = {
            Attribute.CLASS: ObjectClass.DATA,
            Attribute.TOKEN: False,
            Attribute.PRIVATE: True,
            Attribute.VALUE: b"\0",
        }
        try:
            self.work.create_object(checked(template)).destroy()
        except (exceptions.UserNotLoggedIn, exceptions.SessionReadOnly) as exc:
            raise exceptions.UserNotLoggedIn from exc
        except exceptions.PKCS11Error:
            return

    def read_pin(self, source: str) -> None:
        """Fetch the PIN from its source and keep it for one login. A descriptor is closed after reading."""
        self._pin = read_secret(source, what="user PIN")
        kind, _, number = source.partition(":")
        if kind == "fd":
            os.close(int(number))

    def login(self) -> None:
        """Log in with the PIN that was read, once, and forget the PIN.

        Raises:
            PKCS11Error: the token refused; the caller must not try again by itself.
        """
        if self._login is not None:
            return
        pin, self._pin = self._pin, None
        if pin is None:
            raise TokenError("The token cannot be logged in to", why="no PIN was read")
        token = self._present()
        try:
            self._login = token.open(rw=True, user_pin=pin.reveal(), attribute_mapper=mapper())
        except exceptions.UserAlreadyLoggedIn:
            self._login = token.open(rw=True, attribute_mapper=mapper())

    @property
    def work(self) -> Session:
        """The session that work is done in; opened when first needed."""
        if self._work is None:
            self._work = self._present().open(rw=True, attribute_mapper=mapper())
        return self._work

    def drop_work(self) -> None:
        """Throw the work session away, with everything that may be stuck in it. The login stays."""
        session, self._work = self._work, None
        if session is not None:
            try:
                session.close()
            except exceptions.PKCS11Error:
                return  # It is lost either way, and the next one is opened afresh.

    @property
    def mechanisms(self) -> frozenset[int]:
        """Numbers of the mechanisms that the token lists."""
        if self._mechanisms is None:
            self._mechanisms = frozenset(int(mechanism) for mechanism in self.slot.get_mechanisms())
        return self._mechanisms

    def forms(self, mechanism: Mechanism) -> tuple[Form, ...]:
        """Return the forms in which keys may be ordered by a mechanism: the one that the token took before, or all."""
        taken = self._forms.get(mechanism.name)
        return (taken,) if taken else FORMS

    def took(self, mechanism: Mechanism, form: Form) -> None:
        """Keep the form that the token took for the next order: a TPM's module loses resources at every refusal."""
        self._forms[mechanism.name] = form

    def flagged(self, flag: MechanismFlag) -> frozenset[int]:
        """Numbers of the listed mechanisms that carry a flag. A hint: tokens have been seen to say nonsense here."""
        return frozenset(number for number in self.mechanisms if _mechanism_flags(self.slot, number) & int(flag))

    def _present(self) -> Token:
        """Ask the slot for its token, now."""
        return self.slot.get_token()

    def _tokens(self) -> list[tuple[Slot, Token]]:
        """Return every slot whose token can be asked; a slot that fails is as good as empty."""
        found = []
        for slot in self._module.slots():
            try:
                found.append((slot, slot.get_token()))
            except exceptions.PKCS11Error:
                continue
        return found

    def _answers_to_settings(self, token: Token) -> bool:
        """Compare a token with the criteria; the empty ones match everything."""
        wanted = self._setup
        return (
            token.label == wanted.label
            and wanted.serial in {"", _serial(token)}
            and wanted.model in {"", token.model}
            and bool(token.flags & TokenFlag.TOKEN_INITIALIZED)
        )

    def _select(self) -> Slot:
        """Find the one token that answers to the settings."""
        tokens = self._tokens()
        matches = [slot for slot, token in tokens if self._answers_to_settings(token)]
        if len(matches) == 1:
            return matches[0]
        criteria = ", ".join(
            f"{name} {value!r}"
            for name, value in (
                ("label", self._setup.label),
                ("serial", self._setup.serial),
                ("model", self._setup.model),
            )
            if value
        )
        there = "; ".join(
            f"label {token.label!r}, serial {_serial(token)!r}, model {token.model!r}"
            for _, token in tokens
            if token.flags & TokenFlag.TOKEN_INITIALIZED
        )
        error = TokenError if matches else TokenUnavailable
        raise error(
            f"{'More than one token answers' if matches else 'No token answers'} to {criteria}",
            why=f"the module has: {there or 'no initialised token'}",
            next_step="Correct token.label, token.serial and token.model in the settings, or plug the token in",
            matches=len(matches),
        )

    def _status(self, slot: Slot, token: Token) -> TokenStatus:
        """Put a token's own words together."""
        flags = token.flags
        return TokenStatus(
            identity=TokenIdentity(
                label=token.label,
                serial=_serial(token),
                model=token.model,
                manufacturer=token.manufacturer_id,
                firmware="{}.{}".format(*token.firmware_version),
                library=self._module.library,
            ),
            slot=slot.slot_id,
            initialized=bool(flags & TokenFlag.TOKEN_INITIALIZED),
            pin_initialized=bool(flags & TokenFlag.USER_PIN_INITIALIZED),
            pin_count_low=bool(flags & TokenFlag.USER_PIN_COUNT_LOW),
            pin_final_try=bool(flags & TokenFlag.USER_PIN_FINAL_TRY),
            pin_locked=bool(flags & TokenFlag.USER_PIN_LOCKED),
            write_protected=bool(flags & TokenFlag.WRITE_PROTECTED),
            can_generate=_can_generate(slot),
            can_sign=any(int(mechanism) in map(int, slot.get_mechanisms()) for mechanism in SIGN_MECHANISMS),
        )


def _serial(token: Token) -> str:
    """Return the serial number as text."""
    return token.serial.decode("utf-8", errors="replace").strip("\0 ")


def _mechanism_flags(slot: Slot, number: int) -> int:
    """Return a mechanism's flags, or none if the token does not tell, or tells nonsense (SoftHSM: stray memory)."""
    try:
        flags = int(slot.get_mechanism_info(number).flags)  # type: ignore[arg-type]  # vendor mechanisms are plain ints
    except (exceptions.PKCS11Error, ValueError):
        return 0
    return 0 if flags & ~_KNOWN_FLAGS else flags


def _can_generate(slot: Slot) -> bool:
    """Tell whether the token makes RSA key pairs of our size."""
    if Mechanism.RSA_PKCS_KEY_PAIR_GEN not in slot.get_mechanisms():
        return False
    try:
        sizes = slot.get_mechanism_info(Mechanism.RSA_PKCS_KEY_PAIR_GEN)
    except exceptions.PKCS11Error:
        return True  # It lists the mechanism and tells no sizes; generation will show.
    return (sizes.min_key_length or RSA_BITS) <= RSA_BITS <= (sizes.max_key_length or RSA_BITS)
