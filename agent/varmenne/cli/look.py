"""``list``, ``show`` and ``history``: look at enrollments."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.cli.options import complete_id, id_argument, one_of
from varmenne.domain.forms import iso
from varmenne.domain.hooks import HookOutcome
from varmenne.domain.identifiers import Channel, enrollment_id
from varmenne.domain.outlook import prospect
from varmenne.domain.steps import Method, State, StepName, step_from

if TYPE_CHECKING:
    from varmenne.domain.enrollment import Enrollment
    from varmenne.domain.hooks import HookRun
    from varmenne.enrollment.parts import Parts


USER_TO_COME = (
    "not known yet: it comes by mail to the technical contact within 24 hours; then: varmenne sftp set-user {} USER"
)

AHEAD = ("renewal_due", "order_by", "failing_since")
"""What is told of a certificate in use, besides its row."""

WAS_CURRENT = frozenset({State.SUPERSEDED, State.RETIRED, State.DESTROYED})
"""States of certificates in whose place another one is at `current` in Vault."""


def _time(moment: datetime | None) -> str | None:
    """Write a moment as ISO 8601 in UTC, to the second."""
    return None if moment is None else iso(moment)


def summary(row: Enrollment) -> dict[str, object]:
    """Return one line's worth of an enrollment, for programs."""
    return {
        "id": row.id,
        "state": row.state.value,
        "environment": row.environment.value,
        "customer_id": row.customer_id,
        "customer_name": row.customer_name,
        "channel": row.channel.value,
        "generation": row.generation,
        "not_after": _time(row.not_after),
        "updated_at": _time(row.updated_at),
    }


def details(parts: Parts, row: Enrollment) -> tuple[dict[str, object], str]:
    """Return all that is known of an enrollment, for programs and for people."""
    from varmenne.enrollment.evidence import approvals

    data, text = _of_row(row)
    plan = parts.settings.renewal.plan
    before = prospect(row, parts.journal.renewals(row.id), plan) if row.state is State.ACTIVE else None
    for name in AHEAD:
        moment: datetime | None = getattr(before, name, None)
        data[name] = _time(moment)
        text += f"\n{name.replace('_', ' '):>24}  {_time(moment)}" if moment else ""
    refused = [answer for answer in parts.journal.answers(row.id) if (answer.verdict or "").startswith("refused")]
    data["refused_answers"] = [
        {"at": _time(answer.at), "operation": answer.operation, "verdict": answer.verdict} for answer in refused
    ]
    for answer in refused:
        told = f"{answer.operation}, {_time(answer.at)}, {answer.verdict}"
        text += f"\n{'answer not believed':>24}  {told}: varmenne service answers {row.id} --out DIR"
    approved = approvals.told(parts, row)
    data["approvals"] = [{"by": one["by"], "at": _time(one["at"]), "until": _time(one["until"])} for one in approved]
    for one in approved:
        until = f", until {_time(one['until'])}" if one["until"] else ""
        text += f"\n{'destroying approved by':>24}  {one['by']}{until}"
    runs = parts.journal.hooks.of(row.id)
    data["hooks"] = [hook_run(run) for run in runs]
    text += "".join(f"\n{'hook':>24}  {line}" for line in map(hook_line, runs))
    return data, text


def _of_row(row: Enrollment) -> tuple[dict[str, object], str]:
    """Return what an enrollment's row tells."""
    from varmenne.enrollment import facts

    data: dict[str, object] = {
        **summary(row),
        "method": row.method.value,
        "replaces": row.replaces,
        "created_at": _time(row.created_at),
        "credentials_valid_until": _time(row.valid_until),
        "key_id": row.key_id.hex(),
        "key_label": row.key_label,
        "pkcs11_uri": None if row.custody is None or row.state is State.DESTROYED else facts.key_uri(row),
        "public_key_sha256": None if row.public_key is None else facts.sha256(row.public_key),
        "sent_at": _time(row.sent_at),
        "retrieval_id": row.retrieval_id,
        "serial_number": row.serial_number,
        "not_before": _time(row.not_before),
        "usable_from": _time(row.usable_from),
        "sftp_user": row.sftp_user,
        "contact": row.contact,
        **_in_vault(row),
        "csr": row.csr,
        "certificate": row.certificate,
        "custody": row.custody,
        "problem": row.problem,
    }
    left_out = {"csr", "certificate", "custody", "problem"}
    shown = {name.replace("_", " "): value for name, value in data.items() if name not in left_out}
    lines = [f"{name:>24}  {value}" for name, value in shown.items() if value is not None]
    lines += [f"{'deviation':>24}  {sentence}" for sentence in (row.custody or {}).get("deviations", ())]
    if row.problem is not None:
        lines += [f"{name.replace('_', ' '):>24}  {text}" for name, text in row.problem.items() if text]
    if row.channel is Channel.SFTP and row.state is State.ACTIVE and row.sftp_user is None:
        lines.append(f"{'sftp user':>24}  {USER_TO_COME.format(row.id)}")
    if next_words := what_next(row):
        lines.append(f"{'next':>24}  {next_words}")
    return data, "\n".join(lines)


def _in_vault(row: Enrollment) -> dict[str, object]:
    """Return where in Vault the certificate is: once another one is the current one, at its generation's record."""
    if row.vault_path is None or row.state not in WAS_CURRENT:
        return {"vault_path": row.vault_path, "vault_version": row.vault_version, "was_current_version": None}
    from varmenne.vault.location import GENERATION

    path = f"{row.vault_path.rpartition('/')[0]}/{GENERATION}{row.generation}"
    return {"vault_path": path, "vault_version": None, "was_current_version": row.vault_version}


