"""The demonstration as a newcomer runs it: processes of their own, from the first command to the last."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from varmenne.domain.pkcs11_uri import attributes_of

KEYS = {
    "ok",
    "enrollment_id",
    "certificate",
    "vault_path",
    "vault_version",
    "pkcs11_uri",
    "export_refused",
    "seconds",
}
PATIENCE_SECONDS = 90


def varmenne(
    *arguments: str | Path, config: Path | None = None, given: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line as a process of its own."""
    environment = dict(os.environ) if config is None else {**os.environ, "VARMENNE_CONFIG": str(config)}
    return subprocess.run(
        [sys.executable, "-m", "varmenne", *map(str, arguments)],
        input=given,
        capture_output=True,
        env=environment,
        check=False,
        timeout=PATIENCE_SECONDS,
    )


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of processes that have to do with a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command and int(path.parent.name) != os.getpid():
            found.append(command)
    return found


@dataclass(frozen=True)
class Kept:
    """A demonstration that was kept."""

    folder: Path
    result: dict[str, Any]
    told: str

    @property
    def config(self) -> Path:
        """Its settings file."""
        return self.folder / "varmenne.toml"

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run its start script until the block ends."""
        with subprocess.Popen([self.folder / "start"], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                assert process.stdout.readline() == b"ready\n"
                yield process
            finally:
                process.terminate()
                process.wait(30)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """A demonstration that was run once and kept."""
    folder = tmp_path_factory.mktemp("demo") / "a folder"
    done = varmenne("demo", "--keep", folder, "--json")
    assert done.returncode == 0, done.stderr.decode()
    return Kept(folder, json.loads(done.stdout), done.stderr.decode())


def check_result(result: dict[str, Any]) -> None:
    """Look at what the demonstration reports."""
    assert set(result) == KEYS
    assert result["ok"] is True
    assert result["export_refused"] is True
    assert result["vault_version"] == 1
    assert result["vault_path"].endswith("/ws/current")
    uri = attributes_of(result["pkcs11_uri"])
    assert uri["object"].decode() == f"varmenne-{result['enrollment_id']}"
    assert len(uri["id"]) == 16
    assert x509.load_pem_x509_certificate(result["certificate"].encode())


def test_demo_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One command shows it all and reports it as JSON; openssl reads the certificate; nothing is left behind."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = varmenne("demo", "--json")
    assert done.returncode == 0, done.stderr.decode()
    result = json.loads(done.stdout)
    check_result(result)
    assert 0 < result["seconds"] < PATIENCE_SECONDS
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-subject", "-ext", "keyUsage", "-nameopt", "utf8,sname"],
        input=result["certificate"].encode(),
        capture_output=True,
        check=True,
    ).stdout.decode()
    assert "Esimerkki & Öljy Oy" in shown
    assert "Digital Signature" in shown
    told = done.stderr.decode()
    assert "every try that could have worked was refused" in told
    assert "it is the current certificate" in told
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []


def test_kept_demo_goes_on(kept: Kept) -> None:
    """The kept parts start again, every command works with them, and SIGTERM ends all of them with code 0."""
    check_result(kept.result)
    with kept.running() as start:
        (row,) = json.loads(varmenne("list", "--json", config=kept.config).stdout)
        assert (row["id"], row["state"]) == (kept.result["enrollment_id"], "active")
        shown = json.loads(varmenne("show", row["id"], "--json", config=kept.config).stdout)
        assert shown["certificate"] == kept.result["certificate"]
        checks = varmenne("doctor", "--json", config=kept.config)
        assert checks.returncode == 0, checks.stdout
        assert {line["verdict"] for line in json.loads(checks.stdout)} == {"ok", "warn"}
    assert start.returncode == 0
    assert processes_of(kept.folder) == []


README = Path(__file__).parents[2] / "README.md"

VARIES = re.compile(
    r"\b[0-9a-f]{2}(:[0-9a-f]{2})+\b|\b[0-9a-f]{32}\b|\b\d{8}-[0-9a-f]{8}\b|\b\d{11}\b|\b\d{4}-\d\d-\d\d\b|(?<= )/.*"
    r"|\b\d+(?= other ways)"
)
"""What is another each time: serial numbers, keys, IDs, days, folders; and how much a token lacks."""


def test_the_readme_shows_what_is_said(kept: Kept) -> None:
    """Each line of its sample is one that the demonstration prints, in that order; `…` stands for lines left out."""
    sample = README.read_text().split("```\n• ", 1)[1].split("\n```")[0]
    shown = [VARIES.sub("#", line) for line in f"• {sample}".splitlines()]
    told = iter([VARIES.sub("#", line) for line in kept.told.splitlines()])
    wanted = [line for line in shown if line.strip() not in {"", "…"} and not line.startswith("Done in ")]
    assert len(wanted) > 20
    assert [line for line in wanted if line not in told] == []


def test_start_twice_is_refused(kept: Kept) -> None:
    """A second start beside a running one says so and ends; the first one goes on."""
    with kept.running() as first:
        second = subprocess.run([kept.folder / "start"], capture_output=True, check=False, timeout=PATIENCE_SECONDS)
        assert second.returncode != 0
        assert b"Error: " in second.stderr
        assert b"Traceback" not in second.stderr
        assert first.poll() is None
        assert varmenne("doctor", config=kept.config).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_start_stops_on_signals(kept: Kept, number: signal.Signals) -> None:
    """Ctrl-C at a terminal reaches the whole group, SIGTERM of a service manager the process; both end cleanly."""
    with subprocess.Popen([kept.folder / "start"], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        if number is signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        assert process.wait(30) == 0
    assert processes_of(kept.folder) == []


def test_a_used_folder_is_refused(kept: Kept, tmp_path: Path) -> None:
    """A folder with something in it is left alone, and the sentence says how to go on with an earlier one."""
    before = sorted(kept.folder.rglob("*"))
    done = varmenne("demo", "--keep", kept.folder, "--json")
    assert done.returncode == 4
    assert json.loads(done.stdout)["error"]["kind"] == "InputError"
    assert f"{kept.folder}/start" in done.stderr.decode()
    assert sorted(kept.folder.rglob("*")) == before
    (tmp_path / "file").touch()
    assert varmenne("demo", "--keep", tmp_path / "file").returncode == 4


@dataclass
class Watcher:
    """Keeps the command lines and the environments of this process's descendants while it runs."""

    commands: set[bytes] = field(default_factory=set)
    environments: set[bytes] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Look at all processes again and again."""
        while not self._stop.is_set():
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    self.commands.add((folder / "cmdline").read_bytes())
                    if int(folder.name) != os.getpid():
                        self.environments.add((folder / "environ").read_bytes())
                except OSError:
                    continue
            time.sleep(0.05)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch during the block."""
        thread = threading.Thread(target=self.watch)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_nothing_leaks(kept: Kept, tmp_path: Path, source: str) -> None:
    """Full enrollments with -vv: no secret in journal, output, command lines, environments or Vault's audit log."""
    customer = f"leak-{source}"
    with kept.running():
        placed = varmenne(
            *("testbench", "order", "--state", kept.folder / "bench", "--customer-id", customer, "--json")
        )
        order = json.loads(placed.stdout)
        file = tmp_path / "order.json"
        file.touch(mode=0o600)
        if source == "file":
            file.write_bytes(placed.stdout)
        watcher = Watcher()
        with watcher.watching():
            done = varmenne(
                *("enroll", "--customer-id", customer, "-vv", "--credentials", file if source == "file" else "-"),
                config=kept.config,
                given=b"" if source == "file" else placed.stdout,
            )
        assert done.returncode == 0, done.stderr.decode()
        failed = varmenne(
            *("enroll", "--customer-id", customer, "-vv", "--credentials", "-"),
            config=kept.config,
            given=placed.stdout,
        )
        assert failed.returncode == 13
    folder = kept.folder
    secrets = {
        "one-time password": order["one_time_password"],
        "PIN": (folder / "token" / "pin").read_text().strip(),
        "SO PIN": (folder / "token" / "so-pin").read_text().strip(),
        "secret ID": (folder / "vault-secret-id").read_text().strip(),
        "root token": (folder / "vault" / "DEMO-ONLY-root-token").read_text().strip(),
    }
    places = {
        "output": done.stdout + done.stderr + failed.stdout + failed.stderr,
        "command lines": b"\n".join(watcher.commands),
        "environments": b"\n".join(watcher.environments),
        "state": b"\n".join(path.read_bytes() for path in (folder / "state").rglob("*") if path.is_file()),
        "audit log": (folder / "vault" / "audit.log").read_bytes(),
        "server's log": (folder / "vault" / "openbao.log").read_bytes(),
        "bench": b"\n".join(path.read_bytes() for path in (folder / "bench").glob("*.sqlite3*")),
    }
    leaks = [
        (what, where) for what, value in secrets.items() for where, text in places.items() if value.encode() in text
    ]
    assert leaks == []
    assert any(b"varmenne.token.worker" in command for command in watcher.commands)
    assert customer.encode() in places["audit log"]
    assert order["transfer_id"].encode() not in places["state"] + places["output"] + places["audit log"]


def test_the_way_on_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that is named to go on is the short one only where a shell finds this very program by it."""
    from varmenne.cli.demo import this_command

    program = tmp_path / "my programs" / "varmenne"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(program), "demo"])
    monkeypatch.setenv("PATH", "/usr/bin")
    assert this_command() == f"'{program}'"
    monkeypatch.setenv("PATH", str(program.parent))
    assert this_command() == "varmenne"
    monkeypatch.setattr(sys, "argv", ["-m", "demo"])
    assert this_command().endswith(" -m varmenne")
