"""The policies of ``policies/``, each logged in with on a real server: what is allowed, and what is not."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from varmenne.domain.secret import Secret
from varmenne.errors import ConfigError
from varmenne.testbench.openbao import OpenBaoServer, find_binary, make_mount, make_role
from varmenne.vault.policies import POLICIES, policy_text

if TYPE_CHECKING:
    from collections.abc import Iterator

MOUNT = "secret"
OURS = "varmenne/test/1234567-8/ws/current"
"""The record that the consumer's policy names."""
THEIRS = "varmenne/test/7654321-0/ws/current"
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}


@dataclass(frozen=True)
class Row:
    """One row of the table: an operation, and who may do it."""

    words: str
    method: str
    path: str
    allowed: tuple[str, ...] = ()
    body: dict[str, Any] | None = None
    patch: bool = False


AGENT, CONSUMER, AUDITOR = ("agent",), ("consumer",), ("auditor",)
ALL = POLICIES
DATA, META = f"{MOUNT}/data", f"{MOUNT}/metadata"

TABLE = (
    Row("publish a first version", "post", f"{DATA}/varmenne/test/new-{{role}}/ws/current", AGENT, {"cas": 0}),
    Row("publish a next version", "post", f"{DATA}/{THEIRS}", AGENT, {"cas": 1}),
    Row("publish over the customer's record", "post", f"{DATA}/{OURS}", AGENT, {"cas": 1}),
    Row("publish a generation", "post", f"{DATA}/varmenne/test/new/ws/generation-{{role}}", AGENT, {"cas": 0}),
    Row("write under another prefix", "post", f"{DATA}/other/test/1234567-8/ws/current", (), {"cas": 0}),
    Row("write beside the layout", "post", f"{DATA}/varmenne/stray", (), {"cas": 0}),
    Row("read the customer's record", "get", f"{DATA}/{OURS}", ("agent", "consumer")),
    Row("read another customer's record", "get", f"{DATA}/{THEIRS}", AGENT),
    Row("read under another prefix", "get", f"{DATA}/other/secret"),
    Row("read the customer's metadata", "get", f"{META}/{OURS}", ALL),
    Row("read another customer's metadata", "get", f"{META}/{THEIRS}", ("agent", "auditor")),
    Row("read metadata under another prefix", "get", f"{META}/other/secret"),
    Row("list environments", "list", f"{META}/varmenne", AUDITOR),
    Row("list customers", "list", f"{META}/varmenne/test", AUDITOR),
    Row("list records", "list", f"{META}/varmenne/test/1234567-8/ws", AUDITOR),
    Row("list the mount", "list", META),
    Row("patch custom metadata", "patch", f"{META}/{THEIRS}", AGENT, {"custom_metadata": {"a": "b"}}, patch=True),
    Row("set custom metadata", "post", f"{META}/{THEIRS}", AGENT, {"custom_metadata": {"a": "b"}}),
    Row("set the customer's metadata", "post", f"{META}/{OURS}", AGENT, {"custom_metadata": {"a": "b"}}),
    Row("switch check-and-set off", "post", f"{META}/{THEIRS}", (), {"cas_required": False}),
    Row("patch check-and-set off", "patch", f"{META}/{THEIRS}", (), {"cas_required": False}, patch=True),
    Row("shorten the history", "post", f"{META}/{THEIRS}", (), {"max_versions": 1}),
    Row("let versions expire", "post", f"{META}/{THEIRS}", (), {"delete_version_after": "1s"}),
    Row("delete the latest version", "delete", f"{DATA}/{THEIRS}"),
    Row("delete a version", "post", f"{MOUNT}/delete/{THEIRS}", (), {"versions": [1]}),
    Row("undelete a version", "post", f"{MOUNT}/undelete/{THEIRS}", (), {"versions": [1]}),
    Row("destroy a version", "post", f"{MOUNT}/destroy/{THEIRS}", (), {"versions": [1]}),
    Row("delete all versions", "delete", f"{META}/{THEIRS}"),
    Row("read the mount's configuration", "get", f"{MOUNT}/config"),
    Row("change the mount's configuration", "post", f"{MOUNT}/config", (), {"cas_required": False}),
    Row("see mounts", "get", "sys/mounts"),
    Row("make a mount", "post", "sys/mounts/mine", (), {"type": "kv"}),
    Row("read a policy", "get", "sys/policies/acl/agent"),
    Row("write a policy", "put", "sys/policies/acl/{role}", (), {"policy": ""}),
    Row("read its AppRole", "get", "auth/approle/role/{role}"),
    Row("make a secret ID", "post", "auth/approle/role/{role}/secret-id", (), {}),
    Row("make a token", "post", "auth/token/create", (), {}),
    Row("list audit devices", "get", "sys/audit"),
    Row("test guesses against the audit log", "post", "sys/audit-hash/file", (), {"input": "x"}),
    Row("seal", "put", "sys/seal", (), {}),
    Row("ask for its rights", "post", "sys/capabilities-self", AGENT, {"paths": [f"{DATA}/{OURS}"]}),
    Row("look its token up", "get", "auth/token/lookup-self", ALL),
    Row("renew its token", "post", "auth/token/renew-self", ALL, {}),
)


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Run a server with the mount, the records and a client for each role, logged in by AppRole."""
    with OpenBaoServer(tmp_path_factory.mktemp("bao")) as server, contextlib.ExitStack() as stack:
        root = server.client()
        stack.callback(root.adapter.close)
        make_mount(root, MOUNT)
        for path in (OURS, THEIRS, "other/secret"):
            root.secrets.kv.v2.create_or_update_secret(path, {"certificate": path}, cas=0, mount_point=MOUNT)
        clients: dict[str, Any] = {"root": root}
        for name in POLICIES:
            role_id, secret_id = make_role(root, name, policy_text(name))
            answer = root.auth.approle.login(role_id, secret_id.reveal(), use_token=False)
            clients[name] = server.client(Secret(answer["auth"]["client_token"]))
            stack.callback(clients[name].adapter.close)
        yield clients


@pytest.mark.parametrize("role", POLICIES)
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.words)
def test_who_may_do_what(roles: dict[str, Any], row: Row, role: str) -> None:
    """Every operation is allowed to those that the table names and to nobody else; a refusal changes nothing."""
    body = {"data": {"certificate": "new"}, "options": row.body} if row.body and "cas" in row.body else row.body
    path = row.path.format(role=role)
    before = _state(roles["root"])
    answer = roles[role].adapter.request(
        row.method,
        f"/v1/{path}",
        raise_exception=False,
        **({} if body is None else {"json": body}),
        headers=dict(MERGE_PATCH) if row.patch else None,
    )
    status = 200 if isinstance(answer, dict) else answer.status_code
    if role in row.allowed:
        assert status in {200, 204}
    else:
        assert status == 403
        assert _state(roles["root"]) == before


def _state(root: Any) -> list[Any]:
    """What the refused operations could have changed."""
    paths = [f"{DATA}/{OURS}", f"{META}/{THEIRS}", f"{MOUNT}/config", "sys/mounts", "sys/policies/acl/agent"]
    return [root.adapter.get(f"/v1/{path}")["data"] for path in paths]


def test_the_agent_cannot_write_without_check_and_set(roles: dict[str, Any]) -> None:
    """A policy cannot look into a request's options; the mount can, and does."""
    before = _state(roles["root"])
    answer = roles["agent"].adapter.post(f"/v1/{DATA}/{OURS}", json={"data": {"a": 1}}, raise_exception=False)
    assert answer.status_code == 400
    assert _state(roles["root"]) == before


