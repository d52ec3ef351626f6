"""``varmenne vault setup``: make in Vault what varmenne needs, with an administrator's token."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.cli.options import channel_option
from varmenne.errors import InputError

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


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne vault setup --dry-run --admin-token file:/root/.vault-token
  varmenne vault setup --admin-token prompt --secret-id-to /run/varmenne/wrapped-secret-id
  varmenne vault setup --for consumer --customer-id 0123456-7 --consumer web-1 --admin-token prompt
  varmenne vault setup --print > setup-vault.sh
"""
)
@click.option("--for", "policy", metavar="POLICY", default="agent", show_default=True, help="Which policy and role.")
@click.option("--role", metavar="NAME", help="Name of policy and AppRole in Vault; otherwise varmenne-POLICY.")
@customer_option
@channel_option
@click.option("--consumer", metavar="NAME", help="The consumer's own name, under which it may tell what it serves.")
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
    consumer: str | None,
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
    target = _target(settings, policy, role, customer_id, channel, consumer=consumer)
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


def _target(
    settings: Settings, policy: str, role: str | None, customer_id: str | None, channel: str, *, consumer: str | None
) -> Target:
    """Parse what is to be set up.

    Raises:
        InputError: there is no such policy, or a customer is named for one that is for all, or none for one, or a
            consumer for another policy than the consumer's.
    """
    from varmenne.vault.one_time import MOUNT
    from varmenne.vault.policies import CONSUMER, FOR_ONE_CUSTOMER, POLICIES
    from varmenne.vault.setup import ONE_TIME, OWN_PREFIX, Target

    if policy not in POLICIES:
        raise InputError(f"There is no policy {policy!r}", next_step=f"Known here: {', '.join(POLICIES)}")
    if consumer is not None and policy != CONSUMER:
        raise InputError(f"The policy {policy} is not a consumer's", next_step="Leave --consumer out")
    location = None
    name = f"varmenne-{policy}"
    if policy in FOR_ONE_CUSTOMER:
        location = location_of(settings, customer_id or "", channel)
        name += "-" + "-".join(location.path.split("/")[-4:-1]) + (f"-{consumer}" if consumer else "")
    elif customer_id is not None:
        raise InputError(f"The policy {policy} is for all customers", next_step="Leave --customer-id out")
    elif policy == OWN_PREFIX:
        name = f"varmenne-agent-{settings.vault.prefix.rpartition('/')[2]}"
    return Target(
        mount=MOUNT if policy in ONE_TIME else settings.vault.mount,
        prefix=settings.vault.prefix,
        policy=policy,
        role=role or name,
        location=location,
        consumer=consumer or CONSUMER,
        auth_mount=settings.vault.login.mount or "approle",
    )


def location_of(settings: Settings, customer: str, channel: str) -> Location:
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
