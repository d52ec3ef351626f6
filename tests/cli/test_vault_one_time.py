"""One-time credentials by KV: put once, taken by one, erased and read back before they are sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from harness.stage import CUSTOMER, Result, Stage
from varmenne.clock import system_clock
from varmenne.domain.steps import State
from varmenne.errors import VaultDenied, VaultError
from varmenne.vault import one_time
from varmenne.vault.connection import Connection, Patience
from varmenne.vault.policies import policy_text
from varmenne.vault.setup import READER_ROLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KV = "vault-kv:"


def admin_token(stage: Stage) -> str:
    """The source of an administrator's token."""
    file = stage.folder / "admin-token"
    file.touch(0o600)
    file.write_text(stage.vault.server.root_token.reveal())
    return f"file:{file}"


@pytest.fixture
def ready(stage: Stage) -> Iterator[Stage]:
    """A stage whose Vault is set up for it by the documented commands, and whose agent has the second policy."""
    for policy in ("credentials-kv-writer", "credentials-kv-reader"):
        assert stage.run("vault", "setup", "--for", policy, "--admin-token", admin_token(stage)).code == 0
    role = f"varmenne-agent-{stage.vault.settings.mount}"
    stage.vault.root.adapter.post(f"/v1/auth/approle/role/{role}", json={"token_policies": [role, READER_ROLE]})
    yield stage
    stage.vault.root.sys.disable_secrets_engine(one_time.MOUNT)


def put(stage: Stage, source: Path, folder: str = "agent") -> str:
    """Put credentials away as a person who may do nothing else, and return their address."""
    root = stage.vault.root
    made = root.auth.token.create(policies=["varmenne-credentials-kv-writer"], no_default_policy=True, ttl="10m")
    file = stage.folder / "writer-token"
    file.touch(0o600)
    file.write_text(made["auth"]["client_token"])
    done = stage.run("credentials", "put", "--credentials", source, "--vault-token", f"file:{file}", "--kv", folder)
    assert done.code == 0
    return done.out.strip()


def enroll(stage: Stage, address: str) -> Result:
    """Enroll with credentials that wait in KV."""
    return stage.run("enroll", "--customer-id", CUSTOMER, "--credentials", address)


def there(stage: Stage, address: str) -> dict[str, Any] | None:
    """The metadata at an address, or nothing."""
    path = address.removeprefix(f"{KV}{one_time.MOUNT}/")
    answer = stage.vault.root.adapter.get(f"/v1/{one_time.MOUNT}/metadata/{path}", raise_exception=False)
    if not isinstance(answer, dict):
        assert answer.status_code == 404
        return None
    data: dict[str, Any] = answer["data"]
    return data


def test_from_the_mail_to_the_wire(ready: Stage) -> None:
    """They wait for 14 days at most, and are erased, path and all, when they were sent."""
    order = ready.order()
    address = put(ready, ready.credentials_file(order))
    assert address.startswith(f"{KV}one-time/agent/")
    assert order.transfer_id not in address
    waiting = there(ready, address)
    assert waiting is not None
    assert waiting["versions"]["1"]["deletion_time"]
    assert enroll(ready, address).code == 0
    assert [row.state for row in ready.rows()] == [State.ACTIVE]
    assert ready.sent(order.transfer_id) == 1
    assert there(ready, address) is None


def test_what_somebody_took_is_an_alarm(ready: Stage) -> None:
    """Also a second try with the same address: nothing is sent or made."""
    address = put(ready, ready.credentials_file(ready.order()))
    path = address.removeprefix(f"{KV}{one_time.MOUNT}/")
    ready.vault.root.secrets.kv.v2.create_or_update_secret(path, {"taken": "x"}, cas=1, mount_point=one_time.MOUNT)
    before = ready.world()
    done = enroll(ready, address)
    assert done.code == 11
    assert "ALARM: somebody has taken the one-time credentials" in done.err
    assert ready.world() == before
    assert enroll(ready, f"{KV}one-time/agent/{'0' * 32}").code == 11


def test_a_failed_preflight_leaves_them(ready: Stage) -> None:
    """What can be found out before is found out before: they can be taken afterwards."""
    address = put(ready, ready.credentials_file(ready.order()))
    ready.configure(token={"pin": f"file:{ready.folder / 'no-such-pin'}"})
    assert enroll(ready, address).code != 0
    waiting = there(ready, address)
    assert waiting is not None
    assert waiting["current_version"] == 1
    ready.configure()
    assert enroll(ready, address).code == 0


