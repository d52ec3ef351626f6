"""``varmenne vault``: set Vault up for varmenne, and check what a role may do there."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.cli.options import channel_option
from varmenne.errors import ChecksFailed, InputError

if TYPE_CHECKING:
    from varmenne.settings import Settings
    from varmenne.vault import Location
    from varmenne.vault.connection import Connection
    from varmenne.vault.setup import Difference, Target

NOBODY = "doctor"
"""Stands for a customer in the path whose rights are asked for, where none is named; nothing is written there."""

customer_option = click.option(
    "--customer-id", metavar="ID", help="Business ID or other customer ID; otherwise the settings' customer."
)


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
        found = [strictly(one) for one in parts.store.check(_location(settings, customer_id or NOBODY, channel))]
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
  varmenne vault setup --dry-run --admin-token file:/root/.vault-token
  varmenne vault setup --admin-token prompt --secret-id-to /run/varmenne/wrapped-secret-id
  varmenne vault setup --for consumer --customer-id 0123456-7 --admin-token prompt
  varmenne vault setup --print > setup-vault.sh
"""
)
@click.option("--for", "policy", metavar="POLICY", default="agent", show_default=True, help="Which policy and role.")
@click.option("--role", metavar="NAME", help="Name of policy and AppRole in Vault; otherwise varmenne-POLICY.")
@customer_option
@channel_option
@click.option(
    "--admin-token",
    metavar="SOURCE",
    default="prompt",
    help="Where the administrator's Vault token comes from: prompt (the default), file:PATH, fd:NUMBER or env:NAME.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be changed, and change nothing.")
@click.option("--print", "show", is_flag=True, help="Print the same as commands for a shell; no token is needed.")
@click.option(
    "--secret-id-to",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a new secret ID to this file, wrapped: one reader can open it, within a day.",
)
@common_options
@click.pass_obj
def setup(
    app: App,
    *,
    policy: str,
    role: str | None,
    customer_id: str | None,
    channel: str,
    admin_token: str,
    dry_run: bool,
    show: bool,
    secret_id_to: Path | None,
) -> None:
    """Make the mount, the policy and the AppRole that varmenne needs; what is there already is left as it is.

    The difference is shown first. An administrator's token is needed (policies/setup.hcl is enough); it is used for
    this command and not kept.
    """
    from varmenne.vault import setup as vault_setup

    settings = app.settings()
    target = _target(settings, policy, role, customer_id, channel)
    if show:
        click.echo(vault_setup.commands(target))
        return
    with _as_administrator(settings, admin_token) as connection:
        found = vault_setup.differences(connection, target)
        for one in found:
            app.say(_told(one))
        if dry_run:
            app.emit({"changed": False, "differences": [_as_json(one) for one in found]}, _summary(found, "would be"))
            return
        made = list(vault_setup.apply(connection, target))
        result: dict[str, Any] = {"changed": bool(made), "differences": [_as_json(one) for one in made]}
        text = _summary(made, "were")
        if target.policy not in vault_setup.WITHOUT_ROLE:
            result["role_id"] = vault_setup.role_id(connection, target)
            text += f'\n\n[vault.login]\nmethod = "approle"\nrole_id = "{result["role_id"]}"'
            if target.auth_mount != "approle":
                text += f'\nmount = "{target.auth_mount}"'
        if secret_id_to is not None:
            _hand_over(connection, target, secret_id_to)
            result["secret_id_file"] = str(secret_id_to)
            text += f'\nrole = "{target.role}"\nwrapped_secret_id = "file:{secret_id_to.resolve()}"'
    app.emit(result, text)


