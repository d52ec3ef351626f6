"""Bundles: the same log is the same archive, and what is not such an archive is refused without being unpacked."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.auditor import Auditor, auditor
from harness.evidence import AT, Story, rezipped, told
from varmenne.audit import note, verifier
from varmenne.audit.bundle import NoteFile, write_bundle
from varmenne.audit.verifier import Bundle, Refused, Trust

__all__ = ["auditor"]


@pytest.fixture(scope="module")
def story() -> Story:
    """A log with everything in it."""
    return told()


def verified(data: bytes, story: Story) -> verifier.Report:
    """Verify a bundle."""
    return verifier.verify(Bundle(io.BytesIO(data)), Trust((story.signer.key(),)))


def proven(data: bytes, story: Story) -> bool:
    """Whether a bundle is read and proven; no exception but ours is allowed."""
    with contextlib.suppress(Refused):
        return verified(data, story).ok
    return False


def test_the_same_log_is_the_same_archive(story: Story) -> None:
    """To the byte: whoever has two exports can compare them, and only the time of the export differs."""
    assert story.bundle() == story.bundle()
    other = story.bundle(AT.replace(year=2027))
    with zipfile.ZipFile(io.BytesIO(story.bundle())) as one, zipfile.ZipFile(io.BytesIO(other)) as two:
        assert one.namelist() == two.namelist()
        assert [name for name in one.namelist() if one.read(name) != two.read(name)] == ["manifest.json"]
        assert {entry.date_time for entry in one.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {entry.external_attr >> 16 for entry in one.infolist()} == {0o600}


def test_what_is_in_it_is_as_the_documentation_says(story: Story) -> None:
    """Names of the files, and the manifest."""
    with zipfile.ZipFile(io.BytesIO(story.bundle())) as archive:
        assert sorted(archive.namelist()) == [
            *(f"anchors/{size:020d}-00112233445566aa.note" for size in (8, 15, 16)),
            *(f"checkpoints/{size:020d}-00112233445566aa.note" for size in (8, 15, 16)),
            "manifest.json",
            "passports/20261124-00000002.dsse.json",
            "passports/20261124-00000002.tlog-proof",
            "records.jsonl",
            "rows.jsonl",
        ]
        assert json.loads(archive.read("manifest.json")) == {
            "format": "varmenne.evidence/1",
            "origin": story.origin,
            "size": 16,
            "exported_at": "2026-11-24T17:00:00.000000Z",
            "vkeys": [story.vkey],
        }
        assert archive.read("records.jsonl") == b"".join(record + b"\n" for record in story.records)


def manifest(**changes: object) -> Callable[[str, bytes], bytes | None]:
    """A change of the manifest; ``None`` takes a key away."""

    def change(name: str, data: bytes) -> bytes:
        if name != "manifest.json":
            return data
        value = json.loads(data) | changes
        return json.dumps({key: one for key, one in value.items() if one is not None}).encode()

    return change


def only(wanted: str, change: Callable[[bytes], bytes | None]) -> Callable[[str, bytes], bytes | None]:
    """A change of one file."""
    return lambda name, data: change(data) if name == wanted else data


CONTENTS: dict[str, Callable[[str, bytes], bytes | None]] = {
    "another format": manifest(format="varmenne.evidence/2"),
    "a size one less": manifest(size=15),
    "a size one more": manifest(size=17),
    "a size that is a text": manifest(size="16"),
    "a size as a fraction": manifest(size=16.5),
    "another origin": manifest(origin="varmenne/ffffffffffffffff"),
    "no keys": manifest(vkeys=None),
    "something more": manifest(more=1),
    "a manifest with a key twice": only("manifest.json", lambda data: data.replace(b"{", b'{"size":16,', 1)),
    "a manifest that is a list": only("manifest.json", lambda _data: b"[]"),
    "a manifest that is not JSON": only("manifest.json", lambda _data: b"\xff"),
    "no manifest": only("manifest.json", lambda _data: None),
    "no records": only("records.jsonl", lambda _data: None),
    "no rows": only("rows.jsonl", lambda _data: None),
    "no last line feed": only("records.jsonl", lambda data: data[:-1]),
    "an empty line more": only("records.jsonl", lambda data: data + b"\n"),
    "CRLF in the records": only("records.jsonl", lambda data: data.replace(b"\n", b"\r\n")),
    "a line that does not end": only("records.jsonl", lambda _data: b"x" * (5 * 1024 * 1024)),
    "rows that are not canonical": only("rows.jsonl", lambda data: data.replace(b'":', b'": ', 1)),
    "rows out of order": only("rows.jsonl", lambda data: b"\n".join([*data.split(b"\n")[1::-1], b""])),
    "a row twice": only("rows.jsonl", lambda data: data.split(b"\n")[0] + b"\n" + data),
    "a passport without its proof": only("passports/20261124-00000002.tlog-proof", lambda _data: None),
    "a passport that is no JSON": only("passports/20261124-00000002.dsse.json", lambda _data: b"{"),
    "a proof that is none": only("passports/20261124-00000002.tlog-proof", lambda _data: b"proof"),
    "a large passport": only("passports/20261124-00000002.dsse.json", lambda _data: b" " * (17 * 1024 * 1024)),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_changed_contents_are_found(name: str, story: Story) -> None:
    """An error of the verification, or a refusal; never an exception of another kind, and never proven."""
    assert not proven(rezipped(story.bundle(), CONTENTS[name]), story)


def _with(name: str, data: bytes = b"") -> Callable[[bytes], bytes]:
    """Add a file to an archive."""

    def change(archive: bytes) -> bytes:
        file = io.BytesIO(archive)
        with zipfile.ZipFile(file, "a") as opened:
            opened.writestr(zipfile.ZipInfo(name), data)
        return file.getvalue()

    return change


ARCHIVES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _data: b"",
    "a text": lambda _data: b"PK is not enough",
    "a cut end": lambda data: data[:-30],
    "a cut beginning": lambda data: data[30:],
    "something before it": lambda data: b"before" + data,
    "something after it": lambda data: data + b"after",
    "a comment": lambda data: data[:-2] + b"\x04\x00more",
    "a file that does not belong": _with("README"),
    "a way out": _with("../records.jsonl"),
    "an absolute way": _with("/etc/passwd"),
    "a folder": _with("checkpoints/"),
    "a checkpoint with another name": _with("checkpoints/8.note"),
    "changed bytes": lambda data: data.replace(data[200:204], b"\0\1\2\3", 1),
    "an unknown compression": lambda data: data.replace(b"\x08\x00", b"\x63\x00"),
    "encrypted": lambda data: data.replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00"
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_broken_archive_is_refused(name: str, story: Story) -> None:
    """In words of ours: nothing of the ZIP library comes through."""
    data = story.bundle()
    changed = ARCHIVES[name](data)
    assert changed != data
    assert not proven(changed, story)


def test_a_file_that_is_there_twice_is_refused(story: Story) -> None:
    """Two readers could see two different logs."""
    with pytest.warns(UserWarning, match="Duplicate"):
        data = _with("rows.jsonl")(story.bundle())
    with pytest.raises(Refused, match="twice"):
        Bundle(io.BytesIO(data))


def test_memory_does_not_grow_with_the_records(tmp_path: Path) -> None:
    """Writing and verifying thirty thousand records takes no more than writing and verifying three thousand."""

    def peak(count: int) -> tuple[int, int]:
        story = Story()
        story.add("log_key", detail={"vkey": story.vkey})
        story.add("probe", reason="x" * 1000)
        record = story.records.pop()
        path = tmp_path / f"{count}.zip"

        def records() -> Iterator[bytes]:
            yield story.records[0]
            for _number in range(count):
                yield bytes(bytearray(record))

        tree = verifier.Tree()
        for one in records():
            tree.append(verifier.leaf_hash(one))
        text = note.checkpoint(story.origin, tree.size, tree.root(), story.signer)
        peaks = []
        tracemalloc.start()
        with path.open("wb") as file:
            write_bundle(
                file,
                origin=story.origin,
                exported_at=AT,
                vkeys=[story.vkey],
                records=records(),
                rows=[],
                checkpoints=[NoteFile(story.origin, tree.size, text)],
            )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.reset_peak()
        with path.open("rb") as bundle:
            assert verifier.verify(Bundle(bundle), Trust((story.signer.key(),))).findings == []
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        return peaks[0], peaks[1]

    peak(100)
    few, many = peak(3_000), peak(30_000)
    assert [large < small + 1_000_000 for small, large in zip(few, many, strict=True)] == [True, True], (few, many)


# --- As an auditor runs it. -------------------------------------------------------------------------------------------


def test_an_auditor_verifies_a_bundle_elsewhere(auditor: Auditor, story: Story, tmp_path: Path) -> None:
    """Exit code 0 with what was proven, 1 with what was not and the first bad record, 2 for wrong usage."""
    good, bad, anchor, policy = (tmp_path / name for name in ("good.zip", "bad.zip", "kept.note", "policy"))
    good.write_bytes(story.bundle())
    changed = story.copy()
    changed.change(9, public_key="ab" * 32)
    bad.write_bytes(changed.bundle())
    anchor.write_text(story.checkpoints[0].note)
    policy.write_text(f"log {story.vkey}\nquorum none\n")

    done = auditor(good, "--key", story.vkey, "--anchor", anchor)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"PROVEN  {story.origin}: 16 records, root ")
    assert auditor(good, "--policy", policy).stdout.startswith("PROVEN")
    assert "NOT TRUSTED" in auditor(good).stdout.upper()
    done = auditor(bad, "--key", story.vkey, "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], found["first_bad_record"]) == (1, False, 10)
    assert {"severity", "where", "what", "index"} == found["findings"][0].keys()
    done = auditor(bad, "--key", story.vkey)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-1] == "NOT PROVEN; the first bad record is 10"


def test_an_auditor_verifies_a_record_and_a_passport_elsewhere(auditor: Auditor, story: Story, tmp_path: Path) -> None:
    """With two small files and the log's key."""
    proof, record, passport, passport_proof = (tmp_path / name for name in ("a", "b", "c", "d"))
    proof.write_bytes(story.proof(3, story.checkpoints[0]))
    record.write_bytes(story.records[3] + b"\n")
    passport.write_bytes(story.passports[0].envelope)
    passport_proof.write_bytes(story.passports[0].proof)
    key = ("--key", story.vkey)
    assert auditor("--proof", proof, record, *key).returncode == 0
    assert auditor("--proof", passport_proof, "--passport", passport, *key).returncode == 0
    assert auditor("--proof", proof, record).returncode == 1
    assert auditor("--proof", proof, passport, *key).returncode == 1
    assert auditor("--proof", proof, "--passport", passport, *key).returncode == 1
    passport.write_bytes(passport.read_bytes().replace(b"keyid", b"keyiD"))
    done = auditor("--proof", passport_proof, "--passport", passport, *key, "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (1, False)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.zip", "--passport", "b"],
        ["--passport", "b"],
        ["--proof", "a"],
        ["--proof", "a", "b", "--passport", "c"],
        ["missing.zip"],
        ["--proof", "missing", "missing"],
    ],
)
def test_wrong_usage_is_told_apart(arguments: list[str], auditor: Auditor) -> None:
    """Exit code 2 and a sentence, so that a script cannot take it for a verdict."""
    done = auditor(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_bundle_or_key_is_a_verdict(auditor: Auditor, tmp_path: Path) -> None:
    """What was given proves nothing."""
    (tmp_path / "x").write_text("x")
    for arguments in (
        [tmp_path / "x"],
        [tmp_path / "x", "--key", "nonsense"],
        [tmp_path / "x", "--policy", tmp_path / "x"],
    ):
        done = auditor(*arguments)
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.endswith("NOT PROVEN\n")


def test_the_verifier_imports_the_standard_library_and_cryptography_alone() -> None:
    """One file that can be read and copied."""
    tree = ast.parse(Path(verifier.__file__).read_bytes())
    names = {
        (node.module or "" if isinstance(node, ast.ImportFrom) else alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert names - sys.stdlib_module_names == {"cryptography"}