def test_of_two_readers_one_gets_them(ready: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have read them before either has taken them; the second learns that it was the second."""
    address = put(ready, ready.credentials_file(ready.order())).removeprefix(KV)

    def session() -> Connection:
        return Connection(ready.settings.vault, system_clock, Patience())

    first, second = (one_time.Waiting(address, lambda: _Closing(session())) for _ in range(2))
    read = one_time._get

    def read_late(client: Any, kind: str, path: str) -> Any:
        found = read(client, kind, path)
        if kind == "data":
            monkeypatch.setattr(one_time, "_get", read)
            assert second().customer is not None
        return found

    monkeypatch.setattr(one_time, "_get", read_late)
    with pytest.raises(VaultDenied, match="taken the one-time credentials"):
        first()


class _Closing:
    """A session as a context manager."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> Connection:
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def test_a_role_that_may_not_take_them_is_told_so(ready: Stage) -> None:
    """That is no alarm: they are there as before."""
    address = put(ready, ready.credentials_file(ready.order()))
    text = policy_text("credentials-kv-reader").replace('["update", "read"]', '["read"]')
    ready.vault.root.sys.create_or_update_policy(READER_ROLE, text)
    done = enroll(ready, address)
    assert done.code == 11
    assert "ALARM" not in done.err
    assert there(ready, address) is not None


@pytest.mark.parametrize("lacking", ["one-time/destroy/agent/+", "one-time/metadata/agent/+"])
def test_what_cannot_be_erased_is_not_used(ready: Stage, lacking: str) -> None:
    """The policy that forbids it is named, and nothing is sent."""
    address = put(ready, ready.credentials_file(ready.order()))
    text = policy_text("credentials-kv-reader").replace('["read", "delete"]', '["read"]')
    if "destroy" in lacking:
        text = policy_text("credentials-kv-reader").replace(lacking, "one-time/destroy/nobody/+")
    ready.vault.root.sys.create_or_update_policy(READER_ROLE, text)
    done = enroll(ready, address)
    assert done.code == VaultError.exit_code
    assert "could not be erased" in done.err
    assert ready.sent() == 0
    assert ready.rows() == ()


def test_another_agents_folder_is_closed(ready: Stage) -> None:
    """The policy is for one folder; its name is in the next step."""
    done = enroll(ready, put(ready, ready.credentials_file(ready.order()), folder="other"))
    assert done.code == 11
    assert "credentials-kv-reader.hcl" in done.err
    assert ready.rows() == ()


def test_setup_leaves_the_agents_second_policy(ready: Stage) -> None:
    """It is given by hand; setting the agent up again does not take it away."""
    role = f"varmenne-agent-{ready.vault.settings.mount}"
    arguments = ("vault", "setup", "--role", role, "--admin-token", admin_token(ready), "--dry-run", "--json")
    told = [line["values"] for line in ready.run(*arguments).json["differences"] if "AppRole" in line["what"]]
    assert [values for values in told if "token_policies" in values] == []


@pytest.mark.parametrize("address", ["one-time/agent", "secret/agent/x", "one-time/agent/../x", "one-time/a/b/c", ""])
def test_what_is_no_address_is_refused(stage: Stage, address: str) -> None:
    """Before anything is asked of Vault."""
    done = enroll(stage, f"{KV}{address}")
    assert done.code == 4
    assert "no address" in done.err


def test_a_mount_that_keeps_them_for_ever_is_refused(ready: Stage) -> None:
    """Whoever has changed its configuration finds out when something is put there."""
    ready.vault.root.adapter.post(f"/v1/{one_time.MOUNT}/config", json={"delete_version_after": "0s"})
    source = ready.credentials_file(ready.order())
    done = ready.run(
        "credentials", "put", "--credentials", source, "--vault-token", admin_token(ready), "--kv", "agent"
    )
    assert done.code == 11
    assert "for ever" in done.err
    assert ready.run("credentials", "put", "--credentials", source, "--kv", "a", "--stdout").code == 2


def test_nothing_of_them_stays_in_the_audit_log(ready: Stage) -> None:
    """Vault's log has the address in clear, and values hashed."""
    order = ready.order()
    address = put(ready, ready.credentials_file(order))
    assert enroll(ready, address).code == 0
    log = ready.vault.server.audit_file.read_text()
    assert address.removeprefix(f"{KV}one-time/") in log
    assert [secret for secret in (order.one_time_password, order.transfer_id) if json.dumps(secret) in log] == []
