"""``varmenne service verify``: stored answers, offline, by the same code as live ones."""

from __future__ import annotations

import ast
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.forge import Forge, envelope
from harness.good_answers import ERROR
from varmenne.cli.common import App
from varmenne.cli.program import run
from varmenne.errors import ConfigError, InputError
from varmenne.service import error_codes
from varmenne.service.error_codes import KNOWN, Kind, advice
from varmenne.service.interface import Operation
from varmenne.testbench.family import pem
from varmenne.testbench.refusals import REFUSALS

AT = ["--at", "2026-11-24T12:00:00Z"]


@pytest.fixture
def anchor(forge: Forge, tmp_path: Path) -> str:
    """Return a file with the services CA."""
    path = tmp_path / "services-ca.pem"
    path.write_bytes(pem(forge.services.certificate))
    return str(path)


def verify(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Run the command with --json, and return exit code and lines."""
    capsys.readouterr()
    code = run("service", "verify", "--json", *AT, *arguments)
    return code or 0, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_one_line_per_file(forge: Forge, anchor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Good, tampered and missing files each have a line, and one that fails makes the exit code 1."""
    good, bad = tmp_path / "good.xml", tmp_path / "bad.xml"
    good.write_bytes(forge.answer())
    bad.write_bytes(forge.evil(forge.answer().decode()).encode())
    code, lines = verify(
        capsys, "--operation", "signNewCertificate", "--trust", anchor, str(good), str(bad), str(tmp_path / "none.xml")
    )
    assert code == 1
    assert [(line["verified"], line["check"]) for line in lines] == [
        (True, None),
        (False, "signature"),
        (False, "file"),
    ]
    assert [set(line) for line in lines] == [{"file", "verified", "operation", "values", "reason", "check"}] * 3
    assert lines[0]["values"]["retrieval_id"] == forge.retrieval
    assert lines[0]["operation"] == "signNewCertificate"
    assert [line["values"] for line in lines[1:]] == [None, None]
    assert all(line["reason"] for line in lines[1:])


def test_all_good_is_zero(forge: Forge, anchor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, and the certificate in PEM."""
    good = tmp_path / "good.xml"
    good.write_bytes(forge.answer(Operation.GET))
    code, (line,) = verify(capsys, "--operation", "getCertificate", "--trust", anchor, str(good))
    assert code == 0
    assert line["values"]["certificate"] == pem(forge.customer.certificate).decode()
    assert run("service", "verify", "--operation", "getCertificate", "--trust", anchor, *AT, str(good)) in {None, 0}
    assert "verified" in capsys.readouterr().out


def test_standard_input(
    forge: Forge, anchor: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A minus sign reads from there."""
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(forge.answer())))
    code, (line,) = verify(capsys, "--operation", "signNewCertificate", "--trust", anchor, "-")
    assert (code, line["verified"], line["file"]) == (0, True, "-")


def test_refusal_is_verified_and_explained(
    forge: Forge, anchor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A signed FAIL is a fact: its text comes as it was, an unknown code with careful advice beside it."""
    file = tmp_path / "fail.xml"
    text = "Tuntematon \N{EURO SIGN} virhe"
    file.write_bytes(
        envelope(forge.signed(message=forge.message(value="", result=ERROR.format(text).replace("110", "999"))))
    )
    code, (line,) = verify(capsys, "--operation", "signNewCertificate", "--trust", anchor, str(file))
    assert code == 0
    assert line["values"]["errors"] == [{"code": "PKI999", "message": text}]
    assert line["values"]["status"] == "FAIL"
    assert line["values"]["advice"]["kind"] == "ask a person"


def test_answers_for_people_hold_no_orders_to_the_terminal(
    forge: Forge, anchor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even what the service has signed is shown without control characters."""
    file = tmp_path / "fail.xml"
    file.write_bytes(envelope(forge.signed(message=forge.message(value="", result=ERROR.format("a\x9b2Jb\u202ec")))))
    run("service", "verify", "--operation", "signNewCertificate", "--trust", anchor, *AT, str(file))
    assert capsys.readouterr().out.rstrip("\n").endswith("a?2Jb?c")


def test_wrong_trust_and_wrong_time(
    forge: Forge, anchor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is no CA, an unreadable time, and no settings are errors of whoever asked; nothing is verified."""
    file = tmp_path / "good.xml"
    file.write_bytes(forge.answer())
    leaf = tmp_path / "leaf.pem"
    leaf.write_bytes(pem(forge.signer.certificate))
    operation = ["--operation", "signNewCertificate"]
    with pytest.raises(InputError, match="not a CA's"):
        run("service", "verify", *operation, "--trust", str(leaf), str(file))
    with pytest.raises(InputError, match="not a time"):
        run("service", "verify", *operation, "--trust", anchor, "--at", "yesterday", str(file))
    with pytest.raises(InputError, match="valid at that time"):
        run("service", "verify", *operation, "--trust", anchor, "--at", "2099-01-01", str(file))
    with pytest.raises(ConfigError):
        run("service", "verify", *operation, str(file), app=App(config=str(tmp_path / "none.toml")))
    assert capsys.readouterr().out == ""


def test_live_and_offline_use_one_function() -> None:
    """The engine's acts and the command call the same function, and nothing else verifies answers."""
    package = Path(error_codes.__file__).parents[1]
    callers = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("verify_answer")
    }
    assert {"enrollment/work.py", "cli/service.py"} <= callers
    verifiers = {str(path.relative_to(package)) for path in package.rglob("*.py") if "XMLVerifier" in path.read_text()}
    assert verifiers == {"service/answers.py", "service/renewal.py"}  # The latter for our own requests.


def test_known_codes_are_the_benchs() -> None:
    """No code is made up: the only ones seen so far are those of the bench."""
    assert set(KNOWN) <= set(REFUSALS)


@pytest.mark.parametrize(
    ("operation", "codes", "kind"),
    [
        (Operation.SIGN_NEW, ["PKI999"], Kind.ASK),
        (Operation.SIGN_NEW, [], Kind.ASK),
        (Operation.SIGN_NEW, ["PKI113"], Kind.PERMANENT),
        (Operation.SIGN_NEW, ["PKI113", "PKI999"], Kind.ASK),
        (Operation.SIGN_NEW, ["PKI001", "PKI113"], Kind.PERMANENT),
        (Operation.SIGN_NEW, ["PKI001"], Kind.TRY_AGAIN),
        (Operation.GET, ["PKI999"], Kind.TRY_AGAIN),
        (Operation.GET, ["PKI132"], Kind.TRY_AGAIN),
        (Operation.GET, ["PKI130"], Kind.ASK),
        (Operation.RENEW, ["surprise"], Kind.ASK),
    ],
)
def test_codes_are_judged_carefully(operation: Operation, codes: list[str], kind: Kind) -> None:
    """An unknown code is a person's business, unless asking again is harmless; of several the gravest counts."""
    assert advice(operation, tuple((code, "message") for code in codes)).kind is kind


def test_samples_are_repeatable(forge: Forge) -> None:
    """The forge's words come from its seed."""
    assert Forge().retrieval == forge.retrieval
