"""Compares the token's keys with the journal's rows: what is in one and not in the other is told, never deleted.

A key of an enrollment that the journal does not know keeps everything from being sent: the journal may be older than
the token, and not know which credentials are spent. :mod:`varmenne.journal.witness` tells more. What else can differ,
and a comparison with Vault and the audit log, is in :mod:`varmenne.enrollment.evidence.reconciliation`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Self

from varmenne.domain.check import Check, Verdict
from varmenne.domain.identifiers import EnrollmentId, enrollment_of_label
from varmenne.domain.steps import State
from varmenne.enrollment import facts
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

_WHO = "Find out who changed it, and do not go on with this token before"
_LOG = "The journal was changed outside varmenne, or is an older copy. Then: varmenne audit verify"


class Kind(StrEnum):
    """Kinds of differences. ``matters``: a comparison that finds one has failed; the others are to be known."""

    heading: str
    matters: bool
    next_step: str

    def __new__(cls, value: str, heading: str, matters: bool, next_step: str) -> Self:  # noqa: FBT001 - a table's column
        """Make a member of its line."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.heading, member.matters, member.next_step = heading, matters, next_step
        return member

    # Keys in the token, and rows of the journal.
    NO_KEY = (
        "missing-key",
        "rows without a key",
        True,
        "The token has lost these keys, or is another one. Their certificates cannot be used: order new ones",
    )
    NO_ROW = "orphan", "keys without a row", True, f"{BRING_BACK}. If it is another's: varmenne journal acknowledge"
    FALSE_LABEL = (
        "false-label",
        "strangers with our labels",
        True,
        "Another key bears an enrollment's label. varmenne goes by CKA_ID; software that goes by label may err",
    )
    SHARED_ID = (
        "shared-id",
        "keys that share a CKA_ID",
        True,
        "Nothing can tell such keys apart. Find out who made the second one",
    )
    ELSEWHERE = "second-token", "keys that should be in another token", True, "A key cannot be in two tokens. " + _WHO
    NOT_DESTROYED = (
        "not-destroyed",
        "keys that are there although they were destroyed",
        True,
        "The token was put back to an earlier state, or the journal is wrong. " + _WHO,
    )
    STRANGER = "stranger", "keys of others", False, "If nobody knows whose it is: find out who uses this token"
    ACKNOWLEDGED = (
        "acknowledged",
        "keys that were said to be another installation's",
        False,
        "`varmenne journal acknowledge` tells who said so, and when",
    )
    LEFTOVER = "leftover", "throw-away keys of a probe that was cut off", False, "The next probe removes them"
    HALF_STORED = "half-stored", "certificates stored half-way", False, "varmenne resume --all"
    PARKED = (
        "parked-key",
        "keys without a certificate",
        False,
        "If it waits for a person: varmenne resume. A key of an enrollment that has ended is needed by nobody",
    )

    # The keys themselves, and certificates beside them.
    OTHER_KEY = "other-key", "keys that were exchanged", True, _WHO
    UNFIT = "unfit-key", "keys that are not as ordered", True, "Take it for compromised. varmenne audit probe"
    CHANGED = "changed-attributes", "keys whose attributes were changed", True, _WHO
    NO_CERTIFICATE = (
        "missing-certificate",
        "certificates that are not beside their keys",
        True,
        "Put it back with the token's tools, as software may look for it there, and find out who removed it",
    )
    OTHER_CERTIFICATE = "other-certificate", "certificates of others beside our keys", True, _WHO

    # The audit log.
    UNLOGGED = "unlogged-key", "keys whose birth is not in the log", True, _LOG
    NO_RECORD = "unlogged-row", "rows that the log does not know", True, _LOG
    ROW_CHANGED = "changed-row", "rows that the log has otherwise", True, _LOG
    ROW_GONE = "missing-row", "enrollments in the log without a row", True, _LOG
    BROKEN_LOG = "broken-log", "records that do not follow from those before", True, "varmenne audit verify"

    # Vault.
    NOT_IN_VAULT = "missing-record", "records that are not in Vault", True, "varmenne vault republish"
    BEHIND = (
        "vault-behind",
        "records in Vault that went back or were changed",
        True,
        "Find out whether Vault was restored from a snapshot. If so: varmenne vault republish",
    )
    VAULT_DIFFERS = "vault-differs", "records in Vault that say something else", True, "Find out who wrote it"

    # The certificates themselves.
    EXPIRED = "expired-in-use", "certificates in use that have expired", True, "Order a new one in the e-service"
    CONTRADICTION = "contradiction", "certificates that say something else than their rows", True, _LOG


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference.

    Attributes:
        kind: what it is.
        where: the things that were compared, such as ``token, journal``.
        what: how they differ, a sentence.
        enrollment: the enrollment that it is about, where there is one.
        key_id: the ``CKA_ID``, in hexadecimal, where it is about a key.
    """

    kind: Kind
    where: str
    what: str
    enrollment: str | None = None
    key_id: str | None = None


class KeysInToken:
    """The private keys in the token. Give it all rows, one by one; what is left then belongs to none of them."""

    def __init__(self, parts: Parts) -> None:
        keys = parts.token.keys()  # The token first: whatever is in it by now has had its row before.
        self.count = len(keys)
        self.here = parts.token.identity().digest
        self._journal = parts.journal
        self._left = {bytes(key_id): label for key_id, label in keys}
        times = Counter(bytes(key_id) for key_id, _label in keys)
        self._shared = [key_id for key_id, count in times.items() if count > 1]

    def of(self, row: Enrollment) -> Iterator[Difference]:
        """Compare one row with what was in the token."""
        there = self._left.pop(bytes(row.key_id), None) is not None
        if row.token not in {None, self.here}:
            if there:
                yield _of(row, Kind.ELSEWHERE, "its key is in this token, and by the journal in another")
            elif not self._journal.shared and row.state not in KEY_GONE:
                # A journal of several hosts has rows of other hosts' tokens.
                yield _of(row, Kind.NO_KEY, f"it is {row.state}, and its key is in another token than this one")
        elif there and row.state is State.DESTROYED:
            yield _of(row, Kind.NOT_DESTROYED, "its key was destroyed, and is in the token")
        elif not there and row.state not in KEY_GONE:
            yield _of(row, Kind.NO_KEY, f"it is {row.state}, and its key is not in the token")
        if row.state is State.ISSUED:
            yield _of(row, Kind.HALF_STORED, "it has its certificate, which is not stored everywhere yet")

    def left(self, known: Iterable[str] = ()) -> Iterator[Difference]:
        """Yield what is to be said of the keys that belong to no row.

        Args:
            known: ``CKA_ID`` in hexadecimal of keys that are ours and of no enrollment.
        """
        for key_id in self._shared:
            yield Difference(Kind.SHARED_ID, "token", "several keys have this CKA_ID", key_id=key_id.hex())
        ours = {*known}
        made = {key_id: enrollment_of_label(label) for key_id, label in self._left.items()}
        unknown = {*self._journal.unknown({one for one in made.values() if one is not None})}
        for key_id, label in self._left.items():
            found = made[key_id]
            if found in unknown:
                what = f"the token has a key of enrollment {found}, which the journal does not know"
                yield Difference(Kind.NO_ROW, "token, journal", what, found, key_id.hex())
            elif found is not None and facts.known(self._journal, found):
                yield Difference(Kind.FALSE_LABEL, "token, journal", label, found, key_id.hex())
            elif found is not None:
                what = f"labelled {label!r}, which a person said to be another installation's"
                yield Difference(Kind.ACKNOWLEDGED, "token, journal", what, found, key_id.hex())
            elif label.startswith(PROBES):
                yield Difference(Kind.LEFTOVER, "token", label, key_id=key_id.hex())
            elif key_id.hex() not in ours:
                yield Difference(Kind.STRANGER, "token", f"labelled {label!r}", key_id=key_id.hex())


PROBES = "varmenne probe,"
"""Begins the labels of throw-away keys."""


def _of(row: Enrollment, kind: Kind, what: str) -> Difference:
    """Tell of a difference between the token and a row."""
    return Difference(kind, "token, journal", what, row.id, row.key_id.hex())


_FOR_AUDITORS = {Kind.NO_ROW, Kind.STRANGER, Kind.ACKNOWLEDGED, Kind.LEFTOVER}
"""Kinds that a check-up tells in other words, or not at all."""


def reconcile(parts: Parts) -> Iterator[Check]:
    """Yield one check for each kind of difference between token and journal, or one that says that there is none."""
    keys = KeysInToken(parts)
    found: defaultdict[Kind, list[str]] = defaultdict(list)
    for row in parts.journal.every(documents=False):
        for one in keys.of(row):
            found[one.kind].append(row.id)
    for one in keys.left():
        found[one.kind].append(one.what if one.kind is Kind.FALSE_LABEL else one.key_id or "")
    try:
        refuse_older_journal(parts)
    except JournalError as exc:
        yield Check("journal and token", Verdict.FAIL, str(exc), exc.next_step)
    told = [kind for kind in Kind if kind in found and kind not in _FOR_AUDITORS]
    for kind in told:
        yield Check(kind.heading, Verdict.WARN, _named(found[kind]), kind.next_step)
    if not told and Kind.NO_ROW not in found:
        yield Check("keys", Verdict.OK, f"{keys.count} in the token; token and journal agree")


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
