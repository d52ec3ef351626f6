"""Which settings an agent can work by: those whose mistake would show only in two years are refused at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from varmenne.domain import calendar
from varmenne.enrollment import executables
from varmenne.errors import ConfigError

if TYPE_CHECKING:
    from varmenne.settings import Settings

READ_ONCE = {
    "prompt": "nobody sits there when it has to log in again",
    "fd": "a descriptor can be read once, and each worker logs in by itself",
}
"""Kinds of sources that give their secret only once → why that does not do for an agent."""


def refuse_unusable(settings: Settings) -> None:
    """Refuse settings that an agent cannot work by, from now on and until a renewed certificate is to be put to use.

    Raises:
        ConfigError: a window or the time zone cannot be read, hooks cannot be run, or a secret can be had only once.
    """
    if calendar.windows(settings.renewal.activation_windows):
        calendar.zone(settings.renewal.time_zone)
    executables.refuse_unusable(settings.hooks)
    for name, what, source in _secrets(settings):
        kind = (source or "").partition(":")[0]
        if kind in READ_ONCE:
            raise ConfigError(
                f"The agent cannot ask for the {what}" if kind == "prompt" else f"The agent cannot use the {what}",
                why=f'{name} is "{source}", and {READ_ONCE[kind]}',
                next_step=f"Set `{name}` to file:PATH or credential:NAME",
            )
    login = settings.vault.login
    if login.method == "approle" and login.wrapped_secret_id and not (login.secret_id or "").startswith("file:"):
        raise ConfigError(
            "The agent cannot keep the wrapped secret ID in memory alone",
            why="it can be opened once, and each worker logs in by itself, again after every rest",
            next_step="Set `vault.login.secret_id` to file:PATH, where it is kept once it is opened",
        )


def _secrets(settings: Settings) -> tuple[tuple[str, str, str | None], ...]:
    """Return the secrets that the agent logs in with by these settings: name of the setting, what it is, source."""
    login = settings.vault.login
    return (
        ("token.pin", "PIN", settings.token.pin),
        ("vault.login.secret_id", "secret ID", login.secret_id if login.method == "approle" else None),
        (
            "journal.password",
            "journal's database password",
            settings.journal.password if settings.journal.url else None,
        ),
    )
