"""The one table from what hvac and requests raise to varmenne's errors, with words for people.

Rows are tried from the most special: words in Vault's answer, then its HTTP status, then the exception's class (nearest
first). Every row says whether the same call may succeed in a moment, and whether the server may have *executed* the
call that failed: after an HTTP 500 or a lost connection, a write may well be stored.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

import requests
import urllib3.exceptions as u3
from hvac import exceptions as hv

from varmenne.errors import VaultConflict, VaultDenied, VaultError, VaultUnavailable
from varmenne.vault.wire import InsecureRedirect

LIBRARY_ERRORS = (hv.VaultError, requests.RequestException, u3.HTTPError, OSError, ValueError)
"""What can come out of a call of hvac. ``ValueError``: an address or an answer that cannot be parsed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One row: what a failed call means.

    Attributes:
        error: the class of our error.
        what: what happened, a sentence for people.
        next_step: what they can do.
        why: the cause; where empty, the words of the library's exception.
        retry: the same call may succeed in a moment.
        executed: the server may have done what it was asked, although the call failed.
        reason: what refused us, ``login`` or ``policy``, for programs; empty for other failures.
    """

    error: type[VaultError]
    what: str
    next_step: str = ""
    why: str = ""
    retry: bool = False
    executed: bool = False
    reason: str = ""


SEALED = Failure(
    VaultUnavailable,
    "Vault is sealed or being maintained",
    "Ask its administrators to unseal it, then run `varmenne resume --all`: nothing is lost",
    why="it answers HTTP 503",
    retry=True,
)
NO_NAMESPACE = Failure(VaultError, "Vault does not know the namespace", "Check vault.namespace in the settings")
BUSY = Failure(VaultUnavailable, "Vault has no time", "Try again later", retry=True)
BETWEEN_LEADERS = Failure(VaultUnavailable, "Vault has no active node", "Try again in a moment", retry=True)
NO_ANSWER = Failure(
    VaultUnavailable,
    "Vault did not answer in time",
    "Try again; vault.read_timeout_seconds is the limit",
    retry=True,
    executed=True,
)
INTERNAL = Failure(
    VaultUnavailable,
    "Vault reports an internal error",
    "Ask its administrators for the cause (often a full audit disk, or a change of the active node)",
    retry=True,
    executed=True,
)
BETWEEN = Failure(
    VaultUnavailable,
    "What stands between us and Vault reports an error",
    "Check the load balancer or proxy in front of Vault",
    retry=True,
    executed=True,
)
NOT_FOUND = Failure(
    VaultError,
    "Vault has nothing at this path",
    "Check vault.mount in the settings; `bao secrets list` shows the mounts",
)
DENIED = Failure(
    VaultDenied,
    "Vault's policy does not allow this",
    "Give the role the policy of policies/agent.hcl; `varmenne doctor` shows what is missing",
    reason="policy",
)
REFUSED = Failure(VaultError, "Vault refused the request", "The words above are Vault's own")
NOT_SENT = Failure(
    VaultUnavailable,
    "Vault cannot be reached",
    "Check vault.address, the network and that the server runs",
    retry=True,
)
LOST = Failure(
    VaultUnavailable,
    "The connection to Vault was lost",
    "Try again; if it stays so, check vault.address: a port with TLS cuts off plain http://",
    retry=True,
    executed=True,
)
TLS = Failure(
    VaultError,
    "Vault's TLS certificate or connection was refused",
    "Check vault.ca_file, the host name in vault.address, and that the port speaks TLS",
)
DEFECT = Failure(VaultError, "The request to Vault could not be made", "Check vault.address; else this is a defect")

BY_WORDS: tuple[tuple[str, Failure], ...] = (
    ("check-and-set parameter did not match", Failure(VaultConflict, "The record was changed by somebody else")),
    (
        "check-and-set parameter required",
        Failure(VaultError, "Vault demands check-and-set, which the request lacked", "This is a defect: report it"),
    ),
    ("namespace not found", NO_NAMESPACE),
    ("no handler for route", Failure(VaultError, "The mount does not exist in Vault", NOT_FOUND.next_step)),
    (
        "sent an http request to an https server",
        Failure(VaultError, "Vault's port speaks TLS", "Write vault.address with https://"),
    ),
    (
        "waiting for the primary to upgrade",
        Failure(VaultUnavailable, "The mount is being made ready by Vault", "Try again in a moment", retry=True),
    ),
    (
        "upgrading from non-versioned",
        Failure(VaultUnavailable, "The mount is being made ready by Vault", "Try again in a moment", retry=True),
    ),
    (
        "invalid role or secret id",
        Failure(
            VaultDenied,
            "Vault refused the AppRole login",
            "Give the role a new secret ID, and check vault.login.role_id",
            why="the role ID is wrong, or the secret ID is wrong, expired or used up; Vault does not tell which",
            reason="login",
        ),
    ),
    (
        "missing secret_id",
        Failure(VaultDenied, "The AppRole login needs a secret ID", "Set vault.login.secret_id", reason="login"),
    ),
    (
        "wrapping token is not valid or does not exist",
        Failure(
            VaultDenied,
            "ALARM: somebody has opened this wrapping token before you, or it has expired",
            "If its time was not over, somebody else knows what it held: have it made anew, and find out who",
            why="a wrapping token can be opened once; Vault's audit log tells when and from where that was done",
            reason="opened",
        ),
    ),
    (
        "source address",
        Failure(
            VaultDenied,
            "Vault does not accept a login from this computer's address",
            "Ask its administrators to change the bound CIDRs of the role",
            reason="login",
        ),
    ),
    ("active cluster node not found", BETWEEN_LEADERS),
    (
        "too large",
        Failure(VaultError, "Vault finds the record too large", "Check the server's max_request_size"),
    ),
    (
        "value being too large",
        Failure(VaultError, "Vault's storage finds the record too large", "Check the record's chain of certificates"),
    ),
    (
        "wrong version number",
        Failure(VaultError, "Vault's port does not speak TLS", "Write vault.address with http://, or give Vault TLS"),
    ),
    (
        "record layer failure",
        Failure(VaultError, "Vault's port does not speak TLS", "Write vault.address with http://, or give Vault TLS"),
    ),
    (
        "certificate verify failed",
        Failure(
            VaultError,
            "Vault's TLS certificate is not trusted",
            "Set vault.ca_file to the CA that signed it, and check the host name in vault.address",
        ),
    ),
)
"""Words in the answer or the exception, in lower case, and what they mean. First match wins."""

BY_STATUS: dict[int, Failure] = {
    400: REFUSED,
    401: DENIED,
    403: DENIED,
    404: NOT_FOUND,
    405: Failure(VaultError, "Vault does not support this operation", "It may be too old, or another kind of mount"),
    412: Failure(VaultUnavailable, "The Vault node lags behind", "Try again in a moment", retry=True),
    413: Failure(VaultError, "Vault finds the record too large", "Check the server's max_request_size"),
    429: BUSY,
    472: Failure(VaultUnavailable, "This Vault is a disaster recovery copy", "Set vault.address to the primary"),
    473: BETWEEN_LEADERS,
    500: INTERNAL,
    501: Failure(
        VaultUnavailable,
        "Vault is not initialised",
        "Ask its administrators to initialise it; `bao operator init` does that once",
    ),
    502: BETWEEN,
    503: SEALED,
    504: BETWEEN,
}
"""HTTP status → what it means. Vault's own are in its API documentation under "HTTP status codes"."""

