"""Login by AppRole: a role ID, and a secret ID that comes from its source, plain or in a wrapping token."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from varmenne.domain.secret import Secret
from varmenne.errors import ConfigError
from varmenne.secret_sources import read_secret
from varmenne.vault import private_file, wrapping
from varmenne.vault.login import Grant, Means, ask

if TYPE_CHECKING:
    from varmenne.settings import LoginSettings

log = logging.getLogger(__name__)

READ_ONCE = ("prompt", "fd")
"""Kinds of sources that give their secret only once: it is kept in memory for another login."""


class AppRole:
    """Logs in with a role ID and a secret ID."""

    ours: ClassVar[bool] = True
    origin: ClassVar[str] = "that it has just given"
    next_step: ClassVar[str] = "Ask Vault's administrators what revokes it"

    def __init__(self, settings: LoginSettings, means: Means) -> None:  # noqa: ARG002 - all ways are made alike
        if not settings.role_id:
            raise ConfigError(
                "The setting vault.login.role_id is missing",
                why="vault.login.method is approle",
                next_step="`bao read auth/approle/role/NAME/role-id` shows it",
            )
        self._settings = settings
        self._mount = settings.mount or "approle"
        if settings.wrapped_secret_id and not settings.role:
            raise ConfigError(
                "The setting vault.login.role is missing",
                why="a wrapped secret ID is believed only if it was made for our role",
                next_step="Name the AppRole, such as varmenne-agent",
            )
        self._kept: Secret | None = None

    def obtain(self, client: Any) -> Grant:
        """Ask Vault for a token.

        Raises:
            ConfigError: the secret ID's source cannot be read.
            InputError: it gives nothing usable.
            VaultDenied: the login is refused, or the wrapped secret ID was opened by somebody else.
            VaultError: what answers is not Vault.
        """
        secret = self._opened(client) or self._secret_id()
        body = {"role_id": self._settings.role_id} | ({"secret_id": secret.reveal()} if secret else {})
        return ask(client, self._mount, body, next_step="Check vault.login.mount and vault.namespace")

    def changed(self) -> bool:
        """Nobody replaces our own token but we."""
        return False

    def _opened(self, client: Any) -> Secret | None:
        """Open the wrapped secret ID, unless that has been done; keep what was in it where the settings say."""
        source = self._settings.wrapped_secret_id
        kind, _, name = (source or "").partition(":")
        if source is None or (kind == "file" and not Path(name).exists()) or self._kept is not None:
            return None
        token = read_secret(source, what="wrapping token of the secret ID")
        found = wrapping.look_up(client, token)
        wrapping.refuse_other_origin(found, f"auth/{self._mount}/role/{self._settings.role}/secret-id")
        secret = Secret(str(wrapping.open_once(client, token)["secret_id"]))
        log.info("Opened the wrapped secret ID, made on %s", found.created)
        own, _, place = (self._settings.secret_id or "").partition(":")
        if own == "file":
            private_file.replace(Path(place), secret)
        else:
            self._kept = secret
        if kind == "file":
            Path(name).unlink(missing_ok=True)
        return secret

    def _secret_id(self) -> Secret | None:
        """Fetch the secret ID anew, since its file may have been replaced, unless its source gives it only once."""
        if self._kept is not None:
            return self._kept
        source = self._settings.secret_id
        if source is None:
            return None
        secret = read_secret(source, what="AppRole secret ID")
        if source.partition(":")[0] in READ_ONCE:
            self._kept = secret
        return secret
