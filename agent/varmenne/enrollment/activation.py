"""The act that makes a certificate the current one, and all that may stand in its way."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from varmenne.domain import calendar
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import EnrollmentId
from varmenne.domain.steps import Method, State
from varmenne.enrollment import facts, hooks
from varmenne.enrollment.work import Outcome, Work
from varmenne.errors import StateError
from varmenne.vault.record import index_strings

if TYPE_CHECKING:
    from varmenne.enrollment.parts import Parts


def activate(work: Work, row: Enrollment) -> Outcome:
    """Publish it as the current certificate of its customer and channel; the engine supersedes the one before it.

    Where another one is in use and valid, that waits until the far end takes the new one, and for a window. An earlier
    generation that was put back by order, and has expired before that could be done, stays superseded.
    """
    now = work.parts.now
    put_back = row.vault_version is not None
    if row.not_after is not None and row.not_after <= now:
        return Outcome(State.SUPERSEDED if put_back else row.state, error=facts.certificate_expired(row))
    in_use = [
        old for old in work.parts.journal.current(row.environment, row.customer_id, row.channel) if old.id != row.id
    ]
    if row.method is Method.RENEWAL and not put_back:
        _refuse_pushed_aside(work, row, in_use)
    due = now if work.at_once or put_back else _activation(work, row, in_use, now)
    if due > now:
        told = f"it is put to use from {due:%Y-%m-%d %H:%M} UTC; at once: varmenne activate {row.id}"
        return Outcome(row.state, told=told, wait=due - now)
    hooks.before_activation(work, row)
    location = facts.place(work.parts.settings, row.customer_id, row.channel)
    record = facts.record(row)
    version = work.parts.store.publish(
        location,
        record,
        operation=facts.publication(row),
        custom_metadata=index_strings(record),
        expected_version=max((old.vault_version or 0 for old in in_use), default=0),
        older=put_back,
    )
    return Outcome(
        State.ACTIVE,
        changes={"vault_path": location.path, "vault_version": version},
        detail={"vault_path": location.path, "vault_version": version},
        told=f"it is the current certificate, in Vault at {location.path}, version {version}",
    )


def stranger(parts: Parts, row: Enrollment) -> str | None:
    """Return the enrollment that Vault has as the current one, if this journal does not know it.

    Raises:
        VaultError: Vault cannot be asked.
    """
    published = parts.store.read(facts.place(parts.settings, row.customer_id, row.channel))
    theirs = None if published is None else published.data.get("enrollment")
    unknown = isinstance(theirs, str) and not facts.known(parts.journal, EnrollmentId(theirs))
    return theirs if unknown else None


def _refuse_pushed_aside(work: Work, row: Enrollment, in_use: list[Enrollment]) -> None:
    """Refuse to let a renewal take the place of another certificate than the one that it renews."""
    why = ""
    if in_use and row.replaces not in {old.id for old in in_use}:
        why = f"enrollment {in_use[0].id} is in use by now"
    elif (theirs := stranger(work.parts, row)) is not None:
        why = f"Vault has that of enrollment {theirs}, of another installation"
    if why:
        raise StateError(
            f"The certificate that {row.id} renews is not in use any more",
            why=why,
            next_step=f"If the renewed one is not wanted either: varmenne resolve {row.id} --abandon",
        )


def _activation(work: Work, row: Enrollment, in_use: list[Enrollment], now: datetime) -> datetime:
    """Return when a certificate takes the place of the one in use: before that one ends, whatever else is wished."""
    settings = work.parts.settings.renewal
    last = max((old.not_after for old in in_use if old.not_after is not None), default=now)
    wished = max(now, row.usable_from or now)
    windows = calendar.windows(settings.activation_windows)
    if row.method is Method.RENEWAL and windows:
        wished = calendar.next_opening(windows, calendar.zone(settings.time_zone), wished)
    return min(wished, last - calendar.LAST_MOMENT)
