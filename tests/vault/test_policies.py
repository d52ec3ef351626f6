"""The policies of ``policies/``, each logged in with on a real server: what is allowed, and what is not."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from varmenne.clock import system_clock
from varmenne.domain.identifiers import Channel, CustomerId, Environment
from varmenne.domain.secret import Secret
from varmenne.errors import ConfigError, InputError
from varmenne.settings import VaultSettings
from varmenne.testbench.openbao import OpenBaoServer, find_binary, make_role
from varmenne.vault import Location
from varmenne.vault.connection import Connection, Patience
from varmenne.vault.login import GivenToken
from varmenne.vault.policies import POLICIES, policy_text
from varmenne.vault.setup import Target, apply, new_secret_id
from varmenne.vault.setup import role_id as setup_role_id

if TYPE_CHECKING:
    from collections.abc import Iterator

MOUNT = "secret"
OURS = "varmenne/test/1234567-8/ws/current"
"""The record that the policies for one customer name."""
GENERATION = "varmenne/test/1234567-8/ws/generation-1"
THEIRS = "varmenne/test/7654321-0/ws/current"
OWN = "varmenne/a1/test/1234567-8/ws/current"
"""A record of the agent that has a prefix of its own."""
FOREIGN = "varmenne/a2/test/1234567-8/ws/current"
OWN_GENERATION = "varmenne/a1/test/1234567-8/ws/generation-{role}"
DRAFT = "varmenne/test/1234567-8/ws/draft"
"""Something else beside the customer's records."""
SERVED = "varmenne/test/1234567-8/ws/served/consumer"
"""Where the consumer tells what it serves, and below where others do."""
OTHERS_SERVED, THEIRS_SERVED = "varmenne/test/1234567-8/ws/served/web", "varmenne/test/7654321-0/ws/served/web"
OWN_SERVED = "varmenne/a1/test/1234567-8/ws/served/web"
CONSUMERS, OWN_CONSUMERS = (path.rpartition("/")[0] for path in (SERVED, OWN_SERVED))
LOG = "audit/0123456789abcdef"
ANCHOR, OWN_ANCHOR, FOREIGN_ANCHOR = (f"varmenne/{agent}{LOG}/{1:020}" for agent in ("", "a1/", "a2/"))
"""A checkpoint of the audit log, and those of agents that have a prefix of their own."""
NEW_ANCHOR, NEW_OWN_ANCHOR, NEW_FOREIGN_ANCHOR = (f"varmenne/{agent}{LOG}/new-{{role}}" for agent in ("", "a1/", "a2/"))
DELETABLE = {
    "theirs": THEIRS,
    "ours": OURS,
    "own": OWN,
    "generation": GENERATION,
    "served": SERVED,
    "served by another": OTHERS_SERVED,
    "served under an own prefix": OWN_SERVED,
    "consumers": CONSUMERS,
    "own consumers": OWN_CONSUMERS,
    "checkpoint": ANCHOR,
    "checkpoint under an own prefix": OWN_ANCHOR,
    "checkpoint under another agent's prefix": FOREIGN_ANCHOR,
}
"""Name → path of which nobody may take anything away."""
RECORDS = (
    *(OURS, GENERATION, DRAFT, THEIRS, OWN, FOREIGN, "other/secret"),
    *(OTHERS_SERVED, THEIRS_SERVED, OWN_SERVED, CONSUMERS, OWN_CONSUMERS),
    *(ANCHOR, OWN_ANCHOR, FOREIGN_ANCHOR),
)
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
    wrap_ttl: str | None = None


