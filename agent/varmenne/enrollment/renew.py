"""The use cases of a certificate's later life that a person orders: renew it, put a generation to use, retire one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from varmenne.domain.approvals import DESTROYABLE
from varmenne.domain.calendar import RENEWAL_WINDOW
from varmenne.domain.check import Check, Verdict
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.steps import State
from varmenne.enrollment import facts
from varmenne.enrollment.engine import Engine
from varmenne.enrollment.evidence import approvals
from varmenne.enrollment.preflight import prove_token, refuse_key_elsewhere
from varmenne.enrollment.rehearsal import rehearse as rehearsal
from varmenne.enrollment.rehearsal import told
from varmenne.enrollment.upkeep import begin, next_due, refuse_not_in_use, under_way
from varmenne.enrollment.work import Work
from varmenne.errors import InputError, KeyNotFound, StateError, TokenError, VarmenneError, VaultUnavailable

if TYPE_CHECKING:
    from varmenne.enrollment.parts import Parts
    from varmenne.enrollment.progress import Progress


def renew(parts: Parts, progress: Progress, row: Enrollment, *, wait: timedelta) -> Enrollment:
    """Renew a certificate: a new key, a request signed by the key in use, and the way of any certificate from there.

    If its renewal is under way already, that one goes on: there are never two of one certificate.

    Args:
        parts: the parts.
        progress: hears what happens.
        row: the certificate in use.
        wait: how long to wait for the service.

    Returns:
        The renewal, as far as it came.

    Raises:
        StateError: the certificate is not in use, has expired, or cannot be renewed yet.
        VarmenneError: whatever failed on the way; the journal tells how far it came.
    """
    facts.refuse_other_environment(parts.settings, row)
    refuse_not_in_use(row)
    open_one = next(filter(under_way, parts.journal.renewals(row.id)), None)
    if open_one is None:
        _refuse_too_early(parts, row)
        progress.begins("Check the token")
        progress.done(f"{prove_token(parts, progress).label} lets no key out")
        open_one = begin(parts, row)
    progress.reached(open_one)
    return Engine(Work(parts, warn=progress.warns), progress).walk(open_one, until=parts.now + wait)


def _refuse_too_early(parts: Parts, row: Enrollment) -> None:
    """Refuse to ask for what the service would refuse."""
    if row.state is State.ACTIVE and row.not_after is not None and row.not_after - RENEWAL_WINDOW > parts.now:
        raise StateError(
            f"It is too early to renew the certificate of enrollment {row.id}",
            why=f"it is valid until {row.not_after:%Y-%m-%d}; the service takes renewals from 60 days before that",
            next_step=f"From {row.not_after - RENEWAL_WINDOW:%Y-%m-%d} on, the agent renews it (`varmenne run`), or "
            f"you do. To see today whether it would succeed: varmenne rehearse {row.id}",
        )


def rehearse(parts: Parts, progress: Progress, row: Enrollment) -> list[Check]:
    """Try all that the renewal of a certificate will need, with the live key, and keep what was found.

    Raises:
        StateError: the certificate is not in use, or has expired.
    """
    facts.refuse_other_environment(parts.settings, row)
    if row.state is not State.ACTIVE:
        raise StateError(
            f"The renewal of enrollment {row.id} cannot be rehearsed",
            why=f"it is {row.state}; only the certificate in use is renewed",
            next_step="`varmenne list --state active` shows those in use",
        )
    if row.not_after is None or row.not_after <= parts.now:
        raise facts.certificate_expired(row)
    with contextlib.suppress(TokenError):  # A token that does not answer is told by the rehearsal.
        refuse_key_elsewhere(parts, row)
    progress.begins(f"Rehearse the renewal of enrollment {row.id}")
    found = list(rehearsal(parts, row))
    result = told(parts, found)
    parts.journal.commit(
        row,
        parts.now,
        row.state,
        step="rehearse",
        changes={
            "rehearsal": result,
            "due_at": next_due(parts, row, row.state),
            **({"problem": None} if result["ok"] else {}),
        },
        detail=result,
    )
    if all(check.verdict is Verdict.OK for check in found):
        progress.done("it would succeed today; nothing was sent")
    return found


def activate(parts: Parts, progress: Progress, row: Enrollment, *, generation: int | None = None) -> Enrollment:
    """Put a certificate to use now: a renewed one that waits for its time, or an earlier one that is still valid.

    Args:
        parts: the parts.
        progress: hears what happens.
        row: an enrollment of the customer's channel.
        generation: which generation; ``None`` for that of ``row`` itself.

    Raises:
        InputError: there is no such generation.
        StateError: it is not ready, in use already, over, or its key was retired.
        KeyNotFound: its key is not in the token any more.
        VarmenneError: it could not be published.
    """
    facts.refuse_other_environment(parts.settings, row)
    wanted = row
    if generation is not None and generation != row.generation:
        found = parts.journal.generation(row.environment, row.customer_id, row.channel, generation)
        if found is None:
            raise InputError(
                f"Customer {row.customer_id} has no generation {generation} for {row.channel}",
                next_step=f"`varmenne list --customer-id {row.customer_id}` shows those that there are",
            )
        wanted = found
    _refuse_unusable(parts, wanted)
    progress.reached(wanted)
    engine = Engine(Work(parts, warn=progress.warns, at_once=True), progress)
    if wanted.state is State.SUPERSEDED:
        with _withdrawn_on_failure(parts, wanted):
            return engine.order(wanted, State.STORED, changes={}, until=parts.now, act="put back")
    return engine.walk(wanted, until=parts.now)


@contextlib.contextmanager
def _withdrawn_on_failure(parts: Parts, row: Enrollment) -> Iterator[None]:
    """Let an order to go back lapse if it fails, lest it be carried out at another time than it was meant for.

    If nobody knows whether Vault has done it, it stays ordered, and is finished when Vault answers.
    """
    try:
        yield
    except VaultUnavailable:
        raise
    except VarmenneError:
        now = parts.journal.get(row.id)
        if now.state is State.STORED:
            due = next_due(parts, now, State.SUPERSEDED)
            changes = {"due_at": due, "owner": None}
            parts.journal.commit(now, parts.now, State.SUPERSEDED, step="withdraw", changes=changes)
        raise


def _refuse_unusable(parts: Parts, row: Enrollment) -> None:
    """Refuse to put a certificate to use that nobody could use."""
    if row.state is State.ACTIVE:
        raise StateError(
            f"Generation {row.generation}, enrollment {row.id}, is the current one already",
            next_step=f"Nothing is to be done. Others: `varmenne list --customer-id {row.customer_id}`",
        )
    if row.state not in {State.STORED, State.SUPERSEDED}:
        raise StateError(
            f"Generation {row.generation}, enrollment {row.id}, cannot be put to use",
            why=f"it is {row.state}",
            next_step=f"varmenne show {row.id}",
        )
    if row.not_after is None or row.not_after <= parts.now:
        raise StateError(
            f"Generation {row.generation}, enrollment {row.id}, cannot be put to use",
            why=f"its certificate expired on {row.not_after:%Y-%m-%d %H:%M} UTC" if row.not_after else "it has none",
        )
    key = parts.token.find(row.key_id)
    if key is None or key.public_key != row.public_key:
        raise KeyNotFound(
            f"The key of generation {row.generation}, enrollment {row.id}, is not in the token",
            next_step="Nothing was changed. `varmenne doctor` shows what is in the token",
        )


def retire(parts: Parts, progress: Progress, row: Enrollment, *, destroy: bool = False) -> Enrollment:
    """Retire a replaced certificate's key before its grace is over.

    With ``destroy``, whoever runs this approves that it is destroyed in the token; it is, if another person has, too.

    Raises:
        StateError: it is in use, or was never.
        PersonNeeded: to destroy it, another person must approve.
        VarmenneError: the token did not do it.
    """
    facts.refuse_other_environment(parts.settings, row)
    refuse_not_replaced(row, destroy=destroy)
    engine = Engine(Work(parts, warn=progress.warns, at_once=True), progress)
    if row.state is State.SUPERSEDED:
        row = engine.upkeep(row)
    if not destroy:
        return row
    refuse_key_elsewhere(parts, row)
    approvals.approve_key(parts, row)
    approvals.approvers(parts, row, by_order=True)
    return engine.upkeep(row)


NOT_RETIRED = {
    State.ACTIVE: "It is in use: renew it, or put another one in its place first",
    State.RETIRED: "It is retired already; to destroy its key: varmenne retire {} --destroy",
    State.DESTROYED: "Nothing is left to be done: its key is gone",
}
"""What to do where a key is not to be retired, by the state of its enrollment."""


def refuse_not_replaced(row: Enrollment, *, destroy: bool = False) -> None:
    """Refuse to retire or destroy a key unless its certificate was replaced.

    Raises:
        StateError: it is in use, or was never.
    """
    if row.state in (DESTROYABLE if destroy else {State.SUPERSEDED}):
        return
    raise StateError(
        f"The key of enrollment {row.id} cannot be {'destroyed' if destroy else 'retired'}",
        why=f"it is {row.state}",
        next_step=NOT_RETIRED.get(row.state, "varmenne show {}").format(row.id),
    )
