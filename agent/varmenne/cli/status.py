"""``status``: what needs a person, what is due, and what is fine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.domain.forms import iso
from varmenne.errors import PersonNeeded

if TYPE_CHECKING:
    from varmenne.domain.concerns import Concern
    from varmenne.domain.outlook import Outlook, Prospect

SHOWN = 20
"""So many lines of a kind are shown to a person; --json has all."""


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne status
  varmenne status --json | jq '.needs[] | .told + ": " + .next_step'
  varmenne status || mail -s "varmenne needs you" admin@example.org
"""
)
@common_options
@click.pass_obj
def status(app: App) -> None:
    """Tell what needs a person, with the command to type, then what is due, then what is fine.

    It reads the journal and the trust anchors, and calls nobody: `doctor` tries every part. The exit code is 18 if
    something needs a person, and 0 if not.
    """
    from varmenne.enrollment.standing import standing

    with app.parts(app.settings(), notice=False) as parts:
        found = standing(parts)
    app.emit(_data(found), _text(found))
    if found.needs:
        raise click.exceptions.Exit(PersonNeeded.exit_code)


def _data(found: Outlook) -> dict[str, object]:
    """Return it for programs."""
    return {
        "needs": [_concern(one) for one in found.concerns if one.reason.person],
        "due": [_concern(one) for one in found.concerns if not one.reason.person],
        "certificates": [_certificate(one) for one in found.prospects],
    }


def _concern(one: Concern) -> dict[str, object]:
    """Return one thing to tell, for programs."""
    return {
        "reason": one.reason.value,
        "enrollment": one.enrollment,
        "customer_id": one.customer_id,
        "channel": None if one.channel is None else one.channel.value,
        "told": one.told,
        "next_step": one.next_step,
        "at": None if one.at is None else iso(one.at),
    }


def _certificate(one: Prospect) -> dict[str, object]:
    """Return a certificate in use, for programs."""
    moments = {
        "not_after": one.row.not_after,
        "renewal_due": one.renewal_due,
        "order_by": one.order_by,
        "failing_since": one.failing_since,
    }
    return {
        "enrollment": one.row.id,
        "customer_id": one.row.customer_id,
        "channel": one.row.channel.value,
        "generation": one.row.generation,
        **{name: None if moment is None else iso(moment) for name, moment in moments.items()},
    }


def _text(found: Outlook) -> str:
    """Return it for people."""
    due = [one for one in found.concerns if not one.reason.person]
    parts = [
        _section("Needs you", "red", [_lines(one) for one in found.needs]),
        _section("Goes on by itself", "yellow", [_lines(one) for one in due]),
        _section("In use", "green", [_in_use(one) for one in sorted(found.prospects, key=_first_due)]),
    ]
    if not found.needs:
        parts.insert(0, "Nothing needs you.")
    return "\n\n".join(part for part in parts if part)


def _section(name: str, color: str, entries: list[str]) -> str:
    """Return a headline with its entries; nothing without any."""
    if not entries:
        return ""
    more = [f"  … and {len(entries) - SHOWN} more: varmenne status --json"] if len(entries) > SHOWN else []
    return "\n".join([click.style(f"{name} ({len(entries)})", fg=color, bold=True), *entries[:SHOWN], *more])


def _lines(one: Concern) -> str:
    """Return one thing to tell, and under it what to do."""
    about = "" if one.enrollment is None else f"{one.enrollment}  "
    if one.customer_id is not None:
        about += f"{one.customer_id} {one.channel}  "
    told = f"  {about}{one.told}."
    return f"{told}\n      → {one.next_step}" if one.next_step else told


def _in_use(one: Prospect) -> str:
    """Return the line of a certificate in use."""
    days = (("until", one.row.not_after), ("renewed from", one.renewal_due), ("order anew by", one.order_by))
    told = ", ".join(f"{word} {moment:%Y-%m-%d}" for word, moment in days if moment is not None)
    return f"  {one.row.id}  {one.row.customer_id} {one.row.channel}  {told}"


def _first_due(one: Prospect) -> tuple[str, str]:
    """Sort the certificates by when they end."""
    return "" if one.row.not_after is None else iso(one.row.not_after), one.row.id
