"""``varmenne vault``: set Vault up for varmenne, check what a role may do there, and put right what it lost."""

from __future__ import annotations

import dataclasses

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.cli.options import channel_option
from varmenne.cli.vault_setup import NOBODY, customer_option, location_of, setup
from varmenne.errors import ChecksFailed


@click.group(
    epilog=f"""{EXAMPLE}Examples:
  varmenne vault check
  varmenne vault setup --dry-run --admin-token prompt
  varmenne vault setup --print
"""
)
def vault() -> None:
    """Set Vault up for varmenne, and check what our role may do there."""


@vault.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne vault check
  varmenne vault check --customer-id 0123456-7 --channel sftp
  varmenne vault check --json | jq '.[] | select(.verdict != "ok")'
"""
)
@customer_option
@channel_option
@common_options
@click.pass_obj
def check(app: App, *, customer_id: str | None, channel: str) -> None:
    """Log in as the settings say, and check that all wanted rights are there and all dangerous ones absent.

    Nothing is written. The exit code is 15 if anything fails.
    """
    from varmenne.vault.checks import strictly

    settings = app.settings()
    with app.parts(settings, notice=False) as parts:
        found = [strictly(one) for one in parts.store.check(location_of(settings, customer_id or NOBODY, channel))]
    lines = []
    for one in found:
        lines.append(f"{one.verdict:<4}  {one.name}: {one.detail}")
        if one.next_step and one.verdict != "ok":
            lines.append(f"      → {one.next_step}")
    app.emit([dataclasses.asdict(one) for one in found], "\n".join(lines))
    if any(one.verdict == "fail" for one in found):
        raise click.exceptions.Exit(ChecksFailed.exit_code)


@vault.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne vault served --customer-id 0123456-7
  varmenne vault served --json | jq '.[] | select(.current | not) | .consumer'
"""
)
@customer_option
@channel_option
@common_options
@click.pass_obj
def served(app: App, *, customer_id: str | None, channel: str) -> None:
    """Show which certificate the consumers say that they serve, and whether it is the current one.

    Consumers tell it by `varmenne pull --acknowledge NAME`. Nobody has to: one who does not is not shown.
    """
    from varmenne.domain.forms import iso

    settings = app.settings()
    where = location_of(settings, customer_id or "", channel)
    with app.parts(settings, notice=False) as parts:
        found, current = parts.store.served(where), parts.store.read(where)
    serial = current.data.get("serial_number") if current else None
    data = [
        {
            **dataclasses.asdict(one),
            "at": one.at and iso(one.at),
            "current": one.serial_number is not None and one.serial_number == serial,
        }
        for one in found
    ]
    lines = [
        f"{row['consumer']}  {'current' if row['current'] else 'ANOTHER'}  {row['serial_number'] or 'unreadable'}"
        f"  {row['host'] or '-'}, {row['at'] or '-'}"
        for row in data
    ]
    app.emit(data, "\n".join(lines) or f"No consumer of {where.path} has told what it serves.")


@vault.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne vault republish
  varmenne vault republish --json | jq '.[].id'
  varmenne doctor && echo 'Vault has what was published'
"""
)
@common_options
@click.pass_obj
def republish(app: App) -> None:
    """Publish again what Vault has lost of the active certificates, such as after the restoring of a snapshot.

    The journal tells what was published. A later certificate of somebody else is never overwritten.
    """
    from varmenne.cli.teller import Teller
    from varmenne.enrollment.published import republish as use_case

    with app.parts(app.settings()) as parts:
        rows = use_case(parts, Teller(app))
    lines = [f"{row.id}  {row.vault_path}, version {row.vault_version}" for row in rows]
    data = [{"id": row.id, "vault_path": row.vault_path, "vault_version": row.vault_version} for row in rows]
    app.emit(data, "\n".join(lines) or "Vault has everything that was published.")


@vault.command(
    name="login-key",
    epilog=f"""{EXAMPLE}Examples:
  varmenne vault login-key
  varmenne vault login-key --subject agent-7 --role varmenne-agent
  varmenne vault login-key --json | jq -r .public_key > login-key.pem
""",
)
@click.option("--role", metavar="NAME", default="varmenne-agent", show_default=True, help="Role of the JWT method.")
@click.option("--subject", metavar="NAME", help="Subject of this agent in its JWTs; otherwise as the settings say.")
@common_options
@click.pass_obj
def login_key(app: App, *, role: str, subject: str | None) -> None:
    """Make a key in the token that signs logins to Vault and does nothing else, and tell how to make it known there.

    If the settings name such a key already, that one is shown. No secret leaves the token, and none is stored.
    """
    from varmenne.domain.keys import KeyId, new_key_id
    from varmenne.settings import CONFIG_NAME
    from varmenne.vault.identity import jwt_setup

    settings = app.settings()
    login = settings.vault.login
    with app.parts(settings, notice=False) as parts:
        parts.token.login()
        if login.jwt_key:
            key_id = KeyId(bytes.fromhex(login.jwt_key))
            public_key = parts.token.signer(key_id).public_key
        else:
            key_id = new_key_id()
            public_key = parts.token.generate(key_id, f"vault-login-{key_id.hex()[:8]}").public_key
    subject = subject or login.jwt_subject
    pem, commands = jwt_setup(login, role, subject, public_key)
    words = (
        f'# In {CONFIG_NAME}:\n[vault.login]\nmethod = "jwt"\nrole = "{role}"\njwt_key = "{key_id.hex()}"\n'
        f'jwt_subject = "{subject}"\n\n# In Vault; with several agents, their keys go into one list:\n{commands}'
    )
    app.emit({"key_id": key_id.hex(), "public_key": pem, "subject": subject, "commands": commands}, words)


vault.add_command(setup)
