"""``varmenne audit probe``, ``reconcile`` and ``passport``: custody tried, compared, and certified."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.domain.identifiers import enrollment_id
from varmenne.errors import ChecksFailed, TokenError

if TYPE_CHECKING:
    from varmenne.enrollment.evidence.custody import Probed
    from varmenne.enrollment.reconcile import Difference


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
