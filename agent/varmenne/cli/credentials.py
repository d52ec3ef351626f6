"""Takes one-time credentials from a file, standard input, a prompt or Vault. They are never an option's value.

``varmenne credentials put`` hands them over: it wraps them in Vault for exactly one reader.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.cli.options import complete_file
from varmenne.domain.credentials import MAX_FILE_BYTES, Credentials, parse_credentials
from varmenne.domain.identifiers import checked_text, transfer_id
from varmenne.domain.secret import Secret
from varmenne.errors import ConfigError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from varmenne.settings import VaultSettings
    from varmenne.vault.connection import Connection
    from varmenne.vault.handover import HandedOver
    from varmenne.vault.one_time import Waiting

FILE = click.Path(path_type=Path, dir_okay=False)


VAULT = "vault:"
"""Begins a source that is a file with a wrapping token: the credentials themselves wait in Vault."""

KV = "vault-kv:"
"""Begins a source that is an address in Vault, where the agent's own login takes and erases them."""

ENVIRONMENT = {"address": "ADDR", "ca_file": "CACERT", "namespace": "NAMESPACE"}
"""Setting → end of the variable by which Vault's (``VAULT_``) and OpenBao's (``BAO_``) own tools take it."""


def obtain_later(app: App, source: str | None) -> Credentials | HandedOver | Waiting:
    """Return the credentials, or what opens them later where they wait in Vault, once it is known that they do.

    Raises:
        InputError: there is nobody to ask, the file cannot be read, or its contents cannot be used.
        VaultError: they do not wait in Vault any more, or it cannot be asked.
    """
    if source is not None and source.startswith(KV):
        from varmenne.vault.one_time import Waiting

        in_kv = Waiting(source.removeprefix(KV), lambda: _agents_session(app))
        in_kv.check()
        return in_kv
    if source is None or not source.startswith(VAULT):
        return obtain(app, source)
    from varmenne.clock import system_clock
    from varmenne.secret_sources import read_secret
    from varmenne.vault.handover import HandedOver

    path = Path(source.removeprefix(VAULT))
    try:
        token = read_secret(f"file:{path}", what="wrapping token of the credentials")
    except ConfigError as exc:
        raise InputError(
            f"The wrapping token of the credentials cannot be read from {path}",
            why=exc.why,
            next_step="Name the file that `varmenne credentials put --to` wrote; it is removed once they are opened",
        ) from exc
    waiting = HandedOver(app.settings().vault, token, system_clock, lambda: _remove_spent(app, path))
    waiting.check()
    return waiting


@contextlib.contextmanager
def _agents_session(app: App) -> Iterator[Connection]:
    """Open a session by the login of the settings, which may be signed in the token."""
    from varmenne.clock import system_clock
    from varmenne.vault.connection import Connection, Patience

    settings = app.settings()
    with app.parts(settings, notice=False) as parts:
        connection = Connection(settings.vault, system_clock, Patience(), signer=parts.token.signer)
        with contextlib.closing(connection):
            yield connection


def _remove_spent(app: App, path: Path) -> None:
    """Remove the file of a wrapping token that was used; what it opened must not be lost over that."""
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        app.warn(f"{path} could not be removed ({exc.strerror}). Its token is spent and opens nothing any more")


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
        raise InputError(
            f"The credentials file {path} cannot be read",
            why=exc.strerror or str(exc),
            next_step="Name the file with the mail's lines; without --credentials you are asked for them",
        ) from exc


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


@click.group(
    epilog=f"""{EXAMPLE}Examples:
  varmenne credentials put --to handed-over
  varmenne credentials put --credentials mail.txt --to handed-over --hours 24
  varmenne credentials put --credentials mail.txt --kv agent
  varmenne enroll --credentials vault:handed-over
"""
)
def credentials() -> None:
    """Hand one-time credentials over to the agent that is to spend them."""


@credentials.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne credentials put --to handed-over                 (asks for the credentials)
  pass show vero/order | varmenne credentials put --credentials - --to handed-over --hours 24
  VAULT_ADDR=https://vault.example:8200 varmenne credentials put --to handed-over --vault-token prompt
