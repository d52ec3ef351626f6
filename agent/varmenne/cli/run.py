"""``run``: the agent, as a service of systemd or in a terminal, or once for timers and cron."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.errors import InputError, VarmenneError

if TYPE_CHECKING:
    from varmenne.enrollment.agent import Agent


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne run                     (until SIGTERM or Ctrl-C; SIGHUP reads the settings anew)
  varmenne run --once              (what is due now, for timers and cron)
  varmenne run --once --json
"""
)
@click.option("--once", is_flag=True, help="Do what is due now, and end.")
@click.option(
    "--wait",
    type=click.FloatRange(0, 86_400),
    metavar="SECONDS",
    default=120,
    show_default=True,
    help="With --once: stay for what becomes due within so many seconds, such as a certificate that is being issued.",
)
@common_options
@click.pass_obj
def run(app: App, *, once: bool, wait: float) -> None:
    """Look after all certificates, unattended: finish, renew, put to use, rehearse and retire what is due.

    Whatever happens to it, nothing is lost: the journal knows where everything stands, and the next start goes on from
    there. It never sends one-time credentials, which it does not have.
    """
    from varmenne.enrollment.agent import Agent

    settings = app.settings()
    if settings.token.pin == "prompt" and not once:
        raise InputError(
            "The agent cannot ask for the PIN",
            why='token.pin is "prompt", and nobody sits there when it has to log in again',
            next_step="Set `token.pin` to file:PATH or credential:NAME",
        )
    with Agent(settings) as agent:
        if once:
            _once(app, agent, wait)
        else:
            _serve(app, agent)


def _once(app: App, agent: Agent, wait: float) -> None:
    """Do what is due, tell how much that was, and end with the exit code of what needs a person most."""
    with _signals({signal.SIGTERM: agent.stop}):
        agent.once(timedelta(seconds=wait))
    tally = agent.tally
    done = {"carried": tally.carried, "waiting": tally.waiting, "failed": tally.failed}
    text = f"{tally.carried} carried on, {tally.waiting} of them wait, {tally.failed} failed."
    app.emit(done, "Nothing was due." if not tally.carried else text)
    worst = next((error for error in tally.errors if not error.transient), next(iter(tally.errors), None))
    if worst is not None:
        raise click.exceptions.Exit(worst.exit_code)


def _serve(app: App, agent: Agent) -> None:
    """Be a service until told to stop."""
    from varmenne.notify import ALIVE, READY, STOPPING, notify, watchdog_seconds

    reload_wanted = False

    def ask_to_reload() -> None:
        nonlocal reload_wanted
        reload_wanted = True
        agent.wake.wake()

    seconds = watchdog_seconds()

    def tick() -> float | None:
        nonlocal reload_wanted
        if reload_wanted:
            reload_wanted = False
            _reload(app, agent)
        if not agent.stuck():
            notify(ALIVE)
        return None if seconds is None else seconds / 2

    with _signals({signal.SIGTERM: agent.stop, signal.SIGINT: agent.stop, signal.SIGHUP: ask_to_reload}):
        notify(READY, f"STATUS=Looks after the certificates of {agent.settings.environment}")
        app.say("The agent runs. SIGTERM ends it, SIGHUP lets it read the settings anew.")
        agent.run(tick)
        notify(STOPPING)
        app.say("The agent ends; what is under way is parked.")


def _reload(app: App, agent: Agent) -> None:
    """Read the settings anew; ones that cannot be used are refused, and the old ones stay."""
    from varmenne.enrollment.agent import refuse_unusable
    from varmenne.notify import READY, notify, reloading

    reloading()
    try:
        settings = app.settings()
        refuse_unusable(settings)
        agent.reload(settings)
        app.say("The settings were read anew.")
    except VarmenneError as exc:
        app.warn(f"The settings were not taken over, the old ones stay: {exc}")
    notify(READY)


class _signals:  # noqa: N801 - reads as a statement
    """Has functions called on signals for the time of a block."""

    def __init__(self, wanted: dict[signal.Signals, Callable[[], None]]) -> None:
        self._wanted = wanted
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> None:
        for number, function in self._wanted.items():

            def handler(_number: int, _frame: FrameType | None, function: Callable[[], None] = function) -> None:
                function()

            self._before[number] = signal.signal(number, handler)

    def __exit__(self, *_exc: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]  # what signal() itself has returned
