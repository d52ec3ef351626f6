"""What bad input gets: a clear sentence, a documented exit code, and nothing changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.signers import SoftwareSigner
from harness.stage import Stage
from varmenne.csr import build_csr, to_pem
from varmenne.domain.identifiers import CustomerId
from varmenne.domain.steps import State

GOOD = json.dumps({"transfer_id": "12345678901", "one_time_password": "s3cRet-s3cRet"})
ENROLL = ("enroll", "--customer-id", "bad-input", "--credentials", "-")


@pytest.fixture
def settings(shared_stage: Stage) -> Iterator[Callable[..., None]]:
    """Change the settings file for one test."""
    yield shared_stage.configure
    shared_stage.configure()


MISTYPED: dict[str, tuple[tuple[str, ...], str, int, tuple[str, ...]]] = {
    # name: (arguments, standard input, exit code, words)
    "no command": (("enrol",), "", 2, ("no command 'enrol'", "Did you mean 'enroll'?")),
    "nothing like a command": (("xyzzy",), "", 2, ("no command 'xyzzy'", "--help")),
    "unknown option": ((*ENROLL, "--nonsense"), "", 2, ("No such option", "--nonsense")),
    "no customer": (("enroll",), "", 4, ("No customer is named", "--customer-id", "customer.id")),
    "blank customer": (("enroll", "--customer-id", " "), GOOD, 4, ("customer ID", "blank")),
    "empty customer": (("enroll", "--customer-id", ""), GOOD, 4, ("customer ID is empty",)),
    "long customer": (("enroll", "--customer-id", "1" * 31), GOOD, 4, ("customer ID is too long", "31", "30")),
    "control character": (("enroll", "--customer-id", "1\x072"), GOOD, 4, ("customer ID", "cannot be printed")),
    "long name": ((*ENROLL, "--customer-name", "n" * 101), GOOD, 4, ("customer name is too long", "101", "100")),
    "unknown channel": ((*ENROLL, "--channel", "fax"), GOOD, 2, ("'fax' is not one of", "'ws'", "'sftp'")),
    "unknown environment": ((*ENROLL, "--environment", "prod"), GOOD, 2, ("'prod' is not one of", "'production'")),
    "other environment": ((*ENROLL, "--environment", "production"), GOOD, 4, ("is for the test environment", "mix")),
    "no such old one": ((*ENROLL, "--replaces", "7"), GOOD, 4, ("'7' is not an enrollment ID", "varmenne list")),
    "negative wait": ((*ENROLL, "--wait", "-1"), GOOD, 2, ("-1",)),
    "nobody to ask": (("enroll", "--customer-id", "1"), "", 4, ("no credentials", "--credentials")),
    "garbled": (ENROLL, '{"transfer_id": ', 4, ("not valid JSON",)),
    "empty": (ENROLL, "", 4, ("lack the transfer ID and the one-time password",)),
    "binary": (ENROLL, "\udcff\udcfe", 4, ("not UTF-8",)),
    "endless": (ENROLL, "x" * 20_000, 4, ("too long", "16384 bytes")),
    "long password": (ENROLL, GOOD.replace("s3cRet", "s3cRet" * 3), 4, ("one-time password is too long", "at most 16")),
    "long transfer": (ENROLL, GOOD.replace("123", "123" * 11), 4, ("transfer ID is too long", "at most 32")),
    "expired": (ENROLL, GOOD[:-1] + ', "valid_until": "2026-01-01"}', 4, ("have expired", "2026-01-01", "Order a new")),
    "other customer": (ENROLL, GOOD[:-1] + ', "customer_id": "x"}', 4, ("for another customer", "bad-input")),
    "no file": ((*ENROLL[:-1], "/no/such/file"), "", 4, ("/no/such/file", "No such file", "you are asked")),
    "no token": ((*ENROLL[:-1], "vault:/no/such"), "", 4, ("/no/such", "No such file", "varmenne credentials put")),
    "agent that waits": (("run", "--wait", "5"), "", 2, ("--wait goes with --once",)),
    "folder": ((*ENROLL[:-1], "/"), "", 4, ("credentials file / cannot be read",)),
    "show nothing": (("show", "20260101-00000000"), "", 4, ("no enrollment 20260101-00000000", "varmenne list")),
    "show nonsense": (("show", "nonsense"), "", 4, ("'nonsense' is not an enrollment ID",)),
    "resume nothing": (("resume",), "", 2, ("Name one enrollment, or give --all",)),
    "resume both": (("resume", "20260101-00000000", "--all"), "", 2, ("Name one enrollment, or give --all",)),
    "unknown state": (("list", "--state", "asleep"), "", 2, ("'asleep' is not one of",)),
    "csr without file": (("csr", "--customer-id", "1"), "", 2, ("Missing option '--out'",)),
    "csr nowhere": (("csr", "--customer-id", "1", "--out", "/no/such/x.pem"), "", 4, ("/no/such/x.pem", "cannot be")),
    "csr over a file": (("csr", "--customer-id", "1", "--out", __file__), "", 4, ("exists already", "overwritten")),
    "csr over a folder": (("csr", "--customer-id", "1", "--out", "/"), "", 4, ("/ exists already",)),
    "import no file": (("import", "20260101-00000000", "/no/such"), "", 4, ("/no/such cannot be read",)),
    "import nonsense": (("import", "20260101-00000000", __file__), "", 4, ("holds no certificate", "PKCS#7")),
    "import for nobody": (("import", "nobody", __file__), "", 4, ("'nobody' is not an enrollment ID",)),
    "no shell": (("completion", "csh"), "", 2, ("'csh' is not one of",)),
}


@pytest.mark.parametrize("name", MISTYPED)
def test_mistyped(shared_stage: Stage, name: str) -> None:
    """What is wrong in the command line or in what it is given is told before anything is opened or made."""
    arguments, given, code, words = MISTYPED[name]
    before = shared_stage.rows(), len(shared_stage.bench.state.log())
    for json_asked in ((), ("--json",)):
        result = shared_stage.run(*arguments, *json_asked, given=given.encode(errors="surrogateescape"))
        assert result.code == code, result
        assert [word for word in words if word not in result.err] == [], result.err
        assert "s3cRet" not in result.out + result.err
        assert "Traceback" not in result.err
        if json_asked:
            assert result.json["ok"] is False
            assert result.json["exit_code"] == code
            assert result.json["error"]["what"]
        else:
            assert result.out == ""
    assert (shared_stage.rows(), len(shared_stage.bench.state.log())) == before


UNUSABLE: dict[str, tuple[dict[str, dict[str, object]], int, tuple[str, ...]]] = {
    # name: (changed settings, exit code, words)
    "no module": ({"token": {"module": "/no/such/module.so"}}, 5, ("/no/such/module.so",)),
    "no PKCS#11 module": ({"token": {"module": "/usr/bin/env"}}, 5, ("/usr/bin/env",)),
    "absent token": ({"token": {"label": "no such token", "serial": ""}}, 5, ("no such token", "are still good")),
    "other serial": ({"token": {"serial": "0000000000000000"}}, 5, ("0000000000000000",)),
    "no PIN file": ({"token": {"pin": "file:/no/such/pin"}}, 3, ("/no/such/pin", "No such file")),
    "no PIN variable": ({"token": {"pin": "env:VARMENNE_NO_PIN"}}, 3, ("VARMENNE_NO_PIN", "not set")),
    "nobody to type the PIN": ({"token": {"pin": "fd:77"}}, 3, ("77", "not open")),
    "Vault is down": (
        {"vault": {"address": "http://127.0.0.1:9"}},
        11,
        ("cannot be reached", "vault.address", "Nothing was spent; the credentials are still good."),
    ),
    "another server": ({"vault": {"mount": "nowhere"}}, 11, ("nowhere",)),
    "service is down": ({"service": {"endpoint": "https://127.0.0.1:9/"}}, 7, ("127.0.0.1:9", "are still good")),
    "unknown host": ({"service": {"endpoint": "https://vero.invalid/"}}, 7, ("vero.invalid", "Nothing was sent")),
    "no TLS": ({"service": {"endpoint": "http://127.0.0.1:9/"}}, 4, ("not an https:// address",)),
    "real service": (
        {"service": {"endpoint": "https://pkiws.vero.fi/2017/10/CertificateServices"}},
        4,
        ("not the one of the test environment", "never mixed"),
    ),
    "TLS of a stranger": ({"service": {"ca_file": ""}}, 7, ("TLS certificate was refused",)),
    "no CA file": ({"service": {"ca_file": "/no/such/ca.pem"}}, 3, ("/no/such/ca.pem",)),
    "no trust": ({"trust": {"directory": "/no/such/trust"}}, 3, ("/no/such/trust",)),
    "misspelt key": ({"token": {"lable": "x"}}, 3, ("'token.lable'", "Did you mean 'token.label'?")),
    "misspelt table": ({"vualt": {"address": "x"}}, 3, ("'vualt'", "Did you mean 'vault'?")),
    "PIN in the settings": ({"token": {"pin": "123456"}}, 3, ("token.pin", "file:PATH", "never the secret itself")),
    "wrong type": ({"service": {"wait_limit_seconds": "long"}}, 3, ("service.wait_limit_seconds",)),
    "negative time": ({"service": {"read_timeout_seconds": -1}}, 3, ("service.read_timeout_seconds",)),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable(shared_stage: Stage, settings: Callable[..., None], name: str) -> None:
    """What does not work is found out before a row or a key is made, and the sentence says what is to blame."""
    changes, code, words = UNUSABLE[name]
    before = shared_stage.world()
    settings(**changes)
    result = shared_stage.run(*ENROLL, "--json", given=GOOD.encode())
    assert result.code == result.json["exit_code"] == code, result
    assert [word for word in words if word not in result.err] == [], result.err
    assert "Traceback" not in result.err
    assert "s3cRet" not in result.out + result.err
    settings()  # The world is looked at with settings that can be read.
    assert shared_stage.world() == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("environment = ", ("not valid TOML",)),
        ('environment = "prod"\n', ("wrong value",)),
        ("", ("wrong value", "missing setting")),
    ],
)
def test_broken_settings_file(shared_stage: Stage, tmp_path: Path, content: str, words: tuple[str, ...]) -> None:
    """A file that is no TOML or lacks something is named."""
    path = tmp_path / "broken.toml"
    path.write_text(content)
    result = shared_stage.run("--config", str(path), "list")
    assert (result.code, result.out) == (3, "")
    assert [word for word in (str(path), *words) if word not in result.err] == []


def test_no_settings_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newcomer without settings is told where they were looked for, and about `init` and `demo`."""
    from harness.stage import run_main

    monkeypatch.chdir(tmp_path)
    for arguments in (("list",), ("--config", "/no/such.toml", "list")):
        result = run_main(*arguments)
        assert result.code == 3
        assert "varmenne init" in result.err
    assert "varmenne demo" in run_main("list").err


