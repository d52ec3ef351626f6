"""``csr`` and ``import``: the way through the e-service's form. No credentials pass through us."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.cli.options import channel_option, customer_options, order_of
from varmenne.domain.identifiers import enrollment_id
from varmenne.errors import InputError

MAX_CERTIFICATE_FILE_BYTES = 256 * 1024


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne csr --customer-id 0123456-7 --customer-name 'Example Oy' --out request.pem
  varmenne csr --customer-id 0123456-7 --channel sftp --out request.pem --json
"""
)
@customer_options
@channel_option
@click.option("--replaces", metavar="ID", help="The enrollment whose certificate the new one takes the place of.")
@click.option("--out", metavar="FILE", required=True, type=click.Path(path_type=Path), help="Where to write the CSR.")
@common_options
@click.pass_obj
def csr(
    app: App, *, customer_id: str | None, customer_name: str | None, channel: str, replaces: str | None, out: Path
) -> None:
    """Make a key in the token and write a CSR for the e-service's form.

    Upload the file there together with the transfer ID and the one-time password, download the certificate, and give
    it to `varmenne import`.
    """
    from varmenne.cli.look import details
    from varmenne.cli.teller import Teller
    from varmenne.enrollment import enroll as use_case

    settings = app.settings()
    order = order_of(app, settings, customer=customer_id, name=customer_name, channel=channel, replaces=replaces)
    if out.exists():
        raise InputError(f"{out} exists already", next_step="Name another file; nothing is overwritten")
    if not os.access(out.parent, os.W_OK):
        raise InputError(f"{out} cannot be written", why=f"{out.parent} is not a folder that this user may write to")
    with app.parts(settings) as parts:
        row = use_case.make_request(parts, Teller(app), order)
    out.write_text(row.csr or "", encoding="ascii")
    app.say(f"The CSR is in {out}. When you have the certificate: varmenne import {row.id} CERTIFICATE")
    data, text = details(row)
    app.emit({**data, "csr": row.csr, "out": str(out)}, text)


@click.command(
    name="import",
    epilog=f"""{EXAMPLE}Examples:
  varmenne import 20261124-7f3a9c21 certificate.cer
  varmenne import 20261124-7f3a9c21 bundle.p7b --json
""",
)
@click.argument("enrollment", metavar="ID")
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
        app.emit(*details(row))
