"""``varmenne vault``: what check finds, and what setup shows, makes and leaves alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from varmenne.testbench.openbao import find_binary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.stage import Stage


@pytest.fixture
def admin(stage: Stage, tmp_path: Path) -> str:
    """The source of an administrator's token."""
    file = tmp_path / "admin-token"
    file.touch(0o600)
    file.write_text(stage.vault.server.root_token.reveal())
    return f"file:{file}"


@pytest.fixture
def fresh(stage: Stage) -> Iterator[str]:
    """The name of a mount that is not there yet, which the settings name."""
    mount = f"{stage.vault.settings.mount}-fresh"
    stage.configure(vault={"mount": mount})
    yield mount
    stage.vault.root.sys.disable_secrets_engine(mount)


def policies(stage: Stage) -> dict[str, str]:
    """All policies of the server."""
    names = stage.vault.root.sys.list_policies()["data"]["policies"]
    return {name: stage.vault.root.sys.read_policy(name)["data"]["rules"] for name in names if name != "root"}


def test_check_is_content_with_the_agents_policy(stage: Stage) -> None:
    """Every check is ok, the exit code is 0, and nothing is written."""
    before = stage.world()
    done = stage.run("vault", "check", "--json")
    assert (done.code, {line["verdict"] for line in done.json}) == (0, {"ok"})
    assert [line["name"] for line in done.json][-1] == "no dangerous rights"
    assert stage.world() == before


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ('path "sys/seal" { capabilities = ["update", "sudo"] }', "update at sys/seal"),
        ('path "auth/token/create" { capabilities = ["update"] }', "update at auth/token/create"),
        ('path "MOUNT/data/*" { capabilities = ["read"] }', "read at MOUNT/data/varmenne-somebody-else"),
        ('path "+/data/secret" { capabilities = ["read"] }', "read at varmenne-somebody-else/data/secret"),
        ('path "MOUNT/destroy/*" { capabilities = ["update"] }', "update at MOUNT/destroy"),
        ('path "identity/*" { capabilities = ["create"] }', "create at identity/entity"),
        ('path "auth/approle/role/*" { capabilities = ["update"] }', "update at auth/approle/role"),
    ],
)
def test_check_fails_for_a_dangerous_right(stage: Stage, rule: str, named: str) -> None:
    """Enrolling would go on with a warning; a check of rights ends with 15, and names right and path."""
    mount = stage.vault.settings.mount
    role = f"varmenne-agent-{mount}"
    text = stage.vault.root.sys.read_policy(role)["data"]["rules"]
    stage.vault.root.sys.create_or_update_policy(role, f"{text}\n{rule.replace('MOUNT', mount)}\n")
    done = stage.run("vault", "check", "--json")
    assert (done.code, done.json[-1]["verdict"]) == (15, "fail")
    assert named.replace("MOUNT", mount) in done.json[-1]["detail"]
    assert "→" in stage.run("vault", "check").out


def test_check_fails_for_a_missing_right(stage: Stage) -> None:
    """A role without the right to update is found before anything is spent."""
    role = f"varmenne-agent-{stage.vault.settings.mount}"
    text = stage.vault.root.sys.read_policy(role)["data"]["rules"]
    changed = text.replace('["create", "update", "read"]', '["create", "read"]')
    stage.vault.root.sys.create_or_update_policy(role, changed)
    done = stage.run("vault", "check", "--customer-id", "1234567-8")
    assert done.code == 15
    assert "may not update" in done.out
    assert "1234567-8/ws" in done.out


def test_a_dry_run_shows_all_and_changes_nothing(stage: Stage, admin: str) -> None:
    """Mount, configuration, policy and role are told as missing, and still are afterwards."""
    stage.configure(vault={"mount": "not-there"})
    before = policies(stage)
    done = stage.run("vault", "setup", "--role", "varmenne-dry", "--admin-token", admin, "--dry-run", "--json")
    assert (done.code, done.json["changed"]) == (0, False)
    assert [line["what"] for line in done.json["differences"]] == [
        "the mount not-there",
        "the configuration of not-there",
        "the policy varmenne-dry",
        "the AppRole varmenne-dry",
    ]
    assert policies(stage) == before
    assert "not-there/" not in stage.vault.root.sys.list_mounted_secrets_engines()["data"]


