"""The report of a real installation: a token, a journal with its log, Vault, and what they say of each other."""

from __future__ import annotations

import csv
import hashlib
import html
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from harness.stage import CUSTOMER, Stage
from varmenne.audit.inventory import Inventory, Kind
from varmenne.audit.report.folder import FILES
from varmenne.domain.key_states import KeyState
from varmenne.enrollment.evidence.inventory import gather
from varmenne.enrollment.parts import Parts
from varmenne.enrollment.reconcile import Kind as Difference
from varmenne.errors import InputError
from varmenne.journal import schema

CLEAN = {Kind.SOFTWARE, Kind.NO_WITNESS, Kind.NO_CONTACT}
"""What there is to tell of the test's token, which is software, when all is well."""


def enrolled(stage: Stage) -> str:
    """Enroll at the command line, and return the enrollment's ID."""
    file = stage.credentials_file(stage.order())
    done = stage.run("enroll", "--credentials", str(file), "--customer-id", CUSTOMER, "--customer-name", "=1+1 Oy")
    assert done.code == 0, done.err
    return stage.rows()[0].id


def _gathered(stage: Stage) -> Inventory:
    """Read journal and log only."""
    with Parts(stage.settings) as parts:
        return gather(parts, None)


def _kinds(made: Inventory) -> set[str]:
    """The kinds of exceptions, but those that say what was not asked."""
    return {finding.kind for finding in made.findings} - {Kind.KEYS_UNSEEN, Kind.VAULT_UNSEEN}


def test_a_key_is_told_from_its_birth_with_what_proves_it(stage: Stage, tmp_path: Path) -> None:
    """The command compares everything, and the files hold what journal, token, log and Vault have."""
    name = enrolled(stage)
    before = stage.world()
    done = stage.run("audit", "report", "--out", str(tmp_path / "report"), "--json")
    assert done.code == 0, done.err
    assert (done.json["keys"], done.json["needs_person"]) == (1, 0), done.err
    assert {path.name for path in (tmp_path / "report").iterdir()} == {*FILES}
    assert stage.world() == before
    read: dict[str, Any] = json.loads((tmp_path / "report" / "inventory.json").read_bytes())
    assert {finding["kind"] for finding in read["findings"]} == CLEAN
    assert read["asked"] == ["token", "vault"]
    [row] = stage.rows()
    [key] = read["keys"]
    assert (key["enrollment"], key["key_state"], key["key_id"]) == (name, "active", row.key_id.hex())
    assert row.public_key is not None
    assert row.certificate is not None
    assert key["public_key"] == hashlib.sha256(row.public_key).hexdigest()
    assert (key["certificate"]["serial"], key["vault_version"], key["covered"]) == (row.serial_number, 1, True)
    states = [(one["source"], one["target"]) for one in key["timeline"] if one["source"] != one["target"]]
    assert (states[0], states[1], states[-1]) == ((None, "prepared"), ("prepared", "keyed"), ("stored", "active"))
    with Parts(stage.settings) as parts:
        log = {index: json.loads(body) for index, body in parts.journal.log.records()}
        latest = parts.journal.log.latest()
    assert [log[one["record"]]["target"] for one in key["timeline"]] == [one["target"] for one in key["timeline"]]
    assert latest is not None
    assert (read["log"]["note"], read["log"]["checkpoint_size"]) == (latest.note, latest.size)
    assert [record["detail"]["vkey"] for record in log.values() if record["act"] == "log_key"] == read["log"]["vkeys"]
    answer = stage.vault.root.secrets.kv.v2.read_secret_version(
        read["log"]["anchor_path"], mount_point=read["log"]["anchor_mount"], raise_on_deleted_version=True
    )
    assert answer["data"]["data"]["note"] == latest.note
    [token] = read["tokens"]
    assert (token["software"], token["probe"]["fit"], token["model"]) == (True, True, "SoftHSM v2")
    assert {"CKR_ATTRIBUTE_SENSITIVE", "CKR_KEY_UNEXTRACTABLE"} <= {
        word.strip("()") for one in token["probe"]["tries"] for word in one["detail"].split()
    }
    assert read["custodies"][key["custody"]]["attributes"]["NEVER_EXTRACTABLE"] is True


def test_pages_and_tables_tell_the_same_key(stage: Stage, tmp_path: Path) -> None:
    """In Finnish; a name that a spreadsheet would run is made harmless, and the page has what the log is known by."""
    name = enrolled(stage)
    done = stage.run("audit", "report", "--out", str(tmp_path / "report"), "--language", "fi", "--offline")
    assert done.code == 0, done.err
    assert "report.html: 1 keys" in done.out
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    made = _gathered(stage)
    assert '<html lang="fi">' in page
    assert all(text in page for text in (name, made.keys[0].key_id, made.log.root, made.log.vkeys[0].split("+")[0]))
    text = (tmp_path / "report" / "inventory.csv").read_bytes().decode("utf-8-sig")
    [line] = csv.DictReader(io.StringIO(text, newline=""))
    assert (line["customer_name"], line["enrollment"]) == ("'=1+1 Oy", name)