def what_next(row: Enrollment) -> str:
    """Say how an enrollment goes on, with the command to type; nothing where nothing is left to do."""
    if row.method is Method.E_SERVICE and row.state is State.KEYED and row.csr is not None:
        return f"Bring in the certificate that the e-service gave: varmenne import {row.id} FILE"
    step = step_from(row.state, row.method)
    if step is None:
        return f"Make the CSR for the e-service: varmenne resume {row.id}" if row.state is State.KEYED else ""
    given = " --credentials FILE" if step.name is StepName.SUBMIT else ""
    return f"{step.doing}: varmenne resume {row.id}{given}"


def hook_run(run: HookRun) -> dict[str, object]:
    """Return what is known of a hook for one event, for programs."""
    return {
        "event": run.event.value,
        "name": run.name,
        "outcome": run.outcome.value,
        "at": _time(run.at),
        "tries": run.tries,
        "due_at": _time(run.due_at),
        "detail": run.detail,
    }


def hook_line(run: HookRun) -> str:
    """Return the same in a line, for people: of what it wrote, the last line."""
    line = f"{run.event} {run.name}, {_time(run.at)}: {run.outcome}"
    if run.outcome in {HookOutcome.FAILING, HookOutcome.FAILED, HookOutcome.DROPPED}:
        line += f", {run.in_a_line}"
    return line if run.due_at is None else f"{line}; again {_time(run.due_at)}"


@click.command(
    name="list",
    epilog=f"""{EXAMPLE}Examples:
  varmenne list
  varmenne list --state active --json
  varmenne list --customer-id 0123456-7
  varmenne list --limit 50 --after 20261124-7f3a9c21
""",
)
@click.option(
    "--state",
    metavar="STATE",
    type=one_of(State),
    multiple=True,
    help=f"Only this state; may be repeated. States: {', '.join(State)}.",
)
@click.option("--customer-id", metavar="ID", help="Only this customer.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many, in the order of their IDs.")
@click.option(
    "--after", metavar="ID", shell_complete=complete_id, help="Only those whose IDs come after this one: the next page."
)
@common_options
@click.pass_obj
def list_(app: App, *, state: tuple[str, ...], customer_id: str | None, limit: int | None, after: str | None) -> None:
    """List the enrollments, oldest first.

    ORDER BY is the day by which people must order new credentials, should the certificate not be renewed.
    """
    states = frozenset(map(State, state)) or None
    start = "" if after is None else enrollment_id(after)
    from varmenne.enrollment.standing import order_day, order_days

    with app.parts(app.settings()) as parts:

        def line(row: Enrollment, order_by: datetime | None) -> dict[str, object]:
            return {**summary(row), "order_by": _time(order_by)}

        if limit is None:
            days = order_days(parts)
            found = parts.journal.every(states=states, customer=customer_id, after=start, documents=False)
            # Only what is shown is kept of each: there may be many, and each holds a certificate and its chain.
            told = ((row.created_at, line(row, days.get(row.id))) for row in found)
            rows = [data for _at, data in sorted(told, key=lambda pair: pair[0])]
        else:
            page = parts.journal.list(states=states, customer=customer_id, after=start, limit=limit, documents=False)
            rows = [line(row, order_day(parts, row)) for row in page]
    if not rows and not app.json:
        app.say("There are no enrollments." if states is None and customer_id is None else "None matches.")
        return
    wide = max(map(len, ["CUSTOMER", *(str(row["customer_id"]) for row in rows)]))
    header = f"{'ID':<18} {'STATE':<11} {'CUSTOMER':<{wide}} {'CHANNEL':<8} {'GEN':>3}  {'VALID UNTIL':<11} ORDER BY"
    lines = [
        f"{row['id']:<18} {row['state']:<11} {row['customer_id']:<{wide}} {row['channel']:<8} "
        f"{row['generation']:>3}  {str(row['not_after'] or '-')[:10]:<11} {str(row['order_by'] or '-')[:10]}"
        for row in rows
    ]
    app.emit(rows, "\n".join([header, *lines]))


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne show 20261124-7f3a9c21
  varmenne show 20261124-7f3a9c21 --json | jq -r .certificate
  varmenne show 20261124-7f3a9c21 --json | jq .custody
  varmenne show 20261124-7f3a9c21 --json | jq -r .csr
"""
)
@id_argument
@common_options
@click.pass_obj
def show(app: App, *, enrollment: str) -> None:
    """Show one enrollment with all that is known of it."""
    with app.parts(app.settings()) as parts:
        app.emit(*details(parts, parts.journal.get(enrollment_id(enrollment))))


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne history 20261124-7f3a9c21
  varmenne history 20261124-7f3a9c21 --json
"""
)
@id_argument
@common_options
@click.pass_obj
def history(app: App, *, enrollment: str) -> None:
    """Show every transition of one enrollment, with its time and what was found."""
    with app.parts(app.settings()) as parts:
        row = parts.journal.get(enrollment_id(enrollment))
        events = parts.journal.history(row.id)
    data = [
        {
            "at": _time(event.at),
            "step": event.step,
            "from": None if event.source is None else event.source.value,
            "to": event.target.value,
            "actor": event.actor,
            "detail": event.detail,
        }
        for event in events
    ]
    lines = []
    for event in events:
        move = f"{event.source or ''} → {event.target}"
        told = ", ".join(f"{name} {value}" for name, value in event.detail.items() if value)
        lines.append(f"{_time(event.at)}  {event.step:<10} {move:<24} {told}".rstrip())
    app.emit(data, "\n".join(lines))
