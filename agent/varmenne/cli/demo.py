"""``demo``: see it work on this machine, with a token, a Vault-compatible server and a bench of its own."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from varmenne.cli.common import EXAMPLE, App, common_options

if TYPE_CHECKING:
    from varmenne.cli.teller import Teller
    from varmenne.demo.stage import Stage

CUSTOMER_ID = "0123456-7"
CUSTOMER_NAME = "Esimerkki & Öljy Oy"
WAIT = timedelta(seconds=60)


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne demo
  varmenne demo --keep ~/varmenne-demo       (then: ~/varmenne-demo/start &
                                              VARMENNE_CONFIG=~/varmenne-demo/varmenne.toml varmenne list)
  varmenne demo --json | jq .export_refused
"""
)
@click.option("--keep", metavar="DIR", type=click.Path(path_type=Path), help="Keep everything in this new folder.")
@common_options
@click.pass_obj
def demo(app: App, *, keep: Path | None) -> None:
    """See it work: a key born in a token, one-time credentials spent, a certificate verified and put into Vault.

    Everything runs on this machine: a SoftHSM token, an OpenBao server (it speaks Vault's API), and a test bench in
    the place of the certificate service. Nothing is sent anywhere, and nothing is left behind without --keep.
    """
    from varmenne.cli.teller import Teller
    from varmenne.demo.stage import Stage, refuse_used

    began = time.monotonic()
    with ExitStack() as stack:
        if keep is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="varmenne-demo-")))
        else:
            refuse_used(keep)
            folder = keep
        app.if_interrupted = "Nothing is left of the demonstration." if keep is None else f"What was made is in {keep}."
        teller = Teller(app)
        teller.begins("Start a SoftHSM token, an OpenBao server and the test bench")
        stage = stack.enter_context(Stage(folder, keep=keep is not None))
        teller.done(f"in {folder}")
        result = _show(app, stage, teller)
    result["seconds"] = round(time.monotonic() - began, 1)
    text = f"\nDone in {result['seconds']} s."
    if keep is not None:
        text += f"\n\nEverything is kept in {folder}. To go on:\n\n  {folder}/start &"
        text += f"\n  export VARMENNE_CONFIG={folder}/varmenne.toml\n  {this_command()} list"
    app.emit(result, text)


def this_command() -> str:
    """Return what a person types to run this very program again: its name if the shell finds it by that."""
    program = Path(sys.argv[0]).absolute()
    if program.name != "varmenne":
        return f"{shlex.quote(sys.executable)} -m varmenne"
    found = shutil.which("varmenne")
    if found is not None and Path(found).resolve() == program.resolve():
        return "varmenne"
    return shlex.quote(str(program))


def _show(app: App, stage: Stage, teller: Teller) -> dict[str, object]:
    """Order, enroll, and show what came of it."""
    from varmenne.domain.credentials import parse_credentials
    from varmenne.domain.identifiers import customer_id, customer_name
    from varmenne.enrollment import enroll as use_case
    from varmenne.enrollment import facts

    teller.begins(f"Order a certificate for {CUSTOMER_ID}, {CUSTOMER_NAME}, at the bench")
    order = stage.bench.order(CUSTOMER_ID, name=CUSTOMER_NAME)
    teller.done(f"transfer ID {order.transfer_id}, a one-time password, valid until {order.valid_until:%Y-%m-%d}")
    with app.parts(stage.settings(), notice=False) as parts:
        row = use_case.enroll(
            parts,
            teller,
            use_case.Order(customer=customer_id(CUSTOMER_ID), name=customer_name(CUSTOMER_NAME)),
            parse_credentials(json.dumps(order.as_json())),
            wait=WAIT,
        )
        teller.begins("Look: can a key leave the token?")
        probe = parts.token.probe()
        proven = [line for line in probe.results if line.outcome != "not applicable"]
        for line in proven:
            app.say(f"    {line.name:<44} {line.outcome} ({line.detail})")
        app.say(f"    {len(probe.results) - len(proven)} other ways do not exist in this token, for any key")
        export_refused = probe.fit
        teller.done("no: every try that could have worked was refused" if export_refused else "YES")
        teller.begins("Look: what is in Vault?")
        published = parts.store.read(facts.place(parts.settings, row.customer_id, row.channel))
        record = {} if published is None or published.data is None else published.data
        for name in ("serial_number", "not_after", "public_key_sha256", "key_ref", "enrollment"):
            app.say(f"    {name:<18} {record.get(name)}")
        same = str(record.get("certificate", "")).strip() == (row.certificate or "").strip()
        teller.done("the certificate that was issued, and where its key is; no key" if same else "NOT what was issued")
    return {
        "ok": same and export_refused,
        "enrollment_id": row.id,
        "certificate": row.certificate,
        "vault_path": row.vault_path,
        "vault_version": row.vault_version,
        "pkcs11_uri": facts.key_uri(row),
        "export_refused": export_refused,
        "seconds": 0.0,
    }
