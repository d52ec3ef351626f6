"""The trust folder: what may go in, how, and what it proves."""

from __future__ import annotations

import io
import json
import os
import pty
import stat
import subprocess
import sys
import zipfile
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from harness.authorities import Command, files_in, fingerprint
from harness.forge import Forge
from harness.stage import run_main
from varmenne.clock import system_clock
from varmenne.domain.identifiers import Environment
from varmenne.errors import InputError
from varmenne.service.trust import load_trust
from varmenne.service.trust_sources import read_file
from varmenne.service.trust_store import TrustStore, in_pairs, read_authority
from varmenne.testbench.family import bench_name, build_certificate, der, key_usage, pem


def test_unknown_ca_needs_its_fingerprint(command: Command, authorities: Path, forge: Forge, tmp_path: Path) -> None:
    """Without a terminal and without --fingerprint nothing is imported; the error tells the fingerprint."""
    with pytest.raises(InputError) as caught:
        command("import", authorities / "services.cer", "--role", "services")
    assert in_pairs(fingerprint(forge.services)) in caught.value.why
    assert files_in(tmp_path / "state") == {}


def test_import_puts_each_in_its_place(command: Command, authorities: Path, forge: Forge, tmp_path: Path) -> None:
    """PEM and DER; private files; who, when and why in the log; again is no change; and the anchors load."""
    for name, role, pair in (
        ("services.cer", "services", forge.services),
        ("providers.pem", "providers", forge.providers),
        ("root.pem", "chain", forge.root),
    ):
        digits = fingerprint(pair).upper()
        shown = ":".join(digits[i : i + 2] for i in range(0, 64, 2))
        result = command("import", authorities / name, "--role", role, "--fingerprint", shown)
        assert [(one["role"], one["ground"]) for one in result["imported"]] == [(role, "fingerprint given")]
    trust = tmp_path / "state" / "trust" / "test"
    again = command("import", authorities / "root.pem", "--fingerprint", fingerprint(forge.root))
    assert (again["imported"], len(again["already_there"])) == ([], 1)
    loaded = load_trust(trust, Environment.TEST, system_clock())
    assert (loaded.services, loaded.providers) == (forge.anchors, (der(forge.providers.certificate),))
    log = [json.loads(line) for line in (trust / "log.jsonl").read_text().splitlines()]
    assert [(line["action"], line["role"], line["environment"]) for line in log] == [
        ("import", "services", "test"),
        ("import", "providers", "test"),
        ("import", "chain", "test"),
    ]
    assert all(line["user"] and line["at"].endswith("Z") and line["file"] for line in log)
    assert {stat.S_IMODE(path.stat().st_mode) for path in trust.rglob("*") if path.is_file()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in trust.rglob("*") if path.is_dir()} == {0o700}
    assert not list(trust.rglob(".*"))


def test_roles_are_never_mixed(command: Command, authorities: Path, forge: Forge, tmp_path: Path) -> None:
    """A CA of one role cannot get another, a root is no anchor, and a role must be named; nothing changes."""
    print_of = fingerprint(forge.services)
    command("import", authorities / "services.cer", "--role", "services", "--fingerprint", print_of)
    before = files_in(tmp_path / "state")
    for name, options in (
        ("services.cer", ["--role", "providers"]),
        ("services.cer", ["--role", "chain"]),
        ("services.cer", []),
        ("root.pem", ["--role", "services"]),
    ):
        given = ["--fingerprint", print_of, "--fingerprint", fingerprint(forge.root)]
        with pytest.raises(InputError):
            command("import", authorities / name, *options, *given)
    assert files_in(tmp_path / "state") == before


