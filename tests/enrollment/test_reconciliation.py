"""Token, journal, Vault and log are compared: whatever somebody changed in one of them is told, and nothing is changed.

The stage is shared by all tests; each has a customer of its own, and looks at what is said of that one's enrollment.
"""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.approvals import approve
from harness.objects import DECRYPT, EXTRACTABLE, private_rsa_keys, set_flag
from harness.renewals import self_made
from harness.stage import Listener, Stage, order_for
from harness.years import IN_THE_WINDOW, WAIT, Years
from varmenne.clock import system_clock
from varmenne.domain.audit import canonical, row_document
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.keys import new_key_id
from varmenne.domain.steps import State
from varmenne.enrollment.enroll import enroll
from varmenne.enrollment.evidence.reconciliation import differences
from varmenne.enrollment.facts import pem_to_der
from varmenne.enrollment.reconcile import Difference, Kind
from varmenne.enrollment.renew import activate, retire
from varmenne.enrollment.resolve import abandon
from varmenne.errors import ChecksFailed

_customers = (f"{number:07}-0" for number in itertools.count(1_000_001))


@dataclass(frozen=True)
class Case:
    """A customer's enrollment on the shared stage, and the file of its key."""

    stage: Stage
    row: Enrollment
    key: Path
    files: tuple[Path, ...]

    @property
    def record(self) -> str:
        """The path of its current record in Vault."""
        return f"{self.stage.vault.settings.prefix}/test/{self.row.customer_id}/ws/current"

    def sql(self, statement: str, **values: str | int) -> None:
        """Change the journal's file, as somebody who may write to it could; ``:ours`` is the enrollment."""
        with closing(sqlite3.connect(self.stage.state_dir / "journal.sqlite")) as database, database:
            database.execute(statement, {"ours": self.row.id, **values})

    def found(self, days: int = 0) -> list[Difference]:
        """Return what is said of the enrollment, and of the key."""
        with self.stage.parts(clock=lambda: system_clock() + timedelta(days=days)) as parts:
            said = list(differences(parts, Listener()))
        ours = {self.row.id, self.row.key_id.hex()}
        return [one for one in said if ours & {one.enrollment, one.key_id}]

    def kinds(self, days: int = 0) -> list[Kind]:
        """Return the kinds of differences, in the order in which they are told."""
        return [one.kind for one in self.found(days)]


@pytest.fixture
def case(shared_stage: Stage) -> Iterator[Case]:
    """A certificate in use, of a customer of its own. Journal and token are put right again for the next test."""
    made = make(shared_stage)
    files = {path: path.read_bytes() for path in made.files}
    with closing(sqlite3.connect(shared_stage.state_dir / "journal.sqlite")) as database, database:
        row = database.execute("SELECT * FROM enrollment WHERE id = ?", [made.row.id]).fetchone()
        yield made
        marks = ", ".join("?" * len(row))
        database.execute(f"INSERT OR REPLACE INTO enrollment VALUES ({marks})", row)  # noqa: S608 - question marks
    for path, data in files.items():
        path.write_bytes(data)


def make(stage: Stage) -> Case:
    """Enroll a customer."""
    customer = next(_customers)
    folder = stage.token.directory
    before = {*folder.glob("tokens/*/*.object")}
    with stage.parts() as parts:
        given = stage.credentials(stage.order(customer))
        row = enroll(parts, Listener(), order_for(customer), given, wait=WAIT)
    new = {*folder.glob("tokens/*/*.object")} - before
    (key,) = new & {*private_rsa_keys(folder)}
    return Case(stage, row, key, tuple(sorted(new)))


def test_where_nothing_was_changed_nothing_differs(stage: Stage) -> None:
    """After an enrollment with its checkpoint all four agree: the log's own key is known, and no row was touched."""
    made = make(stage)
    assert stage.run("audit", "checkpoint").code == 0
    before = stage.world(), [row_document(row) for row in stage.rows()]
    result = stage.run("audit", "reconcile")
    assert (result.code, result.out) == (0, "Token, journal, Vault and log agree.\n")
    assert (stage.world(), [row_document(row) for row in stage.rows()]) == before
    assert stage.run("audit", "reconcile", "--json").json == []
    assert made.found() == []


