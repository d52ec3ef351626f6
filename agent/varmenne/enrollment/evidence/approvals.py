"""Destroying keys takes two: a person approves it here, and who destroys a key asks here whether enough have.

The names are those that the journal writes of everybody: the login name that the kernel keeps through ``sudo``, and the
host. Where all share one account on one host, they cannot be told apart, and nothing is destroyed.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from varmenne.domain import approvals
from varmenne.domain.approvals import ACT, DESTROYABLE, NEEDED, Approval, Purpose, names, told_days
from varmenne.domain.audit import fingerprint
from varmenne.domain.steps import State
from varmenne.errors import InputError, NotFinished, PersonNeeded, StateError
from varmenne.journal.log import ours
from varmenne.journal.owner import in_container, this_host, this_person

if TYPE_CHECKING:
    from collections.abc import Iterator

    from varmenne.domain.concerns import Concern
    from varmenne.domain.enrollment import Enrollment
    from varmenne.enrollment.parts import Parts

BETWEEN_LOOKS = timedelta(days=1)
"""How often the agent looks again at a key that waits for its policy to be approved."""


def approve_key(parts: Parts, row: Enrollment) -> tuple[Approval, ...]:
    """Record that whoever runs this approves of destroying a key, unless that stands already; return all approvals.

    Raises:
        JournalError: it could not be recorded.
    """
    if _me() not in {one.by for one in of_key(parts, row)}:
        parts.journal.log.record(ACT, parts.now, row=row, purpose=Purpose.KEY.value, by=_me())
        parts.journal.log.grew = True
    return of_key(parts, row)


def approve_policy(parts: Parts) -> tuple[Approval, ...]:
    """Record that whoever runs this approves of the standing policy in force, unless that stands already.

    Returns:
        All approvals of it.

    Raises:
        StateError: the settings have none.
        JournalError: it could not be recorded.
    """
    days = parts.settings.renewal.destroy_after_days
    if days is None:
        raise StateError(
            "There is no policy to approve",
            why="without the setting renewal.destroy_after_days, no key is destroyed by itself",
            next_step="To destroy one key: varmenne retire ID --destroy",
        )
    if _me() not in {one.by for one in of_policy(parts)}:
        detail = {"purpose": Purpose.POLICY.value, "destroy_after_days": told_days(days), "by": _me()}
        parts.journal.log.add(ours(ACT, parts.now, environment=parts.settings.environment, detail=detail))
        parts.journal.log.grew = True
    return of_policy(parts)


def of_key(parts: Parts, row: Enrollment) -> tuple[Approval, ...]:
    """Return the approvals of destroying a key that count now.

    Raises:
        InputError: the enrollment has no key.
    """
    if row.public_key is None:
        raise InputError(f"Enrollment {row.id} has no key")
    records = (body for _index, body in parts.journal.log.of(row.id))
    return approvals.of_key(records, fingerprint(row.public_key), parts.now)


def of_policy(parts: Parts) -> tuple[Approval, ...]:
    """Return the approvals of the standing policy in force."""
    settings = parts.settings
    days = settings.renewal.destroy_after_days
    return approvals.of_policy(parts.journal.log.acts(ACT), settings.environment, days)


def approvers(parts: Parts, row: Enrollment, *, by_order: bool) -> list[str]:
    """Return who has approved that a key is destroyed now.

    Args:
        parts: the parts.
        row: the enrollment of the key.
        by_order: a person destroys it; otherwise the agent does, by the standing policy.

    Raises:
        PersonNeeded: a person destroys it, and another one must approve.
        NotFinished: the agent does, and the policy in force was not approved by two; it is looked at again.
    """
    given = of_key(parts, row) if by_order else of_policy(parts)
    if len(given) >= NEEDED:
        return [one.by for one in given]
    if by_order:
        raise _needs_another(row, given)
    policy = parts.settings.renewal.destroy_after_days
    raise NotFinished(
        f"The key of enrollment {row.id} stays retired",
        why="no setting says that it is destroyed any more"
        if policy is None
        else f"destroying after {told_days(policy)} days has the approval of {names(given) or 'nobody'}, and needs two",
        next_step="" if policy is None else "Two persons, each: varmenne audit approve --policy",
        due_at=None if policy is None else parts.now + BETWEEN_LOOKS,
    )


def told(parts: Parts, row: Enrollment) -> list[dict[str, Any]]:
    """Return who has approved that a key is destroyed, or had when it was, for programs.

    Returns:
        A document for each with ``by`` and, while it waits, ``at`` and ``until``.
    """
    if row.state in DESTROYABLE and row.public_key is not None:
        return [{"by": one.by, "at": one.at, "until": one.until} for one in of_key(parts, row)]
    if row.state is not State.DESTROYED:
        return []
    last = next(event for event in reversed(parts.journal.history(row.id)) if event.target is State.DESTROYED)
    return [{"by": name, "at": None, "until": None} for name in last.detail.get("approvals", ())]


def awaited(parts: Parts) -> Iterator[Concern]:
    """Yield what waits for somebody's approval."""
    log, settings = parts.journal.log, parts.settings
    yield from approvals.awaited(
        log.acts_on_keys(ACT, DESTROYABLE),
        log.acts(ACT),
        settings.environment,
        settings.renewal.destroy_after_days,
        parts.now,
    )


def _needs_another(row: Enrollment, given: tuple[Approval, ...]) -> PersonNeeded:
    """Make the error for a key that waits for another person's approval."""
    until = min((one.until for one in given if one.until is not None), default=None)
    return PersonNeeded(
        f"The key of enrollment {row.id} is not destroyed yet: another person must approve",
        why=f"approved by {names(given)}" + (f", until {until:%Y-%m-%d}" if until else "") if given else "nobody has",
        next_step=f"Another person: varmenne retire {row.id} --destroy. Where the token is out of reach: "
        f"varmenne audit approve {row.id}",
    )


def _me() -> str:
    """Name whoever runs this. The name of a container's host tells nobody apart, since anyone can choose it."""
    return f"{this_person()}@{'container' if in_container() else this_host()}"
