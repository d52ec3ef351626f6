"""``sftp`` and ``contact``: note what people know of a certificate and no interface tells."""

from __future__ import annotations

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.cli.options import id_argument
from varmenne.domain.identifiers import enrollment_id

IN_THE_E_SERVICE = (
    "This is a note of ours. To whom the authority writes is changed in its e-service, by a person; there is no API "
    "for that."
)


@click.group(
    epilog=f"""{EXAMPLE}Examples:
  varmenne sftp set-user 20261124-7f3a9c21 user123
  varmenne sftp set-user --help
"""
)
def sftp() -> None:
    """Note the user ID of an SFTP channel."""


@sftp.command(
    name="set-user",
    epilog=f"""{EXAMPLE}Examples:
  varmenne sftp set-user 20261124-7f3a9c21 user123
  varmenne sftp set-user 20261124-7f3a9c21 user123 --json
""",
)
@id_argument
@click.argument("user", metavar="USER")
@common_options
@click.pass_obj
def set_user(app: App, *, enrollment: str, user: str) -> None:
    """Note the user ID that came by mail to the technical contact after the channel's first certificate.

    It stays for all later certificates of the channel, so a renewal, also one under way, has it too.
    """
    from varmenne.cli.look import details
    from varmenne.enrollment.people import set_sftp_user

    with app.parts(app.settings(), notice=False) as parts:
        row = set_sftp_user(parts, parts.journal.get(enrollment_id(enrollment)), user)
        app.say(f"The user ID of {row.customer_id}'s SFTP channel is {row.sftp_user}.")
        app.emit(*details(parts, row))


@click.group(
    epilog=f"""{EXAMPLE}Examples:
  varmenne contact set 20261124-7f3a9c21 'Maija Meikäläinen, maija@example.org'
  varmenne contact set --help
"""
)
def contact() -> None:
    """Note who the technical contact person of a certificate is."""


@contact.command(
    name="set",
    epilog=f"""{EXAMPLE}Examples:
  varmenne contact set 20261124-7f3a9c21 'Maija Meikäläinen, maija@example.org'
  varmenne contact set 20261124-7f3a9c21 'IT on call, +358 50 000 0000' --json
""",
)
@id_argument
@click.argument("text", metavar="TEXT")
@common_options
@click.pass_obj
def set_contact(app: App, *, enrollment: str, text: str) -> None:
    """Note the technical contact person: name and address, in one line of your own.

    The person gets the mails with credentials and the reminders before the end. Later certificates inherit the note.
    """
    from varmenne.cli.look import details
    from varmenne.enrollment.people import set_contact as use_case

    with app.parts(app.settings(), notice=False) as parts:
        row = use_case(parts, parts.journal.get(enrollment_id(enrollment)), text)
        app.say(IN_THE_E_SERVICE)
        app.emit(*details(parts, row))