def test_every_policy_file_is_known() -> None:
    """The files for administrators and the list in the package are the same."""
    assert {path.stem for path in _folder().glob("*.hcl")} == set(POLICIES)


@pytest.mark.parametrize("name", POLICIES)
def test_policies_are_formatted(name: str, tmp_path: Path) -> None:
    """They look as ``bao policy fmt`` leaves them, so that an administrator's diff shows only what was changed."""
    file = tmp_path / f"{name}.hcl"
    shutil.copy(_folder() / file.name, file)
    subprocess.run([find_binary(), "policy", "fmt", file], check=True, capture_output=True, env={"HOME": str(tmp_path)})
    assert file.read_text(encoding="utf-8") == (_folder() / file.name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", POLICIES)
def test_policies_move_to_another_mount_and_prefix(name: str) -> None:
    """Every path of records is moved; those of tokens and rights stay."""
    text = policy_text(name, mount="certs/fi", prefix="team/a")
    paths = [line.split('"')[1] for line in text.splitlines() if line.startswith("path ")]
    assert len(paths) == policy_text(name).count("\npath ")
    assert all(
        path.startswith(("certs/fi/data/team/a/", "certs/fi/metadata/team/a/", "auth/", "sys/")) for path in paths
    )
    assert any(path.startswith("certs/fi/") for path in paths)


@pytest.mark.parametrize("bad", ['x" { capabilities = ["sudo"] } path "', "a//b", "../a", "", "a b"])
def test_a_mount_that_would_change_the_policys_meaning_is_refused(bad: str) -> None:
    """What is put into HCL is checked first."""
    with pytest.raises(ConfigError):
        policy_text("agent", mount=bad)
    with pytest.raises(ConfigError):
        policy_text("agent", prefix=bad)


def _folder() -> Path:
    """The folder of the policies in the source tree."""
    return Path(__file__).parents[2] / "policies"
