"""Which enrollments only the token knows, and what a person has acknowledged of them."""

from __future__ import annotations

from datetime import timedelta

from journal.rows import NOW, add
from varmenne.domain.identifiers import EnrollmentId
from varmenne.journal import Journal, this_process
from varmenne.journal.witness import Acknowledged

THEIRS = EnrollmentId("20260101-0000abcd")
OTHERS = EnrollmentId("20260102-0000abcd")


def test_what_has_neither_row_nor_acknowledgement_is_unknown(journal: Journal) -> None:
    """Rows are known whatever became of them; the answer is in order of the IDs."""
    ours = add(journal)
    assert journal.unknown([]) == ()
    assert journal.unknown({OTHERS, ours.id, THEIRS}) == (THEIRS, OTHERS)
    journal.acknowledge([THEIRS], NOW)
    assert journal.unknown({OTHERS, ours.id, THEIRS}) == (OTHERS,)


def test_an_acknowledgement_tells_when_and_by_which_process(journal: Journal) -> None:
    """It survives the check for room, which uses the same table; the last one counts."""
    journal.acknowledge([OTHERS, THEIRS], NOW)
    journal.acknowledge([OTHERS], NOW + timedelta(days=1))
    journal.check()
    assert journal.acknowledged() == (
        Acknowledged(THEIRS, NOW, this_process()),
        Acknowledged(OTHERS, NOW + timedelta(days=1), this_process()),
    )


def test_a_token_with_very_many_keys(journal: Journal) -> None:
    """More IDs than a database takes parameters are looked up all the same."""
    ours = add(journal)
    many = [EnrollmentId(f"20250101-{number:08x}") for number in range(70_000)]
    assert journal.unknown([*many, ours.id]) == tuple(many)
