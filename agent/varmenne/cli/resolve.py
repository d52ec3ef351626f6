"""``resolve``: decide about an enrollment whose fate is uncertain, or give one up."""

from __future__ import annotations

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.cli.options import complete_file, confirmed, id_argument, wait_limit, wait_option
from varmenne.domain.identifiers import enrollment_id, retrieval_id
from varmenne.domain.steps import State

DECISIONS = {
    State.ACCEPTED: ("--retrieval-id R", "the service's support has found the RetrievalId: go on with it"),
    State.SUBMITTING: ("--resend", "send the same CSR with the same credentials once more"),
    State.ABANDONED: ("--abandon", "give it up; a new order is needed for another try"),
}


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne resolve 20261124-7f3a9c21                                  (tells what is known and what can be done)
  varmenne resolve 20261124-7f3a9c21 --retrieval-id 4711
  varmenne resolve 20261124-7f3a9c21 --resend --credentials mail.txt
  varmenne resolve 20261124-7f3a9c21 --abandon --confirm 20261124-7f3a9c21
"""
)
@id_argument
@click.option("--retrieval-id", "retrieval", metavar="R", help="Go on with this RetrievalId, which support has found.")
@click.option("--resend", is_flag=True, help="Send the same CSR with the same credentials once more.")
@click.option("--abandon", is_flag=True, help="Give the enrollment up.")
@click.option(
    "--credentials",
    metavar="FILE",
    shell_complete=complete_file,
    help="The one-time credentials, for --resend; `-` is standard input.",
)
@click.option("--confirm", metavar="ID", help="The enrollment's ID again, where nobody is there to type it.")
@wait_option
@common_options
@click.pass_obj
def resolve(
    app: App,
    /,
    *,
    enrollment: str,
    retrieval: str | None,
    resend: bool,
    abandon: bool,
    credentials: str | None,
    confirm: str | None,
    wait: float | None,
) -> None:
    """Decide about an enrollment whose fate is uncertain, or give one up.

    Without an option it tells what is known, and what can be done. Sending again may spend credentials that were spent
    already, so it asks for the enrollment's ID once more.
    """
    from varmenne.cli.credentials import obtain_later
    from varmenne.cli.look import details
    from varmenne.cli.teller import Teller
    from varmenne.enrollment import resolve as use_case

    if (retrieval is not None) + resend + abandon > 1:
        raise click.UsageError("Decide for one: --retrieval-id, --resend or --abandon.")
    if credentials is not None and not resend:
        raise click.UsageError("--credentials goes with --resend.")
    with app.parts(app.settings(), notice=False) as parts:
        row = parts.journal.get(enrollment_id(enrollment))
        limit = wait_limit(parts, wait)
        for sentence in use_case.explain(parts, row):
            app.say(sentence)
        if retrieval is not None:
            row = use_case.found(parts, Teller(app), row, retrieval_id(retrieval), wait=limit)
        elif resend:
            # Before anybody types a confirmation or credentials for nothing.
            use_case.refuse_unless(row, State.SUBMITTING)
            confirmed(confirm, row.id, "It may spend the credentials a second time.")
            row = use_case.resend(parts, Teller(app), row, obtain_later(app, credentials), wait=limit)
        elif abandon:
            use_case.refuse_unless(row, State.ABANDONED)
            confirmed(confirm, row.id, "It cannot be taken up again.")
            row = use_case.abandon(parts, Teller(app), row)
        else:
            _tell_choices(app, use_case.choices(row))
        app.emit(*details(parts, row))


def _tell_choices(app: App, choices: tuple[State, ...]) -> None:
    """List the decisions that are open."""
    app.say("What can be done:" if choices else "Nothing is to be decided.")
    for target in choices:
        option, meaning = DECISIONS[target]
        app.say(f"  {option:<18} {meaning}")
