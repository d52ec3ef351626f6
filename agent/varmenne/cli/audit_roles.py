"""``varmenne audit approve`` and ``audit feed``: what others than the operator do, and what they are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.cli.options import complete_id

if TYPE_CHECKING:
    from varmenne.domain.approvals import Approval


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