AGENT, CONSUMER, AUDITOR, SETUP = ("agent",), ("consumer",), ("auditor",), ("setup",)
WRITER, READER, PUBLISHERS = ("credentials-writer",), ("credentials-reader",), ("agent", "publisher")
AGENTS, OWN_AGENT = ("agent", "agent-own-prefix", "publisher"), ("agent-own-prefix",)
OWNERS = ("agent-own-prefix", "auditor")
KV_WRITER, KV_READER = ("credentials-kv-writer",), ("credentials-kv-reader",)
ONCE, WAITING, OTHERS_WAITING = "one-time", "agent/waiting", "other/waiting"
NEW = {"data": {"a": "b"}, "options": {"cas": 0}}
MARK = {"data": {"a": "b"}, "options": {"cas": 9}}
ALL = POLICIES
DATA, META = f"{MOUNT}/data", f"{MOUNT}/metadata"
NOTHING = 'path "nothing" {\n  capabilities = ["deny"]\n}\n'
TAG = {"custom_metadata": {"a": "b"}}

TABLE = (
    Row("publish a first version", "post", f"{DATA}/varmenne/test/new-{{role}}/ws/current", AGENT, {"cas": 0}),
    Row("publish a next version", "post", f"{DATA}/{THEIRS}", AGENT, {"cas": 1}),
    Row("publish over the customer's record", "post", f"{DATA}/{OURS}", PUBLISHERS, {"cas": 1}),
    Row("publish a generation", "post", f"{DATA}/{GENERATION}-{{role}}", PUBLISHERS, {"cas": 0}),
    Row("publish for the customer's other channel", "post", f"{DATA}/{OURS}".replace("/ws/", "/sftp/"), AGENT),
    Row("publish for the customer's other environment", "post", f"{DATA}/{OURS}".replace("test", "production"), AGENT),
    Row("publish under an agent's own prefix", "post", f"{DATA}/{OWN}", OWN_AGENT, {"cas": 1}),
    Row("publish a generation under an own prefix", "post", f"{DATA}/{OWN_GENERATION}", OWN_AGENT, {"cas": 0}),
    Row("publish under another agent's prefix", "post", f"{DATA}/{FOREIGN}", (), {"cas": 1}),
    Row("write under another prefix", "post", f"{DATA}/other/test/1234567-8/ws/current", (), {"cas": 0}),
    Row("write beside the layout", "post", f"{DATA}/varmenne/stray", (), {"cas": 0}),
    Row("write beside an agent's layout", "post", f"{DATA}/varmenne/a1/stray", (), {"cas": 0}),
    Row("write beside an agent's customers", "post", f"{DATA}/varmenne/a1/test/stray", (), {"cas": 0}),
    Row("write beside an agent's channels", "post", f"{DATA}/varmenne/a1/test/1234567-8/stray", AGENT, {"cas": 0}),
    Row("write beside the customers", "post", f"{DATA}/varmenne/test/1234567-8/stray", (), {"cas": 0}),
    Row("write below a record", "post", f"{DATA}/{OURS}/below", (), {"cas": 0}),
    Row("write below an own record", "post", f"{DATA}/{OWN}/below", (), {"cas": 0}),
    Row("set metadata below a record", "post", f"{META}/{OURS}/below", (), TAG),
    Row("set metadata below an own record", "post", f"{META}/{OWN}/below", (), TAG),
    Row("read the customer's record", "get", f"{DATA}/{OURS}", (*PUBLISHERS, "consumer")),
    Row("read the customer's generation", "get", f"{DATA}/{GENERATION}", (*PUBLISHERS, "consumer")),
    Row("publish over the customer's generation", "post", f"{DATA}/{GENERATION}", PUBLISHERS, {"cas": 1}),
    Row("set a generation's metadata", "post", f"{META}/{GENERATION}", PUBLISHERS, TAG),
    Row("publish as a draft of the customer's", "post", f"{DATA}/{DRAFT}", PUBLISHERS, {"cas": 1}),
    Row("read a draft of the customer's", "get", f"{DATA}/{DRAFT}", PUBLISHERS),
    Row("read a draft's metadata", "get", f"{META}/{DRAFT}", (*PUBLISHERS, "auditor")),
    Row("read another customer's record", "get", f"{DATA}/{THEIRS}", AGENT),
    Row("read under an agent's own prefix", "get", f"{DATA}/{OWN}", OWN_AGENT),
    Row("read under another agent's prefix", "get", f"{DATA}/{FOREIGN}"),
    Row("read under another prefix", "get", f"{DATA}/other/secret"),
    Row("read the customer's metadata", "get", f"{META}/{OURS}", (*PUBLISHERS, "consumer", "auditor")),
    Row(
        "read the customer's generation's metadata", "get", f"{META}/{GENERATION}", (*PUBLISHERS, "consumer", "auditor")
    ),
    Row("patch a generation's metadata", "patch", f"{META}/{GENERATION}", PUBLISHERS, TAG, patch=True),
    Row("read another customer's metadata", "get", f"{META}/{THEIRS}", ("agent", "auditor")),
    Row("read metadata under an own prefix", "get", f"{META}/{OWN}", (*OWN_AGENT, "auditor")),
    Row("read metadata under another agent's prefix", "get", f"{META}/{FOREIGN}", AUDITOR),
    Row("read metadata under another prefix", "get", f"{META}/other/secret"),
    Row("tell what it serves", "post", f"{DATA}/{SERVED}", CONSUMER, {"cas": 0}),
    Row("tell what it serves again", "post", f"{DATA}/{SERVED}", CONSUMER, {"cas": 1}),
    Row("tell what another consumer serves", "post", f"{DATA}/{SERVED}-2", (), {"cas": 0}),
    Row("change what another consumer serves", "post", f"{DATA}/{OTHERS_SERVED}", (), {"cas": 1}),
    Row("tell what is served under an own prefix", "post", f"{DATA}/{OWN_SERVED}", (), {"cas": 1}),
    Row("tell of a new one under an own prefix", "post", f"{DATA}/{OWN_SERVED}-2", (), {"cas": 0}),
    Row("read what it serves", "get", f"{DATA}/{SERVED}", (*PUBLISHERS, "consumer")),
    Row("read what another consumer serves", "get", f"{DATA}/{OTHERS_SERVED}", PUBLISHERS),
    Row("read what another customer's consumer serves", "get", f"{DATA}/{THEIRS_SERVED}", AGENT),
    Row("read what is served under an own prefix", "get", f"{DATA}/{OWN_SERVED}", OWN_AGENT),
    Row("read below what is served", "get", f"{DATA}/{OTHERS_SERVED}/below"),
    Row("read below what is served under an own prefix", "get", f"{DATA}/{OWN_SERVED}/below"),
    Row("read the metadata of what it serves", "get", f"{META}/{SERVED}", ("consumer", "auditor")),
    Row("read the metadata of what another serves", "get", f"{META}/{OTHERS_SERVED}", AUDITOR),
    Row("set the metadata of what it serves", "post", f"{META}/{SERVED}", (), TAG),
    Row("set the metadata of what another serves", "post", f"{META}/{OTHERS_SERVED}", (), TAG),
    Row("list consumers", "list", f"{META}/{CONSUMERS}", (*PUBLISHERS, "auditor")),
    Row("list consumers under an own prefix", "list", f"{META}/{OWN_CONSUMERS}", OWNERS),
    Row("read the metadata of the consumers' folder", "get", f"{META}/{CONSUMERS}", AUDITOR),
    Row("read an own folder's metadata", "get", f"{META}/{OWN_CONSUMERS}", AUDITOR),
    Row("set the metadata of the consumers' folder", "post", f"{META}/{CONSUMERS}", (), TAG),
    Row("set an own folder's metadata", "post", f"{META}/{OWN_CONSUMERS}", (), TAG),
    Row("list environments", "list", f"{META}/varmenne", AUDITOR),
    Row("list customers", "list", f"{META}/varmenne/test", AUDITOR),
    Row("list records", "list", f"{META}/varmenne/test/1234567-8/ws", AUDITOR),
    Row("list records of an own prefix", "list", f"{META}/varmenne/a1/test/1234567-8/ws", AUDITOR),
    Row("list the mount", "list", META),
    Row("list the mount's data", "list", DATA),
    Row("patch custom metadata", "patch", f"{META}/{THEIRS}", AGENT, TAG, patch=True),
    Row("set custom metadata", "post", f"{META}/{THEIRS}", AGENT, TAG),
    Row("set the customer's metadata", "post", f"{META}/{OURS}", PUBLISHERS, TAG),
    Row("patch the customer's metadata", "patch", f"{META}/{OURS}", PUBLISHERS, TAG, patch=True),
    Row("set metadata under an own prefix", "post", f"{META}/{OWN}", OWN_AGENT, TAG),
    Row("set metadata under another agent's prefix", "post", f"{META}/{FOREIGN}", (), TAG),
    Row("set metadata under another prefix", "post", f"{META}/other/secret", (), TAG),
    Row("set metadata beside the layout", "post", f"{META}/varmenne/stray", (), TAG),
    Row("set metadata beside the customers", "post", f"{META}/varmenne/test/1234567-8/stray", (), TAG),
    Row("set metadata beside an agent's customers", "post", f"{META}/varmenne/a1/test/stray", (), TAG),
    Row("set metadata beside an agent's channels", "post", f"{META}/varmenne/a1/test/1234567-8/stray", AGENT, TAG),
    Row("set metadata beside an agent's layout", "post", f"{META}/varmenne/a1/stray", (), TAG),
    *(
        Row(f"{words} ({where})", method, f"{META}/{path}", (), body, patch=method == "patch")
        for where, path in (("theirs", THEIRS), ("ours", OURS), ("own", OWN))
        for words, method, body in (
            ("switch check-and-set off", "post", {"cas_required": False}),
            ("patch check-and-set off", "patch", {"cas_required": False}),
            ("shorten the history", "post", {"max_versions": 1}),
            ("let versions expire", "post", {"delete_version_after": "1s"}),
        )
    ),
    *(
        Row(f"{words} ({where})", method, path.format(path=record), (), body)
        for where, record in DELETABLE.items()
        for words, method, path, body in (
            ("delete the latest version", "delete", f"{DATA}/{{path}}", None),
            ("delete a version", "post", f"{MOUNT}/delete/{{path}}", {"versions": [1]}),
            ("undelete a version", "post", f"{MOUNT}/undelete/{{path}}", {"versions": [1]}),
            ("destroy a version", "post", f"{MOUNT}/destroy/{{path}}", {"versions": [1]}),
            ("delete all versions", "delete", f"{META}/{{path}}", None),
        )
    ),
    Row("anchor a checkpoint", "post", f"{DATA}/{NEW_ANCHOR}", PUBLISHERS, {"cas": 0}),
    Row("anchor one under an own prefix", "post", f"{DATA}/{NEW_OWN_ANCHOR}", OWN_AGENT, {"cas": 0}),
    Row("anchor one under another agent's prefix", "post", f"{DATA}/{NEW_FOREIGN_ANCHOR}", (), {"cas": 0}),
    Row("change a checkpoint", "post", f"{DATA}/{ANCHOR}", (), {"cas": 1}),
    Row("change one under an own prefix", "post", f"{DATA}/{OWN_ANCHOR}", (), {"cas": 1}),
    Row("change one under another agent's prefix", "post", f"{DATA}/{FOREIGN_ANCHOR}", (), {"cas": 1}),
    Row("read a checkpoint", "get", f"{DATA}/{ANCHOR}", (*PUBLISHERS, "auditor")),
    Row("read one under an own prefix", "get", f"{DATA}/{OWN_ANCHOR}", OWNERS),
    Row("read one under another agent's prefix", "get", f"{DATA}/{FOREIGN_ANCHOR}", AUDITOR),
    Row("list logs", "list", f"{META}/varmenne/audit", (*PUBLISHERS, "auditor")),
    Row("list checkpoints", "list", f"{META}/varmenne/{LOG}", (*PUBLISHERS, "auditor")),
    Row("list logs under an own prefix", "list", f"{META}/varmenne/a1/audit", OWNERS),
    Row("list checkpoints under an own prefix", "list", f"{META}/varmenne/a1/{LOG}", OWNERS),
    Row("list checkpoints under another agent's prefix", "list", f"{META}/varmenne/a2/{LOG}", AUDITOR),
    *(
        row
        for where, anchor in (("", ANCHOR), (" (own)", OWN_ANCHOR), (" (another agent's)", FOREIGN_ANCHOR))
        for row in (
            Row(f"read a checkpoint's metadata{where}", "get", f"{META}/{anchor}", AUDITOR),
            Row(f"set a checkpoint's metadata{where}", "post", f"{META}/{anchor}", (), TAG),
            Row(f"set a new checkpoint's metadata{where}", "post", f"{META}/{anchor}-2", (), TAG),
            Row(f"patch a checkpoint's metadata{where}", "patch", f"{META}/{anchor}", (), TAG, patch=True),
            Row(f"let a checkpoint expire{where}", "post", f"{META}/{anchor}", (), {"delete_version_after": "1s"}),
            Row(f"write far below a checkpoint{where}", "post", f"{DATA}/{anchor}/far/below", (), {"cas": 0}),
            Row(f"read far below a checkpoint{where}", "get", f"{DATA}/{anchor}/far/below"),
        )
    ),
    Row("read the mount's configuration", "get", f"{MOUNT}/config", SETUP),
    Row("change the mount's configuration", "post", f"{MOUNT}/config", SETUP, {"cas_required": True}),
    Row("see mounts", "get", "sys/mounts", SETUP),
    Row("make a mount", "post", "sys/mounts/mine", (), {"type": "kv"}),
    Row("remove a mount", "delete", "sys/mounts/mine"),
    Row("read a policy", "get", "sys/policies/acl/default"),
    Row("write a policy", "put", "sys/policies/acl/{role}", (), {"policy": ""}),
    Row("write a policy of ours", "put", "sys/policies/acl/varmenne-new", SETUP, {"policy": NOTHING}),
    Row("remove a policy of ours", "delete", "sys/policies/acl/varmenne-old"),
    Row("see auth methods", "get", "sys/auth", SETUP),
    Row("enable another auth method", "post", "sys/auth/mine", (), {"type": "userpass"}),
    Row("read another AppRole", "get", "auth/approle/role/stranger"),
    Row("make a secret ID of another AppRole", "post", "auth/approle/role/stranger/secret-id", (), {}),
    Row("make an AppRole of ours", "post", "auth/approle/role/varmenne-new", SETUP, {"token_ttl": 60}),
    Row("make a secret ID of ours", "post", "auth/approle/role/varmenne-agent/secret-id", SETUP, {}),
    Row("remove an AppRole of ours", "delete", "auth/approle/role/varmenne-new"),
    Row("name an entity of ours", "post", "identity/entity/name/varmenne-new", SETUP, {}),
    Row("name another entity", "post", "identity/entity/name/mine", (), {}),
    Row("make an entity", "post", "identity/entity", (), {"name": "mine"}),
    Row("make a token", "post", "auth/token/create", (), {}),
    Row("read a token role", "get", "auth/token/roles/mine"),
    Row("list audit devices", "get", "sys/audit"),
    Row("test guesses against the audit log", "post", "sys/audit-hash/file", (), {"input": "x"}),
    Row("wrap for fourteen days", "post", "sys/wrapping/wrap", WRITER, {"a": "b"}, wrap_ttl="336h"),
    Row("wrap for fifteen days", "post", "sys/wrapping/wrap", (), {"a": "b"}, wrap_ttl="360h"),
    Row("wrap without an end", "post", "sys/wrapping/wrap", (), {"a": "b"}),
    Row("open with a wrapping token", "post", "sys/wrapping/unwrap", READER, {"token": "{wrapped}"}),
    Row("put one-time credentials away", "post", f"{ONCE}/data/agent/new-{{role}}", KV_WRITER, NEW),
    Row("put them away for another agent", "post", f"{ONCE}/data/other/new-{{role}}", KV_WRITER, NEW),
    Row("put them beside the folders", "post", f"{ONCE}/data/stray", (), NEW),
    Row("put them below a folder's names", "post", f"{ONCE}/data/agent/new/below", (), NEW),
    Row("write over one-time credentials", "post", f"{ONCE}/data/{WAITING}", KV_READER, MARK),
    Row("write over another agent's", "post", f"{ONCE}/data/{OTHERS_WAITING}", (), MARK),
    Row("read one-time credentials", "get", f"{ONCE}/data/{WAITING}", KV_READER),
    Row("read another agent's", "get", f"{ONCE}/data/{OTHERS_WAITING}"),
    Row("read below a folder's names", "get", f"{ONCE}/data/{WAITING}/below"),
    Row("delete their latest version", "delete", f"{ONCE}/data/{WAITING}"),
    Row("delete a version of them", "post", f"{ONCE}/delete/{WAITING}", (), {"versions": [1]}),
    Row("undelete one-time credentials", "post", f"{ONCE}/undelete/{WAITING}", (), {"versions": [1]}),
    Row("destroy one-time credentials", "post", f"{ONCE}/destroy/agent/gone", KV_READER, {"versions": [1]}),
    Row("destroy another agent's", "post", f"{ONCE}/destroy/{OTHERS_WAITING}", (), {"versions": [1]}),
    Row("destroy below a folder's names", "post", f"{ONCE}/destroy/agent/gone/below", (), {"versions": [1]}),
    Row("look for one-time credentials", "get", f"{ONCE}/metadata/{WAITING}", KV_READER),
    Row("look for another agent's", "get", f"{ONCE}/metadata/{OTHERS_WAITING}"),
    Row("look below a folder's names", "get", f"{ONCE}/metadata/{WAITING}/below"),
    Row("delete their path", "delete", f"{ONCE}/metadata/agent/gone", KV_READER),
    Row("delete another agent's path", "delete", f"{ONCE}/metadata/{OTHERS_WAITING}"),
    Row("set their metadata", "post", f"{ONCE}/metadata/{WAITING}", (), TAG),
    Row("list one-time credentials", "list", f"{ONCE}/metadata/agent"),
    Row("list the folders of one-time credentials", "list", f"{ONCE}/metadata"),
    Row("read that mount's configuration", "get", f"{ONCE}/config", SETUP),
    Row("change that mount's configuration", "post", f"{ONCE}/config", SETUP, {"cas_required": True}),
    Row("ask for its rights", "post", "sys/capabilities-self", AGENTS, {"paths": [f"{DATA}/{OURS}"]}),
    Row("look its token up", "get", "auth/token/lookup-self", ALL),
    Row("renew its token", "post", "auth/token/renew-self", ALL, {}),
    Row("seal", "put", "sys/seal", (), {}),
)


