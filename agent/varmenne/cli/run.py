"""``run``: the agent, as a service of systemd or in a terminal, or once for timers and cron."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from varmenne import __version__
from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.errors import HookFailed, VarmenneError

if TYPE_CHECKING:
    from varmenne.enrollment.agent import Agent
    from varmenne.monitoring.exposure import Exposure
    from varmenne.settings import Settings

LONGEST_TICK = 3600.0
"""Seconds within which the agent looks after itself, where no service manager wants to hear of it more often."""


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
    from varmenne.monitoring.events import Event, log_event
    from varmenne.monitoring.logs import log_to_stderr

    if not once and click.get_current_context().get_parameter_source("wait") is not ParameterSource.DEFAULT:
        raise click.UsageError("--wait goes with --once.")
    settings = app.settings()
    log_to_stderr(settings.agent.log_format, verbosity=app.verbosity)
    with Agent(settings) as agent:
        if once:
            _once(app, agent, wait)
        else:
            _serve(app, agent)
    if not once:
        log_event(Event.STOPPED)


def _once(app: App, agent: Agent, wait: float) -> None:
    """Do what is due, tell how much that was, and end with the exit code of what needs a person most."""
    import msgspec

    # Of the metrics, only the file outlives the command; the socket may be that of an agent that runs beside it.
    metrics = msgspec.structs.replace(agent.settings.metrics, listen="")
    with (
        _metrics(msgspec.structs.replace(agent.settings, metrics=metrics)),
        _signals({signal.SIGTERM: agent.stop}),
    ):
        agent.once(timedelta(seconds=wait))
    tally = agent.tally
    done = {
        "carried": tally.carried,
        "waiting": tally.waiting,
        "failed": len(tally.errors),
        "hooks": tally.hooks,
        "hooks_failing": len(tally.hooks_failing),
    }
    text = f"{tally.carried} carried on, {tally.waiting} of them wait, {len(tally.errors)} failed."
    hooks = f" Hooks: {tally.hooks} run, {len(tally.hooks_failing)} failing." if tally.hooks else ""
    app.emit(done, text + hooks if any(done.values()) else "Nothing was due.")
    worst = next((error for error in tally.errors if not error.transient), next(iter(tally.errors), None))
    if worst is not None or tally.hooks_failing:
        raise click.exceptions.Exit(HookFailed.exit_code if worst is None else worst.exit_code)


def _serve(app: App, agent: Agent) -> None:
    """Be a service until told to stop."""
    from varmenne.monitoring.events import Event, log_event
    from varmenne.notify import ALIVE, READY, STOPPING, notify, watchdog_seconds

    settings = agent.settings
    reload_wanted = threading.Event()

    def ask_to_reload() -> None:
        reload_wanted.set()
        agent.wake.wake()

    seconds = watchdog_seconds()
    wanted = {signal.SIGTERM: agent.stop, signal.SIGINT: agent.stop, signal.SIGHUP: ask_to_reload}
    with _metrics(settings) as exposure, _signals(wanted):

        def tick() -> float:
            if reload_wanted.is_set():
                reload_wanted.clear()
                _reload(app, agent, exposure)
            if agent.stuck():
                log_event(Event.WORKER_STUCK)
            else:
                notify(ALIVE)
            return LONGEST_TICK if seconds is None else seconds / 2

        log_event(Event.STARTED, version=__version__, environment=settings.environment, workers=settings.agent.workers)
        notify(READY, f"STATUS=Looks after the certificates of {settings.environment}")
        agent.run(tick)
        notify(STOPPING)
        log_event(Event.STOPPING)


def _metrics(settings: Settings) -> contextlib.AbstractContextManager[Exposure]:
    """Show metrics during a block, where the settings want any."""
    from pathlib import Path

    from varmenne.clock import system_clock
    from varmenne.journal import Journal
    from varmenne.monitoring.exposure import exposed

    def open_journal() -> Journal:
        return Journal(Path(settings.state_dir), settings.journal)

    return exposed(settings, open_journal, system_clock)


def _reload(app: App, agent: Agent, exposure: Exposure) -> None:
    """Read the settings anew; ones that cannot be used are refused, and the old ones stay."""
    from varmenne.monitoring.events import Event, log_event
    from varmenne.monitoring.logs import log_to_stderr
    from varmenne.notify import READY, notify, reloading

    reloading()
    try:
        settings = app.settings()
        agent.reload(settings, also=exposure.reload)
        log_to_stderr(settings.agent.log_format, verbosity=app.verbosity)
        log_event(Event.RELOADED)
    except VarmenneError as exc:
        log_event(Event.RELOAD_REFUSED, error=exc)
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
