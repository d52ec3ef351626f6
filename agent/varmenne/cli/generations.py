"""``activate`` and ``retire``: put a generation to use by hand, and take old keys out of use."""

from __future__ import annotations

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.cli.options import confirmed, id_argument
from varmenne.domain.identifiers import enrollment_id


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne activate 20261124-7f3a9c21                   (a renewed certificate that waits for its time)
  varmenne activate 20261124-7f3a9c21 --generation 1    (back to an earlier one)
"""
)
@id_argument
@click.option(
    "--generation",
    type=click.IntRange(min=1),
    metavar="N",
    help="Another generation of the same customer and channel, such as the one before.",
)
@common_options
@click.pass_obj
def activate(app: App, *, enrollment: str, generation: int | None) -> None:
    """Make a certificate the current one now: a renewed one before its time, or an earlier one that is still valid.

    The one in use until then is replaced, and stays usable through its grace.
    """
    from varmenne.cli.look import details
    from varmenne.cli.teller import Teller
    from varmenne.enrollment import renew as use_case

    with app.parts(app.settings(), notice=False) as parts:
        row = parts.journal.get(enrollment_id(enrollment))
        row = use_case.activate(parts, Teller(app), row, generation=generation)
        app.emit(*details(parts, row))


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne retire 20261124-7f3a9c21
  varmenne retire 20261124-7f3a9c21 --destroy
  varmenne retire 20261124-7f3a9c21 --destroy --confirm 20261124-7f3a9c21
"""
)
@id_argument
@click.option(
    "--destroy",
    is_flag=True,
    help="Approve that the key is destroyed in the token; it is, once two persons have. Nothing brings it back.",
)
@click.option("--confirm", metavar="ID", help="The enrollment's ID again, where nobody is there to type it.")
@common_options
@click.pass_obj
def retire(app: App, *, enrollment: str, destroy: bool, confirm: str | None) -> None:
    """Retire the key of a certificate that was replaced, before its grace is over by itself.

    A retired key is kept in the token, unless the settings or --destroy order otherwise. To destroy it, two persons run
    this with --destroy within 30 days; for the first of them, the exit code is 18.
    """
    from varmenne.cli.look import details
    from varmenne.cli.teller import Teller
    from varmenne.enrollment import renew as use_case

    with app.parts(app.settings(), notice=False) as parts:
        row = parts.journal.get(enrollment_id(enrollment))
        use_case.refuse_not_replaced(row, destroy=destroy)
        if destroy:
            consequence = "is destroyed in the token if another person has approved that, too. Nothing brings it back."
            confirmed(confirm, row.id, f"The key {row.key_id.hex()} {consequence}")
        app.emit(*details(parts, use_case.retire(parts, Teller(app), row, destroy=destroy)))
