"""From return codes of PKCS#11 to our errors: one table, complete over python-pkcs11's exceptions (a test shows it).

Sentences are for the person who runs varmenne. Which verb failed is put before them, the return code behind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pkcs11 import exceptions

from varmenne.errors import KeyNotFound, PinError, TokenError, TokenUnavailable, VarmenneError
from varmenne.token.messages import Failed


class Kind(Enum):
    """What a return code means for the caller."""

    AWAY = TokenUnavailable
    """The connection to the token, or the module's state, is in doubt: a fresh worker is needed."""

    NO = TokenError
    """The token understood and refused; asking again will not help."""

    PIN = PinError
    """The PIN; never tried again by itself."""

    MISSING = KeyNotFound
    """No object, or too many."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """One return code in words."""

    code: str
    kind: Kind
    why: str
    next_step: str = ""


_AGAIN = "Run the command again; if it happens again, check the token with its maker's tools"
_SUPPORT = "Check with `varmenne doctor` whether this token can do what varmenne needs"
_WRONG_PIN = (
    "Correct the PIN at its source and run the command again. varmenne does not try the same PIN again by itself, "
    "because tokens lock after a few wrong ones"
)
_UNLOCK = "Unlock or reset the user PIN as security officer with the tools of the token's maker"


def _rows(kind: Kind, next_step: str, rows: dict[str, tuple[str, str]]) -> dict[str, Meaning]:
    """Build rows that share their kind and next step."""
    return {name: Meaning(code, kind, why, next_step) for name, (code, why) in rows.items()}


MEANINGS: Final[dict[str, Meaning]] = {
    **_rows(
        Kind.AWAY,
        _AGAIN,
        {
            "DeviceError": ("CKR_DEVICE_ERROR", "the token or the way to it has failed"),
            "DeviceMemory": ("CKR_DEVICE_MEMORY", "the token has no room left"),
            "DeviceRemoved": ("CKR_DEVICE_REMOVED", "the token was removed"),
            "ExceededMaxIterations": ("CKR_EXCEEDED_MAX_ITERATIONS", "the token found no primes in time"),
            "FunctionCancelled": ("CKR_FUNCTION_CANCELED", "the call was cancelled"),
            "FunctionFailed": ("CKR_FUNCTION_FAILED", "the token gave up"),
            "GeneralError": (
                "CKR_GENERAL_ERROR",
                "the token gives no reason: its store may be damaged or gone, or it may have run out of resources",
            ),
            "HostMemory": ("CKR_HOST_MEMORY", "this computer is short of memory"),
            "KeyHandleInvalid": ("CKR_KEY_HANDLE_INVALID", "the key has gone away"),
            "NoEvent": ("CKR_NO_EVENT", "the module is in an unexpected state"),
            "NoSuchToken": ("none", "no token answers to the settings"),
            "ObjectHandleInvalid": ("CKR_OBJECT_HANDLE_INVALID", "the object, or the token with it, has gone away"),
            "OperationActive": ("CKR_OPERATION_ACTIVE", "an operation that failed before is still open"),
            "OperationNotInitialized": ("CKR_OPERATION_NOT_INITIALIZED", "the module is in an unexpected state"),
            "SessionClosed": ("CKR_SESSION_CLOSED", "the session was closed by the token"),
            "SessionExists": ("CKR_SESSION_EXISTS", "another session is open"),
            "SessionHandleInvalid": ("CKR_SESSION_HANDLE_INVALID", "the session has been lost"),
            "TokenNotPresent": ("CKR_TOKEN_NOT_PRESENT", "the token is not in its slot"),
            "UserNotLoggedIn": ("CKR_USER_NOT_LOGGED_IN", "the login has been lost"),
        },
    ),
    **_rows(
        Kind.AWAY,
        "Close other programs that use the token, or let it have more sessions, and run the command again",
        {"SessionCount": ("CKR_SESSION_COUNT", "too many programs use the token at the same time")},
    ),
    **_rows(
        Kind.NO,
        _SUPPORT,
        {
            "ArgumentsBad": ("CKR_ARGUMENTS_BAD", "the module does not accept the arguments of the call"),
            "AttributeReadOnly": ("CKR_ATTRIBUTE_READ_ONLY", "an attribute may not be set"),
            "AttributeSensitive": ("CKR_ATTRIBUTE_SENSITIVE", "the value is sensitive and is not shown"),
            "AttributeTypeInvalid": ("CKR_ATTRIBUTE_TYPE_INVALID", "the token does not know an attribute"),
            "AttributeValueInvalid": ("CKR_ATTRIBUTE_VALUE_INVALID", "the token does not accept an attribute's value"),
            "DataInvalid": ("CKR_DATA_INVALID", "the token does not accept the data"),
            "DataLenRange": ("CKR_DATA_LEN_RANGE", "the data is too long or too short for the token"),
            "DomainParamsInvalid": ("CKR_DOMAIN_PARAMS_INVALID", "the token does not accept the parameters"),
            "EncryptedDataInvalid": ("CKR_ENCRYPTED_DATA_INVALID", "the token does not accept the encrypted data"),
            "EncryptedDataLenRange": ("CKR_ENCRYPTED_DATA_LEN_RANGE", "the encrypted data has a wrong length"),
            "FunctionNotSupported": ("CKR_FUNCTION_NOT_SUPPORTED", "the module has no such function"),
            "FunctionRejected": ("CKR_FUNCTION_REJECTED", "somebody or something at the token declined"),
            "KeyIndigestible": ("CKR_KEY_INDIGESTIBLE", "the token does not accept the key for this"),
            "KeyNeeded": ("CKR_KEY_NEEDED", "the module is in an unexpected state"),
            "KeyNotNeeded": ("CKR_KEY_NOT_NEEDED", "the module is in an unexpected state"),
            "KeyNotWrappable": ("CKR_KEY_NOT_WRAPPABLE", "the key cannot be wrapped"),
            "KeySizeRange": ("CKR_KEY_SIZE_RANGE", "the token has no keys of this size"),
            "KeyTypeInconsistent": ("CKR_KEY_TYPE_INCONSISTENT", "the key is not of the kind that this needs"),
            "KeyUnextractable": ("CKR_KEY_UNEXTRACTABLE", "the key may not leave the token"),
            "MechanismInvalid": ("CKR_MECHANISM_INVALID", "the token lacks the mechanism"),
            "MechanismParamInvalid": ("CKR_MECHANISM_PARAM_INVALID", "the token does not accept the parameters"),
            "PublicKeyInvalid": ("CKR_PUBLIC_KEY_INVALID", "the token does not accept the public key"),
            "RandomNoRNG": ("CKR_RANDOM_NO_RNG", "the token has no random numbers"),
            "RandomSeedNotSupported": ("CKR_RANDOM_SEED_NOT_SUPPORTED", "the token takes no seed"),
            "SignatureInvalid": ("CKR_SIGNATURE_INVALID", "the signature is wrong"),
            "SignatureLenRange": ("CKR_SIGNATURE_LEN_RANGE", "the signature has a wrong length"),
            "TemplateIncomplete": ("CKR_TEMPLATE_INCOMPLETE", "the token misses an attribute"),
            "TemplateInconsistent": ("CKR_TEMPLATE_INCONSISTENT", "the token finds attributes contradictory"),
            "UnwrappingKeyHandleInvalid": ("CKR_UNWRAPPING_KEY_HANDLE_INVALID", "the unwrapping key has gone away"),
            "UnwrappingKeySizeRange": ("CKR_UNWRAPPING_KEY_SIZE_RANGE", "the unwrapping key has a wrong size"),
            "UnwrappingKeyTypeInconsistent": (
                "CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT",
                "the unwrapping key is of a wrong kind",
            ),
            "WrappedKeyInvalid": ("CKR_WRAPPED_KEY_INVALID", "the wrapped key is not valid"),
            "WrappedKeyLenRange": ("CKR_WRAPPED_KEY_LEN_RANGE", "the wrapped key has a wrong length"),
            "WrappingKeyHandleInvalid": ("CKR_WRAPPING_KEY_HANDLE_INVALID", "the wrapping key has gone away"),
            "WrappingKeySizeRange": ("CKR_WRAPPING_KEY_SIZE_RANGE", "the wrapping key has a wrong size"),
            "WrappingKeyTypeInconsistent": (
                "CKR_WRAPPING_KEY_TYPE_INCONSISTENT",
                "the wrapping key is of a wrong kind",
            ),
            "PKCS11Error": ("unknown", "the token answered with a code that varmenne does not know"),
        },
    ),
    **_rows(
        Kind.NO,
        "Name the token more closely in the settings: token.label, token.serial, token.model",
        {
            "MultipleTokensReturned": ("none", "more than one token answers to the settings"),
            "SlotIDInvalid": ("CKR_SLOT_ID_INVALID", "the slot has gone away"),
            "TokenNotRecognised": ("CKR_TOKEN_NOT_RECOGNIZED", "the module does not recognise the token"),
        },
    ),
    **_rows(
        Kind.NO,
        "Make the token writable for the user PIN, with the tools of its maker",
        {
            "SessionReadOnly": ("CKR_SESSION_READ_ONLY", "the session may not write"),
            "SessionReadOnlyExists": ("CKR_SESSION_READ_ONLY_EXISTS", "a session that may not write is open"),
            "TokenWriteProtected": ("CKR_TOKEN_WRITE_PROTECTED", "the token is write protected"),
        },
    ),
    **_rows(
        Kind.NO,
        "Close the other program's session as security officer",
        {
            "AnotherUserAlreadyLoggedIn": ("CKR_USER_ANOTHER_ALREADY_LOGGED_IN", "somebody else is logged in"),
            "SessionReadWriteSOExists": ("CKR_SESSION_READ_WRITE_SO_EXISTS", "the security officer is logged in"),
            "UserAlreadyLoggedIn": ("CKR_USER_ALREADY_LOGGED_IN", "the user is logged in already"),
            "UserTooManyTypes": ("CKR_USER_TOO_MANY_TYPES", "too many kinds of user are logged in"),
        },
    ),
    **_rows(
        Kind.PIN,
        _WRONG_PIN,
        {
            "PinIncorrect": ("CKR_PIN_INCORRECT", "the PIN is wrong"),
            "PinInvalid": ("CKR_PIN_INVALID", "the PIN has characters that the token does not take"),
            "PinLenRange": ("CKR_PIN_LEN_RANGE", "the PIN is too long or too short for the token"),
        },
    ),
    **_rows(
        Kind.PIN,
        _UNLOCK,
        {
            "PinExpired": ("CKR_PIN_EXPIRED", "the PIN has expired"),
            "PinLocked": ("CKR_PIN_LOCKED", "the PIN is locked after too many wrong ones"),
            "PinTooWeak": ("CKR_PIN_TOO_WEAK", "the token finds the PIN too weak"),
            "UserPinNotInitialized": ("CKR_USER_PIN_NOT_INITIALIZED", "the user PIN has never been set"),
        },
    ),
    **_rows(
        Kind.MISSING,
        "List what is in the token with `varmenne doctor`",
        {
            "MultipleObjectsReturned": ("none", "more than one object answers"),
            "NoSuchKey": ("none", "no key answers"),
        },
    ),
}
"""By the name of python-pkcs11's exception class."""

