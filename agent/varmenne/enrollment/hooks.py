"""Hooks: executables of the operator's, run around an activation, after a failure, and when a person is needed.

What is to be run is in the journal first. A hook before an activation is run within that step, and holds it up if it
fails. Those after it are written in the transaction that makes the certificate the current one, so no crash loses them.
Every hook is tried again alone, and may be run twice if a process dies while it runs, never not at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from varmenne.domain import calendar
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.forms import iso
from varmenne.domain.hooks import MOST_TRIES, HookEvent, HookOutcome, HookRun, NewHook, in_a_line
from varmenne.domain.outlook import prospect
from varmenne.domain.steps import State
from varmenne.enrollment import executables, facts
from varmenne.errors import ConfigError, HookFailed, InputError, StateError
from varmenne.journal.claims import Among
from varmenne.monitoring import Event, log_event

if TYPE_CHECKING:
    from varmenne.domain.identifiers import EnrollmentId
    from varmenne.enrollment.parts import Parts
    from varmenne.enrollment.progress import Progress
    from varmenne.enrollment.work import Outcome, Work

SCHEMA = 1
"""Grows when a fact changes its meaning or goes away; new ones may come without that."""

SAME_REASON = timedelta(hours=24)
"""Nobody is told the same again within this time."""

LONGEST_TURN = timedelta(minutes=10)
"""After so long no further hook is begun in one turn, so that an agent that runs them is not taken for stuck."""

PUBLISHING = timedelta(minutes=5)
"""What comes after the hooks before an activation may take so long."""

HELD_SECONDS = 0.5
"""So often a person's command looks whether it is its hooks' turn."""

MARGIN = timedelta(seconds=60)
"""How much longer than a hook may run nobody else takes it for abandoned."""


def before_activation(work: Work, row: Enrollment) -> None:
    """Run the hooks of ``pre-activate``, one after the other; those that succeeded for this activation, not again.

    Raises:
        HookFailed: one failed. Those after it were not run, and nothing is put to use.
        ConfigError: the settings do not let hooks be run.
    """
    parts = work.parts
    settings, journal = parts.settings.hooks, parts.journal
    executables.refuse_unusable(settings)
    found = executables.names(settings, HookEvent.PRE_ACTIVATE)
    if not found:
        return
    told = _facts(parts, row, HookEvent.PRE_ACTIVATE, {})
    before = {run.name: run for run in journal.hooks.of(row.id) if _same_activation(run, told)}
    for name in found:
        earlier = before.get(name)
        if earlier is not None and earlier.outcome is HookOutcome.OK:
            continue
        row = _held(parts, row)
        run = journal.hooks.begin(earlier or _new(parts, row, HookEvent.PRE_ACTIVATE, name, told, due_at=None))
        ended = executables.run(settings, HookEvent.PRE_ACTIVATE, name, told | _documents(row))
        _told(journal.hooks.settle(run, HookOutcome.OK if ended.ok else HookOutcome.FAILED, ended.detail))
        if not ended.ok:
            raise HookFailed(
                f"The hook {name} of {HookEvent.PRE_ACTIVATE} failed, so the certificate of {row.id} is not put to use",
                why=in_a_line(ended.detail),
                next_step=f"Nothing is lost. After the cause is put right: varmenne resume {row.id}",
            )


def _same_activation(run: HookRun, told: Mapping[str, Any]) -> bool:
    """Tell whether a hook was run for the activation that is being tried now, rather than for an earlier one."""
    return run.event is HookEvent.PRE_ACTIVATE and run.facts["activation"] == told["activation"]


def _held(parts: Parts, row: Enrollment) -> Enrollment:
    """Lengthen the lease of a row by the time that a hook may take."""
    now, longest = parts.now, timedelta(seconds=parts.settings.hooks.timeout_seconds)
    return parts.journal.renew(row, now, lease=max((row.due_at or now) - now, PUBLISHING) + longest)


def after_activation(parts: Parts, row: Enrollment, outcome: Outcome) -> tuple[NewHook, ...]:
    """Return the hooks of ``post-activate`` that are to be written with the outcome of an activation.

    Raises:
        ConfigError: the folder cannot be read.
    """
    event = HookEvent.POST_ACTIVATE
    found = executables.names(parts.settings.hooks, event)
    if not found:
        return ()
    told = _facts(parts, dataclasses.replace(row, state=outcome.target, **outcome.changes), event, {})
    return tuple(_new(parts, row, event, name, told, due_at=parts.now) for name in found)


def queue(parts: Parts, row: Enrollment, event: HookEvent, reason: Mapping[str, str]) -> None:
    """Have the hooks of an event run by :func:`run_due`, unless they were told the same within a day.

    Args:
        parts: the parts.
        row: the enrollment that it is about.
        event: :attr:`HookEvent.FAILED` or :attr:`HookEvent.ATTENTION`.
        reason: ``kind``, ``what``, ``why`` and ``next_step``, as :func:`varmenne.enrollment.facts.problem` gives them.

    Raises:
        JournalError: it cannot be written.
    """
    try:
        found = executables.names(parts.settings.hooks, event)
    except ConfigError as exc:
        log_event(Event.HOOK_FAILED, row, error=exc, about=event)
        return
    if found:
        told = _facts(parts, row, event, dict(reason))
        new = [_new(parts, row, event, name, told, due_at=parts.now) for name in found]
        parts.journal.hooks.add(new, unless_since=parts.now - SAME_REASON)


def run_due(
    parts: Parts,
    *,
    among: Among | None = None,
    enrollment: EnrollmentId | None = None,
    stopping: Callable[[], bool] = lambda: False,
    heard: Callable[[HookRun], None] = lambda _run: None,
) -> int:
    """Run the hooks that are due, one after the other, and return how many were run: not all, if that takes long.

    Nothing that goes wrong with a hook is raised: it is in the journal, and tried again.

    Args:
        parts: the parts.
        among: of which enrollments; otherwise of all of the settings' environment.
        enrollment: of this one only.
        stopping: tells whether to leave the rest for later.
        heard: is given each after it was run.

    Raises:
        JournalError: the journal cannot be read or written.
    """
    ours = among or Among(parts.settings.environment)
    lease = timedelta(seconds=parts.settings.hooks.timeout_seconds) + MARGIN
    number, begun = 0, parts.now
    while not stopping() and parts.now - begun < LONGEST_TURN:
        run = parts.journal.hooks.claim(parts.now, lease=lease, among=ours, enrollment=enrollment)
        if run is None:
            break
        done = _run(parts, run)
        _told(done)
        heard(done)
        number += 1
    return number


def finish(parts: Parts, progress: Progress, row: Enrollment | None = None, *, revived: bool = False) -> list[HookRun]:
    """Run the hooks that are due, of one enrollment or of all, for a person who waits for that, and return them.

    In a journal of several hosts, those of enrollments whose keys are in this host's token: the others are not here.

    Args:
        parts: the parts.
        progress: hears what happens.
        row: of this enrollment only.
        revived: those that failed are due as well, also if they were given up.

    Raises:
        HookFailed: one failed. What was done before stays done.
        StateError: they are another host's.
        TokenUnavailable: it is not known which hooks are this host's, since its token is away.
    """
    done: list[HookRun] = []

    def heard(run: HookRun) -> None:
        done.append(run)
        if run.outcome is HookOutcome.OK:
            progress.done(f"hook {run.name} of {run.event}")

    hooks, only = parts.journal.hooks, None if row is None else row.id
    if not revived and hooks.next_due(Among(parts.settings.environment), only) is None:
        return done
    ours = _ours(parts, row if revived else None)
    if revived:
        hooks.revive(parts.now, ours, only)
    run_due(parts, among=ours, enrollment=only, heard=heard)
    while (until := hooks.held(parts.now, ours, only)) is not None:
        progress.waits("another hook of the same customer's channel is being run", until)
        parts.sleep(HELD_SECONDS)
        run_due(parts, among=ours, enrollment=only, heard=heard)
    bad = [run for run in done if run.outcome in {HookOutcome.FAILING, HookOutcome.FAILED}]
    if bad:
        named = ", ".join(f"{run.name} of {run.event}" for run in bad)
        raise HookFailed(
            f"A hook failed, which undoes nothing: {named}",
            why="; ".join(run.in_a_line for run in bad),
            next_step="The agent runs it again by itself; you do by: varmenne hooks retry " + bad[0].enrollment_id,
        )
    return done


def _ours(parts: Parts, row: Enrollment | None) -> Among:
    """Return the enrollments whose hooks are run on this host; refuse one that is not among them."""
    environment = parts.settings.environment
    if not parts.journal.shared:
        return Among(environment)
    token = parts.token.identity().digest
    if row is not None and row.token not in {None, token}:
        raise StateError(
            f"The hooks of enrollment {row.id} are not run on this host",
            why="its key is in another token, so they are in the folders of another host",
            next_step="Run this on the host that has that token",
        )
    return Among(environment, token)


def test(parts: Parts, row: Enrollment, event: HookEvent) -> list[tuple[str, executables.Ended]]:
    """Run the hooks of an event with an enrollment's facts, for trial: nothing is kept, and ``test`` is true for them.

    Raises:
        ConfigError: the settings do not let hooks be run.
        InputError: there are none.
    """
    settings = parts.settings.hooks
    executables.refuse_unusable(settings)
    found = executables.names(settings, event)
    if not found:
        raise InputError(
            f"There are no hooks for {event}",
            why=f"nothing in {settings.directory}/{event} is one" if settings.directory else "no folder is set",
            next_step="`varmenne hooks list` shows what is there",
        )
    reason = {"kind": "Test", "what": "This is a test", "why": "", "next_step": "Nothing is to be done"}
    told = _facts(parts, row, event, {} if event in _ABOUT_ACTIVATION else reason) | {"test": True}
    return [(name, executables.run(settings, event, name, told | _documents(row))) for name in found]


_ABOUT_ACTIVATION = {HookEvent.PRE_ACTIVATE, HookEvent.POST_ACTIVATE}


def _run(parts: Parts, run: HookRun) -> HookRun:
    """Run a claimed hook, and write how it ended."""
    journal, settings = parts.journal, parts.settings.hooks
    if run.tries > MOST_TRIES:
        return journal.hooks.settle(run, HookOutcome.FAILED, f"{run.detail}\nit was begun {MOST_TRIES} times".strip())
    row = journal.get(run.enrollment_id)
    try:
        if run.event is HookEvent.POST_ACTIVATE and row.state is not State.ACTIVE:
            # One that puts an older certificate in place after a newer one would do harm.
            return journal.hooks.settle(run, HookOutcome.DROPPED, f"the certificate is {row.state} by now")
        if run.name in executables.names(settings, run.event):
            ended = executables.run(settings, run.event, run.name, run.facts | _documents(row))
        elif journal.shared and run.tries < MOST_TRIES:
            ended = executables.Ended(ok=False, detail="it is not in its folder on this host")
        else:
            return journal.hooks.settle(run, HookOutcome.DROPPED, "it is not in its folder any more")
    except ConfigError as exc:
        ended = executables.Ended(ok=False, detail=f"it is not run: {exc}")
    except BaseException:
        journal.hooks.settle(run, HookOutcome.FAILING, "it was interrupted", due_at=parts.now)
        raise
    if ended.ok:
        return journal.hooks.settle(run, HookOutcome.OK, ended.detail)
    if run.tries >= MOST_TRIES:
        return journal.hooks.settle(run, HookOutcome.FAILED, ended.detail)
    again = parts.now + calendar.back_off(run.tries - 1, f"{run.enrollment_id} {run.name}")
    return journal.hooks.settle(run, HookOutcome.FAILING, ended.detail, due_at=again)


_EVENTS = {HookOutcome.OK: Event.HOOK_DONE, HookOutcome.DROPPED: Event.NOTE}


def _told(run: HookRun) -> None:
    """Tell the log how a hook ended."""
    log_event(
        _EVENTS.get(run.outcome, Event.HOOK_FAILED),
        enrollment=run.enrollment_id,
        hook=run.name,
        about=run.event,
        outcome=run.outcome,
        tries=run.tries,
        detail=run.detail,
    )


def _new(
    parts: Parts, row: Enrollment, event: HookEvent, name: str, told: dict[str, Any], *, due_at: datetime | None
) -> NewHook:
    """Make the hook of an executable."""
    return NewHook(enrollment_id=row.id, event=event, name=name, at=parts.now, facts=told, due_at=due_at)


def _facts(parts: Parts, row: Enrollment, event: HookEvent, reason: dict[str, str]) -> dict[str, Any]:
    """Return what a hook is told, besides the documents. docs/hooks.md explains it; no secret is among it."""
    return {
        "schema": SCHEMA,
        "event": event.value,
        "at": iso(parts.now),
        "test": False,
        "enrollment": row.id,
        "environment": row.environment.value,
        "customer_id": row.customer_id,
        "customer_name": row.customer_name,
        "channel": row.channel.value,
        "method": row.method.value,
        "state": row.state.value,
        "generation": row.generation,
        "replaces": row.replaces,
        "serial_number": row.serial_number,
        "not_before": _moment(row.not_before),
        "not_after": _moment(row.not_after),
        "usable_from": _moment(row.usable_from),
        "order_by": _moment(_order_by(parts, row)),
        "key_id": row.key_id.hex(),
        "key_uri": None if row.custody is None else facts.key_uri(row),
        "vault_mount": parts.settings.vault.mount,
        "vault_path": row.vault_path,
        "vault_version": row.vault_version,
        "sftp_user": row.sftp_user,
        "contact": row.contact,
        "activation": facts.publication(row),
        "reason": reason or None,
    }


def _documents(row: Enrollment) -> dict[str, str | None]:
    """Return what is long among the facts; it never changes, so it is not kept with each hook."""
    return {"certificate": row.certificate, "chain": row.chain}


def _moment(moment: datetime | None) -> str | None:
    """Write a moment, if there is one."""
    return None if moment is None else iso(moment)


def _order_by(parts: Parts, row: Enrollment) -> datetime | None:
    """Return the day by which people must order anew, should the certificate in use not be renewed."""
    journal, in_use = parts.journal, row
    if row.certificate is None and row.replaces is not None:
        try:
            in_use = journal.get(row.replaces)
        except InputError:  # It replaces what another installation made.
            return None
    return prospect(in_use, journal.renewals(in_use.id), parts.settings.renewal.plan).order_by
