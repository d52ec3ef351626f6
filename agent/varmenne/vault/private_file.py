"""Files that hold a secret for a short while: made anew, mode 0600 before there is content, never over another file."""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING

from varmenne.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from varmenne.domain.secret import Secret

PRIVATE = 0o600


def refuse_present(path: Path) -> None:
    """Refuse a path where something is, before a secret is made that would then be lost.

    Raises:
        InputError: there is something, or no folder to write into.
    """
    if path.exists() or path.is_symlink():
        raise InputError(f"There is a file {path} already", next_step="Remove it, or name another: it may be unread")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"The folder {path.parent} is not there, or cannot be written to")


def write_new(path: Path, secret: Secret) -> None:
    """Write a secret and a line break to a new file.

    Raises:
        InputError: the file is there, or cannot be made.
    """
    try:
        _write(path, secret)
    except OSError as exc:
        raise InputError(f"The file {path} cannot be written", why=exc.strerror or str(exc)) from exc


def replace(path: Path, secret: Secret) -> None:
    """Write a secret and a line break to a file whole: a reader sees what was there or what is there now.

    Raises:
        InputError: the file cannot be made.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        _write(draft, secret)
        draft.replace(path)
    except OSError as exc:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise InputError(f"The file {path} cannot be written", why=exc.strerror or str(exc)) from exc


def _write(path: Path, secret: Secret) -> None:
    """Write durably to a path where nothing is."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(secret.reveal() + "\n")
        file.flush()
        os.fsync(file.fileno())
