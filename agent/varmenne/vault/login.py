"""Ways to log in to Vault. Each turns what it has into a :class:`Grant`; the connection keeps and renews that.

=============  ==========================================  ====================  =========
method         what it needs                               the token belongs to  at close
=============  ==========================================  ====================  =========
``token-file`` a file that somebody else keeps fresh       its writer            left alone
``approle``    a role ID, and a secret ID from its source  us                    revoked
=============  ==========================================  ====================  =========
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from varmenne.domain.secret import Secret
from varmenne.errors import ConfigError, VaultDenied, VaultError
from varmenne.secret_sources import read_secret

if TYPE_CHECKING:
    from varmenne.settings import LoginSettings

READ_ONCE = ("prompt", "fd")
"""Kinds of sources that give their secret only once: it is kept in memory for another login."""


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

    def __init__(self, settings: LoginSettings) -> None:
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


class AppRole:
    """Logs in with a role ID and a secret ID."""

    ours: ClassVar[bool] = True
    origin: ClassVar[str] = "that it has just given"
    next_step: ClassVar[str] = "Ask Vault's administrators what revokes it"

    def __init__(self, settings: LoginSettings) -> None:
        if not settings.role_id:
            raise ConfigError(
                "The setting vault.login.role_id is missing",
                why="vault.login.method is approle",
                next_step="`bao read auth/approle/role/NAME/role-id` shows it",
            )
        self._settings = settings
        self._kept: Secret | None = None

    def obtain(self, client: Any) -> Grant:
        """Ask Vault for a token.

        Raises:
            ConfigError: the secret ID's source cannot be read.
            InputError: it gives nothing usable.
            VaultDenied: there is nobody to log in at.
            VaultError: what answers is not Vault.
        """
        from hvac.exceptions import Forbidden

        secret = self._secret_id()
        try:
            answer = client.auth.approle.login(
                self._settings.role_id,
                secret.reveal() if secret else None,
                use_token=False,
                mount_point=self._settings.mount,
            )
        except Forbidden:
            # A login needs no rights: a 403 here is not about a policy.
            raise VaultDenied(
                "Vault refused the login",
                why=f"most likely there is no AppRole auth method at the mount {self._settings.mount}",
                next_step="Check vault.login.mount and vault.namespace",
                reason="login",
            ) from None
        return granted(answer)

    def changed(self) -> bool:
        """Nobody replaces our own token but we."""
        return False

    def _secret_id(self) -> Secret | None:
        """Fetch the secret ID anew, since its file may have been replaced, unless its source gives it only once."""
        source = self._settings.secret_id
        if source is None:
            return None
        if self._kept is not None:
            return self._kept
        secret = read_secret(source, what="AppRole secret ID")
        if source.partition(":")[0] in READ_ONCE:
            self._kept = secret
        return secret


METHODS: dict[str, type[TokenFile | AppRole]] = {"token-file": TokenFile, "approle": AppRole}
"""``vault.login.method`` → how it is done."""


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