"""
)
@click.option(
    "--credentials",
    "source",
    metavar="FILE",
    shell_complete=complete_file,
    help="As `enroll` takes them; without it you are asked.",
)
@click.option("--to", "file", type=FILE, metavar="FILE", help="Write the wrapping token to this new file, mode 0600.")
@click.option("--kv", "folder", metavar="FOLDER", help="Put them into this folder of the KV mount one-time instead.")
@click.option("--stdout", is_flag=True, help="Print the wrapping token instead. Whoever sees it can open them.")
@click.option(
    "--hours", type=click.FloatRange(0.01, 336), default=336, show_default=True, help="How long they wait in Vault."
)
@click.option(
    "--vault-token",
    metavar="SOURCE",
    help="Where a Vault token of yours comes from: prompt, file:PATH, fd:NUMBER or env:NAME. Otherwise the login of "
    "the settings, or ~/.vault-token where there are none.",
)
@common_options
@click.pass_obj
def put(
    app: App,
    *,
    source: str | None,
    file: Path | None,
    folder: str | None,
    stdout: bool,
    hours: float,
    vault_token: str | None,
) -> None:
    """Wrap one-time credentials in Vault for exactly one reader, who needs the wrapping token that this gives.

    Nobody can read them without it, and after one reading they are gone. Bring the token's file to the agent by a way
    of its own; there: varmenne enroll --credentials vault:FILE

    With --kv they wait in a KV mount instead, where the agent's own login takes and erases them. What is printed is no
    secret; there: varmenne enroll --credentials vault-kv:one-time/FOLDER/NAME
    """
    from varmenne.clock import system_clock
    from varmenne.vault import private_file
    from varmenne.vault.handover import hand_over
    from varmenne.vault.one_time import put_away

    if [file is not None, folder is not None, stdout].count(True) != 1:
        raise click.UsageError("Give one of --to FILE, --kv FOLDER and --stdout.")
    if source is not None and source.startswith((VAULT, KV)):
        raise click.UsageError("They wait in Vault already.")
    if folder is not None:
        with contextlib.closing(_session(app, vault_token)) as connection:
            address = KV + put_away(connection, obtain(app, source), folder, system_clock())
        app.say(f"They wait in Vault, for 14 days at most. To spend them: varmenne enroll --credentials {address}")
        app.emit({"address": address}, address)
        return
    if file is not None:
        private_file.refuse_present(file)
    with contextlib.closing(_session(app, vault_token)) as connection:
        token, end = hand_over(connection, obtain(app, source), system_clock(), timedelta(hours=hours))
    told = f"{end:%Y-%m-%dT%H:%M:%SZ}"
    if file is not None:
        private_file.write_new(file, token)
        app.say(f"They wait in Vault until {told}. To spend them: varmenne enroll --credentials vault:FILE")
        app.emit({"file": str(file), "until": told}, str(file))
    else:
        app.say(f"They wait in Vault until {told}, for whoever has this token first:")
        app.emit({"wrapping_token": token.reveal(), "until": told}, token.reveal())


def _session(app: App, vault_token: str | None) -> Connection:
    """Return a session with Vault: logged in as the settings say, or with a token of the person's own.

    Raises:
        ConfigError: there are neither settings nor an address in the environment.
        InputError: the token's source cannot be used.
    """
    from varmenne.cli.vault_setup import refuse_token_as_value
    from varmenne.clock import system_clock
    from varmenne.secret_sources import read_secret
    from varmenne.vault.connection import Connection, Patience
    from varmenne.vault.login import GivenToken

    settings, configured = _vault_settings(app)
    if vault_token is None and configured:
        return Connection(settings, system_clock, Patience())
    vault_token = vault_token or f"file:{Path.home() / '.vault-token'}"
    refuse_token_as_value(vault_token)
    login = GivenToken(read_secret(vault_token, what="Vault token"))
    return Connection(settings, system_clock, Patience(), login)


def _vault_settings(app: App) -> tuple[VaultSettings, bool]:
    """Return where Vault is, and whether the settings file says so; else the variables of Vault's own tools do."""
    import msgspec

    from varmenne.settings import VaultSettings, find_config

    try:
        find_config(app.config)
    except ConfigError:
        given = {
            name: value
            for name, end in ENVIRONMENT.items()
            if (value := os.environ.get(f"BAO_{end}") or os.environ.get(f"VAULT_{end}"))
        }
        if app.config or "address" not in given:
            raise
        try:
            return msgspec.convert(given, VaultSettings), False
        except msgspec.ValidationError as exc:
            raise ConfigError("The address of Vault in the environment is not usable", why=str(exc)) from exc
    return app.settings().vault, True