def test_reading_leaves_no_record(stage: Stage) -> None:
    """Comparing is no act on a key: the log is as long as before, and there is no new checkpoint."""
    make(stage)
    with stage.parts() as parts:
        before = parts.journal.log.head(), parts.journal.log.checkpoints()
    assert stage.run("audit", "reconcile").code == 0
    with stage.parts() as parts:
        assert (parts.journal.log.head(), parts.journal.log.checkpoints()) == before


IN_THE_JOURNAL = {
    "customer": ("UPDATE enrollment SET customer_name = 'Somebody else Oy' WHERE id = :ours", [Kind.ROW_CHANGED]),
    "state": ("UPDATE enrollment SET state = 'abandoned' WHERE id = :ours", [Kind.ROW_CHANGED]),
    "deleted": ("DELETE FROM enrollment WHERE id = :ours", [Kind.NO_ROW, Kind.ROW_GONE]),
    "custody": (
        "UPDATE enrollment SET custody = json_set(custody, '$.attributes.EXTRACTABLE', json('true')) WHERE id = :ours",
        [Kind.ROW_CHANGED, Kind.CHANGED, Kind.VAULT_DIFFERS, Kind.VAULT_DIFFERS],
    ),
    "log index": ("UPDATE log SET enrollment_id = NULL WHERE enrollment_id = :ours", []),
    "validity": (
        "UPDATE enrollment SET not_after = '2036-01-01 00:00:00.000000' WHERE id = :ours",
        [Kind.ROW_CHANGED, Kind.CONTRADICTION],
    ),
    "Vault's version": (
        "UPDATE enrollment SET vault_version = 7 WHERE id = :ours",
        [Kind.ROW_CHANGED, Kind.BEHIND],
    ),
}


@pytest.mark.parametrize("name", IN_THE_JOURNAL)
def test_a_row_that_was_changed(case: Case, name: str) -> None:
    """Whatever is changed in a row, its hash in the log does not fit; what else it contradicts is told too."""
    statement, expected = IN_THE_JOURNAL[name]
    case.sql(statement)
    assert case.kinds() == expected


def test_a_row_that_was_put_in(case: Case) -> None:
    """A row that nobody logged is told: nobody knows where its key came from."""
    case.sql(
        "INSERT INTO enrollment (id, state, key_id, public_key, environment, channel, customer_id, method, version, "
        "created_at, updated_at, tries, generation, key_label) SELECT '20200101-0badf00d', 'abandoned', zeroblob(16), "
        "public_key, environment, channel, customer_id, method, version, created_at, updated_at, tries, generation, "
        "key_label FROM enrollment WHERE id = :ours"
    )
    try:
        with case.stage.parts() as parts:
            said = [one.kind for one in differences(parts, Listener()) if one.enrollment == "20200101-0badf00d"]
    finally:
        case.sql("DELETE FROM enrollment WHERE id = '20200101-0badf00d'")
    assert said == [Kind.NO_RECORD, Kind.UNLOGGED]


def test_a_certificate_that_was_swapped(case: Case) -> None:
    """Another customer's certificate in the row is found by the log, its key, the token and Vault."""
    other = make(case.stage)
    case.sql(
        "UPDATE enrollment SET certificate = (SELECT certificate FROM enrollment WHERE id = :other) WHERE id = :ours",
        other=other.row.id,
    )
    found = case.found()
    assert [one.kind for one in found] == [
        Kind.ROW_CHANGED,
        Kind.CONTRADICTION,
        Kind.NO_CERTIFICATE,
        Kind.OTHER_CERTIFICATE,
        Kind.VAULT_DIFFERS,
        Kind.VAULT_DIFFERS,
    ]
    assert "certificate (journal " in found[0].what
    assert "another public key and another serial number" in found[1].what


