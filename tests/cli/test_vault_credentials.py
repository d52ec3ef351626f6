"""One-time credentials by Vault: handed over to one reader, opened at the last moment, an alarm if opened before."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.stage import CUSTOMER, Result, Stage, run_main
from varmenne.clock import system_clock
from varmenne.domain.secret import Secret
from varmenne.domain.steps import State
from varmenne.vault.policies import policy_text

if TYPE_CHECKING:
    from varmenne.testbench.state import Order


@pytest.fixture
def writer(stage: Stage) -> str:
    """The source of a token of a person who may wrap, and nothing else."""
    root = stage.vault.root
    root.sys.create_or_update_policy("writer", policy_text("credentials-writer"))
    made = root.auth.token.create(policies=["writer"], no_default_policy=True, ttl="10m")
    file = stage.folder / "writer-token"
    file.touch(0o600)
    file.write_text(made["auth"]["client_token"])
    return f"file:{file}"


def put(stage: Stage, writer: str, order: Order, *more: str) -> Path:
    """Hand an order's credentials over, and return the file with the wrapping token."""
    file = stage.folder / f"handed-over-{order.transfer_id}"
    source = stage.credentials_file(order)
    done = stage.run("credentials", "put", "--credentials", source, "--vault-token", writer, "--to", file, *more)
    assert done.code == 0
    return file


def enroll(stage: Stage, file: Path) -> Result:
    """Enroll with credentials that wait in Vault."""
    return stage.run("enroll", "--customer-id", CUSTOMER, "--credentials", f"vault:{file}")


def unopened(stage: Stage, file: Path) -> bool:
    """Tell whether a wrapping token can still be opened."""
    client = stage.vault.server.client(Secret("x"))
    with contextlib.closing(client.adapter):
        body = {"token": file.read_text().strip()}
        return isinstance(client.adapter.post("/v1/sys/wrapping/lookup", json=body, raise_exception=False), dict)


def open_first(stage: Stage, file: Path) -> None:
    """Open it before the agent does, as a thief of the file would."""
    client = stage.vault.server.client(Secret(file.read_text().strip()))
    with contextlib.closing(client.adapter):
        client.sys.unwrap()


def test_credentials_go_from_the_mail_to_the_wire(stage: Stage, writer: str) -> None:
    """The file holds only the wrapping token, is private, and is gone when the credentials were spent."""
    order = stage.order()
    file = put(stage, writer, order)
    text = file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert order.transfer_id not in text
    assert order.one_time_password not in text
    done = enroll(stage, file)
    assert done.code == 0
    assert [row.state for row in stage.rows()] == [State.ACTIVE]
    assert stage.sent(order.transfer_id) == 1
    assert done.err.count("Check journal") == 1
    assert not file.exists()


def test_a_file_that_cannot_be_removed_costs_no_credentials(stage: Stage, writer: str) -> None:
    """They are opened and in hand: that the spent token stays where it is, is a warning and not the end."""
    order = stage.order()
    file = put(stage, writer, order)
    descriptor = os.open(file, os.O_RDONLY)
    try:
        done = stage.run("enroll", "--customer-id", CUSTOMER, "--credentials", f"vault:/dev/fd/{descriptor}")
    finally:
        os.close(descriptor)
    assert done.code == 0
    assert "could not be removed" in done.err
    assert [row.state for row in stage.rows()] == [State.ACTIVE]
    assert stage.sent(order.transfer_id) == 1


def test_credentials_that_somebody_opened_first_are_an_alarm(stage: Stage, writer: str) -> None:
    """The words say so, nothing is sent or made, and the file stays."""
    file = put(stage, writer, stage.order())
    open_first(stage, file)
    before = stage.world()
    done = enroll(stage, file)
    assert done.code == 11
    assert "ALARM: somebody has opened the one-time credentials" in done.err
    assert "Nothing was sent" in done.err
    assert stage.world() == before
    assert file.exists()


def test_a_token_of_another_origin_is_an_alarm(stage: Stage, writer: str) -> None:
    """What was wrapped elsewhere, such as a secret ID, is not opened."""
    file = put(stage, writer, stage.order())
    root = stage.vault.root
    role = f"varmenne-agent-{stage.vault.settings.mount}"
    file.write_text(root.auth.approle.generate_secret_id(role, wrap_ttl="60s")["wrap_info"]["token"])
    before = stage.world()
    done = enroll(stage, file)
    assert done.code == 11
    assert "not the one that was made for us" in done.err
    assert stage.world() == before
    assert unopened(stage, file)


def test_a_failed_preflight_leaves_them_unopened(stage: Stage, writer: str) -> None:
    """What can be found out before is found out before: they can still be opened afterwards."""
    file = put(stage, writer, stage.order())
    stage.configure(token={"pin": f"file:{stage.folder / 'no-such-pin'}"})
    before = stage.world()
    done = enroll(stage, file)
    assert done.code != 0
    assert stage.world() == before
    assert unopened(stage, file)
    stage.configure()
    assert enroll(stage, file).code == 0


def test_an_active_certificate_is_found_before_they_are_opened(stage: Stage, writer: str) -> None:
    """A second certificate that nobody said shall replace the first is refused, and the credentials wait on."""
    assert enroll(stage, put(stage, writer, stage.order())).code == 0
    file = put(stage, writer, stage.order())
    done = enroll(stage, file)
    assert done.code == 13
    assert unopened(stage, file)


def test_what_to_do_if_they_were_opened_and_not_sent(stage: Stage, writer: str) -> None:
    """Those of another customer are opened before it shows; the person is told to put them there again."""
    order = stage.order("1234567-1")
    file = put(stage, writer, order)
    done = enroll(stage, file)
    assert done.code == 4
    assert "credentials put" in done.err
    assert stage.sent() == 0


