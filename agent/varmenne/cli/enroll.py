"""``enroll`` and ``resume``: get a certificate by the service's API, and finish what was interrupted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.cli.options import (
    complete_file,
    id_argument_if_any,
    one_of,
    order_of,
    order_options,
    wait_limit,
    wait_option,
)
from varmenne.domain.identifiers import Environment, enrollment_id
from varmenne.domain.steps import State
from varmenne.errors import HookFailed, NotFinished, VarmenneError

if TYPE_CHECKING:
    from varmenne.domain.enrollment import Enrollment
    from varmenne.enrollment.parts import Parts


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne enroll --customer-id 0123456-7 --customer-name 'Example Oy' --credentials mail.txt
  varmenne enroll --customer-id 0123456-7 --customer-name 'Example Oy'        (asks for the credentials)
  varmenne enroll --replaces 20261124-7f3a9c21 --credentials mail.txt    (a new order for the same)
  pass show vero/order | varmenne enroll --customer-id 0123456-7 --credentials - --json
"""
)
@order_options
@click.option("--environment", type=one_of(Environment), help="Must agree with the settings; a safeguard for scripts.")
@click.option(
    "--credentials",
    metavar="FILE",
    shell_complete=complete_file,
    help="JSON, or `name: value` lines as in the mail; `-` reads standard input; `vault:FILE` and `vault-kv:ADDRESS` "
    "take what `varmenne credentials put` handed over. Without it you are asked.",
)
@click.option("--endpoint", metavar="URL", help="Another address of the service, such as a bench's.")
@wait_option
@common_options
@click.pass_obj
def enroll(
    app: App,
    *,
    customer_id: str | None,
    customer_name: str | None,
    channel: str | None,
    environment: str | None,
    credentials: str | None,
    endpoint: str | None,
    replaces: str | None,
    wait: float | None,
) -> None:
    """Get a certificate with the one-time credentials of an order.

    The key is made in the token, the CSR is signed there, the credentials are sent once, and the certificate is
    awaited, verified, and stored beside its key and in Vault. Run again with the same credentials, it goes on where it
    was left. Ctrl-C is safe at any time.
    """
    from varmenne.cli.credentials import obtain_later
    from varmenne.cli.look import details
    from varmenne.cli.teller import Teller
    from varmenne.enrollment import enroll as use_case

    with app.parts(app.settings(environment, endpoint)) as parts:
        order = order_of(app, parts, customer=customer_id, name=customer_name, channel=channel, replaces=replaces)
        given = obtain_later(app, credentials)
        row = use_case.enroll(parts, Teller(app), order, given, wait=wait_limit(parts, wait))
        app.emit(*details(parts, row))


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne resume 20261124-7f3a9c21
  varmenne resume 20261124-7f3a9c21 --credentials mail.txt      (if nothing had been sent yet)
  varmenne resume --all --json
"""
)
@id_argument_if_any
@click.option("--all", "everything", is_flag=True, help="Every enrollment that can go on by itself.")
@click.option(
    "--credentials",
    metavar="FILE",
    shell_complete=complete_file,
    help="The one-time credentials, if they have not been sent yet.",
)
@click.option("--endpoint", metavar="URL", help="Another address of the service, such as a bench's.")
@wait_option
@common_options
@click.pass_obj
def resume(
    app: App,
    *,
    enrollment: str | None,
    everything: bool,
    credentials: str | None,
    endpoint: str | None,
    wait: float | None,
) -> None:
    """Finish what was interrupted or had to wait. Does nothing where nothing is left to do."""
    from varmenne.cli.credentials import obtain_later
    from varmenne.cli.look import details, what_next
    from varmenne.cli.teller import Teller
    from varmenne.enrollment import enroll as use_case

    if (enrollment is None) is not everything:
        raise click.UsageError("Name one enrollment, or give --all.")
    if everything and credentials is not None:
        raise click.UsageError("Credentials belong to one enrollment: name it.")
    with app.parts(app.settings(endpoint=endpoint), notice=False) as parts:
        if everything:
            _resume_all(app, parts, wait)
            return
        row = parts.journal.get(enrollment_id(enrollment or ""))
        given = obtain_later(app, credentials) if credentials is not None else None
        teller = Teller(app)
        if what_next(row):
            teller.reached(row)
        else:
            decide = f" `varmenne resolve {row.id}` tells what can be done." if row.state is State.REJECTED else ""
            app.say(f"Nothing is left to do by itself: enrollment {row.id} is {row.state}.{decide}")
        row = use_case.go_on(parts, teller, row, credentials=given, wait=wait_limit(parts, wait))
        app.emit(*details(parts, row))


def _resume_all(app: App, parts: Parts, wait: float | None) -> None:
    """Take every unfinished enrollment as far as it goes; one that fails does not stop the others."""
    from varmenne.cli.look import summary
    from varmenne.cli.teller import Teller
    from varmenne.enrollment import enroll as use_case
    from varmenne.enrollment.hooks import finish

    rows = use_case.unfinished(parts)
    if not rows:
        app.say("Nothing is left to do.")
    lines: list[dict[str, object]] = []
    failures: list[VarmenneError] = []
    for row in rows:
        result: Enrollment = row
        error = ""
        teller = Teller(app)
        teller.reached(row)
        try:
            result = use_case.go_on(parts, teller, row, wait=wait_limit(parts, wait))
        except VarmenneError as exc:
            failures.append(exc)
            error = str(exc)
            result = parts.journal.get(row.id)
        lines.append({**summary(result), "was": row.state.value, "error": error or None})
    try:
        finish(parts, Teller(app))
    except HookFailed as exc:
        failures.append(exc)
        app.warn(str(exc))
    text = "\n".join(f"{line['id']}  {line['was']} → {line['state']}  {line['error'] or ''}".rstrip() for line in lines)
    if rows:
        app.emit(lines, text)
    elif app.json:
        app.emit([], "")
    if failures:
        worst = next((exc for exc in failures if not isinstance(exc, NotFinished)), failures[0])
        raise click.exceptions.Exit(worst.exit_code)