def test_a_record_of_the_log_that_is_gone(stage: Stage) -> None:
    """A birth that was cut out of the log leaves an unlogged key, and acts that do not follow from each other."""
    case = make(stage)
    with stage.parts() as parts:
        births = [index for index, body in parts.journal.log.of(case.row.id) if json.loads(body)["act"] == "generate"]
    case.sql("DELETE FROM log WHERE seq = :birth", birth=births[0])
    with stage.parts() as parts:
        said = list(differences(parts, Listener()))
    assert [one.kind for one in said] == [Kind.BROKEN_LOG]
    case.sql("DELETE FROM log WHERE enrollment_id = :ours")
    assert case.kinds() == [Kind.NO_RECORD, Kind.UNLOGGED]


def _lose_the_key(case: Case) -> None:
    case.key.unlink()


def _make_extractable(case: Case) -> None:
    set_flag(case.key, EXTRACTABLE, value=True)


def _allow_decryption(case: Case) -> None:
    set_flag(case.key, DECRYPT, value=True)


def _lose_the_certificate(case: Case) -> None:
    for path in case.files:
        if pem_to_der(case.row.certificate or "")[:64] in path.read_bytes():
            path.unlink()


def _put_another_certificate_there(case: Case) -> None:
    with case.stage.parts() as parts:
        parts.token.store_certificate(case.row.key_id, "another", self_made(parts.token.signer(case.row.key_id)))


IN_THE_TOKEN: dict[str, tuple[Callable[[Case], None], list[Kind], str]] = {
    "lost key": (_lose_the_key, [Kind.NO_KEY], "its key is not in the token"),
    "extractable": (_make_extractable, [Kind.UNFIT], "EXTRACTABLE is true"),
    "decrypts": (_allow_decryption, [Kind.CHANGED], "DECRYPT was false and is true"),
    "lost certificate": (_lose_the_certificate, [Kind.NO_CERTIFICATE], "not beside its key"),
    "another certificate": (_put_another_certificate_there, [Kind.OTHER_CERTIFICATE], "which the journal does not"),
}


@pytest.mark.parametrize("name", IN_THE_TOKEN)
def test_a_token_that_was_changed(case: Case, name: str) -> None:
    """What was changed in the token's files, or by other software with its PIN, is told."""
    change, expected, told = IN_THE_TOKEN[name]
    change(case)
    found = case.found()
    assert [one.kind for one in found] == expected
    assert told in found[0].what


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("varmenne-20200101-00000000", Kind.NO_ROW),
        ("varmenne-log-0badf00d", Kind.STRANGER),
        ("somebody's", Kind.STRANGER),
        ("varmenne probe, throw-away", Kind.LEFTOVER),
        ("OURS", Kind.FALSE_LABEL),
    ],
)
def test_keys_that_no_row_has(case: Case, label: str, kind: Kind) -> None:
    """A key of nobody's is told by what it is labelled; only those that look like ours matter."""
    key_id = new_key_id()
    with case.stage.parts() as parts:
        key = parts.token.generate(key_id, case.row.key_label if label == "OURS" else label)
        said = [one.kind for one in differences(parts, Listener()) if one.key_id == key_id.hex()]
    for path in private_rsa_keys(case.stage.token.directory):
        if path.stat().st_mtime > case.key.stat().st_mtime and path not in case.files:
            path.unlink()
    assert key.key_id == key_id
    assert said == [kind]
    assert kind.matters == (kind in {Kind.NO_ROW, Kind.FALSE_LABEL})


def test_a_key_that_a_person_has_explained(stage: Stage) -> None:
    """That a key is another installation's is a record of the log, and the key is to be known for ever."""
    made = make(stage)
    with stage.parts() as parts:
        key_id = new_key_id()
        parts.token.generate(key_id, "varmenne-20200101-00000000")
    assert stage.run("journal", "acknowledge", "--confirm", "1").code == 0
    with stage.parts() as parts:
        said = [one for one in differences(parts, Listener()) if one.key_id == key_id.hex()]
        (record,) = map(json.loads, parts.journal.log.acts("acknowledge"))
    assert [(one.kind, one.enrollment) for one in said] == [(Kind.ACKNOWLEDGED, "20200101-00000000")]
    assert record["detail"] == {"enrollments": ["20200101-00000000"]}
    assert made.found() == []
    assert stage.run("audit", "reconcile").code == 0
    assert stage.run("audit", "verify").code == 0


