"""``varmenne audit probe``, ``reconcile`` and ``passport``: custody tried, compared, and certified."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.cli.options import id_argument, write_private
from varmenne.domain.identifiers import enrollment_id
from varmenne.errors import ChecksFailed, InputError, TokenError

if TYPE_CHECKING:
    from varmenne.audit.passport import Attestation
    from varmenne.enrollment.evidence.custody import Probed
    from varmenne.enrollment.reconcile import Difference

ENVELOPE = ".dsse.json"
MAX_ATTESTATION_BYTES = 1024 * 1024
"""Longest attestation that is taken: certificates and vendors' bundles have a few kilobytes."""


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne audit probe
  varmenne audit probe 20261124-7f3a9c21
  varmenne audit probe --json | jq '.[] | select(.fit | not)'
"""
)
@click.argument("enrollments", metavar="[ID]...", nargs=-1)
@common_options
@click.pass_obj
def probe(app: App, *, enrollments: tuple[str, ...]) -> None:
    """Try to get keys out of the token: throw-away keys by every way, live keys by what is harmless.

    Without IDs, all keys of this environment in this token are tried. Each try is recorded in the audit log. A try
    that succeeds is an alarm: the exit code is 5, and nothing is renewed with that token until a probe passes.
    """
    from varmenne.cli.teller import Teller
    from varmenne.enrollment.evidence.custody import live, probe_all

    with app.parts(app.settings(), notice=False) as parts:
        rows = [parts.journal.get(enrollment_id(one)) for one in enrollments] if enrollments else live(parts)
        found, lines = [], []
        for one in probe_all(parts, Teller(app), rows):
            found.append(_probed(one))
            lines += _probed_lines(one)
    app.emit(found, "\n".join(lines))
    if not all(one["fit"] for one in found):
        raise click.exceptions.Exit(TokenError.exit_code)


def _probed(one: Probed) -> dict[str, Any]:
    """Return a probe for programs."""
    return {
        "enrollment": None if one.row is None else one.row.id,
        "key_id": None if one.row is None else one.row.key_id.hex(),
        "fit": one.error is None,
        "error": None if one.error is None else str(one.error),
        "results": [] if one.probe is None else [dataclasses.asdict(line) for line in one.probe.results],
    }


def _probed_lines(one: Probed) -> list[str]:
    """Return a probe for people: what was refused as a number, and what was not by name."""
    name = "throw-away keys" if one.row is None else f"{one.row.id}  key {one.row.key_id.hex()}"
    if one.error is not None:
        return [f"ALARM  {name}: {one.error}", f"       → {one.error.next_step}"]
    refused = sum(line.outcome == "refused" for line in one.probe.results) if one.probe else 0
    return [f"fit    {name}: {refused} tries, all refused"]


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne audit reconcile
  varmenne audit reconcile --json | jq -r '.[] | select(.matters) | [.kind, .enrollment, .what] | @tsv'
  varmenne audit verify && varmenne audit reconcile
"""
)
@common_options
@click.pass_obj
def reconcile(app: App) -> None:
    """Compare what token, journal, Vault and audit log say of each key, and the certificates with the time.

    Nothing is changed or recorded. The exit code is 15 if there is a difference that matters; other differences, such
    as keys of other programs in the same token, are to be known.
    """
    from varmenne.cli.teller import Teller
    from varmenne.enrollment.evidence.reconciliation import differences

    with app.parts(app.settings(), notice=False) as parts:
        found = [_difference(one) for one in differences(parts, Teller(app))]
    lines = []
    for one in found:
        about = one["enrollment"] or one["key_id"] or "-"
        lines.append(f"{'DIFFERS' if one['matters'] else 'note   '}  {one['kind']}  {about}  ({one['where']})")
        lines += [f"         {one['what']}", f"         → {one['next_step']}"]
    app.emit(found, "\n".join(lines) or "Token, journal, Vault and log agree.")
    if any(one["matters"] for one in found):
        raise click.exceptions.Exit(ChecksFailed.exit_code)


def _difference(one: Difference) -> dict[str, Any]:
    """Return a difference for programs."""
    kind = one.kind
    return dataclasses.asdict(one) | {"kind": kind.value, "matters": kind.matters, "next_step": kind.next_step}


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne audit passport 20261124-7f3a9c21 --out passport.dsse.json
  varmenne audit passport 20261124-7f3a9c21 --out passport.dsse.json --attestation key.pem --attestation-type yubihsm
  python3 verifier.py --proof passport.tlog-proof --passport passport.dsse.json --key VKEY
"""
)
@id_argument
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="A new file, such as NAME.dsse.json; the proof is put beside it as NAME.tlog-proof.",
)
@click.option(
    "--attestation",
    "attestations",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="What a tool of the token's vendor said of the key; taken along as it is.",
)
@click.option(
    "--attestation-type",
    "kinds",
    metavar="TYPE",
    multiple=True,
    help="What it is, in the order of the files; otherwise each file's suffix.",
)
@common_options
@click.pass_obj
def passport(app: App, *, enrollment: str, out: Path, attestations: tuple[Path, ...], kinds: tuple[str, ...]) -> None:
    """Write all that is known of a key into one file that is signed in the token and proven by the audit log.

    The live key is probed and read anew for it. The file names the customer, and holds no secret.
    """
    from varmenne.cli.teller import Teller
    from varmenne.enrollment.evidence.passport import issue

    proof = out.with_name(f"{out.name.removesuffix(ENVELOPE).removesuffix('.json')}.tlog-proof")
    given = _attestations(attestations, kinds)
    for path in (out, proof):
        if path.exists() or path.is_symlink():
            raise InputError(f"{path} exists already", next_step="Name another file; nothing is overwritten")
    with app.parts(app.settings(), notice=False) as parts:
        issued = issue(parts, Teller(app), enrollment_id(enrollment), given)
    write_private(proof, issued.proof)
    write_private(out, issued.envelope)
    data = {"enrollment": enrollment, "file": str(out), "proof": str(proof), "record": issued.record}
    app.emit(data, f"{out}, proven by {proof}: record {issued.record} of the log")


def _attestations(paths: tuple[Path, ...], kinds: tuple[str, ...]) -> tuple[Attestation, ...]:
    """Read attestations.

    Raises:
        InputError: there are more or fewer types than files, or a file cannot be read or is too long.
    """
    from varmenne.audit.passport import Attestation

    if kinds and len(kinds) != len(paths):
        raise InputError("--attestation-type is to be given as often as --attestation, or not at all")
    found = []
    for number, path in enumerate(paths):
        try:
            with path.open("rb") as file:
                data = file.read(MAX_ATTESTATION_BYTES + 1)
        except OSError as exc:
            raise InputError(f"{path} cannot be read", why=exc.strerror or str(exc)) from exc
        if not 0 < len(data) <= MAX_ATTESTATION_BYTES:
            raise InputError(f"{path} is empty, or longer than an attestation is")
        found.append(Attestation(kinds[number] if kinds else path.suffix.removeprefix(".") or "unknown", data))
    return tuple(found)
