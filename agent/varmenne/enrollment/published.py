"""Compares what is published with the journal, and publishes again what Vault has lost.

A Vault that is restored from a snapshot brings older records back and takes newer ones away, and nobody is told. The
journal knows which version it made last: a record that is older, or a version number that went down, is an alarm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from varmenne.domain.check import Check, Verdict
from varmenne.domain.forms import iso
from varmenne.domain.steps import State
from varmenne.enrollment import facts
from varmenne.vault.record import index_strings

if TYPE_CHECKING:
    from varmenne.domain.enrollment import Enrollment
    from varmenne.enrollment.parts import Parts
    from varmenne.enrollment.progress import Progress
    from varmenne.vault import Published

MOST_LOOKED_AT = 500
"""Active enrollments that a check-up looks up in Vault; each costs one read of a few milliseconds."""

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Behind:
    """An active enrollment whose record in Vault is not what the journal says.

    Attributes:
        row: the enrollment.
        why: how they differ, in words.
        repairable: whether publishing again puts it right; not if a later certificate of somebody else is there.
    """

    row: Enrollment
    why: str
    repairable: bool = True


def behind(parts: Parts, row: Enrollment) -> Behind | None:
    """Compare the record of an active enrollment with the journal; ``None`` if they agree.

    Raises:
        VaultError: Vault cannot be asked.
    """
    return compared(row, parts.store.read(facts.place(parts.settings, row.customer_id, row.channel)))


def compared(row: Enrollment, found: Published | None) -> Behind | None:
    """Compare what was read as an active enrollment's record with the journal; ``None`` if they agree."""
    if found is None:
        return Behind(row, "its record is gone")
    record, known = found.data, row.vault_version or 0
    begin = None if row.not_before is None else iso(row.not_before)
    if record.get("enrollment") != row.id:
        theirs = f"version {found.version} is of enrollment {record.get('enrollment')}"
        later = isinstance(record.get("not_before"), str) and begin is not None and record["not_before"] > begin
        return Behind(row, f"{theirs}, which begins {'later' if later else 'earlier'}", repairable=not later)
    if record.get("serial_number") != row.serial_number:
        return Behind(row, f"version {found.version} has another certificate", repairable=False)
    if found.version < known:
        return Behind(row, f"the version went down from {known} to {found.version}")
    return None


def compare(parts: Parts) -> Iterator[Check]:
    """Yield one check on whether Vault still has what was published."""
    rows = list(islice(_active(parts), MOST_LOOKED_AT))
    found = [one for row in rows if (one := behind(parts, row)) is not None]
    if not found:
        yield Check("published records", Verdict.OK, f"{len(rows)} in Vault, as the journal says")
        return
    told = "; ".join(f"{one.row.id}: {one.why}" for one in found[:SHOWN]) + ("; …" if len(found) > SHOWN else "")
    yield Check(
        "published records",
        Verdict.FAIL,
        f"ALARM: Vault went back, or was changed by somebody else: {told}",
        "Find out whether Vault was restored from a snapshot. If so: varmenne vault republish",
    )


def republish(parts: Parts, progress: Progress) -> list[Enrollment]:
    """Publish again whatever Vault has lost of the active enrollments, and return those.

    A later certificate of somebody else is left alone, with a warning.

    Raises:
        VaultError: Vault refuses; what was published before that stays so.
        JournalError: the journal cannot be written.
    """
    done = []
    for row in list(_active(parts)):
        found = behind(parts, row)
        if found is None:
            continue
        if not found.repairable:
            progress.warns(f"{row.id} is left alone: {found.why}")
            continue
        progress.begins(f"Publish {row.id} again, since {found.why}")
        record = facts.record(row)
        place = facts.place(parts.settings, row.customer_id, row.channel)
        tags = index_strings(record)
        parts.store.publish(place.generation(row.generation), record, operation=row.id, custom_metadata=tags)
        version = parts.store.publish(place, record, operation=row.id, custom_metadata=tags)
        done.append(
            parts.journal.commit(
                row,
                parts.now,
                row.state,
                step="republish",
                changes={"vault_path": place.path, "vault_version": version},
                detail={"why": found.why, "vault_path": place.path, "vault_version": version},
            )
        )
        progress.done(f"version {version}")
    return done


def _active(parts: Parts) -> Iterator[Enrollment]:
    """Yield the active enrollments of the settings' environment."""
    rows = parts.journal.every(states=frozenset({State.ACTIVE}))
    return (row for row in rows if row.environment is parts.settings.environment)