def test_resume_opens_them_only_if_they_are_needed(stage: Stage, writer: str) -> None:
    """An enrollment whose request is sent needs none; one that is not, takes them."""
    order = stage.order()
    assert enroll(stage, put(stage, writer, order)).code == 0
    [row] = stage.rows()
    waiting = put(stage, writer, stage.order())
    done = stage.run("resume", row.id, "--credentials", f"vault:{waiting}")
    assert done.code == 0
    assert unopened(stage, waiting)


def test_the_time_in_vault_is_never_longer_than_theirs(stage: Stage, writer: str) -> None:
    """Known ends of credentials limit it, and so does --hours."""
    order = stage.order()
    file = stage.folder / "handed-over"
    source = stage.folder / "mail"
    source.touch(0o600)
    end = system_clock() + timedelta(hours=5)
    source.write_text(json.dumps(order.as_json() | {"valid_until": end.isoformat()}))
    arguments = ("credentials", "put", "--credentials", source, "--vault-token", writer, "--json")
    done = stage.run(*arguments, "--to", file)
    until = datetime.fromisoformat(done.json["until"])
    assert abs(until - end) < timedelta(seconds=5)
    done = stage.run(*arguments, "--to", stage.folder / "other", "--hours", "1")
    until = datetime.fromisoformat(done.json["until"])
    assert abs(until - system_clock()) < timedelta(hours=1, seconds=5)
    assert stage.run(*arguments, "--to", stage.folder / "third", "--hours", "337").code == 2
    assert not (stage.folder / "third").exists()


def test_a_file_that_is_there_is_not_written_over(stage: Stage, writer: str) -> None:
    """It may hold credentials that nobody has opened yet."""
    file = put(stage, writer, stage.order())
    before = file.read_bytes()
    source = stage.credentials_file(stage.order())
    done = stage.run("credentials", "put", "--credentials", source, "--vault-token", writer, "--to", file)
    assert done.code == 4
    assert file.read_bytes() == before


def test_the_token_is_printed_only_by_order(stage: Stage, writer: str) -> None:
    """Neither a file nor --stdout is a usage error; with a file, nothing of it is printed."""
    source = stage.credentials_file(stage.order())
    assert stage.run("credentials", "put", "--credentials", source, "--vault-token", writer).code == 2
    done = stage.run("credentials", "put", "--credentials", source, "--vault-token", writer, "--stdout")
    assert done.code == 0
    client = stage.vault.server.client(Secret(done.out.strip()))
    with contextlib.closing(client.adapter):
        assert set(client.sys.unwrap()["data"]) >= {"transfer_id", "one_time_password"}
    file = put(stage, writer, stage.order())
    assert file.read_text().strip() not in done.err


def test_a_role_that_may_not_wrap_is_told_so(stage: Stage) -> None:
    """The agent's own role has no such right; nothing is written, and the policy is named that has it."""
    file = stage.folder / "handed-over"
    source = stage.credentials_file(stage.order())
    for to, policy in (("--to", "credentials-writer"), ("--kv", "credentials-kv-writer")):
        done = stage.run("credentials", "put", "--credentials", source, to, file if to == "--to" else "agent")
        assert done.code == 11
        assert f"policies/{policy}.hcl" in done.err
        assert f"varmenne vault setup --for {policy}." in done.err
        assert "agent.hcl" not in done.err
    assert not file.exists()


def test_a_person_needs_no_settings_file(stage: Stage, writer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables and the token file of Vault's own tools are enough."""
    home = stage.folder / "person"
    home.mkdir()
    (home / ".vault-token").touch(0o600)
    (home / ".vault-token").write_text(Path(writer.removeprefix("file:")).read_text())
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("VAULT_ADDR", stage.vault.server.address)
    monkeypatch.chdir(home)
    file = home / "handed-over"
    done = run_main(
        "credentials", "put", "--credentials", str(stage.credentials_file(stage.order())), "--to", str(file)
    )
    assert done.code == 0
    assert enroll(stage, file).code == 0


def test_nothing_of_them_stays_in_the_audit_log(stage: Stage, writer: str) -> None:
    """Vault's log has paths in clear and values hashed: neither password, transfer ID nor wrapping token is in it."""
    order = stage.order()
    file = put(stage, writer, order)
    token = file.read_text().strip()
    assert enroll(stage, file).code == 0
    log = stage.vault.server.audit_file.read_text()
    assert "sys/wrapping/unwrap" in log
    assert [secret for secret in (order.one_time_password, order.transfer_id, token) if secret in log] == []


def test_a_request_is_sent_again_with_them(stage: Stage, writer: str) -> None:
    """`resolve --resend` opens them after everything else is proven; those of another order are to be put again."""
    order = stage.order()
    stage.bench.state.fault("drop-unread", count=1)
    assert enroll(stage, put(stage, writer, order)).code == 9
    [row] = stage.rows()
    arguments = ("resolve", row.id, "--resend", "--confirm", row.id, "--credentials")
    again = stage.folder / "again"
    source = stage.credentials_file(order)
    put_again = ("credentials", "put", "--credentials", source, "--vault-token", writer, "--to", again)
    assert stage.run(*put_again).code == 0
    stage.configure(token={"pin": f"file:{stage.folder / 'no-such-pin'}"})
    assert stage.run(*arguments, f"vault:{again}").code != 0
    assert unopened(stage, again)
    stage.configure()
    other = put(stage, writer, stage.order())
    done = stage.run(*arguments, f"vault:{other}")
    assert done.code == 4
    assert "credentials put" in done.err
    done = stage.run(*arguments, f"vault:{again}")
    assert done.code == 0
    assert [one.state for one in stage.rows()] == [State.ACTIVE]
    assert not again.exists()
