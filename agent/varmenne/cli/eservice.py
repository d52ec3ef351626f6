"""``csr`` and ``import``: the way through the e-service's form. No credentials pass through us."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.cli.options import id_argument, order_of, order_options, reserved
from varmenne.domain.identifiers import enrollment_id
from varmenne.errors import InputError, NotFinished

if TYPE_CHECKING:
    from varmenne.domain.enrollment import Enrollment

MAX_CERTIFICATE_FILE_BYTES = 256 * 1024


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne csr --customer-id 0123456-7 --customer-name 'Example Oy' --out request.pem
  varmenne csr --customer-id 0123456-7 --channel sftp --out request.pem --json
  varmenne csr --replaces 20261124-7f3a9c21 --out request.pem    (a new order for the same)
"""
)
@order_options
@click.option("--out", metavar="FILE", required=True, type=click.Path(path_type=Path), help="Where to write the CSR.")
@common_options
@click.pass_obj
def csr(
    app: App,
    *,
    customer_id: str | None,
    customer_name: str | None,
    channel: str | None,
    replaces: str | None,
    out: Path,
) -> None:
    """Make a key in the token and write a CSR for the e-service's form.

    Upload the file there together with the transfer ID and the one-time password, download the certificate, and give
    it to `varmenne import`.
    """
    from varmenne.cli.look import details
    from varmenne.cli.teller import Teller
    from varmenne.enrollment import enroll as use_case

    with app.parts(app.settings()) as parts, reserved(out):
        order = order_of(app, parts, customer=customer_id, name=customer_name, channel=channel, replaces=replaces)
        row = use_case.make_request(parts, Teller(app), order)
        _write(out, row)
        data, text = details(parts, row)
    app.say(f"The CSR is in {out}. When you have the certificate: varmenne import {row.id} FILE")
    app.emit({**data, "out": str(out)}, text)


def _write(out: Path, row: Enrollment) -> None:
    """Write the CSR. By now its key exists, so a failure leaves something to go on with.

    Raises:
        NotFinished: the file could not be written.
    """
    try:
        out.write_text(row.csr or "", encoding="ascii")
    except OSError as exc:
        raise NotFinished(
            f"The CSR of enrollment {row.id} could not be written to {out}",
            why=exc.strerror or str(exc),
            next_step=f"The journal has it: varmenne show {row.id} --json | jq -r .csr",
        ) from exc


@click.command(
    name="import",
    epilog=f"""{EXAMPLE}Examples:
  varmenne import 20261124-7f3a9c21 certificate.cer
  varmenne import 20261124-7f3a9c21 bundle.p7b --json
""",
)
@id_argument
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@common_options
@click.pass_obj
def import_(app: App, *, enrollment: str, file: Path) -> None:
    """Bring in the certificate that the e-service gave: verify it, then store it beside its key and in Vault.

    FILE is PEM, DER (.cer) or PKCS#7 (.p7b).
    """
    from varmenne.cli.look import details
    from varmenne.cli.teller import Teller
    from varmenne.enrollment import enroll as use_case
    from varmenne.service.certificates import read_certificate_file

    wanted = enrollment_id(enrollment)
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_CERTIFICATE_FILE_BYTES + 1)
    except OSError as exc:
        raise InputError(f"{file} cannot be read", why=exc.strerror or str(exc)) from exc
    if len(data) > MAX_CERTIFICATE_FILE_BYTES:
        raise InputError(f"{file} is too large to be a certificate")
    certificates = read_certificate_file(data)
    with app.parts(app.settings()) as parts:
        row = parts.journal.get(wanted)
        row = use_case.import_certificate(parts, Teller(app), row, certificates, wait=timedelta())
        app.emit(*details(parts, row))
