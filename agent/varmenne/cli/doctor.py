"""``doctor``: check every part; change nothing, spend nothing."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.errors import ChecksFailed

if TYPE_CHECKING:
    from varmenne.domain.check import Check
    from varmenne.enrollment.parts import Parts

COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne doctor
  varmenne doctor --json | jq '.[] | select(.verdict != "ok")'
  varmenne doctor --retry-pin      (after the PIN was put right in the environment or a descriptor)
"""
)
@click.option("--endpoint", metavar="URL", help="Another address of the service, such as a bench's.")
@click.option(
    "--retry-pin", is_flag=True, help="Try a PIN again that was refused before. A wrong one may lock the token."
)
@common_options
@click.pass_obj
def doctor(app: App, *, endpoint: str | None, retry_pin: bool) -> None:
    """Check token, service, trust anchors, Vault, journal and clock. Nothing is changed and nothing is spent.

    Each line is ok, warn or fail, with the next step. The exit code is 15 if anything fails.
    """
    with app.parts(app.settings(endpoint=endpoint), retry_pin=retry_pin, notice=False) as parts:
        found = show_checks(app, parts)
    if app.json:
        app.emit([dataclasses.asdict(check) for check in found], "")
    if any(check.verdict == "fail" for check in found):
        raise click.exceptions.Exit(ChecksFailed.exit_code)


def show_checks(app: App, parts: Parts) -> list[Check]:
    """Run the check-up and print each line as it is found (on standard error, with --json)."""
    from varmenne.enrollment.doctor import check_up

    found = []
    for check in check_up(parts):
        found.append(check)
        verdict = click.style(f"{check.verdict:<4}", fg=COLORS[check.verdict])
        click.echo(f"{verdict}  {check.name}: {check.detail}", color=app.color, err=app.json)
        if check.next_step and check.verdict != "ok":
            click.echo(f"      → {check.next_step}", color=app.color, err=app.json)
    return found
