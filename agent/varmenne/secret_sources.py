"""Where secrets come from: a prompt, a file, a descriptor, a systemd credential, or (with a warning) the environment.

A setting names the source; this module fetches the value at the last moment, in the process that needs it. Nothing here
logs, caches or writes the value.
"""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path

from varmenne.domain.secret import Secret
from varmenne.errors import ConfigError, InputError

MAX_SECRET_BYTES = 4096


class ReadableByOthers(UserWarning):
    """A secret is in a place where other users or processes can read it."""


def read_secret(source: str, *, what: str) -> Secret:
    """Fetch a secret from ``prompt``, ``file:PATH``, ``fd:NUMBER``, ``credential:NAME`` or ``env:NAME``.

    One trailing line break is dropped. ``what`` names the secret in messages and in the prompt ("user PIN").

    Raises:
        ConfigError: the source does not exist or cannot be read.
        InputError: it is empty, too long or not UTF-8, or nobody is there to answer the prompt.

    Warns:
        ReadableByOthers: the file's mode lets others read it, or the environment was used.
    """
    kind, _, name = source.partition(":")
    if kind == "prompt":
        return _prompt(what)
    if kind == "env":
        return _checked(_from_environment(name, what), what)
    try:
        if kind == "fd":
            raw = _read_descriptor(int(name))
        else:
            path = _credential_path(name, what) if kind == "credential" else Path(name)
            # systemd gives a credential to one user by an access control list, which shows as a right of the group.
            if kind == "file":
                _warn_if_others_read(path, what)
            raw = _read_file(path)
    except OSError as exc:
        raise ConfigError(f"The {what} cannot be read from {source}", why=exc.strerror or str(exc)) from exc
    return _checked(raw, what)


def _prompt(what: str) -> Secret:
    """Ask on the controlling terminal, never on standard input, so that piped data is not taken for a secret."""
    import getpass

    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError as exc:
        raise InputError(
            f"The {what} is to be typed, but there is no terminal",
            next_step="Name another source in the settings: file:PATH, fd:NUMBER or credential:NAME",
        ) from exc
    return _checked(getpass.getpass(f"{what[0].upper()}{what[1:]}: ").encode(), what)


def _from_environment(name: str, what: str) -> bytes:
    """Take a secret from the environment, which children and same-user processes can see: hence the warning."""
    value = os.environ.get(name)
    if value is None:
        raise ConfigError(f"The {what} is to come from the environment variable {name}, which is not set")
    warnings.warn(
        f"The {what} comes from the environment, where other processes of this user can read it; a file or a systemd "
        "credential is safer",
        ReadableByOthers,
        stacklevel=3,
    )
    return os.fsencode(value)


def _credential_path(name: str, what: str) -> Path:
    """Return the path of a systemd credential (``LoadCredential=`` sets ``CREDENTIALS_DIRECTORY``)."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder is None:
        raise ConfigError(
            f"The {what} is to come from the systemd credential {name}, but CREDENTIALS_DIRECTORY is not set",
            next_step=f"Give the unit a line such as LoadCredential={name}:/path/of/the/file",
        )
    return Path(folder) / name


def _read_descriptor(number: int) -> bytes:
    """Read an inherited descriptor to its end."""
    value = b""
    while len(value) <= MAX_SECRET_BYTES and (chunk := os.read(number, MAX_SECRET_BYTES)):
        value += chunk
    return value


def _warn_if_others_read(path: Path, what: str) -> None:
    """Warn when group or others may read a secret's file."""
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        warnings.warn(
            f"{path} holds the {what} and other users may read it; run: chmod 600 {path}",
            ReadableByOthers,
            stacklevel=3,
        )


def _read_file(path: Path) -> bytes:
    """Read a secret's file, one byte more than a secret may have."""
    with path.open("rb") as file:
        return file.read(MAX_SECRET_BYTES + 1)


def _checked(raw: bytes, what: str) -> Secret:
    """Decode a secret and drop one trailing line break."""
    if len(raw) > MAX_SECRET_BYTES:
        raise InputError(f"The {what} is too long", why=f"more than {MAX_SECRET_BYTES} bytes")
    try:
        value = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"The {what} is not UTF-8 text") from None
    value = value.removesuffix("\n").removesuffix("\r")
    if not value:
        raise InputError(f"The {what} is empty")
    return Secret(value)