def test_the_commands_on_the_page_verify_the_log(stage: Stage, tmp_path: Path) -> None:
    """As they stand there, with the log's key as the page has it."""
    enrolled(stage)
    assert stage.run("audit", "report", "--out", str(tmp_path / "report"), "--offline").code == 0
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    commands = "\n".join(html.unescape(text) for text in re.findall(r"<li>[^<]*<pre>(.*?)</pre>", page, re.DOTALL))
    export, verifier, verify, *_vault = commands.splitlines()
    for line in (export, verifier):
        words, _sign, file = line.partition(" > ")
        done = stage.run(*[str(tmp_path / word) if word.endswith(".zip") else word for word in shlex.split(words)[1:]])
        assert done.code == 0, done.err
        if file:
            (tmp_path / file).write_text(done.out, encoding="utf-8")
    name, *arguments = shlex.split(verify)
    assert name == "python3"
    ran = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_row_that_was_changed_behind_the_log_is_told(stage: Stage) -> None:
    """The hash in the last record does not fit any more; neither token nor Vault is needed to see that."""
    name = enrolled(stage)
    assert _kinds(_gathered(stage)) == CLEAN
    with Parts(stage.settings) as parts, parts.journal._database.transaction() as connection:
        connection.execute(sa.update(schema.enrollment).values(customer_name="Somebody Else Oy"))
    made = _gathered(stage)
    [found] = [one for one in made.findings if one.kind == Difference.ROW_CHANGED.value]
    assert (found.subject, found.needs_person) == (name, True)


def test_a_row_without_records_is_told_with_what_the_journal_has(stage: Stage) -> None:
    """Its time line is the history's, and says so by having no record's number."""
    name = enrolled(stage)
    with Parts(stage.settings) as parts, parts.journal._database.transaction() as connection:
        connection.execute(sa.delete(schema.log).where(schema.log.c.enrollment_id == name))
    made = _gathered(stage)
    [key] = made.keys
    assert Difference.NO_RECORD.value in _kinds(made)
    assert (key.records, key.last_record) == (0, None)
    assert {one.record for one in key.timeline} == {None}
    assert key.timeline[-1].target == "active"


def test_what_was_before_the_log_is_told_from_the_journal(stage: Stage) -> None:
    """A journal that is older than its log begins it with a record for each enrollment, as it stood."""
    name = enrolled(stage)
    with Parts(stage.settings) as parts:
        with parts.journal._database.transaction() as connection:
            connection.execute(sa.delete(schema.log).where(schema.log.c.enrollment_id == name))
        index = parts.journal.log.record("adopt", parts.now, row=stage.rows()[0])
    [key] = _gathered(stage).keys
    assert [one.record for one in key.timeline] == [None] * (len(key.timeline) - 1) + [index]
    assert [one.act for one in key.timeline][:2] == ["prepare", "generate"]
    assert (key.timeline[-2].target, key.timeline[-1].act) == ("active", "adopt")


def test_a_vault_that_refuses_on_the_way_ends_the_comparison_and_not_the_report(stage: Stage, tmp_path: Path) -> None:
    """The report does not say that it asked those whom it did not ask to the end."""
    enrolled(stage)
    stage.configure(vault={"mount": "elsewhere"})
    done = stage.run("audit", "report", "--out", str(tmp_path / "report"))
    assert done.code == 0, done.err
    read = json.loads((tmp_path / "report" / "inventory.json").read_bytes())
    assert read["asked"] == []
    assert {Kind.KEYS_UNSEEN, Kind.VAULT_UNSEEN} <= {finding["kind"] for finding in read["findings"]}


def test_a_token_that_cannot_be_asked_is_a_gap_and_no_failure(stage: Stage, tmp_path: Path) -> None:
    """What the journal knows is told, and that nothing else was asked."""
    enrolled(stage)
    stage.configure(token={"label": "another"})
    done = stage.run("audit", "report", "--out", str(tmp_path / "report"))
    assert done.code == 0, done.err
    read = json.loads((tmp_path / "report" / "inventory.json").read_bytes())
    assert read["asked"] == []
    assert {Kind.KEYS_UNSEEN, Kind.VAULT_UNSEEN} <= {finding["kind"] for finding in read["findings"]}
    assert len(read["keys"]) == 1


def test_keys_without_a_certificate_are_told(stage: Stage) -> None:
    """A key that waits for a person who carries its CSR is parked: it is told from its birth on."""
    done = stage.run("csr", "--customer-id", CUSTOMER, "--out", str(stage.folder / "request.pem"))
    assert done.code == 0, done.err
    made = _gathered(stage)
    [key] = made.keys
    assert (key.is_parked, key.key_state) == (True, KeyState.PRE_ACTIVATION)
    assert Difference.PARKED.value in _kinds(made)


def test_nothing_is_read_where_the_folder_is_somebody_elses(stage: Stage, tmp_path: Path) -> None:
    """The folder is looked at first, and left as it is."""
    (tmp_path / "notes.txt").write_text("mine")
    done = stage.run("audit", "report", "--out", str(tmp_path))
    assert done.code == InputError.exit_code
    assert [path.name for path in tmp_path.iterdir() if path.name != "stage"] == ["notes.txt"]
    assert stage.rows() == ()