@dataclass(frozen=True)
class Roles:
    """A server, its administrator, and a client for each role."""

    server: OpenBaoServer
    root: Any
    clients: dict[str, Any]

    def ask(self, row: Row, role: str) -> tuple[int, str]:
        """Do the operation of a row in a role; return the answer's status and words."""
        body = {"data": {"certificate": "new"}, "options": row.body} if row.path.startswith(DATA) else row.body
        if body == {"token": "{wrapped}"}:
            wrapped = self.root.adapter.post("/v1/sys/wrapping/wrap", json={"a": "b"}, wrap_ttl="60s")
            body = {"token": wrapped["wrap_info"]["token"]}
        given = {} if body is None or row.method in {"get", "list", "delete"} else {"json": body}
        answer = self.clients[role].adapter.request(
            row.method,
            f"/v1/{row.path.format(role=role)}",
            raise_exception=False,
            headers=dict(MERGE_PATCH) if row.patch else None,
            wrap_ttl=row.wrap_ttl,
            **given,
        )
        return (200, "") if isinstance(answer, dict) else (answer.status_code, answer.text)

    def allows(self, row: Row, role: str) -> bool:
        """Tell whether the policy lets a role do what a row says."""
        status, words = self.ask(row, role)
        # The policy is asked first: only who may write learns that the version is another one by now.
        allowed = status in {200, 204} or "check-and-set" in words
        # Nothing to delete, to list or to find: also an answer that only those get who may ask.
        allowed = allowed or status == 404 or (status == 400 and row.words.startswith(("enable", "make")))
        assert allowed or status in {400, 403}
        return allowed


