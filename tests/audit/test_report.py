"""The report's tables and texts: complete in both languages, valid by their schemas, harmless in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import re
import string
from dataclasses import replace
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from harness.inventories import FORMULA, HOSTILE, NOW, inventory
from varmenne.audit.inventory import Finding, Kind, LogFacts, ordered
from varmenne.audit.report import views
from varmenne.audit.report.cbom import cbom, references, refuse_dangling
from varmenne.audit.report.controls import CONTROLS, evidence
from varmenne.audit.report.language import Language, table, texts
from varmenne.audit.report.page import SECTIONS, TEMPLATES
from varmenne.audit.report.tables import COLUMNS, controls_csv, harmless, inventory_csv, inventory_json
from varmenne.domain.concerns import Reason
from varmenne.domain.key_states import KeyState
from varmenne.enrollment.reconcile import Kind as Difference

KINDS = sorted({one.value for words in (Kind, Reason, Difference) for one in words})


def _fields(text: str) -> set[str]:
    """The fields in braces of a text."""
    return {name for _before, name, *_rest in string.Formatter().parse(text) if name}


def test_both_languages_have_the_same_texts_with_the_same_fields() -> None:
    """A text that one language lacks would end a report with an error."""
    english, finnish = table(Language.ENGLISH), table(Language.FINNISH)
    assert english.keys() == finnish.keys()
    assert [key for key in english if _fields(english[key]) != _fields(finnish[key])] == []
    assert [key for key, text in finnish.items() if not text.strip()] == []


def test_finnish_is_not_english() -> None:
    """Words that are the same in both are names and little else."""
    english, finnish = table(Language.ENGLISH), table(Language.FINNISH)
    assert {key for key in english if english[key] == finnish[key]} == {
        *("channel.ws", "channel.sftp", "sha256", "asked.vault", "gap_count"),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_exception_has_a_title(kind: str) -> None:
    """Whatever reconciliation, `status` or the report itself may find can be told in both languages."""
    assert all(table(language)[f"kind.{kind}"] for language in Language)


def test_no_text_is_left_over() -> None:
    """Each text is used, by its whole key in a template or in code, or as one of a family."""
    sources = [
        path.read_text(encoding="utf-8") for path in TEMPLATES.parent.rglob("*") if path.suffix in {".py", ".j2"}
    ]
    families = ("kind.", "control.", "key_state.", "limit.", "asked.", "outcome.", "environment.", "channel.", "file.")
    alone = {key for key in table(Language.ENGLISH) if not key.startswith(families)}
    used = set(re.findall(r"\"([a-z0-9_.-]+)\"", "\n".join(sources)))
    assert alone - used - {*SECTIONS} == set()


def test_gaps_of_controls_are_kinds_of_exceptions() -> None:
    """A misspelt kind would be a gap that is never told."""
    assert {kind for control in CONTROLS for kind in control.gaps} - {*KINDS} == set()


@pytest.mark.parametrize("language", Language)
def test_controls_name_their_proof_and_every_gap(language: Language) -> None:
    """Each row has the records and the checkpoint that prove it, and what is missing, counted."""
    made = inventory()
    found = {one.control.key: one for one in evidence(made, texts(language))}
    assert all(
        made.log.checkpoint_root in one.proof and str(made.log.checkpoint_size) in one.proof for one in found.values()
    )
    title = table(language)["kind.software"]
    assert [gap for gap in found["dora-7-2"].gaps if gap.startswith(title)] == [f"{title}: 1"]
    clean = replace(made, findings=(), log=LogFacts(origin="varmenne/00", size=0, root=""))
    assert [len(one.gaps) for one in evidence(clean, texts(language))] == [1] * len(CONTROLS)
    assert {one.proof for one in evidence(clean, texts(language))} == {table(language)["proof_empty"]}
    unsigned = replace(clean, log=LogFacts(origin="varmenne/00", size=3, root="ab"))
    assert {"0" in one.proof and "2" in one.proof for one in evidence(unsigned, texts(language))} == {True}
    assert "compl" not in " ".join(one.evidence for one in found.values())


@pytest.mark.parametrize(
    "beginning", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20", " =", "\ufeff="]
)
def test_no_cell_begins_as_a_formula(beginning: str) -> None:
    """Customers' names come from outside; a spreadsheet must not run them."""
    assert harmless(f"{beginning}1+1") == f"'{beginning}1+1"
    assert harmless("1000000-1") == "1000000-1"
    assert harmless(None) == ""


def test_the_inventory_as_csv_has_all_columns_and_no_formula() -> None:
    """One line for each key, read back by a strict reader."""
    made = inventory(12, hostile=True)
    text = inventory_csv(made).decode("utf-8-sig")
    lines = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    assert tuple(lines[0]) == COLUMNS
    assert len(lines) == len(made.keys)
    first, key = lines[0], made.keys[0]
    assert first["technical_contact"] == f"'{FORMULA}"
    assert first["customer_name"] == HOSTILE
    assert (first["key_id"], first["public_key_sha256"]) == (key.key_id, key.public_key)
    assert key.certificate is not None
    assert (first["certificate_serial"], first["issuer"]) == (key.certificate.serial, key.certificate.issuer)
    assert (first["bits"], first["strength_bits"], first["algorithm"]) == ("2048", "112", "RSA")
    assert {line["software_token"] for line in lines} == {"yes", "no", ""}
    assert {line["key_state"] for line in lines} == {state.value for state in KeyState}
    assert "parked-key" in next(line for line in lines if line["state"] == "keyed")["exceptions"]


