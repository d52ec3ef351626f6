"""Compares the token's keys with the journal's rows: what is in one and not in the other is told, never deleted.

A key of an enrollment that the journal does not know keeps everything from being sent: the journal may be older than
the token, and not know which credentials are spent. :mod:`varmenne.journal.witness` tells more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from varmenne.domain.check import Check, Verdict
from varmenne.domain.identifiers import EnrollmentId, enrollment_of_label
from varmenne.domain.steps import State
from varmenne.errors import JournalError

if TYPE_CHECKING:
    from varmenne.domain.enrollment import Enrollment
    from varmenne.enrollment.parts import Parts

SHOWN = 5
BRING_BACK = (
    "If the journal is older: bring the newest copy of it and of journal.sent, and run `varmenne journal restore FILE`"
)
KEY_GONE = frozenset({State.PREPARED, State.ABANDONED, State.RETIRED, State.DESTROYED, State.REJECTED, State.EXPIRED})
"""States in which a missing key is no loss: it was not made yet, or is not needed any more."""


def reconcile(parts: Parts) -> Iterator[Check]:
    """Yield one check for each kind of difference, or one that says that there is none."""
    keys = parts.token.keys()
    in_token = {bytes(key_id): label for key_id, label in keys}
    here = parts.token.identity().digest
    rows = {bytes(row.key_id): row for row in parts.journal.every() if row.token in {None, here}}
    labels = {row.key_label: row for row in rows.values()}
    differences = (
        (
            "rows without a key",
            [row.id for key_id, row in rows.items() if key_id not in in_token and row.state not in KEY_GONE],
            "The token has lost these keys, or is another one. Their certificates cannot be used: order new ones",
        ),
        (
            "strangers with our labels",
            [label for key_id, label in in_token.items() if label in labels and bytes(labels[label].key_id) != key_id],
            "Another key bears an enrollment's label. varmenne goes by CKA_ID; software that goes by label may err",
        ),
        (
            "keys that share a CKA_ID",
            [key_id.hex() for key_id, count in Counter(bytes(key_id) for key_id, _label in keys).items() if count > 1],
            "Nothing can tell such keys apart. Find out who made the second one",
        ),
        (
            "certificates stored half-way",
            [row.id for row in rows.values() if row.state is State.ISSUED],
            "varmenne resume --all",
        ),
    )
    told = [Check(name, Verdict.WARN, _named(found), next_step) for name, found, next_step in differences if found]
    try:
        refuse_older_journal(parts)
    except JournalError as exc:
        told.insert(0, Check("journal and token", Verdict.FAIL, str(exc), exc.next_step))
    yield from told or [Check("keys", Verdict.OK, f"{len(in_token)} in the token; token and journal agree")]


def without_row(parts: Parts) -> tuple[EnrollmentId, ...]:
    """Return the enrollments of which the token has a key and the journal neither row nor acknowledgement."""
    # The token first: whatever is in it by now has had its row before.
    keys = parts.token.keys()
    made = (enrollment_of_label(label) for _key_id, label in keys)
    return parts.journal.unknown({one for one in made if one is not None})


def refuse_older_journal(parts: Parts) -> None:
    """Refuse to go on while the token has keys of enrollments that the journal does not know.

    Raises:
        JournalError: it has, and nobody has acknowledged them.
    """
    if found := without_row(parts):
        raise JournalError(
            "The token has keys of enrollments that this journal does not know",
            why=f"{_named(found)}: the journal is older than they are, and may not know which credentials were sent, "
            "or they are another installation's",
            next_step=f"{BRING_BACK}. If they are another's: varmenne journal acknowledge",
        )


def refuse_certified(parts: Parts, row: Enrollment) -> None:
    """Refuse to send for an enrollment that has its certificate in the token already.

    Raises:
        JournalError: it has; so its credentials were sent, and the journal has forgotten that.
    """
    if parts.token.certificates(row.key_id):
        raise JournalError(
            f"Enrollment {row.id} has its certificate in the token already, which this journal does not know",
            why="the journal is older than the token",
            next_step=f"{BRING_BACK}. If there is none: its credentials are spent; varmenne resolve {row.id} --abandon",
        )


def _named(found: Sequence[str]) -> str:
    """Name the first few."""
    return f"{', '.join(found[:SHOWN])}{' …' if len(found) > SHOWN else ''}"
