"""``varmenne hooks``: which programs are run when something happens, whether they work, and those that failed."""

from __future__ import annotations

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.cli.options import id_argument, id_argument_if_any, one_of
from varmenne.domain.hooks import HookEvent
from varmenne.domain.identifiers import enrollment_id
from varmenne.errors import HookFailed

EVENTS = ", ".join(HookEvent)


@click.group(
    epilog=f"""{EXAMPLE}Examples:
  varmenne hooks list
  varmenne hooks test post-activate 20261124-7f3a9c21
  varmenne hooks retry
"""
)
def hooks() -> None:
    """Programs of yours that are run when something happens, such as a certificate that is put to use.

    They are the executables in the folders of `hooks.directory`. `varmenne show ID` tells what became of each.
    """


@hooks.command(
    name="list",
    epilog=f"""{EXAMPLE}Examples:
  varmenne hooks list
  varmenne hooks list --json | jq '.[] | select(.why)'
""",
)
@common_options
@click.pass_obj
def list_(app: App) -> None:
    """List what is in the folder of each event, in the order in which it is run, and what is not run, and why.

    The exit code is 17 if others could change a hook, or a folder has the name of no event.
    """
    from varmenne.enrollment import executables

    settings = app.settings().hooks
    executables.refuse_unusable(settings)
    found, strange = list(executables.listed(settings)), executables.strange(settings)
    if not found and not strange:
        where = settings.directory
        app.say(f"There are no hooks in {where}." if where else "No hooks: `hooks.directory` is not set.")
    data = [{"event": one.event.value, "name": one.name, "why": one.passed_over or one.unsafe or None} for one in found]
    data += [{"event": name, "name": "", "why": f"no event has this name; events: {EVENTS}"} for name in strange]
    lines = [f"{one['event']:<14} {one['name']}" + (f"  NOT RUN: {one['why']}" if one["why"] else "") for one in data]
    if data or app.json:
        app.emit(data, "\n".join(lines))
    if strange or any(one.unsafe for one in found):
        raise click.exceptions.Exit(HookFailed.exit_code)


@hooks.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne hooks test post-activate 20261124-7f3a9c21
  varmenne hooks test attention 20261124-7f3a9c21 --json
"""
)
@click.argument("event", type=one_of(HookEvent))
@id_argument
@common_options
@click.pass_obj
def test(app: App, *, event: str, enrollment: str) -> None:
    """Run the hooks of an event now, with the facts of an enrollment, for trial.

    They really run: VARMENNE_TEST is `true` for those that want to do less then. Nothing is kept, and the enrollment
    is not touched. The exit code is 17 if one fails.
    """
    from varmenne.enrollment.hooks import test as use_case

    with app.parts(app.settings(), notice=False) as parts:
        ended = use_case(parts, parts.journal.get(enrollment_id(enrollment)), HookEvent(event))
    app.emit(
        [{"name": name, "ok": one.ok, "detail": one.detail} for name, one in ended],
        "\n".join(f"{name}: {'ok' if one.ok else 'FAILED'}, {one.detail}" for name, one in ended),
    )
    if not all(one.ok for _name, one in ended):
        raise click.exceptions.Exit(HookFailed.exit_code)


@hooks.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne hooks retry                           (of all enrollments)
  varmenne hooks retry 20261124-7f3a9c21
"""
)
@id_argument_if_any
@common_options
@click.pass_obj
def retry(app: App, *, enrollment: str | None) -> None:
    """Run now the hooks that failed or wait, also those that were given up.

    Those of `pre-activate` are run again with the activation that they hold up: `varmenne resume ID`. Where several
    hosts share a journal, those of enrollments whose keys are in this host's token are run.
    """
    from varmenne.cli.look import hook_line, hook_run
    from varmenne.cli.teller import Teller
    from varmenne.enrollment.hooks import finish

    with app.parts(app.settings(), notice=False) as parts:
        row = None if enrollment is None else parts.journal.get(enrollment_id(enrollment))
        runs = finish(parts, Teller(app), row, revived=True)
    if not runs:
        app.say("No hook waits, and none has failed.")
    if runs or app.json:
        app.emit([hook_run(run) for run in runs], "\n".join(map(hook_line, runs)))
