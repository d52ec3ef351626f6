"""The audit log: each change has its record, in order, without gaps, in the same transaction and with its proof."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from journal.rows import NOW, WAY, add, take_to
from varmenne.domain import merkle
from varmenne.domain.audit import AuditRecord, canonical, row_document
from varmenne.domain.steps import State
from varmenne.errors import JournalError, StateError
from varmenne.journal import Journal, schema
from varmenne.journal import log as audit_log
from varmenne.journal import tree as kept_tree
from varmenne.settings import JournalSettings

KEYS = {"v", *AuditRecord.__slots__}


def read(journal: Journal) -> list[dict[str, Any]]:
    """All records."""
    return [json.loads(body) for _index, body in journal.log.records()]


def test_each_change_has_its_record(journal: Journal) -> None:
    """A whole way is told in order, each record with the states, the hash of the row, and all keys of a record."""
    row = take_to(journal, add(journal), State.ACTIVE)
    records = read(journal)
    assert [record["target"] for record in records] == list(WAY)
    assert [record["source"] for record in records] == [None, *WAY[:-1]]
    assert all(record.keys() == KEYS for record in records)
    assert records[-1]["row"] == hashlib.sha256(row_document(row)).hexdigest()
    assert records[-1]["public_key"] == hashlib.sha256(b"key").hexdigest()
    assert {record["enrollment"] for record in records} == {row.id}
    assert [json.loads(body) for _index, body in journal.log.of(row.id)] == records


def test_the_bytes_are_kept_as_they_are_hashed(journal: Journal) -> None:
    """They are in the one way that JSON can be written, and the tree is over them."""
    take_to(journal, add(journal), State.KEYED)
    bodies = [body for _index, body in journal.log.records()]
    assert bodies == [canonical(json.loads(body)) for body in bodies]
    tree = merkle.Tree()
    for body in bodies:
        tree, _nodes = tree.grown(merkle.leaf_hash(body))
    assert (journal.log.head().size, journal.log.head().root) == (tree.size, tree.root) == (2, journal.log.root(2))


def test_what_names_people_is_not_recorded(journal: Journal) -> None:
    """Neither customer nor contact are in a record; both are bound by the hash of the row."""
    row = add(journal)
    changed = journal.commit(
        row, NOW, row.state, step="contact", changes={"contact": "Maija"}, detail={"contact": "Maija"}
    )
    text = json.dumps(read(journal))
    assert "Maija" not in text
    assert row.customer_id not in text
    assert b"Maija" in row_document(changed)
    first, second = read(journal)
    assert first["row"] != second["row"]


def test_a_failure_is_recorded_by_its_kind(journal: Journal) -> None:
    """Its words name paths and customers; they are in the journal, and a record stays for ever."""
    row = add(journal)
    problem = {"kind": "VaultDenied", "what": f"Vault does not allow {row.customer_id}", "why": "403", "next_step": ""}
    journal.commit(row, NOW, row.state, step="problem", changes={"problem": problem}, detail=problem)
    _begin, failed = read(journal)
    assert (failed["outcome"], failed["reason"], failed["detail"]) == ("failed", "VaultDenied", {"kind": "VaultDenied"})
    assert row.customer_id not in json.dumps(read(journal))


def test_who_holds_a_row_when_is_no_change_of_it(journal: Journal) -> None:
    """Claims, leases and tries leave the hash of the row as it is, and have no record."""
    row = add(journal)
    released = journal.release(row, NOW, due_at=NOW, tries=3)
    claimed = journal.claim(released, NOW, lease=NOW - NOW)
    assert row_document(claimed) == row_document(row)
    assert journal.log.head().size == 1


def test_answers_and_probes_are_recorded(journal: Journal) -> None:
    """An answer by its hash as it came, a probe by all its results; one that is not fit is a failure."""
    row = add(journal)
    journal.record_answer(row, NOW, operation="getCertificate", http_status=200, body=b"<answer/>")
    journal.save_probe(
        "token",
        NOW,
        fit=False,
        result={"results": [{"name": name, "outcome": "allowed", "detail": "out"} for name in ("wrap", "read")]},
    )
    _begin, answer, probe = read(journal)
    assert (answer["act"], answer["enrollment"]) == ("answer", row.id)
    assert answer["detail"]["sha256"] == hashlib.sha256(b"<answer/>").hexdigest()
    assert answer["detail"]["http_status"] == 200
    assert (probe["act"], probe["outcome"]) == ("probe", "failed")
    assert probe["detail"]["tries"] == [["allowed", "out", ["wrap", "read"]]]


def test_what_is_beyond_the_tree_does_not_count(journal: Journal) -> None:
    """A row that somebody puts behind the end could be taken away again without a trace: no approval, no probe."""
    row = take_to(journal, add(journal), State.KEYED)
    journal.save_probe("token", NOW, fit=False, result={"results": []})
    journal.save_probe("token/key", NOW, fit=False, result={"results": []}, row=row)
    before = (journal.log.of(row.id), journal.latest_probe("token"), journal.unfit_keys("token"))
    assert (before[1] or (NOW, True, {}))[1] is False
    assert before[2] == (row.id,)
    better = [json.loads(body) | {"outcome": "done"} for _index, body in journal.log.records()][-2:]
    forged = [canonical(one | {"detail": one["detail"] | {"fit": True}}) for one in better]
    approved = canonical(better[0] | {"act": "approve", "enrollment": None})
    with journal._transaction() as connection:
        for seq, body, enrollment in (
            (10**9, forged[0], None),
            (10**9 + 1, forged[1], row.id),
            (10**9 + 2, approved, None),
        ):
            connection.execute(sa.insert(schema.log).values(seq=seq, body=body, enrollment_id=enrollment))
    assert (journal.log.of(row.id), journal.latest_probe("token"), journal.unfit_keys("token")) == before
    assert journal.log.acts("approve") == ()


def test_a_change_that_fails_has_no_record(journal: Journal) -> None:
    """What is rolled back leaves nothing in the log, and no gap."""
    row = add(journal)
    journal.commit(row, NOW, State.KEYED, step="test")
    with pytest.raises(StateError):
        journal.commit(row, NOW, State.KEYED, step="test")
    with pytest.raises(StateError):
        add(journal, transfer_hash="same"), add(journal, transfer_hash="same")
    assert [index for index, _body in journal.log.records()] == [0, 1, 2]


def test_a_fraction_cannot_be_recorded(journal: Journal) -> None:
    """What different encoders write differently is refused, and changes nothing."""
    row = add(journal)
    for detail in ({"answer": 0.5}, {"answer": 2**53}, {"answer": {"ä": 1}}):
        with pytest.raises(ValueError, match="record"):
            journal.commit(row, NOW, State.KEYED, step="test", detail=detail)
    assert journal.get(row.id) == row
    assert journal.log.head().size == 1


def test_proofs_are_looked_up(journal: Journal) -> None:
    """Proofs of any record and any size come from the database; sizes beyond the log are refused."""
    for number in range(13):
        journal.log.record("test", NOW, number=number)
    leaves = [merkle.leaf_hash(body) for _index, body in journal.log.records()]
    nodes = {(0, index): leaf for index, leaf in enumerate(leaves)}
    tree = merkle.Tree()
    for leaf in leaves:
        tree, more = tree.grown(leaf)
        nodes |= {(node.level, node.index): node.hash for node in more}

    def kept(level: int, index: int) -> bytes:
        return nodes[level, index]

    for size in range(1, 14):
        assert journal.log.root(size) == merkle.root(size, kept)
        assert journal.log.inclusion(size - 1, size) == merkle.inclusion(size - 1, size, kept)
        assert journal.log.consistency(size, 13) == merkle.consistency(size, 13, kept)
    for beyond in (lambda: journal.log.root(14), lambda: journal.log.inclusion(0, 14)):
        with pytest.raises(ValueError, match="the log has no 14 records"):
            beyond()
    with pytest.raises(ValueError, match="does not begin with"):
        journal.log.consistency(5, 4)


def test_many_writers_leave_no_gap(tmp_path: Path, database: JournalSettings) -> None:
    """Writers side by side take turns: the numbers are one after the other, and the tree is that of the records."""

    def write() -> None:
        with Journal(tmp_path / "state", database) as mine:
            for _number in range(12):
                mine.commit(add(mine), NOW, State.KEYED, step="test")

    with Journal(tmp_path / "state", database) as journal:
        writers = [threading.Thread(target=write) for _ in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert [index for index, _body in journal.log.records()] == list(range(96))
        with journal._reading() as connection:
            assert kept_tree.recomputed(connection) == (kept_tree.kept(connection), True)


HIDDEN = "record 1 is about another enrollment than it is looked up by"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (sa.update(schema.log).where(schema.log.c.seq == 1).values(body=b"{}"), "a record changed"),
        (sa.delete(schema.node), "the tree over the records changed"),
        (sa.update(schema.node).values(hash=bytes(32)), "the tree over the records changed"),
        (sa.update(schema.log).where(schema.log.c.seq == 1).values(enrollment_id=None), HIDDEN),
        (sa.update(schema.log).where(schema.log.c.seq == 1).values(enrollment_id="another"), HIDDEN),
        (sa.insert(schema.node).values(level=9, index=0, hash=bytes(32)), "the tree over the records changed"),
        (sa.delete(schema.log).where(schema.log.c.seq == 1), "1 records are there, 2 were written"),
        (sa.update(schema.head).values(frontier=bytes(32)), "a record changed"),
        (sa.insert(schema.log).values(seq=2, body=b"{}"), "3 records are there, 2 were written"),
    ],
    ids=["edited", "no nodes", "other nodes", "hidden", "filed elsewhere", "more nodes", "deleted", "head", "inserted"],
)
def test_the_check_finds_a_log_that_does_not_fit_its_tree(journal: Journal, change: sa.Executable, told: str) -> None:
    """`journal check` grows the tree anew. What rewrites it whole, only checkpoints show."""
    take_to(journal, add(journal), State.KEYED)
    assert {check.verdict for check in journal.inspect() if check.name == "audit log"} == {"ok"}
    with journal._transaction() as connection:
        connection.execute(change)
    (found,) = [check for check in journal.inspect() if check.name == "audit log"]
    assert (found.verdict, found.detail) == ("fail", told)


def test_checkpoints_are_kept_by_origin_and_size(journal: Journal) -> None:
    """The latest is that of the present origin; of one size the first is kept."""
    journal.log.record("test", NOW)
    head = journal.log.head()
    assert journal.log.latest() is None
    for origin, note in ((head.origin, "one"), (head.origin, "two"), ("varmenne/before", "old")):
        journal.log.save(audit_log.Checkpoint(origin, head.size, head.root, NOW, note))
    found = journal.log.latest()
    assert found is not None
    assert (found.note, found.anchored_at) == ("one", None)
    journal.log.anchored(found, NOW)
    anchored = journal.log.latest()
    assert anchored is not None
    assert anchored.anchored_at == NOW
    assert [one.note for one in journal.log.checkpoints() if one.origin != head.origin] == ["old"]


def test_a_journal_that_cannot_be_written_is_told_as_such(journal: Journal) -> None:
    """The database's own errors do not come through."""
    with journal._transaction() as connection:
        connection.execute(sa.delete(schema.head))
    with pytest.raises(JournalError):
        journal.log.record("test", NOW)


def test_a_snapshot_is_of_one_moment(journal: Journal, tmp_path: Path, database: JournalSettings) -> None:
    """What is written while it is read is not in it: records and rows fit together."""
    row = take_to(journal, add(journal), State.KEYED)
    with Journal(tmp_path / "state", database) as other, journal.log.snapshot() as seen:
        take_to(other, row, State.ACCEPTED)
        add(other)
        assert (seen.head.size, len(list(seen.records()))) == (2, 2)
        assert list(seen.rows()) == [row_document(row)]
        assert other.log.head().size == 5