def _kv(case: Case) -> Any:
    return case.stage.vault.root.secrets.kv.v2


def _delete(case: Case, path: str) -> None:
    _kv(case).delete_metadata_and_all_versions(path, mount_point=case.stage.vault.settings.mount)


def _read(case: Case, path: str) -> dict[str, Any]:
    mount = case.stage.vault.settings.mount
    answer = _kv(case).read_secret_version(path, mount_point=mount, raise_on_deleted_version=True)
    found: dict[str, Any] = answer["data"]["data"]
    return found


def _write(case: Case, path: str, data: dict[str, Any], version: int) -> None:
    _kv(case).create_or_update_secret(path, data, cas=version, mount_point=case.stage.vault.settings.mount)


def _current_gone(case: Case) -> None:
    _delete(case, case.record)


def _generation_gone(case: Case) -> None:
    _delete(case, case.record.replace("current", "generation-1"))


def _another_field(case: Case) -> None:
    _write(case, case.record, _read(case, case.record) | {"key_ref": "pkcs11:object=somebody"}, 1)


def _another_enrollment(case: Case) -> None:
    _write(case, case.record, _read(case, case.record) | {"enrollment": "20200101-00000000"}, 1)


IN_VAULT: dict[str, tuple[Callable[[Case], None], list[Kind], str]] = {
    "current record gone": (_current_gone, [Kind.BEHIND], "its record is gone"),
    "generation gone": (_generation_gone, [Kind.NOT_IN_VAULT], "the record of its generation is gone"),
    "field changed": (_another_field, [Kind.VAULT_DIFFERS], "version 2 has another key_ref than the journal"),
    "overwritten": (_another_enrollment, [Kind.BEHIND], "version 2 is of enrollment 20200101-00000000"),
}


@pytest.mark.parametrize("name", IN_VAULT)
def test_a_vault_that_was_changed(case: Case, name: str) -> None:
    """What was deleted, changed or overwritten in Vault is told."""
    change, expected, told = IN_VAULT[name]
    change(case)
    found = case.found()
    assert [one.kind for one in found] == expected
    assert told in found[0].what


def test_a_vault_that_went_back(stage: Stage) -> None:
    """A snapshot of before is put back: the record has an older version than was written."""
    years = Years(stage)
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    second = years.renewed(first)
    activated = years.get(second)
    with years.parts() as parts:
        if activated.state is not State.ACTIVE:
            activate(parts, Listener(), activated)
    case = Case(stage, years.get(second), stage.folder, ())
    data = years.record()
    _delete(case, case.record)
    _write(case, case.record, data, 0)
    with years.parts() as parts:
        said = [(one.kind, one.what) for one in differences(parts, Listener()) if one.enrollment == second.id]
    assert said == [(Kind.BEHIND, "the version went down from 2 to 1")]


def test_a_destroyed_key_that_came_back(stage: Stage) -> None:
    """A token whose files are put back to an earlier state has a key again that was destroyed."""
    years = Years(stage)
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    before = {path: path.read_bytes() for path in stage.token.directory.glob("tokens/*/*.object")}
    second = years.renewed(first)
    with years.parts() as parts:
        if years.get(second).state is not State.ACTIVE:
            activate(parts, Listener(), years.get(second))
        approve(parts, first)
        retire(parts, Listener(), parts.journal.get(first.id), destroy=True)
    for path, data in before.items():
        path.write_bytes(data)
    with years.parts() as parts:
        said = [one.kind for one in differences(parts, Listener()) if one.enrollment == first.id]
    assert said[0] is Kind.NOT_DESTROYED


def test_a_certificate_in_use_that_has_ended(case: Case) -> None:
    """A certificate that is in use and past its end is told, though everything agrees."""
    assert case.kinds(days=731) == [Kind.EXPIRED]