BY_CLASS: dict[type[BaseException], Failure] = {
    hv.InvalidRequest: REFUSED,
    hv.Unauthorized: DENIED,
    hv.Forbidden: DENIED,
    hv.InvalidPath: NOT_FOUND,
    hv.UnsupportedOperation: BY_STATUS[405],
    hv.PreconditionFailed: BY_STATUS[412],
    hv.RateLimitExceeded: BUSY,
    hv.InternalServerError: INTERNAL,
    hv.VaultNotInitialized: BY_STATUS[501],
    hv.VaultDown: SEALED,
    hv.BadGateway: BETWEEN,
    hv.UnexpectedError: BETWEEN,
    hv.ParamValidationError: DEFECT,
    hv.VaultError: REFUSED,
    InsecureRedirect: Failure(
        VaultError,
        "Vault would lead the request, and our token, off TLS",
        "Ask its administrators to correct api_addr",
    ),
    # SSLError is a ConnectionError, and ConnectTimeout is both that and a Timeout: the nearest class is looked up.
    requests.exceptions.SSLError: TLS,
    requests.exceptions.ConnectTimeout: NOT_SENT,
    requests.exceptions.Timeout: NO_ANSWER,
    requests.exceptions.TooManyRedirects: BETWEEN_LEADERS,
    requests.exceptions.ProxyError: NOT_SENT,
    requests.exceptions.ConnectionError: LOST,
    requests.exceptions.ChunkedEncodingError: LOST,
    requests.exceptions.ContentDecodingError: LOST,
    requests.RequestException: DEFECT,
    u3.HTTPError: LOST,
    OSError: LOST,
    ValueError: DEFECT,
}
"""Class → what it means; the nearest class in the exception's inheritance counts."""


