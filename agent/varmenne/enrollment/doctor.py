"""The check-up: each part is tried, nothing is changed and nothing is spent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from varmenne.domain.check import Check, Verdict
from varmenne.domain.identifiers import Channel, CustomerId
from varmenne.domain.steps import State
from varmenne.enrollment import executables, facts
from varmenne.enrollment.enroll import LAST_DAYS, unfinished
from varmenne.enrollment.preflight import PROBE_LIFETIME, probe_name, refuse_other_token, unfit_keys
from varmenne.enrollment.published import compare
from varmenne.enrollment.reconcile import reconcile
from varmenne.errors import VarmenneError
from varmenne.service.trust_check import check_trust
from varmenne.service.trust_store import TrustStore

if TYPE_CHECKING:
    from varmenne.enrollment.parts import Parts

SHOWN = 5
"""Unfinished enrollments that are named one by one."""

CLOCK_TOLERANCE = timedelta(minutes=3)
NO_CUSTOMER = CustomerId("doctor")
"""Stands for a customer in the path whose rights are asked for; nothing is written there."""


def check_up(parts: Parts) -> Iterator[Check]:
    """Try every part and yield what was found, one check at a time."""
    for name, check in CHECKS.items():
        try:
            yield from check(parts)
        except VarmenneError as exc:
            yield Check(name, Verdict.FAIL, str(exc), exc.next_step)


def _journal(parts: Parts) -> Iterator[Check]:
    """Can the journal be written, is it sound, and are its files private?"""
    parts.journal.check()
    yield Check("journal", Verdict.OK, parts.journal.name)
    yield from parts.journal.inspect()
    waiting = unfinished(parts)
    for row in waiting[:SHOWN]:
        if row.state is State.UNCERTAIN:
            yield Check("needs a decision", Verdict.WARN, f"{row.id} is uncertain", f"varmenne resolve {row.id}")
            continue
        told = f"{row.id} is {row.state}"
        if row.sent_at is None and row.valid_until is not None and row.valid_until - parts.now < LAST_DAYS:
            told += f"; its credentials end on {row.valid_until:%Y-%m-%d %H:%M} UTC"
        yield Check("unfinished work", Verdict.WARN, told, f"varmenne resume {row.id}")
    if len(waiting) > SHOWN:
        yield Check("unfinished work", Verdict.WARN, f"{len(waiting) - SHOWN} more", "varmenne list")


def _trust(parts: Parts) -> Iterator[Check]:
    """Are there anchors for both purposes, why are they believed, and how long do they last?"""
    return check_trust(TrustStore(parts.settings.trust_dir, parts.settings.environment), parts.now)


def _token(parts: Parts) -> Iterator[Check]:
    """Is the token there, does it take the PIN, and is it the one that holds our keys?"""
    status = parts.token.status()
    identity = status.identity
    told = f"{identity.label}, serial {identity.serial or '-'}, {identity.manufacturer} {identity.model}".strip()
    yield Check("token", Verdict.OK, f"{told}, firmware {identity.firmware}, slot {status.slot}")
    parts.token.login()
    yield Check("PIN", Verdict.OK, f"accepted, from {parts.settings.token.pin.partition(':')[0]}")
    refuse_other_token(parts)
    yield from reconcile(parts)
    stands = parts.journal.latest_probe(probe_name(parts, identity))
    if stands is None:
        yield Check("custody", Verdict.WARN, "the token has not been probed yet", "The next enrollment does it first")
    elif not stands[1]:
        yield Check("custody", Verdict.FAIL, f"keys could leave the token (probed {stands[0]:%Y-%m-%d})", "Use another")
    else:
        old = parts.now - stands[0] > PROBE_LIFETIME
        yield Check("custody", Verdict.OK, f"no key could leave, probed {stands[0]:%Y-%m-%d}" + (", due again" * old))
    for row in unfit_keys(parts, identity):
        yield Check("custody", Verdict.FAIL, f"the key of {row.id} was found unfit", f"varmenne audit probe {row.id}")


def _service(parts: Parts) -> Iterator[Check]:
    """Does the service's TLS hold, and does its clock agree with ours?"""
    greeting = parts.service.endpoint.greet()
    yield Check(
        "service",
        Verdict.OK,
        f"{parts.service.endpoint.url}, {greeting.tls_version}, certificate of {greeting.subject} "
        f"until {greeting.not_after}",
    )
    their_time = greeting.time
    if their_time is not None:
        off = parts.now - their_time
        if abs(off) > CLOCK_TOLERANCE:
            yield Check("clock", Verdict.WARN, f"{off} away from the service's", "Set it, or let NTP do so")
        else:
            yield Check("clock", Verdict.OK, "agrees with the service's")


def _vault(parts: Parts) -> Iterator[Check]:
    """Is Vault there, does it let us in, have we the rights that are needed, and has it still what we published?"""
    customer = CustomerId(parts.settings.customer.id) if parts.settings.customer.id else NO_CUSTOMER
    found = parts.store.check(facts.place(parts.settings, customer, Channel.WS))
    yield from found
    if all(check.verdict is not Verdict.FAIL for check in found):
        yield from compare(parts)


def _hooks(parts: Parts) -> Iterator[Check]:
    """Can hooks be run, and is there none that somebody else could change?"""
    settings = parts.settings.hooks
    if not settings.directory:
        return
    executables.refuse_unusable(settings)
    found = list(executables.listed(settings))
    for one in found:
        if one.unsafe:
            yield Check("hooks", Verdict.FAIL, f"{one.event} {one.name} is not run: {one.unsafe}", executables.ADVICE)
    told = ", ".join(f"{one.event} {one.name}" for one in found if not (one.passed_over or one.unsafe))
    if told:
        yield Check("hooks", Verdict.OK, told)
    elif not found:
        yield Check("hooks", Verdict.WARN, f"there is none in {settings.directory}", "docs/hooks.md tells of them")


CHECKS: dict[str, Callable[[Parts], Iterator[Check]]] = {
    "journal": _journal,
    "trust anchors": _trust,
    "token": _token,
    "service": _service,
    "Vault": _vault,
    "hooks": _hooks,
}
"""Name of each part → its checks; the name stands for the whole part when it fails."""
