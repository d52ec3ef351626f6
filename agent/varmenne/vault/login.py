"""What a way to log in to Vault is, and the two that ask Vault nothing: a token's file, and a token that is given.

Each way turns what it has into a :class:`Grant`; the connection keeps and renews that. The table of all ways is in
:mod:`varmenne.vault.methods`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from varmenne.domain.secret import Secret
from varmenne.errors import ConfigError, VaultDenied, VaultError
from varmenne.secret_sources import read_secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from varmenne.clock import Clock
    from varmenne.domain.keys import KeyId, Signer
    from varmenne.settings import LoginSettings


@dataclass(frozen=True, slots=True)
class Grant:
    """A token and how long it lives.

    Attributes:
        token: the token.
        ttl_seconds: its life from now on; 0 where it is not known, or has no end.
        renewable: whether Vault will prolong it.
    """

    token: Secret
    ttl_seconds: float = 0.0
    renewable: bool = False


@dataclass(frozen=True, slots=True)
class Means:
    """What a way to log in may use besides its settings.

    Attributes:
        clock: the time of day.
        signer: returns the signer of a key in the PKCS#11 token, where there is one.
    """

    clock: Clock
    signer: Callable[[KeyId], Signer] | None = None


class Login(Protocol):
    """A way to get a token."""

    ours: ClassVar[bool]
    """Whether the token is ours to renew and to revoke."""

    origin: ClassVar[str]
    """Where the token comes from, for the error that it is dead and the way gives no other."""

    @property
    def next_step(self) -> str:
        """What to do then."""

    def obtain(self, client: Any) -> Grant:
        """Get a token; ``client`` is a client of hvac without one, for methods that ask Vault.

        Raises:
            ConfigError: a setting is missing, or a secret's source cannot be read.
        """

    def changed(self) -> bool:
        """Tell whether a token obtained before has been replaced by a newer one."""


class TokenFile:
    """Takes the token out of a file, such as the sink of a Vault Agent, and again whenever the file changes."""

    ours: ClassVar[bool] = False
    origin: ClassVar[str] = "of the token file"

    def __init__(self, settings: LoginSettings, means: Means) -> None:  # noqa: ARG002 - all ways are made alike
        if not settings.token_file:
            raise ConfigError(
                "The setting vault.login.token_file is missing",
                why="vault.login.method is token-file",
                next_step="Name the file that holds the Vault token, or use the method approle",
            )
        self._path = settings.token_file
        self._seen: tuple[int, ...] = ()

    @property
    def next_step(self) -> str:
        """Name the file."""
        return f"Put a new token into {self._path}; a Vault Agent does it by itself"

    def obtain(self, client: Any) -> Grant:  # noqa: ARG002 - the file is all that is needed
        """Read the file.

        Raises:
            ConfigError: it cannot be read.
            InputError: it is empty or no text.

        Warns:
            ReadableByOthers: other users may read it.
        """
        self._seen = self._stamp()
        return Grant(read_secret(f"file:{self._path}", what="Vault token"))

    def changed(self) -> bool:
        """Compare the file's inode, size and time of change with those of the last reading."""
        return self._stamp() != self._seen

    def _stamp(self) -> tuple[int, ...]:
        """Return what tells one content of the file from another; an absent file is left for :meth:`obtain`."""
        try:
            status = Path(self._path).stat()
        except OSError:
            return self._seen
        return status.st_ino, status.st_size, status.st_mtime_ns


class GivenToken:
    """Uses a token that a person brings for one command, such as an administrator's. It is theirs: not revoked."""

    ours: ClassVar[bool] = False
    origin: ClassVar[str] = "that was given"
    next_step: ClassVar[str] = "Log in to Vault anew, and give the new token"

    def __init__(self, token: Secret) -> None:
        self._token = token

    def obtain(self, client: Any) -> Grant:  # noqa: ARG002 - the token is all that is needed
        """Return the token."""
        return Grant(self._token)

    def changed(self) -> bool:
        """There is only the one."""
        return False


def granted(answer: Any) -> Grant:
    """Read the part ``auth`` of Vault's answer to a login or a renewal.

    Raises:
        VaultError: there is none, so what answered is not Vault.
    """
    try:
        auth = answer["auth"]
        return Grant(Secret(auth["client_token"]), float(auth["lease_duration"]), bool(auth["renewable"]))
    except (KeyError, TypeError, ValueError):
        raise VaultError(
            "The answer to the login is not one of Vault",
            next_step="Check vault.address: something else may be listening there",
        ) from None


def ask(client: Any, mount: str, body: dict[str, str], *, next_step: str) -> Grant:
    """Log in at an auth method.

    Args:
        client: a client of hvac without a token.
        mount: the auth method's mount.
        body: what it is told.
        next_step: what a person can do if it refuses.

    Raises:
        VaultDenied: Vault refuses the login; its words are the reason.
        VaultError: what answers is not Vault.
    """
    from hvac.exceptions import Forbidden, InvalidRequest

    from varmenne.vault.failures import failure_of, reason_of

    try:
        answer = client.adapter.post(f"/v1/auth/{mount}/login", json=body)
    except (Forbidden, InvalidRequest) as exc:
        # A login needs no rights: a 403 here is not about a policy. What has words of its own keeps them.
        if failure_of(exc).reason == "login" or failure_of(exc).retry:
            raise
        raise VaultDenied(
            "Vault refused the login",
            why=f"{reason_of(exc)}, at the auth method {mount}",
            next_step=next_step,
            reason="login",
        ) from None
    return granted(answer)