def test_a_parked_key(stage: Stage) -> None:
    """The key of an enrollment that was given up is told: it is there, and nobody needs it. That fails nothing."""
    result = stage.run("csr", "--customer-id", "0123456-7", "--out", str(stage.folder / "a.csr"))
    assert result.code == 0
    (row,) = stage.rows()
    case = Case(stage, row, stage.folder, ())
    assert case.kinds() == []
    assert case.kinds(days=31) == [Kind.PARKED]
    with stage.parts() as parts:
        abandon(parts, Listener(), row)
    assert case.kinds() == [Kind.PARKED]
    told = stage.run("audit", "reconcile")
    assert (told.code, told.out.split()[:3]) == (0, ["note", "parked-key", row.id])


def test_the_command_is_for_programs_too(case: Case) -> None:
    """Each difference has kind, place, words and next step; one that matters makes the exit code 15."""
    set_flag(case.key, DECRYPT, value=True)
    result = case.stage.run("audit", "reconcile", "--json")
    assert result.code == ChecksFailed.exit_code
    (found,) = [one for one in result.json if one["enrollment"] == case.row.id]
    assert found == {
        "kind": "changed-attributes",
        "where": "token, journal",
        "what": "DECRYPT was false and is true",
        "enrollment": case.row.id,
        "key_id": case.row.key_id.hex(),
        "matters": True,
        "next_step": Kind.CHANGED.next_step,
    }
    told = case.stage.run("audit", "reconcile")
    assert told.code == ChecksFailed.exit_code
    assert f"DIFFERS  changed-attributes  {case.row.id}  (token, journal)" in told.out


class Meddler(Listener):
    """Does something as soon as the log was read."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self._acts = iter([act])

    def done(self, result: str) -> None:
        """Act, once."""
        super().done(result)
        for act in self._acts:
            act()
            return


def test_work_meanwhile_is_no_difference(case: Case) -> None:
    """Enrollments that change while all is compared are looked at again, and not told of."""
    rows: list[Enrollment] = []

    def work() -> None:
        assert case.stage.run("contact", "set", case.row.id, "Maija, 09 123").code == 0
        rows.append(make(case.stage).row)

    with case.stage.parts() as parts:
        said = list(differences(parts, Meddler(work)))
    assert rows
    assert [one for one in said if one.enrollment in {case.row.id, rows[0].id}] == []


def test_memory_does_not_grow_with_the_log(stage: Stage) -> None:
    """Ten times as many records of one enrollment are read in the same memory, a page at a time."""
    row = make(stage).row

    def peak(size: int) -> int:
        """Return how much memory comparing takes at most, with a log of so many records."""
        with stage.parts() as parts:
            (*_before, (first, body)) = parts.journal.log.records()
        probe = canonical(dict(json.loads(body), act="probe", source=None, target=None))
        more = [(seq, row.id, probe) for seq in range(first + 1, size)]
        with closing(sqlite3.connect(stage.state_dir / "journal.sqlite")) as database, database:
            database.executemany("INSERT INTO log (seq, enrollment_id, body) VALUES (?, ?, ?)", more)
            database.execute("UPDATE head SET size = ?, frontier = ?", [size, bytes(32 * size.bit_count())])
        del more, body
        with stage.parts() as parts:
            parts.token.login()
            tracemalloc.start()
            list(differences(parts, Listener()))
            found = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return found

    peak(100)
    assert peak(25_000) < peak(2_500) + 1_500_000


def test_the_documentation_has_every_kind() -> None:
    """The table in the documentation has each kind, and says rightly whether it matters."""
    text = (Path(__file__).parents[2] / "docs" / "audit-custody.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `([a-z-]+)` \| [^|]+ \| [^|]+ \| (yes|no) \|$", text, re.MULTILINE))
    assert told == {kind.value: "yes" if kind.matters else "no" for kind in Kind}


def test_every_kind_says_what_to_do() -> None:
    """No kind of difference is without a next step, and no two have the same name."""
    assert all(kind.next_step and kind.heading for kind in Kind)
    assert len({kind.heading for kind in Kind}) == len(Kind)