def test_setup_makes_what_an_enrollment_needs(stage: Stage, fresh: str, admin: str) -> None:
    """A role that setup has made passes the check of rights; a second run changes nothing."""
    role = f"varmenne-{fresh}"
    done = stage.run("vault", "setup", "--role", role, "--admin-token", admin, "--json")
    assert (done.code, done.json["changed"]) == (0, True)
    root = stage.vault.root
    config = root.secrets.kv.v2.read_configuration(mount_point=fresh)["data"]
    assert (config["cas_required"], config["max_versions"]) == (True, 20)
    secret_id = root.auth.approle.generate_secret_id(role)["data"]["secret_id"]
    file = stage.folder / "new-secret-id"
    file.touch(0o600)
    file.write_text(secret_id)
    login = {"method": "approle", "role_id": done.json["role_id"], "secret_id": f"file:{file}"}
    stage.configure(vault={"mount": fresh, "login": login})
    assert stage.run("vault", "check").code == 0
    again = stage.run("vault", "setup", "--role", role, "--admin-token", admin, "--json")
    assert (again.code, again.json["changed"], again.json["differences"]) == (0, False, [])


def test_setup_mends_only_what_differs(stage: Stage, fresh: str, admin: str) -> None:
    """Check-and-set that was switched off is switched on again; a longer history and other terms stay."""
    role = f"varmenne-{fresh}"
    arguments = ("vault", "setup", "--role", role, "--admin-token", admin)
    assert stage.run(*arguments).code == 0
    root = stage.vault.root
    root.secrets.kv.v2.configure(max_versions=50, cas_required=False, mount_point=fresh)
    root.auth.approle.create_or_update_approle(role, token_policies=[role, "default"], secret_id_ttl="24h")
    done = stage.run(*arguments, "--json")
    assert [line["what"] for line in done.json["differences"]] == [
        f"the configuration of {fresh}",
        f"the AppRole {role}",
    ]
    config = root.secrets.kv.v2.read_configuration(mount_point=fresh)["data"]
    assert (config["cas_required"], config["max_versions"]) == (True, 50)
    found = root.auth.approle.read_role(role)["data"]
    assert (found["token_policies"], found["secret_id_ttl"]) == ([role], 86400)


def test_setup_refuses_a_mount_of_another_kind(stage: Stage, admin: str) -> None:
    """An engine that others use is never converted, and nothing else is made either."""
    stage.configure(vault={"mount": "cubbyhole"})
    before = policies(stage)
    done = stage.run("vault", "setup", "--role", "varmenne-none", "--admin-token", admin)
    assert done.code == 11
    assert "something else" in done.err
    assert policies(stage) == before


def test_the_printed_commands_do_the_same(stage: Stage, fresh: str, admin: str, tmp_path: Path) -> None:
    """A shell that runs what --print prints leaves nothing for setup to do; printing needs no token."""
    role = f"varmenne-{fresh}"
    printed = stage.run("vault", "setup", "--role", role, "--print")
    assert printed.code == 0
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bao").symlink_to(find_binary())
    # What is there for the whole server may not be made again; an administrator leaves such a line out.
    script = printed.out.replace("bao auth enable", "true bao auth enable")
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {
        "PATH": path,
        "HOME": str(tmp_path),
        "BAO_ADDR": stage.vault.server.address,
        "BAO_TOKEN": stage.vault.server.root_token.reveal(),
    }
    shell = [str(shutil.which("bash")), "-eu"]
    subprocess.run(shell, input=script, text=True, check=True, capture_output=True, env=environment)
    done = stage.run("vault", "setup", "--role", role, "--admin-token", admin, "--json")
    assert (done.code, done.json["differences"]) == (0, [])


def test_the_setup_policy_is_enough_for_setup(stage: Stage, fresh: str) -> None:
    """An administrator needs no root token: the policy that we ship for it carries setup through."""
    from varmenne.vault.policies import policy_text

    root = stage.vault.root
    root.sys.create_or_update_policy(f"setup-{fresh}", policy_text("setup", mount=fresh))
    made = root.auth.token.create(policies=[f"setup-{fresh}"], no_default_policy=True, ttl="5m")
    file = stage.folder / "setup-token"
    file.touch(0o600)
    file.write_text(made["auth"]["client_token"])
    stage.configure(vault={"mount": fresh, "prefix": "varmenne/a1"})
    role = f"varmenne-{fresh}"
    done = stage.run(
        "vault", "setup", "--for", "agent-own-prefix", "--role", role, "--admin-token", f"file:{file}", "--json"
    )
    assert (done.code, done.json["changed"]) == (0, True)


def test_an_agent_with_a_prefix_of_its_own(stage: Stage, fresh: str, admin: str) -> None:
    """Set up by identity, it passes the check at its own prefix, and has no right at another's."""
    role = f"varmenne-{fresh}"
    vault: dict[str, Any] = {"mount": fresh, "prefix": "varmenne/a1"}
    stage.configure(vault=vault)
    done = stage.run("vault", "setup", "--for", "agent-own-prefix", "--role", role, "--admin-token", admin, "--json")
    assert done.code == 0
    secret_id = stage.vault.root.auth.approle.generate_secret_id(role)["data"]["secret_id"]
    file = stage.folder / "own-secret-id"
    file.touch(0o600)
    file.write_text(secret_id)
    vault["login"] = {"method": "approle", "role_id": done.json["role_id"], "secret_id": f"file:{file}"}
    stage.configure(vault=vault)
    assert stage.run("vault", "check").code == 0
    stage.configure(vault=vault | {"prefix": "varmenne/a2"})
    assert stage.run("vault", "check").code == 15


