"""``varmenne journal``: where durable state is, whether it is sound, its backup and restoring, whose keys are whose."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.cli.options import confirmed
from varmenne.errors import ChecksFailed, InputError

if TYPE_CHECKING:
    from varmenne.journal.restore import Restored
    from varmenne.settings import Settings

FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(
    epilog=f"""{EXAMPLE}Examples:
  varmenne journal path
  varmenne journal check
  varmenne journal backup /backup/varmenne-$(date +%F).sqlite
  varmenne journal restore /backup/varmenne-2026-11-24.sqlite
  varmenne journal acknowledge                        (keys in the token that another installation made)
"""
)
def journal() -> None:
    """Show, check, back up and restore the journal.

    It remembers every enrollment and every answer of the service, and which one-time credentials were sent. A copy of
    it that is put back without `restore` is refused, since credentials sent after the copy would look unspent. So is
    one that does not know whose keys are in the token.
    """


@journal.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne journal path
  ls -l $(varmenne journal path)*
  varmenne journal path --json | jq -r .sent
"""
)
@common_options
@click.pass_obj
def path(app: App) -> None:
    """Print where the journal is: the file's path, or the database's URL."""
    from varmenne.journal.database import JOURNAL_NAME, checked_url
    from varmenne.journal.sent import SENT_NAME

    settings = app.settings()
    state_dir = Path(settings.state_dir)
    if settings.journal.url:
        checked_url(settings.journal.url)
    place = settings.journal.url or str(state_dir / JOURNAL_NAME)
    kind = "postgresql" if settings.journal.url else "sqlite"
    app.emit({"kind": kind, "journal": place, "sent": str(state_dir / SENT_NAME)}, place)


@journal.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne journal check
  varmenne journal check --json | jq '.[] | select(.verdict != "ok")'
  varmenne journal check && varmenne journal backup FILE
"""
)
@common_options
@click.pass_obj
def check(app: App) -> None:
    """Look through the whole journal: the database, its rows, every history, and who may read the files.

    The exit code is 15 if anything fails.
    """
    with app.parts(app.settings(), notice=False) as parts:
        parts.journal.check()
        found = list(parts.journal.inspect())
    lines = []
    for one in found:
        lines.append(f"{one.verdict:<4}  {one.name}: {one.detail}")
        if one.next_step:
            lines.append(f"      → {one.next_step}")
    app.emit([dataclasses.asdict(one) for one in found], "\n".join(lines))
    if any(one.verdict == "fail" for one in found):
        raise click.exceptions.Exit(ChecksFailed.exit_code)


@journal.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne journal backup /backup/varmenne.sqlite
  varmenne journal backup /backup/varmenne-$(date +%F).sqlite
  varmenne journal backup /backup/varmenne.sqlite --json | jq .bytes
"""
)
@click.argument("target", metavar="FILE", type=FILE)
@common_options
@click.pass_obj
def backup(app: App, *, target: Path) -> None:
    """Copy the journal to a new file, while it may be in use, and prove that the copy is whole.

    Only its owner may read the copy. It holds customers and certificates, but no secret.
    """
    from varmenne.journal.database import checked_url

    settings = app.settings()
    if settings.journal.url:
        checked_url(settings.journal.url)
        raise InputError(
            "A journal in PostgreSQL is not backed up by varmenne",
            why="PostgreSQL has its own tools",
            next_step=f"Run: {dump_command(settings)} --file={target}",
        )
    _refuse_target(target)
    with app.parts(settings, notice=False) as parts:
        parts.journal.backup(target)
    size = target.stat().st_size
    app.emit({"backup": str(target), "bytes": size}, f"{target}, {size} bytes, whole")