REFUSED_PIN: Final = frozenset({"CKR_PIN_INCORRECT", "CKR_PIN_INVALID", "CKR_PIN_LEN_RANGE"})
"""Codes that say that this PIN is wrong and that the token may have counted it."""

LOST_OBJECT: Final = frozenset({"CKR_OBJECT_HANDLE_INVALID", "CKR_KEY_HANDLE_INVALID"})
"""Codes that say that a handle is stale; the object can be looked for once more."""

_UNMAPPED: Final = {
    "0x1b": Meaning("CKR_ACTION_PROHIBITED", Kind.NO, "the object forbids this", _SUPPORT),
    "0x68": Meaning("CKR_KEY_FUNCTION_NOT_PERMITTED", Kind.NO, "the key may not be used for this", _SUPPORT),
    "0x1050": Meaning("CKR_EXCEEDED_MAX_ITERATIONS", Kind.AWAY, "the token found no primes in time", _AGAIN),
}
"""Codes that the library knows no class for; it gives them as text."""

_UNMAPPED_TEXT = re.compile(r"Unmapped error code (0x[0-9a-f]+)")
_NOT_INITIALIZED = Meaning("CKR_CRYPTOKI_NOT_INITIALIZED", Kind.AWAY, "the module has lost its state", _AGAIN)


