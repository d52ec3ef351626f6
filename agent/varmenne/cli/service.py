"""``varmenne service``: the certificate service's answers, looked at without asking it anything."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.cli.options import id_argument, write_private
from varmenne.errors import InputError, VerificationError

if TYPE_CHECKING:
    from datetime import datetime

    from varmenne.service.answers import Answer
    from varmenne.service.interface import Operation

OPERATIONS = ("signNewCertificate", "renewCertificate", "getCertificate")
NOT_VERIFIED = 1
"""Exit code if an answer was not verified."""


@click.group(
    epilog=f"""{EXAMPLE}Examples:
  varmenne service verify --operation getCertificate answer.xml
  varmenne service verify --operation signNewCertificate --trust services-ca.pem --json answer.xml
  varmenne service answers 20261124-7f3a9c21
"""
)
def service() -> None:
    """Look at answers of the certificate service, offline."""


@service.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne service verify --operation getCertificate answer.xml
  varmenne service verify --operation signNewCertificate --trust services-ca.pem --json a.xml b.xml
  varmenne service verify --operation getCertificate --at 2026-11-24T12:00:00Z old.xml
  varmenne service verify --operation getCertificate --json - < answer.xml | jq .check
"""
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--operation", type=click.Choice(OPERATIONS), required=True, help="What the answers are answers to.")
@click.option(
    "--trust",
    "trust_files",
    metavar="PEM",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Certificate of the services CA; may be repeated. Otherwise the settings' trust folder.",
)
@click.option("--at", metavar="TIME", help="Verify as of this moment (ISO 8601); otherwise now.")
@common_options
@click.pass_obj
def verify(app: App, *, files: tuple[str, ...], operation: str, trust_files: tuple[Path, ...], at: str | None) -> None:
    """Verify stored answers (SOAP envelopes), by the same code as live ones. A minus sign reads standard input.

    With --json there is one line per file: file, verified, operation, values, reason, check. What is not verified has
    no values. The exit code is 1 if any file was not verified.
    """
    from varmenne.service.interface import Operation

    moment = _moment(at)
    services = _services(app, trust_files, moment)
    failed = False
    for name in files:
        line = _judged(name, Operation(operation), services, moment)
        failed = failed or not line["verified"]
        click.echo(json.dumps(line, ensure_ascii=False) if app.json else _told(line))
    if failed:
        raise click.exceptions.Exit(NOT_VERIFIED)


@service.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne service answers 20261124-7f3a9c21
  varmenne service answers 20261124-7f3a9c21 --json | jq '.[] | select(.verdict != "verified")'
  varmenne service answers 20261124-7f3a9c21 --out evidence
"""
)
@id_argument
@click.option(
    "--out", metavar="DIR", type=click.Path(path_type=Path), help="Write each answer to a file in this folder."
)
@common_options
@click.pass_obj
def answers(app: App, *, enrollment: str, out: Path | None) -> None:
    """List the service's answers to an enrollment, as they came, with what verification said of each.

    Refused answers are evidence for the service's support and for auditors. --out writes them to files that only their
    owner can read, and that `varmenne service verify` takes.
    """
    import hashlib

    from varmenne.domain.identifiers import enrollment_id

    with app.parts(app.settings()) as parts:
        row = parts.journal.get(enrollment_id(enrollment))
        stored = parts.journal.answers(row.id)
    data = [
        {
            "number": answer.id,
            "at": f"{answer.at:%Y-%m-%dT%H:%M:%SZ}",
            "operation": answer.operation,
            "http_status": answer.http_status,
            "bytes": len(answer.body),
            "sha256": hashlib.sha256(answer.body).hexdigest(),
            "verdict": answer.verdict,
            "file": None if out is None else str(out / f"{row.id}-{answer.id}-{answer.operation}.xml"),
        }
        for answer in stored
    ]
    for answer, line in zip(stored, data, strict=True):
        if out is not None:
            write_private(Path(str(line["file"])), answer.body)
    lines = [
        f"{line['at']}  {line['operation']:<19} HTTP {line['http_status']}  {line['verdict'] or 'not looked at'}"
        + (f"  {line['file']}" if out is not None else "")
        for line in data
    ]
    app.emit(data, "\n".join(lines) or "The service has not answered this enrollment yet.")


def _moment(at: str | None) -> datetime:
    """Parse the reference time; without a zone it is UTC."""
    from datetime import UTC, datetime

    from varmenne.clock import system_clock

    if at is None:
        return system_clock()
    try:
        moment = datetime.fromisoformat(at)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise InputError(f"{at!r} is not a time", next_step="Write it like 2026-11-24T12:00:00Z") from exc


def _services(app: App, files: tuple[Path, ...], at: datetime) -> tuple[bytes, ...]:
    """Return the services CAs: those of the files that are valid at the time, or those of the settings."""
    from varmenne.service.trust import load_trust
    from varmenne.service.trust_sources import read_file

    if not files:
        settings = app.settings()
        return load_trust(settings.trust_dir, settings.environment, at).services
    found = [authority for path in files for authority in read_file(path)]
    valid = tuple(authority.der for authority in found if authority.not_before <= at <= authority.not_after)
    if not valid:
        raise InputError("None of the CAs given is valid at that time", why=", ".join(one.subject for one in found))
    return valid


def _judged(name: str, operation: Operation, services: tuple[bytes, ...], at: datetime) -> dict[str, Any]:
    """Verify one file, and return what there is to say about it."""
    from varmenne.service.answers import verify_answer

    line: dict[str, Any] = {"file": name, "verified": False, "operation": operation.value, "values": None}
    try:
        answer = verify_answer(_body(name), operation, services, at)
    except VerificationError as exc:
        return {**line, "reason": exc.why or exc.what, "check": exc.check}
    return {**line, "verified": True, "values": _values(answer), "reason": None, "check": None}


def _body(name: str) -> bytes:
    """Read a file, or standard input, and no more of it than is verified at all."""
    from varmenne.service.transport import MAX_BODY_BYTES

    try:
        if name == "-":
            return sys.stdin.buffer.read(MAX_BODY_BYTES + 1)
        with Path(name).open("rb") as stream:
            return stream.read(MAX_BODY_BYTES + 1)
    except OSError as exc:
        raise VerificationError(f"{name} cannot be read", check="file", why=exc.strerror or str(exc)) from exc


def _values(answer: Answer) -> dict[str, Any]:
    """Return what a verified answer says."""
    import ssl

    from varmenne.service.error_codes import advice

    values: dict[str, Any] = {
        "status": "OK" if answer.ok else "FAIL",
        "retrieval_id": answer.retrieval_id,
        "certificate": None if answer.certificate is None else ssl.DER_cert_to_PEM_cert(answer.certificate),
        "errors": [{"code": code, "message": message} for code, message in answer.errors],
        "signer": answer.signer,
    }
    if not answer.ok:
        found = advice(answer.operation, answer.errors)
        values["advice"] = {"kind": found.kind.value, "next_step": found.next_step}
    return values


def _told(line: dict[str, Any]) -> str:
    """Write the same for people."""
    from varmenne.service.doubt import printable

    if not line["verified"]:
        return f"{click.style('refused', fg='red')}   {line['file']}: {line['check']}: {line['reason']}"
    values = line["values"]
    told = [values["status"], f"RetrievalId {values['retrieval_id']}" if values["retrieval_id"] else ""]
    told += ["with a certificate" if values["certificate"] else ""]
    told += [f"{error['code']}: {error['message']}" for error in values["errors"]]
    return f"{click.style('verified', fg='green')}  {line['file']}: {printable(', '.join(filter(None, told)), 2000)}"