def test_all_are_looked_at_before_any_is_written(
    command: Command, authorities: Path, forge: Forge, tmp_path: Path
) -> None:
    """One bad file among good ones, and nothing is imported."""
    (authorities / "bad.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(InputError):
        command("import", authorities / "root.pem", authorities / "bad.pem", "--fingerprint", fingerprint(forge.root))
    assert files_in(tmp_path / "state") == {}


@pytest.mark.parametrize(
    "kind", ["leaf", "ended", "nothing", "empty", "zip of nothing", "broken zip", "huge", "missing"]
)
def test_what_is_no_usable_ca_is_refused(command: Command, forge: Forge, tmp_path: Path, kind: str) -> None:
    """Each with a sentence, and nothing is written."""
    path = tmp_path / "file"
    now = system_clock()
    empty = io.BytesIO()
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("README.txt", "hello")
    ended = build_certificate(
        bench_name("FORGE Old CA"), forge.root.key.public_key(), None, own_key=forge.root.key,
        begin=now - timedelta(days=9), end=now - timedelta(days=1),
        extensions=[(x509.BasicConstraints(True, None), True), (key_usage("key_cert_sign"), True)],
    )  # fmt: skip
    contents = {
        "leaf": pem(forge.signer.certificate),
        "ended": pem(ended),
        "nothing": b"hello",
        "empty": b"",
        "zip of nothing": empty.getvalue(),
        "broken zip": b"PK\3\4 nonsense",
        "huge": b"x" * 2_000_000,
    }
    if kind in contents:
        path.write_bytes(contents[kind])
    with pytest.raises(InputError) as caught:
        command("import", path, "--role", "chain")
    assert caught.value.what
    assert files_in(tmp_path / "state") == {}


def test_two_side_by_side_then_the_old_one_goes(
    command: Command, authorities: Path, forge: Forge, tmp_path: Path
) -> None:
    """A roll-over without a gap: the successor is trusted beside the old CA, which is removed when it is not needed."""
    successor = build_certificate(
        bench_name("FORGE Services CA v2"), forge.other_key.public_key(), forge.root,
        begin=system_clock() - timedelta(days=1), end=system_clock() + timedelta(days=3000),
        extensions=[(x509.BasicConstraints(True, None), True), (key_usage("key_cert_sign"), True)],
    )  # fmt: skip
    (authorities / "both.pem").write_bytes(pem(forge.services.certificate) + pem(successor))
    prints = [read_authority(der_of).fingerprint for der_of in (*forge.anchors, successor.public_bytes(Encoding.DER))]
    command(
        "import", authorities / "both.pem", "--role", "services", *[x for p in prints for x in ("--fingerprint", p)]
    )
    assert [one["role"] for one in command("list")] == ["services", "services"]
    trust = tmp_path / "state" / "trust" / "test"
    command(
        "import", authorities / "providers.pem", "--role", "providers", "--fingerprint", fingerprint(forge.providers)
    )
    assert len(load_trust(trust, Environment.TEST, system_clock()).services) == 2
    removed = command("remove", prints[0][:16])
    assert removed["fingerprint_sha256"] == prints[0]
    assert load_trust(trust, Environment.TEST, system_clock()).services == (successor.public_bytes(Encoding.DER),)
    with pytest.raises(InputError):
        command("remove", prints[0])
    assert json.loads((trust / "log.jsonl").read_text().splitlines()[-1])["action"] == "remove"


def test_removing_one_of_a_file_leaves_the_others(forge: Forge, tmp_path: Path) -> None:
    """A file that a person has put there may hold several certificates."""
    (tmp_path / "chain").mkdir()
    file = tmp_path / "chain" / "all.pem"
    file.write_bytes(pem(forge.root.certificate) + pem(forge.services.certificate))
    store = TrustStore(tmp_path, Environment.TEST)
    store.remove(store.find(fingerprint(forge.services)), system_clock(), "somebody")
    assert [item.authority.fingerprint for item in store.stored()] == [fingerprint(forge.root)]


def test_wrong_environment_is_refused(command: Command, authorities: Path, tmp_path: Path) -> None:
    """--environment that is not the settings' own ends the command."""
    with pytest.raises(InputError, match="test environment"):
        command("import", authorities / "root.pem", "--environment", "production")
    assert files_in(tmp_path / "state") == {}


def test_zip_with_several(command: Command, forge: Forge, tmp_path: Path) -> None:
    """A package as the service publishes it: a README, and certificates in a folder."""
    package = tmp_path / "package.zip"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("README.txt", "Read me")
        archive.writestr("ca/root.cer", der(forge.root.certificate))
        archive.writestr("../../../evil.pem", pem(forge.services.certificate))
    assert [authority.fingerprint for authority in read_file(package)] == [
        fingerprint(forge.root),
        fingerprint(forge.services),
    ]
    given = [x for pair in (forge.root, forge.services) for x in ("--fingerprint", fingerprint(pair))]
    assert len(command("import", package, "--role", "chain", *given)["imported"]) == 2
    assert not (tmp_path.parent / "evil.pem").exists()


@pytest.mark.parametrize(("answer", "code"), [("right", 0), ("wrong", 4), ("yes", 4)])
def test_person_confirms_by_typing(config: Path, authorities: Path, forge: Forge, answer: str, code: int) -> None:
    """On a terminal the fingerprint is shown, and its last eight digits have to be typed."""
    typed = {"right": fingerprint(forge.root)[-8:], "wrong": "00000000", "yes": "yes"}[answer]
    ours, theirs = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "varmenne",
        "--config",
        str(config),
        "trust",
        "import",
        str(authorities / "root.pem"),
    ]
    process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.write(ours, f"{typed}\n".encode())
    _out, told = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == code, told
    assert "published" not in told.partition("Compare")[0]
    assert in_pairs(fingerprint(forge.root)) in told.replace("\n    ", "")
    log = config.parent / "state" / "trust" / "test" / "log.jsonl"
    assert (log.exists() and "confirmed by typing" in log.read_text()) == (code == 0)


