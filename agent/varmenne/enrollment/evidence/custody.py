"""Probes custody now, by order: the token with throw-away keys, and each live key with what is harmless to try on it.

Expected refusals are recorded in the audit log. Anything else is an alarm: it is recorded as failed, told to the log
and to the hooks of ``attention``, and nothing new is begun with that token until a probe passes, see
:func:`varmenne.enrollment.preflight.prove_token`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from varmenne.domain.hooks import HookEvent
from varmenne.domain.steps import State
from varmenne.enrollment import facts, hooks
from varmenne.enrollment.preflight import refuse_other_token, tried, unfit
from varmenne.enrollment.reconcile import KEY_GONE
from varmenne.errors import KeyNotFound, TokenError

if TYPE_CHECKING:
    from varmenne.domain.enrollment import Enrollment
    from varmenne.domain.keys import CustodyProbe
    from varmenne.enrollment.parts import Parts
    from varmenne.enrollment.progress import Progress


@dataclass(frozen=True, slots=True)
class Probed:
    """One probe.

    Attributes:
        row: the enrollment whose live key was probed; ``None``: throw-away keys were.
        probe: each try, or ``None`` if there was no key to try anything on.
        error: why it did not pass, or ``None``.
    """

    row: Enrollment | None
    probe: CustodyProbe | None
    error: TokenError | None


def probe_all(parts: Parts, progress: Progress, rows: Iterable[Enrollment]) -> Iterator[Probed]:
    """Probe the token and then live keys, and yield each probe when it is recorded. Go on after one that failed.

    Raises:
        TokenError: the token cannot be used, or is not the one that holds our keys.
        StateError: the key of an enrollment is in another token.
    """
    parts.token.login()
    refuse_other_token(parts)
    progress.begins("Try to get a key out of the token, with throw-away keys")
    made = tried(parts)
    error = unfit(made)
    if error is None:
        progress.done("every try was refused")
    else:
        _call(parts, parts.journal.newest_key(made.token.digest), error)
    yield Probed(None, made, error)
    progress.begins("Try on the live keys what they must refuse")
    number = 0
    for row in rows:
        found = _of_key(parts, row)
        if found is not None:
            number += 1
            yield found
    progress.done(f"live keys tried: {number}")


def live(parts: Parts) -> Iterator[Enrollment]:
    """Yield the enrollments of the settings' environment whose keys are in this token, in order of their IDs."""
    here, environment = parts.token.identity().digest, parts.settings.environment
    states = frozenset(State) - {State.PREPARED, State.DESTROYED}
    rows = parts.journal.every(states=states)
    return (row for row in rows if row.token == here and row.environment is environment)


def _of_key(parts: Parts, row: Enrollment) -> Probed | None:
    """Probe one live key; ``None`` if it is not there, and need not be."""
    try:
        made = tried(parts, row)
    except KeyNotFound as exc:
        if row.state in KEY_GONE:
            return None
        _call(parts, row, exc)
        return Probed(row, None, exc)
    error = unfit(made, row)
    if error is not None:
        _call(parts, row, error)
    return Probed(row, made, error)


def _call(parts: Parts, row: Enrollment | None, error: TokenError) -> None:
    """Run the hooks of ``attention``. They are about an enrollment, so an empty token has none to be told of."""
    if row is not None:
        hooks.queue(parts, row, HookEvent.ATTENTION, facts.problem(error))
        hooks.run_due(parts, enrollment=row.id)
