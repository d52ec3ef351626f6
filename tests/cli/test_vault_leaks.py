"""After a whole enrollment with all that Vault has to offer: no secret in logs, storage, arguments or environments."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from harness.cores import dumps_core
from harness.stage import CUSTOMER
from varmenne.testbench.openbao import OpenBaoServer, provision
from varmenne.vault.policies import policy_text

if TYPE_CHECKING:
    from harness.stage import Stage


def family_of(pid: int) -> set[int]:
    """A process and all its descendants."""
    found = {pid}
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found |= family_of(int(child))
    return found


def watched(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Wait for a command's end; return its output, and all arguments and environments of its processes meanwhile."""
    seen: set[bytes] = set()
    while process.poll() is None:
        for pid in family_of(process.pid):
            for name in ("cmdline", "environ"):
                with contextlib.suppress(OSError):
                    seen.add(Path(f"/proc/{pid}/{name}").read_bytes())
    out, err = process.communicate()
    return out + err, b"\n".join(seen)


def test_no_secret_is_anywhere_afterwards(stage: Stage, tmp_path: Path) -> None:
    """Neither PIN, one-time password, secret ID, wrapping token nor login token: looked for byte by byte."""
    with OpenBaoServer(tmp_path / "server", persistent=True) as server:
        secret_id_file = stage.folder / "raft-secret-id"
        settings = provision(server, secret_id_file=secret_id_file)
        stage.configure(vault=msgspec.to_builtins(settings))
        client = server.client()
        with contextlib.closing(client.adapter):
            client.sys.create_or_update_policy("writer", policy_text("credentials-writer"))
            made = client.auth.token.create(policies=["writer"], no_default_policy=True, ttl="10m")
        writer = stage.folder / "writer-token"
        writer.touch(0o600)
        writer.write_text(made["auth"]["client_token"])
        order = stage.order()
        source, file = stage.credentials_file(order), stage.folder / "handed-over"
        done = stage.run("credentials", "put", "--credentials", source, "--vault-token", f"file:{writer}", "--to", file)
        assert done.code == 0
        secrets = {
            "PIN": Path(stage.token.pin.removeprefix("file:")).read_text().strip(),
            "one-time password": order.one_time_password,
            "secret ID": secret_id_file.read_text().strip(),
            "wrapping token": file.read_text().strip(),
            "writer's token": writer.read_text().strip(),
        }
        source.unlink()
        writer.unlink()
        process = stage.start("-vv", "enroll", "--customer-id", CUSTOMER, "--credentials", f"vault:{file}")
        output, processes = watched(process)
        assert process.returncode == 0
        assert b"Logged in to Vault by approle" in output
    places = {"output": output, "arguments and environments": processes}
    own = {secret_id_file, Path(stage.token.pin.removeprefix("file:"))}
    own |= set(stage.token.directory.rglob("*")) | {stage.folder / "secret-id"}
    bench = stage.folder / "bench"  # It plays the service, which knows the passwords that it gave out.
    for folder in (stage.folder, tmp_path / "server"):
        for path in folder.rglob("*"):
            if path.is_file() and path not in own and bench not in path.parents:
                places[str(path)] = path.read_bytes()
    assert any(name.endswith("audit.log") for name in places)
    assert any("raft" in name for name in places)
    found = {
        (what, place) for what, value in secrets.items() for place, text in places.items() if value.encode() in text
    }
    assert found == set()


def test_no_core_dump_holds_a_secret(stage: Stage, tmp_path: Path) -> None:
    """While it reads one-time credentials it leaves none if it aborts, though another program would."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd=tmp_path) as ordinary:
        assert dumps_core(ordinary)
    for core in tmp_path.glob("core*"):
        core.unlink()
    os.mkfifo(tmp_path / "mail", 0o600)
    arguments = ("enroll", "--customer-id", CUSTOMER, "--credentials", tmp_path / "mail")
    # From the opening on it reads: that waits for it.
    with stage.start(*arguments, cwd=tmp_path) as process, (tmp_path / "mail").open("wb"):
        assert not dumps_core(process)
    assert list(tmp_path.glob("core*")) == []