OURS_AT = Location(
    prefix="varmenne", environment=Environment.TEST, customer=CustomerId("1234567-8"), channel=Channel.WS
)
TARGETS: dict[str, dict[str, Any]] = {
    "agent-own-prefix": {"prefix": "varmenne/a1"},
    "publisher": {"location": OURS_AT},
    "consumer": {"location": OURS_AT},
    "credentials-kv-writer": {"mount": ONCE},
    "credentials-kv-reader": {"mount": ONCE},
}


def target_of(name: str) -> Target:
    """What is set up for a policy."""
    return Target(
        **{"mount": MOUNT, "prefix": "varmenne", "policy": name, "role": f"varmenne-{name}"} | TARGETS.get(name, {})
    )


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roles]:
    """Run a server that is set up for every policy, with a client for each, logged in by AppRole."""
    with OpenBaoServer(tmp_path_factory.mktemp("bao")) as server, contextlib.ExitStack() as stack:
        settings = VaultSettings(address=server.address, mount=MOUNT)
        connection = Connection(settings, system_clock, Patience(), GivenToken(server.root_token))
        root = server.client()
        stack.callback(root.adapter.close)
        clients: dict[str, Any] = {}
        for name in POLICIES:
            target = target_of(name)
            for _made in apply(connection, target):
                pass
            if name == "setup":
                role_id, secret_id = make_role(root, target.role, target.text)
            else:
                role_id = setup_role_id(connection, target)
                secret_id = new_secret_id(connection, target)
            answer = root.auth.approle.login(role_id, secret_id.reveal(), use_token=False)
            clients[name] = server.client(Secret(answer["auth"]["client_token"]))
            stack.callback(clients[name].adapter.close)
        make_role(root, "stranger", policy_text("auditor"))
        for path in RECORDS:
            root.secrets.kv.v2.create_or_update_secret(path, {"certificate": path}, cas=0, mount_point=MOUNT)
        for path in (WAITING, OTHERS_WAITING):
            root.secrets.kv.v2.create_or_update_secret(path, {"a": "b"}, cas=0, mount_point=ONCE)
        yield Roles(server, root, clients)
        connection.close()


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.words)
def test_who_may_do_what(roles: Roles, row: Row) -> None:
    """Every operation is allowed to those that the table names and to nobody else; a refusal changes nothing."""
    before = _state(roles.root)
    refused = {role for role in POLICIES if role not in row.allowed and not roles.allows(row, role)}
    assert _state(roles.root) == before
    allowed = {role for role in row.allowed if roles.allows(row, role)}
    assert (allowed, refused) == (set(row.allowed), set(POLICIES) - set(row.allowed))


