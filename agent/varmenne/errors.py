"""Every error that varmenne raises, and the exit code that each family ends a command with.

::

    VarmenneError
    ├── ConfigError                 the settings cannot be used                         3
    ├── InputError                  what a person gave cannot be used; nothing changed  4
    ├── TokenError                  the PKCS#11 token did not do what was asked         5
    │   ├── TokenUnavailable        no module, no token, crash, time limit: may pass
    │   ├── TokenUnfit              a key could leave the token, or is not as ordered
    │   ├── KeyNotFound             no object, or more than one, answers to a CKA_ID
    │   └── PinError                PIN refused, locked, or too dangerous to try        6
    ├── ServiceError                the certificate service
    │   ├── ServiceUnreachable      certainly not sent, or a repeatable call failed     7
    │   ├── ServiceRefused          answered FAIL, with codes and messages              8
    │   └── OutcomeUncertain        sent, answer lost or not believed: a person decides 9
    ├── VerificationError           an answer or a certificate was not proven          10
    ├── VaultError                  Vault did not do what was asked                    11
    │   ├── VaultUnavailable        sealed, unreachable, overloaded: may pass
    │   ├── VaultDenied             login or policy refuses
    │   └── VaultConflict           somebody else wrote the record first
    ├── JournalError                durable state cannot be read or written            12
    ├── StateError                  the enrollment is not in a state that allows this  13
    ├── NotFinished                 all is safe, but waits: resume later               14
    ├── ChecksFailed                `doctor` found something that does not work        15
    ├── HookFailed                  a hook of yours failed; it is run again            17
    ├── PersonNeeded                a person, or another one, must do something        18
    ├── EvidenceError               the audit log is not as it was signed              19
    └── FeedFailed                  a receiver did not take audit records              20

Families are grouped by who must act. Each error carries three sentences for people: what happened, why (where it is
known) and what to do next; facts that programs need travel as ``facts``, and never include a PIN, a one-time password
or a Vault token.
"""

from __future__ import annotations

from typing import ClassVar


class VarmenneError(Exception):
    """Base of every error that leaves a public function of this package.

    Args:
        what: What happened, one sentence without a full stop.
        why: The likely cause, where known.
        next_step: What the reader can do about it.
        facts: Machine-readable facts (label, state, code, …); no secrets.
    """

    exit_code: ClassVar[int] = 1
    meaning: ClassVar[str] = "unexpected: a defect in varmenne, please report it"

    def __init__(self, what: str, *, why: str = "", next_step: str = "", **facts: object) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.next_step = next_step
        self.facts = facts

    @property
    def transient(self) -> bool:
        """True when the same call may succeed later without a person's help."""
        return isinstance(self, Transient)

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" if self.why else self.what


class Transient:
    """Marks the errors that may pass by themselves, so that the engine may try again later."""


class ConfigError(VarmenneError):
    """The settings cannot be used: unknown key, wrong type, missing value."""

    exit_code = 3
    meaning = "the settings cannot be used"


class InputError(VarmenneError):
    """Something that a person gave cannot be used. Nothing was changed and nothing was sent."""

    exit_code = 4
    meaning = "bad input, nothing was changed"


class TokenError(VarmenneError):
    """The PKCS#11 token did not do what was asked, and asking again will not help."""

    exit_code = 5
    meaning = "the PKCS#11 token cannot be used"


class TokenUnavailable(TokenError, Transient):
    """Module missing or crashed, token absent, session lost, or a call over its time limit."""


class TokenUnfit(TokenError):
    """The token would let a private key out, or made a key that is not as ordered."""


class KeyNotFound(TokenError):
    """No object in the token answers to a CKA_ID, or more than one does; ``matches`` tells how many."""


class PinError(TokenError):
    """The PIN was refused, is locked, or trying it could lock the token. It is never tried again by itself."""

    exit_code = 6
    meaning = "the PIN was refused or not tried; it will not be tried again by itself"


class ServiceError(VarmenneError):
    """The certificate service: base of what can go wrong in a call."""


class ServiceUnreachable(ServiceError, Transient):
    """No byte of the request can have been received, or the call may be repeated without harm."""

    exit_code = 7
    meaning = "the certificate service could not be reached; nothing was spent"


class ServiceRefused(ServiceError):
    """The service answered ``FAIL``. ``errors`` holds its (code, message) pairs as they came."""

    exit_code = 8
    meaning = "the certificate service refused"

    def __init__(
        self,
        what: str,
        *,
        errors: tuple[tuple[str, str], ...] = (),
        why: str = "",
        next_step: str = "",
        **facts: object,
    ) -> None:
        super().__init__(what, why=why, next_step=next_step, errors=errors, **facts)
        self.errors = errors


class OutcomeUncertain(ServiceError):
    """A one-shot request may have been received, but no believable answer came back."""

    exit_code = 9
    meaning = "sent, but no believable answer came back: a person must decide"


class VerificationError(VarmenneError):
    """An answer or a certificate was not proven. ``check`` names the check that refused it."""

    exit_code = 10
    meaning = "an answer or a certificate did not pass verification"

    def __init__(self, what: str, *, check: str, why: str = "", next_step: str = "", **facts: object) -> None:
        super().__init__(what, why=why, next_step=next_step, check=check, **facts)
        self.check = check


class VaultError(VarmenneError):
    """Vault did not do what was asked, and asking again will not help."""

    exit_code = 11
    meaning = "Vault cannot be used"


class VaultUnavailable(VaultError, Transient):
    """Vault is sealed, unreachable, overloaded or between leaders."""


class VaultDenied(VaultError):
    """Vault refused the login, or its policy does not allow the operation."""


class VaultConflict(VaultError):
    """Check-and-set failed: the record was changed by somebody else in between."""


class JournalError(VarmenneError):
    """Durable state cannot be read or written."""

    exit_code = 12
    meaning = "the journal cannot be read or written"


class StateError(VarmenneError):
    """The enrollment, or another one like it, is in a state that does not allow this."""

    exit_code = 13
    meaning = "the enrollment's state does not allow this"


class NotFinished(VarmenneError, Transient):
    """Everything so far is durable, but the enrollment waits for something. ``varmenne resume`` goes on."""

    exit_code = 14
    meaning = "not finished yet: everything is safe, `varmenne resume` goes on"


class ChecksFailed(VarmenneError):
    """A check-up found something that does not work."""

    exit_code = 15
    meaning = "`doctor` found something that does not work"


class HookFailed(VarmenneError, Transient):
    """A hook ended with an error, took too long, or may not be run. It is run again later, by itself."""

    exit_code = 17
    meaning = "a hook failed; it is run again"


class PersonNeeded(VarmenneError):
    """Something waits for a person, and will not get on without one."""

    exit_code = 18
    meaning = "a person is needed: `status` found something, or another person must approve"


class EvidenceError(VarmenneError):
    """The audit log, or something that proves it, is not what was signed, or cannot be signed as it is."""

    exit_code = 19
    meaning = "the audit log, or what proves it, is not as it was signed"


class FeedFailed(VarmenneError, Transient):
    """A receiver may not have taken the audit records that it was sent. They are sent again."""

    exit_code = 20
    meaning = "`audit feed`: the receiver may not have taken the records; they are sent again"


def family(cls: type[VarmenneError] = VarmenneError) -> list[type[VarmenneError]]:
    """Return the class and all its subclasses, parents first, in order of definition."""
    found = [cls]
    for child in cls.__subclasses__():
        found.extend(family(child))
    return found