def meaning(error: exceptions.PKCS11Error) -> Meaning:
    """Look a library error up; the nearest class that the table knows decides."""
    if type(error) is exceptions.PKCS11Error:
        if "not initialized" in str(error):
            return _NOT_INITIALIZED
        if found := _UNMAPPED_TEXT.search(str(error)):
            unknown = MEANINGS["PKCS11Error"]
            return _UNMAPPED.get(found[1], Meaning(f"CKR {found[1]}", unknown.kind, unknown.why, unknown.next_step))
    return next(MEANINGS[cls.__name__] for cls in type(error).__mro__ if cls.__name__ in MEANINGS)


def code(error: exceptions.PKCS11Error) -> str:
    """Return the error's name in the specification, such as ``CKR_KEY_UNEXTRACTABLE``."""
    return meaning(error).code


def from_library(error: exceptions.PKCS11Error, doing: str) -> Failed:
    """Put a library error in words. ``doing`` completes "The token could not …"."""
    found = meaning(error)
    return Failed(
        error=found.kind.value.__name__,
        what=f"The token could not {doing}",
        why=f"{found.why} ({found.code})",
        next_step=found.next_step,
        facts={"code": found.code},
        discard=found.kind is Kind.AWAY,
        stale=found.kind is Kind.AWAY,
        pin_refused=found.code in REFUSED_PIN,
    )


def from_ours(error: VarmenneError) -> Failed:
    """Take one of our own errors apart, so that the parent can put it together again."""
    return Failed(
        error=type(error).__name__,
        what=error.what,
        why=error.why,
        next_step=error.next_step,
        facts={
            name: value if isinstance(value, str | int | bool | None) else str(value)
            for name, value in error.facts.items()
        },
        discard=isinstance(error, TokenUnavailable),
    )


def from_defect(error: Exception, doing: str) -> Failed:
    """Tell of an error that nobody expected, by its class alone: its text could hold anything."""
    return Failed(
        error=TokenError.__name__,
        what=f"The token could not {doing}",
        why=f"unexpected {type(error).__name__} in the worker process: a defect in varmenne or in the module's binding",
        next_step="Please report it",
        discard=True,
    )