def _state(root: Any) -> list[Any]:
    """What the refused operations could have changed."""
    paths = [f"{META}/{record}" for record in RECORDS] + [f"{MOUNT}/config", "sys/mounts", "sys/policies/acl/default"]
    paths += [f"{ONCE}/metadata/{WAITING}", f"{ONCE}/metadata/{OTHERS_WAITING}", f"{ONCE}/config"]
    return [root.adapter.get(f"/v1/{path}")["data"] for path in paths]


def _mend(root: Any) -> None:
    """Put back what a policy that was too loose has let happen."""
    for path in RECORDS:
        root.adapter.delete(f"/v1/{META}/{path}")
        root.secrets.kv.v2.create_or_update_secret(path, {"certificate": path}, cas=0, mount_point=MOUNT)
    for path in (WAITING, OTHERS_WAITING):
        root.adapter.delete(f"/v1/{ONCE}/metadata/{path}")
        root.secrets.kv.v2.create_or_update_secret(path, {"a": "b"}, cas=0, mount_point=ONCE)


def mutants(text: str) -> Iterator[tuple[str, str]]:
    """Yield every policy that is looser by one change: a wider path, one more capability, one parameter not denied."""
    for rule in re.finditer(r'^path "([^"]+)" \{\n  capabilities = \[([^]]*)\]', text, re.MULTILINE):
        segments = rule[1].split("/")
        for kept in range(1, len(segments)):
            wider = "/".join((*segments[:kept], "*"))
            if wider != rule[1]:
                yield f"{rule[1]} → {wider}", text.replace(rule[0], rule[0].replace(rule[1], wider))
        capabilities = [word.strip('"') for word in rule[2].split(", ")]
        # On a path that is one record, which is there, `create` allows nothing.
        operations = {"data": ("create", "update", "read", "delete"), "metadata": ("read", "list", "update", "delete")}
        for word in operations.get(segments[1], ()):
            if not {word, "deny"} & {*capabilities} and not (word in {"list", "create"} and segments[-1] not in "*+"):
                more = rule[0].replace(rule[2], f'{rule[2]}, "{word}"')
                yield f"{rule[1]} + {word}", text.replace(rule[0], more)
    for name in re.findall(r'^    "(\w+)" += \[\]\n', text, re.MULTILINE):
        yield f"{name} not denied", re.sub(rf'^    "{name}" += \[\]\n', "", text, flags=re.MULTILINE)


