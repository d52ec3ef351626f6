"""Takes one-time credentials from a file, standard input or a prompt. They are never an option's value."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from varmenne.domain.credentials import MAX_FILE_BYTES, Credentials, parse_credentials
from varmenne.domain.identifiers import checked_text, transfer_id
from varmenne.domain.secret import Secret
from varmenne.errors import InputError

if TYPE_CHECKING:
    from varmenne.cli.common import App


def obtain(app: App, source: str | None) -> Credentials:
    """Return the credentials from a file, from standard input (``-``), or by asking on a terminal.

    Raises:
        InputError: there is nobody to ask, the file cannot be read, or its contents cannot be used.
    """
    if source is None:
        return _ask(app)
    raw = sys.stdin.buffer.read(MAX_FILE_BYTES + 1) if source == "-" else _read(app, Path(source))
    if len(raw) > MAX_FILE_BYTES:
        raise InputError("The credentials are too long", why=f"more than {MAX_FILE_BYTES} bytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("The credentials are not UTF-8 text", next_step="Save the file as UTF-8") from None
    return parse_credentials(text)


def _read(app: App, path: Path) -> bytes:
    """Read a credentials file, and warn where others may read it too."""
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                app.warn(f"Other users may read {path}, which holds one-time credentials; run: chmod 600 {path}")
            return file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise InputError(f"The credentials file {path} cannot be read", why=exc.strerror or str(exc)) from exc


def _ask(app: App) -> Credentials:
    """Ask for both on the terminal, the password unseen."""
    if not sys.stdin.isatty():
        raise InputError(
            "There are no credentials",
            why="standard input is not a terminal, so nobody can be asked",
            next_step="Give --credentials FILE, or --credentials - to read them from standard input",
        )
    app.say("The mail to the technical contact person has both:")
    transfer = transfer_id(click.prompt("  Transfer ID", err=True).strip())
    password = click.prompt("  One-time password", hide_input=True, err=True)
    return Credentials(transfer=transfer, password=Secret(checked_text("one-time password", password)))