def _refuse_target(target: Path) -> None:
    """Refuse a name that no new file can have, before the journal is opened; making it is what finds out for sure.

    Raises:
        InputError: there is something of that name, or its folder is not there or may not be written.
    """
    try:
        if target.exists() or target.is_symlink():
            raise InputError(f"{target} exists already", next_step="Name another file; nothing is overwritten")
        if not target.parent.is_dir():
            raise InputError(f"The folder {target.parent} does not exist", next_step="Make it, or name another")
        if not os.access(target.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as exc:
        raise InputError(f"{target} cannot be written", why=exc.strerror or str(exc)) from exc


def dump_command(settings: Settings) -> str:
    """Return the command that backs up a PostgreSQL journal; libpq's URLs have no driver in their names."""
    url = settings.journal.url.replace("postgresql+psycopg:", "postgresql:", 1)
    return f"pg_dump --format=custom --dbname='{url}'"


@journal.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne journal restore /backup/varmenne.sqlite
  varmenne journal restore                            (accept a journal that was put in place by other means)
  varmenne journal restore /backup/varmenne.sqlite --confirm 3 --json | jq .uncertain
"""
)
@click.argument("backup_file", metavar="[FILE]", type=FILE, required=False)
@click.option(
    "--confirm", metavar="N", help="How many enrollments the restore takes back, where nobody is there to type it."
)
@common_options
@click.pass_obj
def restore(app: App, *, backup_file: Path | None, confirm: str | None) -> None:
    """Put a backup in the journal's place. What may have been sent since it was made becomes `uncertain`.

    If the journal that is there knows more than the backup, it is told what would be lost, and has to be confirmed. The
    journal that is replaced is kept beside it. No other command may be running. Without FILE, the journal that is there
    now is made usable: one that was restored by PostgreSQL's tools, or copied by hand.
    """
    from varmenne.clock import system_clock
    from varmenne.journal.restore import restore as use_case

    settings = app.settings()
    if backup_file is not None and not settings.journal.url:
        _confirm_loss(app, Path(settings.state_dir), backup_file, confirm)
    done = use_case(Path(settings.state_dir), settings.journal, backup_file, system_clock())
    data = {
        "journal": done.name,
        "replaced": None if done.replaced is None else str(done.replaced),
        "recorded": done.recorded,
        "uncertain": [doubt.id for doubt in done.doubts],
        "last_changed": None if done.newest is None else f"{done.newest:%Y-%m-%dT%H:%M:%SZ}",
    }
    app.emit(data, told(done))
    if settings.journal.url:
        app.warn("Run this on each other host too before varmenne is started anywhere: each has its own record.")
    if not done.recorded:
        app.warn(
            "This host has no record of all that was sent after the backup was made. Credentials of orders that are "
            "not in `varmenne list` may be spent already: ask the service's support before using them."
        )


def _confirm_loss(app: App, state_dir: Path, backup: Path, confirm: str | None) -> None:
    """Tell what the journal knows and the backup does not, and have that confirmed; often there is nothing."""
    from varmenne.journal.restore import would_lose

    loss = would_lose(state_dir, backup)
    if not loss.enrollments:
        return
    app.say(f"The journal that is there knows more than {backup}:")
    app.say(f"  enrollments that are not in the backup    {loss.missing}")
    app.say(f"  enrollments that have gone on since       {loss.changed}")
    app.say(f"  requests that were begun since            {loss.sent}")
    confirmed(confirm, str(loss.enrollments), "So many enrollments would be taken back.")


def told(done: Restored) -> str:
    """Say what a restore did, and how to go on."""
    lines = [f"The journal {done.name} is usable. "]
    lines[0] += f"It was last changed at {done.newest:%Y-%m-%d %H:%M} UTC." if done.newest else "It was empty."
    if done.replaced is not None:
        lines.append(f"What it replaces is kept: {done.replaced}")
    if done.doubts:
        lines.append("These may have been sent since, and are uncertain now; decide with `varmenne resolve ID`:")
        lines += [f"  {doubt.id}  {doubt.was or 'not in the backup'}" for doubt in done.doubts]
    else:
        lines.append("No one-time credentials were sent since that it does not know of.")
    return "\n".join(lines)


@journal.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne journal acknowledge
  varmenne journal acknowledge --confirm 2
  varmenne journal acknowledge --json | jq -r '.[].enrollment'
"""
)
@click.option("--confirm", metavar="N", help="How many keys there are, where nobody is there to type it.")
@common_options
@click.pass_obj
def acknowledge(app: App, *, confirm: str | None) -> None:
    """Say that keys in the token are another installation's, and list what was acknowledged so far.

    While the token has keys of enrollments that are not in the journal, nothing is sent: the journal may be older than
    the token, restored with its whole folder or begun anew, and credentials that are spent would look unspent. Only a
    person can know that the keys are another installation's. What was acknowledged is kept in the journal; keys that
    come later are asked for again.
    """
    from varmenne.enrollment.reconcile import BRING_BACK, without_row

    with app.parts(app.settings(), notice=False) as parts:
        found = without_row(parts)
        if found:
            app.say("The token has keys of these enrollments, which are not in the journal:")
            for one in found:
                app.say(f"  {one}   begun on {one[:4]}-{one[4:6]}-{one[6:8]}")
            app.say("If this installation made them, credentials of the last two weeks may be spent that look unspent.")
            app.say(f"{BRING_BACK}.")
            confirmed(confirm, str(len(found)), "So many keys would count as another installation's.")
            parts.journal.acknowledge(found, parts.now)
        known = parts.journal.acknowledged()
    lines = [f"{one.enrollment}   acknowledged {one.at:%Y-%m-%d %H:%M} UTC by {one.actor}" for one in known]
    data = [{**dataclasses.asdict(one), "at": f"{one.at:%Y-%m-%dT%H:%M:%SZ}"} for one in known]
    app.emit(data, "\n".join(lines) or "The journal knows every key that varmenne has made in the token.")
