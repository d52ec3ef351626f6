"""Destroying a key takes the approval of two: who has approved what, read from the records of the audit log. No I/O.

An approval of one key holds for that key alone, and for a month. One of the standing policy, by which the agent
destroys retired keys, holds for the very number of days that was in force, and for as long as it is.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from varmenne.domain.concerns import Concern, Reason
from varmenne.domain.identifiers import EnrollmentId
from varmenne.domain.steps import State

ACT = "approve"
"""The act of such records."""

NEEDED = 2
"""So many must approve, each under another name or on another host."""

LIFETIME = timedelta(days=30)
"""For so long the approval of one key counts."""

DESTROYABLE = frozenset({State.SUPERSEDED, State.RETIRED})
"""States of enrollments whose keys may be destroyed."""


class Purpose(StrEnum):
    """What is approved."""

    KEY = "destroy"
    """That this key is destroyed."""
    POLICY = "destroy by policy"
    """That the agent destroys every key so many days after it was retired."""


@dataclass(frozen=True, slots=True)
class Approval:
    """Somebody's approval.

    Attributes:
        by: login name and host, joined by ``@``; all containers count as one host.
        at: when it was given.
        until: until when it counts; ``None``: as long as the policy is what was approved.
    """

    by: str
    at: datetime
    until: datetime | None

    def counts(self, now: datetime) -> bool:
        """Tell whether it still counts."""
        return self.until is None or self.until > now


def of_key(records: Iterable[bytes], public_key: str, now: datetime) -> tuple[Approval, ...]:
    """Return the approvals of destroying a key that count, one for each person, oldest first.

    Args:
        records: those of the key's enrollment, oldest first.
        public_key: SHA-256 of the key's SubjectPublicKeyInfo, in hexadecimal.
        now: the present moment.
    """
    found: dict[str, Approval] = {}
    for record in map(json.loads, records):
        if record["target"] == State.DESTROYED:
            found.clear()  # They were used.
        elif _is(record, Purpose.KEY) and record["public_key"] == public_key:
            approval = _approval(record, LIFETIME)
            found[approval.by] = approval
    return tuple(one for one in found.values() if one.counts(now))


def of_policy(records: Iterable[bytes], environment: str, days: float | None) -> tuple[Approval, ...]:
    """Return the approvals of the standing policy, one for each person, oldest first; none without a policy.

    Args:
        records: those of approvals that are about no enrollment.
        environment: that of the settings.
        days: the policy in force: so many days after its retirement a key is destroyed.
    """
    if days is None:
        return ()
    found: dict[str, Approval] = {}
    for record in map(json.loads, records):
        same = record["environment"] == environment and record["detail"].get("destroy_after_days") == told_days(days)
        if _is(record, Purpose.POLICY) and same:
            approval = _approval(record, None)
            found.setdefault(approval.by, approval)
    return tuple(found.values())


def told_days(days: float) -> str:
    """Write a number of days: every digit of it, since a record holds no fraction but as text."""
    return repr(float(days)).removesuffix(".0")


def names(approvals: Iterable[Approval]) -> str:
    """Return who approved, for a sentence."""
    return " and ".join(one.by for one in approvals)


def awaited(
    keys: Iterable[bytes], policies: Iterable[bytes], environment: str, days: float | None, now: datetime
) -> Iterator[Concern]:
    """Yield what waits for another person's approval, or for being done now that two have approved.

    Args:
        keys: records of approvals of keys that may still be destroyed.
        policies: those of approvals that are about no enrollment.
        environment: that of the settings.
        days: the policy in force, if there is one.
        now: the present moment.
    """
    by_key: dict[tuple[str, str], list[bytes]] = defaultdict(list)
    for body in keys:
        record = json.loads(body)
        if record["environment"] == environment:
            by_key[record["enrollment"], record["public_key"]].append(body)
    for (enrollment, public_key), records in sorted(by_key.items()):
        given = of_key(records, public_key, now)
        if given:
            yield _about_key(EnrollmentId(enrollment), given)
    given = of_policy(policies, environment, days)
    if days is not None and len(given) < NEEDED:
        so_far = f"only {names(given)} has" if given else "nobody has"
        yield Concern(
            Reason.APPROVAL,
            f"retired keys are to be destroyed after {told_days(days)} days, which two must approve; {so_far}",
            f"{'Another person' if given else 'Two persons, each'}: varmenne audit approve --policy",
        )


def _about_key(enrollment: EnrollmentId, given: tuple[Approval, ...]) -> Concern:
    """Tell of a key that somebody wants destroyed."""
    until = min(one.until for one in given if one.until is not None)
    told = f"destroying its key was approved by {names(given)}, until {until:%Y-%m-%d}"
    command = f"varmenne retire {enrollment} --destroy"
    if len(given) >= NEEDED:
        return Concern(Reason.APPROVAL, f"{told}; it is still there", command, enrollment, at=until)
    return Concern(Reason.APPROVAL, f"{told}; another must", f"Another person: {command}", enrollment, at=until)


def _is(record: dict[str, Any], purpose: Purpose) -> bool:
    """Tell whether a record is an approval of a kind."""
    return bool(record["act"] == ACT and record["detail"].get("purpose") == purpose)


def _approval(record: dict[str, Any], lifetime: timedelta | None) -> Approval:
    """Return what a record says."""
    at = datetime.fromisoformat(record["at"])
    return Approval(str(record["detail"].get("by")), at, None if lifetime is None else at + lifetime)
