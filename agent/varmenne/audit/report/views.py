"""What the page shows of an inventory: sorted, grouped, and bounded so that a page stays readable. Values only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import count

from varmenne.audit.inventory import Custody, Finding, Inventory, Key
from varmenne.domain.key_states import KeyState

MOST_ROWS = 1000
"""Keys in the table of the page; beyond that, those that need a person come first, and the rest is in the files."""

MOST_TIMELINES = 200
"""Keys whose time line is on the page."""

MOST_DATES = 200
MOST_FINDINGS = 20
"""Exceptions of one kind that are named on the page; the others are counted."""

MOST_GROUPS = 12
"""Groups of keys with equal attributes that are beside each other in the matrix."""

MOST_NAMED = 60
"""Keys of a group that are named."""

OPEN_UP_TO = 3
"""So many time lines stand open; more are folded."""


@dataclass(frozen=True, slots=True)
class Group:
    """Exceptions of one kind. ``next_step``: what to do about them, where that is the same for all."""

    kind: str
    needs_person: bool
    number: int
    next_step: str
    shown: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """One part of the chart of states, in thousandths of its width."""

    state: KeyState
    number: int
    x: int
    width: int


@dataclass(frozen=True, slots=True)
class Due:
    """One date of one key: ``what`` is a key of the texts, ``past`` tells that it is over."""

    at: datetime
    what: str
    key: Key
    past: bool


@dataclass(frozen=True, slots=True)
class CustodyGroup:
    """Keys of which the token said the same."""

    letter: str
    custody: Custody
    number: int
    shown: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """All that the page shows."""

    inventory: Inventory
    groups: tuple[Group, ...]
    bars: tuple[Bar, ...]
    rows: tuple[Key, ...]
    timelines: tuple[Key, ...]
    custody: tuple[CustodyGroup, ...]
    custody_groups: int
    attributes: tuple[str, ...]
    dates: tuple[Due, ...]
    dates_number: int
    software_keys: int
    next_end: datetime | None
    next_order: datetime | None


def page(inventory: Inventory) -> Page:
    """Return what the page shows of an inventory."""
    urgent = {finding.subject for finding in inventory.findings if finding.needs_person}
    rows = sorted(
        inventory.keys,
        key=lambda key: (key.enrollment not in urgent, key.customer_id, key.channel, -key.generation, key.enrollment),
    )
    dates = sorted(_dates(inventory), key=lambda due: (due.at, due.key.enrollment, due.what))
    groups = _custody(inventory)
    active = [key for key in inventory.keys if key.key_state is KeyState.ACTIVE and not key.in_grace]
    software = {token.identity for token in inventory.tokens if token.software}
    return Page(
        inventory=inventory,
        groups=tuple(_groups(inventory)),
        bars=tuple(_bars(inventory.counts())),
        rows=tuple(rows[:MOST_ROWS]),
        timelines=tuple(rows[:MOST_TIMELINES]),
        custody=groups[:MOST_GROUPS],
        custody_groups=len(groups),
        attributes=tuple(sorted({name for group in groups[:MOST_GROUPS] for name, _value in group.custody.attributes})),
        dates=tuple(dates[:MOST_DATES]),
        dates_number=len(dates),
        software_keys=sum(
            key.custody is not None and key.custody.token in software and key.key_state is not KeyState.DESTROYED
            for key in inventory.keys
        ),
        next_end=min((key.certificate.not_after for key in active if key.certificate), default=None),
        next_order=min((key.dates.order_by for key in active if key.dates.order_by), default=None),
    )


def _groups(inventory: Inventory) -> Iterator[Group]:
    """Yield the exceptions by kind, in the order that they have."""
    found: defaultdict[str, list[Finding]] = defaultdict(list)
    for finding in inventory.findings:
        found[finding.kind].append(finding)
    for kind, findings in found.items():
        steps = {one.next_step for one in findings}
        next_step = steps.pop() if len(steps) == 1 else ""
        yield Group(kind, findings[0].needs_person, len(findings), next_step, tuple(findings[:MOST_FINDINGS]))


def _bars(counts: dict[KeyState, int]) -> Iterator[Bar]:
    """Yield the parts of the chart; the last ends where the chart does."""
    total, seen = sum(counts.values()), 0
    for state, number in counts.items():
        if number:
            x = seen * 1000 // total
            seen += number
            yield Bar(state, number, x, seen * 1000 // total - x)


def _dates(inventory: Inventory) -> Iterator[Due]:
    """Yield what lies before each key."""
    for key in inventory.keys:
        in_use = key.key_state is KeyState.ACTIVE
        for what, at in (
            ("date.credentials", key.dates.credentials_until),
            ("date.renewal", key.dates.renewal_opens),
            ("date.order", key.dates.order_by),
            ("date.end", key.certificate.not_after if key.certificate and in_use else None),
            ("date.retire", key.dates.retired_at),
        ):
            if at is not None:
                yield Due(at, what, key, past=at <= inventory.made_at)


def _custody(inventory: Inventory) -> tuple[CustodyGroup, ...]:
    """Return the keys in groups of which the token said the same, the largest first."""
    found: defaultdict[Custody, list[Key]] = defaultdict(list)
    for key in inventory.keys:
        if key.custody is not None:
            found[key.custody].append(key)
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[1][0].enrollment))
    return tuple(
        CustodyGroup(_letter(number), custody, len(keys), tuple(keys[:MOST_NAMED]))
        for number, (custody, keys) in zip(count(), ordered)
    )


def _letter(number: int) -> str:
    """Name a group: A to Z, then AA and so on."""
    name = ""
    while number >= 0:
        name = chr(ord("A") + number % 26) + name
        number = number // 26 - 1
    return name