def failure_of(exc: BaseException) -> Failure:
    """Return the row for an exception of hvac or requests."""
    words = _words(exc).lower()
    for needle, failure in BY_WORDS:
        if needle in words:
            return failure
    status = getattr(exc, "status", None)
    if status in BY_STATUS:
        return BY_STATUS[status]
    row = next(BY_CLASS[cls] for cls in type(exc).__mro__ if cls in BY_CLASS)
    if row is LOST and isinstance(innermost(exc), u3.NewConnectionError | socket.gaierror | ConnectionRefusedError):
        return NOT_SENT
    return row


def error_of(exc: BaseException, doing: str, address: str) -> VaultError:
    """Return our error for an exception; raise it ``from scrubbed(exc)``."""
    failure = failure_of(exc)
    facts: dict[str, Any] = {"doing": doing, "address": address}
    if (status := getattr(exc, "status", None)) is not None:
        facts["status"] = status
    if failure.reason:
        facts["reason"] = failure.reason
    if failure.executed:
        facts["executed"] = "unknown"
    return failure.error(
        f"{failure.what} ({doing})", why=failure.why or reason_of(exc), next_step=failure.next_step, **facts
    )


def scrubbed(exc: BaseException) -> BaseException:
    """Return the exception without the request, the answer and the frames that it drags along: they hold our token."""
    for seen in _chain(exc):
        seen.__traceback__ = None
        for name in ("request", "response", "json", "text"):
            if getattr(seen, name, None) is not None:
                setattr(seen, name, None)
    return exc


def innermost(exc: BaseException) -> BaseException:
    """Return the cause at the bottom of the libraries' nested exceptions: the one that a person understands."""
    *_, last = _chain(exc)
    return last


def _chain(exc: BaseException) -> list[BaseException]:
    """List an exception and what is nested in it, outermost first, each once."""
    found: list[BaseException] = []
    queue: list[Any] = [exc]
    while queue:
        seen = queue.pop(0)
        if isinstance(seen, BaseException) and seen not in found:
            found.append(seen)
            queue += [getattr(seen, "reason", None), *seen.args, seen.__cause__, seen.__context__]
    return found


def _words(exc: BaseException) -> str:
    """Return all that an exception and Vault's answer in it say, for looking up."""
    answers = [str(getattr(exc, "text", "") or "")] if isinstance(exc, hv.VaultError) else []
    return " ".join([*answers, *(str(seen) for seen in _chain(exc))])


def reason_of(exc: BaseException) -> str:
    """Return the cause in one line, without the library's wrapping."""
    if isinstance(exc, hv.VaultError):
        # The words of Vault's answer; hvac would add the URL.
        return " ".join(str(exc.args[0] or "").split()) or f"HTTP status {getattr(exc, 'status', 'unknown')}"
    inner = innermost(exc)
    text = inner.strerror if isinstance(inner, OSError) and inner.strerror else str(inner)
    return " ".join(text.split()) or type(inner).__name__