@pytest.mark.long
@pytest.mark.parametrize("role", POLICIES)
def test_a_looser_policy_makes_a_row_fail(roles: Roles, role: str) -> None:
    """The table would notice if any rule of any policy allowed more than it does."""
    target = target_of(role)
    unnoticed = []
    try:
        for change, text in mutants(target.text):
            roles.root.sys.create_or_update_policy(target.role, text)
            if all(roles.allows(row, role) == (role in row.allowed) for row in TABLE[:-1]):
                unnoticed.append(change)
            _mend(roles.root)
    finally:
        roles.root.sys.create_or_update_policy(target.role, target.text)
    assert unnoticed == []


def test_the_agent_cannot_write_without_check_and_set(roles: Roles) -> None:
    """A policy cannot look into a request's options; the mount can, and does."""
    before = _state(roles.root)
    answer = roles.clients["agent"].adapter.post(f"/v1/{DATA}/{OURS}", json={"data": {"a": 1}}, raise_exception=False)
    assert answer.status_code == 400
    assert _state(roles.root) == before


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
    moved = ("certs/fi/data/team/a/", "certs/fi/metadata/team/a/", "certs/fi/config", "one-time/")
    assert all(path.startswith((*moved, "auth/", "sys/", "identity/")) for path in paths)
    assert any("certs/fi" in path for path in paths) is not name.startswith("credentials")


def test_a_policy_for_one_customer_names_that_customer() -> None:
    """Environment, customer and channel of the example are replaced, and a policy for all takes none."""
    where = Location(
        prefix="varmenne", environment=Environment.PRODUCTION, customer=CustomerId("SE 1"), channel=Channel.SFTP
    )
    text = policy_text("consumer", location=where)
    path = where.path.removesuffix("/current")
    assert f'path "secret/data/{path}/current"' in text
    assert 'path "secret/data/varmenne/test' not in text
    with pytest.raises(InputError, match="not for one customer"):
        policy_text("agent", location=where)


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