@pytest.mark.parametrize("given", ["11:22", "not hexadecimal", "ab" * 20, "ab" * 32])
def test_a_fingerprint_of_nothing_is_refused(command: Command, forge: Forge, tmp_path: Path, given: str) -> None:
    """A part, an SHA-1, and the fingerprint of something else end the command; nothing is imported."""
    file = tmp_path / "root.pem"
    file.write_bytes(pem(forge.root.certificate))
    with pytest.raises(InputError, match="fingerprint"):
        command("import", file, "--fingerprint", given, "--fingerprint", fingerprint(forge.root))
    assert files_in(tmp_path / "state") == {}


def test_list_tells_who_confirmed(command: Command, config: Path, forge: Forge, tmp_path: Path) -> None:
    """Of a CA that is not published, the list names the person and the day, and the fingerprint as people write it."""
    file = tmp_path / "root.pem"
    file.write_bytes(pem(forge.root.certificate))
    command("import", file, "--fingerprint", in_pairs(fingerprint(forge.root)))
    shown = run_main("--config", str(config), "trust", "list").out
    assert in_pairs(fingerprint(forge.root)) in shown
    assert f" on {system_clock():%Y-%m-%d}" in shown
    assert command("list")[0]["ground"].startswith("confirmed by ")
    (tmp_path / "state" / "trust" / "test" / "log.jsonl").write_text("spoilt\n[]\n{}\n")
    assert "confirmed by nobody" in run_main("--config", str(config), "trust", "list").out


@pytest.mark.parametrize(("digits", "words"), [("12345678", "no certificate's"), ("1234567", "at least 8 digits")])
def test_remove_says_what_is_missing(command: Command, forge: Forge, tmp_path: Path, digits: str, words: str) -> None:
    """Too few digits are another mistake than digits that no certificate begins with."""
    file = tmp_path / "root.pem"
    file.write_bytes(pem(forge.root.certificate))
    command("import", file, "--fingerprint", fingerprint(forge.root))
    with pytest.raises(InputError) as caught:
        command("remove", digits)
    assert words in caught.value.why
