"""``varmenne audit report``: what auditors read of the custody of keys."""

from __future__ import annotations

from pathlib import Path

import click

from varmenne.audit.report.language import Language
from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.cli.options import one_of
from varmenne.cli.teller import Teller


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne audit report --out report-2026
  varmenne audit report --out report-2026 --language fi
  varmenne audit report --out report-2026 --offline --json
"""
)
@click.option(
    "--out",
    metavar="DIR",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="A new or an empty folder, or one that holds an older report, which is replaced.",
)
@click.option(
    "--language",
    type=one_of(Language),
    default=Language.ENGLISH.value,
    show_default=True,
    help="Of the page and of controls.csv: en or fi.",
)
@click.option("--offline", is_flag=True, help="Ask neither the token nor Vault; the report says so.")
@common_options
@click.pass_obj
def report(app: App, *, out: Path, language: str, offline: bool) -> None:
    """Write a report on the custody of keys: a page to read, tables, a CBOM, and evidence for controls.

    DIR gets report.html (one file, without scripts, to be printed or read on a phone), inventory.csv, inventory.json,
    cbom.json and controls.csv. Token, journal, Vault and log are compared first; nothing is changed.
    """
    from varmenne.audit.report import folder
    from varmenne.enrollment.evidence.inventory import gather

    folder.refuse_foreign(out)
    with app.parts(app.settings(), notice=False) as parts:
        inventory = gather(parts, None if offline else Teller(app))
    folder.write(out, folder.report(inventory, Language(language)))
    urgent = sum(finding.needs_person for finding in inventory.findings)
    data = {
        "files": [str(out / name) for name in folder.FILES],
        "keys": len(inventory.keys),
        "findings": len(inventory.findings),
        "needs_person": urgent,
        "records": inventory.log.size,
        "checkpoint": inventory.log.checkpoint_size,
    }
    told = f"{out / folder.PAGE}: {len(inventory.keys)} keys, {inventory.log.size} records in the log"
    app.emit(data, f"{told}. {'Nothing needs a person' if not urgent else f'Exceptions that need a person: {urgent}'}.")
