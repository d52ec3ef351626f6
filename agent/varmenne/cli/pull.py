"""``pull``: bring a published certificate into files, for hosts without a Vault Agent."""

from __future__ import annotations

from pathlib import Path

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.cli.options import channel_option
from varmenne.errors import InputError


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne pull --customer-id 0123456-7 --to /etc/varmenne/tls --reload 'systemctl reload nginx'
  varmenne pull --to /etc/varmenne/tls --no-key --json | jq .changed
  varmenne pull --to /etc/varmenne/tls --reload 'nginx -s reload' --acknowledge web-1
  */5 * * * *  varmenne pull --to /etc/varmenne/tls --reload 'nginx -s reload'     (a line of crontab)
"""
)
@click.option("--customer-id", metavar="ID", help="Business ID or other customer ID; otherwise the settings' customer.")
@channel_option
@click.option(
    "--to",
    "folder",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the files; they are in its `current`.",
)
@click.option("--reload", metavar="COMMAND", default="", help="Run this, without a shell, if the files have changed.")
@click.option(
    "--acknowledge",
    "consumer",
    metavar="NAME",
    default="",
    help="Tell Vault under this name, after the reload, that the certificate is served here.",
)
@click.option("--no-key", is_flag=True, help="The key is not in a token of this host: do not look for it.")
@common_options
@click.pass_obj
def pull(
    app: App, *, customer_id: str | None, channel: str, folder: Path, reload: str, consumer: str, no_key: bool
) -> None:
    """Bring a published certificate into files, and reload what serves it, only if it has changed.

    The record is verified like a fresh answer of the service, and its key looked for in the local token. In DIR/current
    are certificate.pem, chain.pem, fullchain.pem and key-ref (a PKCS#11 URI); all change in one step. An older
    certificate than the one that is there is refused.
    """
    from varmenne.cli.teller import Teller
    from varmenne.domain.identifiers import Channel
    from varmenne.domain.identifiers import customer_id as parsed
    from varmenne.enrollment.pull import pull as use_case

    settings = app.settings()
    customer = customer_id or settings.customer.id
    if not customer:
        raise InputError("No customer is named", next_step="Give --customer-id, or set `customer.id` in the settings")
    with app.parts(settings, notice=False) as parts:
        done = use_case(
            parts,
            Teller(app),
            parsed(customer),
            Channel(channel),
            folder,
            reload=reload,
            with_key=not no_key,
            consumer=consumer,
        )
    serial, end = done.record["serial_number"], done.record["not_after"]
    words = "new" if done.changed else "unchanged"
    app.emit(
        {
            "changed": done.changed,
            "reloaded": done.reloaded,
            "acknowledged": done.acknowledged,
            "version": done.version,
            "serial_number": serial,
            "not_after": end,
            "folder": str(done.folder),
        },
        f"{done.folder}: {words}, certificate {serial}, valid until {end}" + (", reloaded" if done.reloaded else ""),
    )
