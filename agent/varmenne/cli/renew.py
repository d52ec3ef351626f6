"""``renew`` and ``rehearse``: get the successor of a certificate in use, or see whether that would succeed today."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.cli.options import id_argument, id_argument_if_any, reserved, wait_limit, wait_option
from varmenne.domain.check import Verdict
from varmenne.domain.identifiers import enrollment_id
from varmenne.domain.steps import State
from varmenne.errors import ChecksFailed, InputError

if TYPE_CHECKING:
    from varmenne.domain.enrollment import Enrollment
    from varmenne.enrollment.parts import Parts


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne renew 20261124-7f3a9c21
  varmenne renew 20261124-7f3a9c21 --dry-run                        (signs and verifies, sends nothing)
  varmenne renew 20261124-7f3a9c21 --dry-run --request-out request.xml
"""
)
@id_argument
@click.option("--dry-run", is_flag=True, help="Build, sign with the live key and verify a request; send nothing.")
@click.option(
    "--request-out",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="With --dry-run: write that request to a new file.",
)
@wait_option
@common_options
@click.pass_obj
def renew(app: App, *, enrollment: str, dry_run: bool, request_out: Path | None, wait: float | None) -> None:
    """Renew the certificate in use: a new key, and a request that the present key signs in the token.

    The service takes it from 60 days before the certificate's end. Nothing is used up by it, so it goes on where it was
    left, as often as you like. The certificate in use stays in use until the new one takes its place.
    """
    from varmenne.cli.look import details
    from varmenne.cli.teller import Teller
    from varmenne.enrollment import renew as use_case

    if request_out is not None and not dry_run:
        raise click.UsageError("--request-out goes with --dry-run.")
    with app.parts(app.settings(), notice=False) as parts:
        row = parts.journal.get(enrollment_id(enrollment))
        if dry_run:
            _dry_run(app, parts, row, request_out)
            return
        row = use_case.renew(parts, Teller(app), row, wait=wait_limit(parts, wait))
        app.emit(*details(parts, row))


def _dry_run(app: App, parts: Parts, row: Enrollment, out: Path | None) -> None:
    """Make a request with the live key alone, verify it, and write it where it is wanted."""
    from varmenne.enrollment import facts
    from varmenne.enrollment.rehearsal import rehearsed_request

    facts.refuse_other_environment(parts.settings, row)
    with contextlib.nullcontext() if out is None else reserved(out):
        document = rehearsed_request(parts, row)
        if out is not None:
            _write(out, document)
    data = {
        "id": row.id,
        "bytes": len(document),
        "sha256": facts.sha256(document),
        "request": None if out is None else str(out),
        "sent": False,
    }
    where = f" The request is in {out}." if out else ""
    app.emit(data, f"A request was signed by the live key and verified. Nothing was sent.{where}")


def _write(out: Path, document: bytes) -> None:
    """Write the request.

    Raises:
        InputError: that failed.
    """
    try:
        out.write_bytes(document)
    except OSError as exc:
        raise InputError(f"{out} cannot be written", why=exc.strerror or str(exc)) from exc


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne rehearse                                   (every certificate in use)
  varmenne rehearse 20261124-7f3a9c21
  varmenne rehearse --json | jq '.[] | select(.ok | not)'
"""
)
@id_argument_if_any
@common_options
@click.pass_obj
def rehearse(app: App, *, enrollment: str | None) -> None:
    """Try all that a renewal will need, with the live key, long before it is due; send and change nothing.

    A real request is signed and verified; the service is greeted; trust anchors, the token and the right to write in
    Vault are looked at. The agent does the same every week.
    """
    from varmenne.cli.teller import Teller
    from varmenne.enrollment import renew as use_case

    with app.parts(app.settings(), notice=False) as parts:
        rows = [parts.journal.get(enrollment_id(enrollment))] if enrollment else _in_use(parts)
        if not rows:
            app.say("There is no certificate in use.")
        results = []
        for row in rows:
            found = use_case.rehearse(parts, Teller(app), row)
            failed = [check for check in found if check.verdict is Verdict.FAIL]
            for check in failed:
                app.say(f"  {click.style('✗', fg='red')} {check.name}: {check.detail}")
                if check.next_step:
                    app.say(f"    {check.next_step}")
            results.append({"id": row.id, "ok": not failed, "checks": {check.name: check.detail for check in found}})
    app.emit(results, "\n".join(f"{result['id']}  {'ok' if result['ok'] else 'FAILED'}" for result in results))
    if not all(result["ok"] for result in results):
        raise click.exceptions.Exit(ChecksFailed.exit_code)


def _in_use(parts: Parts) -> list[Enrollment]:
    """Return the certificates in use that have not expired, of the settings' environment."""
    rows = parts.journal.every(states=frozenset({State.ACTIVE}))
    ours = (row for row in rows if row.environment is parts.settings.environment)
    return [row for row in ours if row.not_after is not None and row.not_after > parts.now]