def test_controls_as_csv() -> None:
    """One line for each control, with its gaps one below another."""
    found = evidence(inventory(), texts(Language.FINNISH))
    lines = list(csv.DictReader(io.StringIO(controls_csv(found).decode("utf-8-sig"), newline=""), strict=True))
    assert [line["reference"] for line in lines] == [control.reference for control in CONTROLS]
    assert [line["gaps"].split("\n") for line in lines] == [list(one.gaps) for one in found]


def test_the_inventory_as_json_leaves_nothing_out() -> None:
    """Each key has its time line, and the number of the custody that it shares with others."""
    made = inventory(30)
    read = json.loads(inventory_json(made))
    assert (read["format"], len(read["keys"]), len(read["custodies"])) == ("varmenne.inventory/1", 30, 2)
    key = made.keys[1]
    assert key.custody is not None
    shared = read["custodies"][read["keys"][1]["custody"]]
    assert shared["attributes"] == dict(key.custody.attributes)
    assert shared["deviations"] == list(key.custody.deviations)
    assert [one["record"] for one in read["keys"][1]["timeline"]] == [one.record for one in key.timeline]
    assert read["made_at"] == "2026-11-24T17:00:00Z"
    assert [one["needs_person"] for one in read["findings"]] == [one.needs_person for one in made.findings]


@pytest.mark.parametrize("hostile", [False, True])
def test_the_cbom_is_valid_and_always_the_same(hostile: bool) -> None:
    """By the strict schema of CycloneDX 1.6; serial number and moment come from the inventory."""
    made = inventory(10, hostile=hostile)
    text = cbom(made)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.decode()) is None
    assert cbom(inventory(10, hostile=hostile)) == text
    assert cbom(replace(made, log=replace(made.log, root="00"))) != text
    read = json.loads(text)
    assert read["metadata"]["timestamp"].startswith(NOW.isoformat()[:19])
    by_ref = {one["bom-ref"]: one["cryptoProperties"] for one in read["components"]}
    private = by_ref[f"crypto/private-key/{made.keys[0].key_id}"]["relatedCryptoMaterialProperties"]
    assert (private["state"], private["size"], private["securedBy"]["mechanism"]) == ("active", 2048, "Software")
    assert "value" not in private
    states = {one.get("relatedCryptoMaterialProperties", {}).get("state") for one in by_ref.values()}
    assert states == {None, "pre-activation", "active", "deactivated", "destroyed"}


def test_the_schema_alone_would_not_find_what_is_refused() -> None:
    """A reference that leads nowhere passes the schema, so it is looked for; and so is a name that is there twice."""
    document = json.loads(cbom(inventory(3)))
    [key] = [one for one in document["components"] if one["bom-ref"].startswith("crypto/private-key/")][:1]
    key["cryptoProperties"]["relatedCryptoMaterialProperties"]["algorithmRef"] = "crypto/algorithm/none"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None
    named = [one["bom-ref"] for one in document["components"]]
    with pytest.raises(ValueError, match="crypto/algorithm/none"):
        refuse_dangling(named, set(references(document)))
    with pytest.raises(ValueError, match="same name"):
        refuse_dangling([*named, named[0]], [])


def test_exceptions_that_need_a_person_come_first() -> None:
    """Then by kind and subject, so that two reports can be compared."""
    found = ordered([Finding("b", "2"), Finding("c", "1", needs_person=True), Finding("b", "1"), Finding("a", "9")])
    assert [(one.kind, one.subject) for one in found] == [("c", "1"), ("a", "9"), ("b", "1"), ("b", "2")]


def test_a_fleet_fits_on_a_page() -> None:
    """What a page shows is bounded, and says of how many; those that need a person are on it."""
    made = inventory(1500)
    last = made.keys[-1]
    page = views.page(replace(made, findings=(Finding("orphan", last.enrollment, needs_person=True),)))
    assert page.rows[0] == page.timelines[0] == last
    assert (len(page.rows), len(page.timelines)) == (views.MOST_ROWS, views.MOST_TIMELINES)
    assert (len(page.dates), len(page.custody)) == (views.MOST_DATES, 2)
    assert sum(group.number for group in page.custody) == sum(key.custody is not None for key in made.keys)
    assert sum(bar.width for bar in page.bars) == 1000


def test_the_documentation_names_the_bounds_of_a_page() -> None:
    """What an auditor reads of them is what holds."""
    told = (Path(__file__).parents[2] / "docs" / "audit-report.md").read_text(encoding="utf-8").replace("\n", " ")
    bounds = f"{views.MOST_ROWS:,} keys in the inventory, {views.MOST_TIMELINES} time lines, {views.MOST_DATES} dates"
    assert f"at most {bounds} and {views.MOST_FINDINGS} exceptions of a kind" in told
