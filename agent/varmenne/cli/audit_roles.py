"""``varmenne audit approve`` and ``audit feed``: what others than the operator do, and what they are told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.cli.options import complete_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from varmenne.domain.approvals import Approval

FORMS = ("json", "syslog")


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne audit approve 20261124-7f3a9c21
  varmenne audit approve --policy
"""
)
@click.argument("enrollment", metavar="[ID]", required=False, shell_complete=complete_id)
@click.option("--policy", is_flag=True, help="Approve the setting renewal.destroy_after_days with its present value.")
@common_options
@click.pass_obj
def approve(app: App, *, enrollment: str | None, policy: bool) -> None:
    """Approve that a key is destroyed, or that the agent destroys all retired keys after some days. It takes two.

    The approval of a key counts for 30 days; `retire --destroy` then destroys it. The token is not needed for this.
    The names are those of the log: who logged in, also through sudo, and the host.
    """
    from varmenne.domain.approvals import told_days
    from varmenne.domain.identifiers import enrollment_id
    from varmenne.enrollment import facts
    from varmenne.enrollment.evidence import approvals
    from varmenne.enrollment.renew import refuse_not_replaced

    if policy is (enrollment is not None):
        raise click.UsageError("Give an enrollment's ID, or --policy.")
    settings = app.settings()
    with app.parts(settings, notice=False) as parts:
        if enrollment is None:
            given = approvals.approve_policy(parts)
            days = told_days(settings.renewal.destroy_after_days or 0)
            what, then = f"destroying retired keys after {days} days", "the agent does it"
        else:
            row = parts.journal.get(enrollment_id(enrollment))
            facts.refuse_other_environment(settings, row)
            refuse_not_replaced(row, destroy=True)
            given = approvals.approve_key(parts, row)
            what, then = f"destroying the key of {row.id}", f"to do it: varmenne retire {row.id} --destroy"
    _tell(app, given, what, then, enrollment)


def _tell(app: App, given: tuple[Approval, ...], what: str, then: str, enrollment: str | None) -> None:
    """Print who has approved, and what is lacking."""
    from varmenne.domain.approvals import NEEDED, names
    from varmenne.domain.forms import iso

    enough = len(given) >= NEEDED
    data = {
        "enrollment": enrollment,
        "approvals": [
            {"by": one.by, "at": iso(one.at), "until": None if one.until is None else iso(one.until)} for one in given
        ],
        "needed": NEEDED,
        "enough": enough,
    }
    app.emit(data, f"Approved by {names(given)}: {what}; {then if enough else 'another person must approve'}.")


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne audit feed | jq -c '.record | select(.outcome == "failed")'
  varmenne audit feed --to tls://siem.example.org:6514 --format syslog --position feed.json --follow
  varmenne audit feed --to unix:/dev/log --format syslog --position feed.json
  varmenne audit feed --to /var/log/varmenne/audit.jsonl --position feed.json --follow
"""
)
@click.option(
    "--to",
    metavar="WHERE",
    default="-",
    show_default=True,
    help="tcp://HOST:PORT, tls://HOST:PORT, unix:PATH, a file to append to, or - for standard output.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMS),
    default="json",
    show_default=True,
    help="JSON lines, or syslog messages (RFC 5424) with the same JSON as their text.",
)
@click.option(
    "--position",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File that keeps how far the receiver has come; one for each. Without it, all is sent.",
)
@click.option("--follow", is_flag=True, help="Go on with what comes, until ended.")
@click.option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="PEM file of the CA that the receiver's TLS certificate is from; otherwise the system's.",
)
@common_options
@click.pass_obj
def feed(app: App, *, to: str, form: str, position: Path | None, follow: bool, ca: Path | None) -> None:
    """Send the records of the audit log to a SIEM or a file: each at least once, in order, with its number.

    The position is kept once the receiver has taken what comes before it, so after a crash some come twice. A log that
    was restored from a backup is told in between.
    """
    from varmenne.enrollment.evidence import feed as use_case
    from varmenne.enrollment.evidence.receivers import by_line, receiver

    def to_stdout(messages: Sequence[bytes]) -> None:
        click.echo(b"".join(map(by_line, messages)), nl=False)

    send = to_stdout if to == "-" else receiver(to, counted=form == "syslog", ca_file=ca)
    with app.parts(app.settings(), notice=False) as parts:
        made = use_case.Feed(parts.journal.log, send, use_case.Form(form), position, parts.clock)
        if follow:
            use_case.follow(made, lambda error: app.warn(f"{error}. {error.next_step}"))
        taken = made.drain()
    if to != "-":
        app.emit({"records": taken}, f"{to} has taken {taken} records.")