def test_a_token_on_the_command_line_is_refused(stage: Stage) -> None:
    """Options can be seen by everybody on the machine; the message does not repeat the token."""
    done = stage.run("vault", "setup", "--admin-token", "s.abcdefghijklmnopqrstuvwx")
    assert done.code == 4
    assert "abcdefghij" not in done.err + done.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--for", "agnet"), "There is no policy"),
        (("--for", "consumer"), "No customer is named"),
        (("--for", "agent", "--customer-id", "1234567-8"), "for all customers"),
        (("--for", "agent-own-prefix"), "agent's own part"),
    ],
)
def test_setup_refuses_what_makes_no_sense(stage: Stage, arguments: tuple[str, ...], words: str) -> None:
    """Before anybody is asked for a token."""
    done = stage.run("vault", "setup", *arguments, "--print")
    assert done.code in {3, 4}
    assert words in done.err


def test_a_wrapped_secret_id_goes_to_a_private_file(stage: Stage, fresh: str, admin: str) -> None:
    """The file holds a wrapping token, not the secret ID; a file that is there is not written over."""
    role, file = f"varmenne-{fresh}", stage.folder / "wrapped"
    arguments = ("vault", "setup", "--role", role, "--admin-token", admin, "--secret-id-to", str(file), "--json")
    assert stage.run(*arguments).code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    root = stage.vault.root
    with contextlib.closing(stage.vault.server.client().adapter):
        found = root.adapter.post("/v1/sys/wrapping/lookup", json={"token": file.read_text().strip()})["data"]
    assert found["creation_path"] == f"auth/approle/role/{role}/secret-id"
    before = file.read_bytes()
    accessors = root.auth.approle.list_secret_id_accessors(role)["data"]["keys"]
    assert stage.run(*arguments).code == 4
    assert file.read_bytes() == before
    assert root.auth.approle.list_secret_id_accessors(role)["data"]["keys"] == accessors


def test_a_login_key_that_needs_no_stored_secret(stage: Stage, tmp_path: Path) -> None:
    """The printed commands and settings are enough: the key signs a login, doctor does not take it for a stray key."""
    role, mount = f"varmenne-agent-{stage.vault.settings.mount}", f"jwt-{stage.vault.settings.mount}"
    login: dict[str, Any] = {"method": "jwt", "mount": mount, "role": role}
    stage.configure(vault={"login": login | {"jwt_key": ""}})
    made = stage.run("vault", "login-key", "--role", role, "--subject", "agent-7", "--json")
    assert made.code == 0
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bao").symlink_to(find_binary())
    environment = {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "BAO_ADDR": stage.vault.server.address,
        "BAO_TOKEN": stage.vault.server.root_token.reveal(),
    }
    shell = [str(shutil.which("bash")), "-eu"]
    commands = made.json["commands"]
    subprocess.run(shell, input=commands, text=True, check=True, capture_output=True, env=environment)
    stage.configure(vault={"login": login | {"jwt_key": made.json["key_id"], "jwt_subject": "agent-7"}})
    assert stage.run("vault", "check").code == 0
    keys = stage.keys()
    again = stage.run("vault", "login-key", "--json")
    assert (again.json["key_id"], again.json["public_key"]) == (made.json["key_id"], made.json["public_key"])
    assert stage.keys() == keys
    found = {line["name"]: line for line in stage.run("doctor", "--json").json}
    assert "keys without a row" not in found
    stage.vault.root.sys.disable_auth_method(mount)


def test_the_printed_settings_log_in(stage: Stage, fresh: str, admin: str) -> None:
    """What setup prints is a piece of the settings file that works as it stands, wrapped secret ID and all."""
    file, own = stage.folder / "wrapped", stage.folder / "own-secret-id"
    arguments = ("vault", "setup", "--role", f"varmenne-{fresh}", "--admin-token", admin, "--secret-id-to", file)
    done = stage.run(*arguments)
    printed = tomllib.loads(done.out.partition("\n\n")[2])["vault"]["login"]
    assert set(printed) == {"method", "role", "role_id", "wrapped_secret_id"}
    stage.configure(vault={"mount": fresh, "login": printed | {"secret_id": f"file:{own}"}})
    for _ in range(2):
        assert stage.run("vault", "check").code == 0
        assert (file.exists(), own.exists()) == (False, True)