def _target(settings: Settings, policy: str, role: str | None, customer_id: str | None, channel: str) -> Target:
    """Parse what is to be set up.

    Raises:
        InputError: there is no such policy, or a customer is named for one that is for all, or none for one.
    """
    from varmenne.vault.policies import FOR_ONE_CUSTOMER, POLICIES
    from varmenne.vault.setup import OWN_PREFIX, Target

    if policy not in POLICIES:
        raise InputError(f"There is no policy {policy!r}", next_step=f"Known here: {', '.join(POLICIES)}")
    location = None
    name = f"varmenne-{policy}"
    if policy in FOR_ONE_CUSTOMER:
        location = _location(settings, customer_id or "", channel)
        name += "-" + "-".join(location.path.split("/")[-4:-1])
    elif customer_id is not None:
        raise InputError(f"The policy {policy} is for all customers", next_step="Leave --customer-id out")
    elif policy == OWN_PREFIX:
        name = f"varmenne-agent-{settings.vault.prefix.rpartition('/')[2]}"
    return Target(
        mount=settings.vault.mount,
        prefix=settings.vault.prefix,
        policy=policy,
        role=role or name,
        location=location,
        auth_mount=settings.vault.login.mount or "approle",
    )


def _location(settings: Settings, customer: str, channel: str) -> Location:
    """Return the place of a customer's record; where none is named, that of the settings' customer."""
    from varmenne.domain.identifiers import Channel
    from varmenne.domain.identifiers import customer_id as parsed
    from varmenne.vault import Location

    chosen = customer if customer not in {"", NOBODY} else settings.customer.id or customer
    if not chosen:
        raise InputError("No customer is named", next_step="Give --customer-id, or set `customer.id` in the settings")
    return Location(
        prefix=settings.vault.prefix,
        environment=settings.environment,
        customer=parsed(chosen),
        channel=Channel(channel),
    )


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


@contextlib.contextmanager
def _as_administrator(settings: Settings, source: str) -> Iterator[Connection]:
    """Open a session with the token that an administrator brings; it is not revoked, since it is theirs."""
    from varmenne.clock import system_clock
    from varmenne.secret_sources import read_secret
    from varmenne.vault.connection import Connection, Patience
    from varmenne.vault.login import GivenToken

    refuse_token_as_value(source)
    token = read_secret(source, what="administrator's Vault token")
    with contextlib.closing(Connection(settings.vault, system_clock, Patience(), GivenToken(token))) as connection:
        yield connection


def refuse_token_as_value(source: str) -> None:
    """Refuse a token in the place of its source; the message does not repeat it.

    Raises:
        InputError: the source has another form than those of `token.pin`.
    """
    import msgspec

    from varmenne.settings import SecretSource

    try:
        msgspec.convert(source, SecretSource)
    except msgspec.ValidationError:
        raise InputError(
            "A Vault token's source is not of a known form",
            why="options can be seen by every user of this machine, so a token itself is never given in one",
            next_step="Give prompt, file:PATH, fd:NUMBER, credential:NAME or env:NAME",
        ) from None


def _hand_over(connection: Connection, target: Target, file: Path) -> None:
    """Write a wrapped secret ID to a file of mode 0600 that is not there yet."""
    from varmenne.vault.private_file import refuse_present, write_new
    from varmenne.vault.setup import new_secret_id

    refuse_present(file)
    write_new(file, new_secret_id(connection, target, wrap_ttl="24h"))


def _told(one: Difference) -> str:
    """Write a difference for people."""
    if one.new:
        return f"+ {one.words}"
    changes = (
        "another text" if name == "policy" else f"{name} {now!r} → {wanted!r}"
        for name, (now, wanted) in one.values.items()
    )
    return f"~ {one.words}: {', '.join(changes)}"


def _as_json(one: Difference) -> dict[str, Any]:
    """Write a difference for programs."""
    values = {name: {"now": now, "wanted": wanted} for name, (now, wanted) in one.values.items()}
    return {"what": one.words, "new": one.new, "values": values}


def _summary(found: list[Difference], words: str) -> str:
    """Say in a line what was done."""
    return f"{len(found)} of the pieces {words} made or changed." if found else "Everything is there already."