@pytest.mark.parametrize(
    ("config", "words"),
    [("/", "is a folder"), ("x" * 300, "cannot be read"), ("/etc/hostname/varmenne.toml", "no settings file")],
)
def test_a_settings_file_that_cannot_be_one(tmp_path: Path, config: str, words: str) -> None:
    """A folder, and a name that the system refuses to look at, are told as what they are."""
    from harness.stage import run_main

    result = run_main("--config", config, "list")
    assert (result.code, result.out) == (3, "")
    assert words in result.err
    kept = run_main("demo", "--keep", str(tmp_path / ("x" * 300)))
    assert (kept.code, kept.out) == (4, "")
    assert "cannot be read" in kept.err


def test_settings_behind_a_closed_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that may not be entered is named among those that were looked at, and keeps none of the others away."""
    from harness.stage import run_main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", "x" * 300)
    assert "varmenne.toml (cannot be read: File name too long)" in run_main("list").err


def test_wrong_pin_is_tried_once(stage: Stage) -> None:
    """A refused PIN costs one try; the second run says so without a try, and the right PIN works at once."""
    wrong = stage.folder / "wrong-pin"
    wrong.touch(mode=0o600)
    wrong.write_text("000000000\n")
    order = stage.order()
    command = ("enroll", "--customer-id", order.customer_id, "--credentials", stage.credentials_file(order), "--json")
    stage.configure(token={"pin": f"file:{wrong}"})
    first = stage.run(*command)
    second = stage.run(*command)
    assert (first.code, second.code) == (6, 6)
    assert "CKR_PIN_INCORRECT" in first.err
    assert "not tried" in second.err
    assert first.json["error"]["what"] != second.json["error"]["what"]
    assert "000000000" not in first.out + first.err + second.out + second.err
    assert stage.rows() == ()
    assert stage.bench.state.log() == []
    wrong.write_text((stage.token.directory / "pin").read_text())
    assert stage.run(*command).code == 0
    assert len(stage.keys()) == 1


def test_credentials_that_others_may_read(shared_stage: Stage, tmp_path: Path) -> None:
    """A readable file is used, with a warning that says what to type."""
    path = tmp_path / "mail.txt"
    path.write_text("{}")
    path.chmod(0o644)
    result = shared_stage.run(*ENROLL[:-1], path)
    assert result.code == 4
    assert f"chmod 600 {path}" in result.err
    path.chmod(0o600)
    assert "chmod" not in shared_stage.run(*ENROLL[:-1], path).err


def test_used_transfer_id(shared_stage: Stage) -> None:
    """Used credentials name the enrollment that used them, and change nothing."""
    order = shared_stage.order("used-up")
    command = ("enroll", "--customer-id", "used-up", "--credentials", shared_stage.credentials_file(order), "--json")
    done = shared_stage.run(*command)
    assert done.code == 0
    before = shared_stage.world()
    again = shared_stage.run(*command)
    assert again.code == again.json["exit_code"] == 13
    assert done.json["id"] in again.err
    assert "has been used" in again.err
    elsewhere = shared_stage.run(*command, "--channel", "sftp")
    assert elsewhere.code == 13
    assert f"with varmenne show {done.json['id']}." in elsewhere.err
    other = shared_stage.order("used-up")
    another = shared_stage.run(*command[:-2], shared_stage.credentials_file(other))
    assert another.code == 13
    assert f"--replaces {done.json['id']}" in another.err
    assert shared_stage.world() == before


def test_foreign_certificate_at_import(shared_stage: Stage, tmp_path: Path) -> None:
    """A certificate that is not for our key is refused; the enrollment still waits for the right one."""
    out, foreign = tmp_path / "request.pem", tmp_path / "foreign.cer"
    made = shared_stage.run("csr", "--customer-id", "importer", "--out", out, "--json")
    assert made.code == 0
    assert made.json["csr"] == out.read_text()
    foreign.write_bytes(shared_stage.carried(to_pem(build_csr(SoftwareSigner(), CustomerId("importer"), None))))
    before = shared_stage.world()
    result = shared_stage.run("import", made.json["id"], foreign, "--json")
    assert result.code == result.json["exit_code"] == 10
    assert "does not belong to our key" in result.err
    assert shared_stage.world() == before
    right = tmp_path / "right.cer"
    right.write_bytes(shared_stage.carried(made.json["csr"], "importer"))
    result = shared_stage.run("import", made.json["id"], right, "--json")
    assert result.code == 0
    assert result.json["state"] == State.ACTIVE
    assert shared_stage.run("import", made.json["id"], right).code == 13


def test_a_failed_request_leaves_no_file(shared_stage: Stage, settings: Callable[..., None], tmp_path: Path) -> None:
    """The file that was to hold the CSR is there only if the CSR is."""
    settings(vault={"address": "http://127.0.0.1:9"})
    result = shared_stage.run("csr", "--customer-id", "no-file", "--out", tmp_path / "request.pem")
    assert result.code == 11
    assert list(tmp_path.glob("*.pem")) == []
