"""``varmenne audit``: the log of every act on a key, what proves it, and what auditors get."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from varmenne.cli import audit_custody, audit_report, audit_roles
from varmenne.cli.audit_witness import parsed, witness
from varmenne.cli.common import EXAMPLE, App, common_options

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:
    from varmenne.audit.verifier import Report, Trust

NOTE_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(
    epilog=f"""{EXAMPLE}Examples:
  varmenne audit verify
  varmenne audit export --out evidence.zip
  varmenne audit verifier > verifier.py
"""
)
def audit() -> None:
    """Prove custody: the log of every act on a key, its checkpoints, passports and reports."""


audit.add_command(witness)


def trust_options(command: F) -> F:
    """Add the options that say whom an auditor trusts."""
    for option in (
        click.option(
            "--known",
            metavar="INDEX",
            type=click.IntRange(min=0),
            multiple=True,
            help="The record of a restore, or of a clock that was set back, that you know of.",
        ),
        click.option(
            "--anchor",
            "anchors",
            type=NOTE_FILE,
            multiple=True,
            help="A checkpoint that you kept from before; the log must go on from it.",
        ),
        click.option("--policy", type=NOTE_FILE, help="Keys of log and witnesses, and the quorum (tlog-policy)."),
        click.option("--key", "keys", metavar="VKEY", multiple=True, help="A key of the log, as you noted it."),
    ):
        command = option(command)
    return command


@audit.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne audit verify
  varmenne audit verify --anchor checkpoint-from-last-year.note
  varmenne audit verify --bundle evidence.zip --policy auditor.policy
"""
)
@click.option("--bundle", type=NOTE_FILE, help="Verify an export instead of this host's journal; needs no settings.")
@click.option("--vault/--no-vault", default=True, help="Compare with the checkpoints in Vault.", show_default=True)
@trust_options
@common_options
@click.pass_obj
def verify(
    app: App,
    *,
    bundle: Path | None,
    vault: bool,
    keys: tuple[str, ...],
    policy: Path | None,
    anchors: tuple[Path, ...],
    known: tuple[int, ...],
) -> None:
    """Verify log, rows, checkpoints and witnesses, and name the first record that is wrong.

    Nothing is changed, and the token is not needed. The exit code is 19 if anything is not proven.
    """
    from varmenne.audit import verifier
    from varmenne.enrollment.evidence.live import proven
    from varmenne.errors import EvidenceError, InputError

    trust = _trust(keys, policy, anchors, known)
    if bundle is None:
        with app.parts(app.settings(), notice=False) as parts:
            report = proven(parts, trust, vault=vault)
    else:
        with bundle.open("rb") as file:
            try:
                evidence = verifier.Bundle(file)
            except verifier.Refused as exc:
                raise InputError(f"{bundle} is no evidence bundle", why=str(exc)) from exc
            report = verifier.verify(evidence, trust)
    _tell(app, report)
    if not report.ok:
        raise click.exceptions.Exit(EvidenceError.exit_code)


@audit.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne audit checkpoint && varmenne audit export --out evidence.zip
  varmenne audit export --out /media/usb/evidence.zip --json
"""
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="A new file.")
@click.option("--vault/--no-vault", default=True, help="Take the checkpoints in Vault as well.", show_default=True)
@common_options
@click.pass_obj
def export(app: App, *, out: Path, vault: bool) -> None:
    """Write everything that an auditor needs to verify the log offline into one file.

    Make a checkpoint first, or what came after the last one is not proven by any signature.
    """
    from varmenne.cli.options import reserved
    from varmenne.enrollment.evidence.live import live

    with (
        app.parts(app.settings(), notice=False) as parts,
        live(parts, vault=vault) as evidence,
        reserved(out, 0o600),
        out.open("wb") as file,
    ):
        size = evidence.export(file)
    app.emit({"file": str(out), "size": size}, f"{out}: {size} records. To verify it: varmenne audit verifier")


@audit.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne audit verifier > verifier.py
  varmenne audit verifier | less
  python3 verifier.py evidence.zip --policy auditor.policy
"""
)
@click.pass_obj
def verifier(app: App) -> None:
    """Print the stand-alone verifier: one file, which needs Python and `cryptography`, to be read and then trusted."""
    from importlib import resources

    text = resources.files("varmenne.audit").joinpath("verifier.py").read_text(encoding="utf-8")
    click.echo(text, nl=False, color=app.color)


@audit.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne audit checkpoint
  varmenne audit checkpoint --out checkpoint.note
"""
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write it there as well.")
@common_options
@click.pass_obj
def checkpoint(app: App, *, out: Path | None) -> None:
    """Sign the log as it is now, anchor that in Vault, and print it: three lines and a signature, to keep elsewhere.

    This happens by itself after every act on a key.
    """
    from varmenne.cli.options import write_private
    from varmenne.enrollment.evidence.checkpoints import checkpoint as sign
    from varmenne.errors import StateError

    with app.parts(app.settings(), notice=False) as parts:
        made = sign(parts)
    if made is None:
        raise StateError("The audit log is empty", next_step="Its first record comes with the first enrollment")
    if out is not None:
        write_private(out, made.note.encode())
    data = {"origin": made.origin, "size": made.size, "root": made.root.hex(), "note": made.note}
    app.emit(data, made.note.rstrip("\n"))


@audit.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne audit key
  varmenne audit key --json | jq -r '.[0]'
"""
)
@common_options
@click.pass_obj
def key(app: App) -> None:
    """Print the log's verification keys, for an auditor to note when the log begins."""
    from varmenne.enrollment.evidence.live import vkeys
    from varmenne.errors import StateError

    with app.parts(app.settings(), notice=False) as parts:
        found = vkeys(parts)
    if not found:
        raise StateError(
            "The audit log has no key yet", next_step="It is made with the first checkpoint: varmenne audit checkpoint"
        )
    app.emit(list(found), "\n".join(found))


def _trust(keys: tuple[str, ...], policy: Path | None, anchors: tuple[Path, ...], known: tuple[int, ...]) -> Trust:
    """Read whom an auditor trusts.

    Raises:
        InputError: a key, the policy or a checkpoint cannot be read.
    """
    from varmenne.audit import verifier
    from varmenne.errors import InputError

    try:
        return verifier.Trust(
            keys=parsed(keys),
            policy=None if policy is None else verifier.parse_policy(policy.read_bytes()),
            anchors=tuple((str(path), path.read_bytes()) for path in anchors),
            known=frozenset(known),
        )
    except verifier.Refused as exc:
        raise InputError("What you trust cannot be read", why=str(exc)) from exc
    except OSError as exc:
        raise InputError("What you trust cannot be read", why=f"{exc.filename}: {exc.strerror}") from exc


def _tell(app: App, report: Report) -> None:
    """Print what verification found."""
    from varmenne.audit import verifier

    data = dataclasses.asdict(report) | {"ok": report.ok, "first_bad_record": report.first_bad_record}
    app.emit(data, verifier.told(report))


audit.add_command(audit_custody.probe)
audit.add_command(audit_custody.reconcile)
audit.add_command(audit_custody.passport)
audit.add_command(audit_report.report)
audit.add_command(audit_roles.approve)
audit.add_command(audit_roles.feed)
