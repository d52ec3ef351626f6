"""Executables of hooks, run for real: what they see, how they are ended, and whose are refused."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from varmenne.domain.hooks import HookEvent
from varmenne.enrollment.executables import Ended, listed, names, refuse_unusable, run, unsafe
from varmenne.errors import ConfigError
from varmenne.settings import HookSettings

EVENT = HookEvent.POST_ACTIVATE
FACTS: dict[str, Any] = {
    "schema": 1,
    "event": "post-activate",
    "test": False,
    "customer_name": "Åkerlund & Öljy Oy",
    "contact": "one line\nBcc: all@example.org\x00",
    "serial_number": None,
    "reason": {"kind": "TokenUnavailable", "what": "The token is away", "why": "unplugged", "next_step": "Plug it in"},
    "certificate": "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n",
    "chain": "",
}
OWN, NOBODY = pwd.getpwuid(os.geteuid()), pwd.getpwnam("nobody")
NOT_ROOT = "only root may run programs as another user, and the agent is not root"


@pytest.fixture
def settings(tmp_path: Path) -> HookSettings:
    """Hooks in a folder of their own, with little time."""
    folder = tmp_path / "hooks"
    (folder / EVENT).mkdir(parents=True, mode=0o755)
    folder.chmod(0o755)
    return HookSettings(directory=str(folder), timeout_seconds=20.0)


@pytest.fixture
def other_folder() -> Iterator[HookSettings]:
    """Hooks in a folder that other users can reach."""
    with tempfile.TemporaryDirectory(prefix="varmenne-hooks-") as name:
        Path(name).chmod(0o755)
        (Path(name) / EVENT).mkdir(mode=0o755)
        yield HookSettings(directory=name, timeout_seconds=20.0)


def write(settings: HookSettings, name: str, script: str, mode: int = 0o755) -> Path:
    """Write a shell script as a hook."""
    path = Path(settings.directory) / EVENT / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(mode)
    return path


def ran(settings: HookSettings, script: str) -> Ended:
    """Run a shell script as a hook."""
    write(settings, "hook", script)
    return run(settings, EVENT, "hook", FACTS)


def gone(pid: int) -> bool:
    """Tell whether a process is no more, or soon will be."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_the_facts_are_one_document(settings: HookSettings, tmp_path: Path) -> None:
    """Standard input is exactly the facts, as JSON in UTF-8, and can be opened by name as well."""
    ended = ran(
        settings,
        f'cat > {tmp_path}/facts && cat /dev/stdin > {tmp_path}/empty; [ "$(wc -c < {tmp_path}/facts)" -gt 99 ]',
    )
    assert ended == Ended(ok=True, detail="it ended with exit code 0")
    assert json.loads((tmp_path / "facts").read_text(encoding="utf-8")) == FACTS


def test_facts_that_nobody_reads_keep_nobody_waiting(settings: HookSettings) -> None:
    """However long they are, and whether or not a hook reads them."""
    write(settings, "hook", "exit 0")
    started = time.monotonic()
    assert run(settings, EVENT, "hook", {**FACTS, "chain": "x" * 10_000_000}).ok
    assert time.monotonic() - started < 10


def test_the_environment_is_the_facts_and_nothing_of_ours(
    settings: HookSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No variable of the agent gets through, be it a PIN, a Vault token or a credentials folder."""
    for name in ("TOKEN_PIN", "VAULT_TOKEN", "BAO_TOKEN", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "LD_PRELOAD_X"):
        monkeypatch.setenv(name, "secret")
    assert ran(settings, f"env -0 > {tmp_path}/environment").ok
    lines = (tmp_path / "environment").read_text(encoding="utf-8").rstrip("\0").split("\0")
    found = dict(line.split("=", 1) for line in lines)
    assert found.pop("PWD") == "/"
    assert {name for name in found if not name.startswith("VARMENNE_")} <= {
        "PATH",
        "LANG",
        "HOME",
        "_",
        "OLDPWD",
        "SHLVL",
    }
    assert "secret" not in found.values()
    assert {name: value for name, value in found.items() if name.startswith("VARMENNE_")} == {
        "VARMENNE_SCHEMA": "1",
        "VARMENNE_EVENT": "post-activate",
        "VARMENNE_TEST": "false",
        "VARMENNE_CUSTOMER_NAME": "Åkerlund & Öljy Oy",
        "VARMENNE_CONTACT": "one line Bcc: all@example.org ",
        "VARMENNE_SERIAL_NUMBER": "",
        "VARMENNE_REASON": "The token is away: unplugged",
        "VARMENNE_REASON_KIND": "TokenUnavailable",
        "VARMENNE_NEXT_STEP": "Plug it in",
    }
    assert (found["HOME"], found["LANG"]) == (OWN.pw_dir, "C.UTF-8")


def test_no_descriptor_and_no_terminal_is_inherited(settings: HookSettings, tmp_path: Path) -> None:
    """A socket to the token's worker, the journal's files and the like stay ours; so does the terminal."""
    with (tmp_path / "secret").open("w", encoding="utf-8") as file:
        os.set_inheritable(file.fileno(), True)
        script = (
            "import os; print(sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:-1], os.getsid(0) == os.getppid())"
        )
        ended = ran(settings, f'{sys.executable} -I -c "{script}"; true')
    assert ended.detail == "it ended with exit code 0\n[0, 1, 2] True"


@pytest.mark.parametrize(
    ("script", "detail"),
    [
        ("echo gone wrong >&2; exit 3", "it ended with exit code 3\ngone wrong"),
        ("kill -SEGV $$", "it was ended by SIGSEGV"),
        (r"printf '\033[31mred\007\000\377\r\nnext\n'; exit 1", "it ended with exit code 1\n�[31mred���\nnext"),
    ],
)
def test_how_it_ended_is_told(settings: HookSettings, script: str, detail: str) -> None:
    """With what it wrote to either stream, in which no terminal finds an order and no database a NUL."""
    assert ran(settings, script) == Ended(ok=False, detail=detail)


def test_a_flood_is_bounded(settings: HookSettings) -> None:
    """Of a hundred megabytes the last few kilobytes are kept."""
    ended = ran(settings, "head -c 100000000 /dev/zero | tr '\\0' x; echo; echo the end")
    assert ended.ok
    assert ended.detail.endswith("x\nthe end")
    assert len(ended.detail) < 4200


@pytest.mark.parametrize("script", ["sleep 60", "yes", "exec yes >&2", "trap '' TERM INT HUP; while :; do :; done"])
def test_time_is_limited(settings: HookSettings, script: str) -> None:
    """Asleep, busy, writing without end or deaf to signals: it is ended."""
    started = time.monotonic()
    ended = ran(msgspec.structs.replace(settings, timeout_seconds=0.5), script)
    assert not ended.ok
    assert ended.detail.startswith("it took longer than 0.5 s and was ended")
    assert time.monotonic() - started < 4


@pytest.mark.parametrize("leader", ["exit 0", "exit 4", "sleep 60"])
def test_what_it_leaves_behind_is_ended(settings: HookSettings, tmp_path: Path, leader: str) -> None:
    """A child that keeps the output open holds nobody up and does not outlive the hook, however that ends."""
    started = time.monotonic()
    ended = ran(
        msgspec.structs.replace(settings, timeout_seconds=2.0),
        f"sh -c 'echo $$ > {tmp_path}/child; exec sleep 60' &\nwhile [ ! -s {tmp_path}/child ]; do :; done\n{leader}",
    )
    assert ended.ok is (leader == "exit 0")
    assert time.monotonic() - started < 6
    assert gone(int((tmp_path / "child").read_text(encoding="utf-8")))


def test_one_that_left_its_group_holds_nobody_up(settings: HookSettings, tmp_path: Path) -> None:
    """A daemon that has a session of its own is not ours to end; nor does it keep us by the output that it holds."""
    started = time.monotonic()
    ended = ran(settings, f"setsid sh -c 'echo $$ > {tmp_path}/daemon; exec sleep 60' &\nsleep 0.3; echo done")
    pid = int((tmp_path / "daemon").read_text(encoding="utf-8"))
    os.kill(pid, 9)
    assert ended == Ended(ok=True, detail="it ended with exit code 0\ndone")
    assert time.monotonic() - started < 6


def test_an_interruption_ends_it(settings: HookSettings, tmp_path: Path) -> None:
    """Ctrl-C in a command leaves no hook running."""
    write(settings, "hook", f"echo $$ > {tmp_path}/pid; exec sleep 60")
    source = (
        "import sys, msgspec, signal, os, threading, time; from pathlib import Path\n"
        "from varmenne.enrollment.executables import run\nfrom varmenne.domain.hooks import HookEvent\n"
        "from varmenne.settings import HookSettings\n"
        "def interrupt():\n"
        f"    while not (Path({str(tmp_path)!r}) / 'pid').exists(): time.sleep(0.01)\n"
        "    time.sleep(0.3); os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=interrupt).start()\n"
        f"run(HookSettings(directory={settings.directory!r}), HookEvent('post-activate'), 'hook', {{'a': 1}})\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, check=False, timeout=30)
    assert b"KeyboardInterrupt" in done.stderr
    assert gone(int((tmp_path / "pid").read_text(encoding="utf-8")))


def test_no_zombie_is_left(settings: HookSettings) -> None:
    """Where we are the first process, as in a container, orphans of a hook are waited for as well."""
    write(settings, "hook", "for i in 1 2 3; do sleep 60 & done; exit 0")
    source = (
        "import os, subprocess; from varmenne.enrollment.executables import run\n"
        "from varmenne.domain.hooks import HookEvent\nfrom varmenne.settings import HookSettings\n"
        f"print(run(HookSettings(directory={settings.directory!r}), HookEvent('post-activate'), 'hook', {{'a': 1}}))\n"
        "print(os.getpid(), sorted(name for name in os.listdir('/proc') if name.isdigit()))\n"
    )
    unshare = shutil.which("unshare")
    assert unshare, "unshare is missing: install the package util-linux"
    own = [unshare, "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    done = subprocess.run([*own, sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=60)
    if "not permitted" in done.stderr:  # Such as within a container, where the other tests of hooks run as they are.
        pytest.skip("a namespace of processes is not permitted here")
    assert (done.stdout, done.stderr) == (f"{Ended(ok=True, detail='it ended with exit code 0')}\n1 ['1']\n", "")


def test_what_is_run_and_in_which_order(settings: HookSettings) -> None:
    """As run-parts(8) does it: names without dots or tildes, executable, in the order of their letters."""
    for name in ("20-second", "10-first", "Z", "reload.sh", "old~", "x.dpkg-old"):
        write(settings, name, "exit 0")
    write(settings, "notes", "exit 0", mode=0o644)
    folder = Path(settings.directory) / EVENT
    (folder / "folder").mkdir()
    (folder / "nowhere").symlink_to("/does/not/exist")
    (folder / "true").symlink_to("/bin/true")
    assert names(settings, EVENT) == ("10-first", "20-second", "Z", "true")
    whys = {one.name: one.passed_over for one in listed(settings)}
    assert {name for name, why in whys.items() if why} == {
        "folder", "notes", "nowhere", "old~", "reload.sh", "x.dpkg-old",
    }  # fmt: skip
    assert whys["notes"] == "it is not executable"
    assert run(settings, EVENT, "true", FACTS).ok


def test_no_folder_is_no_hook() -> None:
    """Neither without the setting, nor without a folder for the event."""
    assert names(HookSettings(), EVENT) == ()
    refuse_unusable(HookSettings())


def test_one_that_cannot_be_started(settings: HookSettings) -> None:
    """A missing interpreter or a missing file is a failure that is told."""
    path = write(settings, "hook", "")
    path.write_text("#!/does/not/exist\n", encoding="utf-8")
    assert run(settings, EVENT, "hook", FACTS) == Ended(ok=False, detail="it cannot be run: No such file or directory")
    path.unlink()
    assert not run(settings, EVENT, "hook", FACTS).ok


@pytest.mark.parametrize("what", ["hook", "folder of the event", "folder", "folder above", "target", "link"])
@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_what_others_may_write_is_refused(settings: HookSettings, tmp_path: Path, what: str, mode: int) -> None:
    """Wherever somebody else could put their own program in a hook's place, nothing is run."""
    mark = tmp_path / "mark"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    target = elsewhere / "target"
    target.write_text(f"#!/bin/sh\ntouch {mark}\n", encoding="utf-8")
    target.chmod(0o755)
    path = Path(settings.directory) / EVENT / "hook"
    path.symlink_to(target)
    open_ = {
        "hook": target,
        "folder of the event": path.parent,
        "folder": path.parent.parent,
        "folder above": tmp_path,
        "target": target,
        "link": elsewhere,
    }[what]
    before = stat.S_IMODE(open_.stat().st_mode)
    open_.chmod(mode)
    try:
        try:
            ended = run(settings, EVENT, "hook", FACTS)
        except ConfigError as exc:
            ended = Ended(ok=False, detail=str(exc))
    finally:
        open_.chmod(before)
    assert not ended.ok
    assert f"others may write to {open_}" in ended.detail
    assert not mark.exists()


def test_a_link_on_the_way_is_looked_at(settings: HookSettings, tmp_path: Path) -> None:
    """Whoever owns a link in the middle chooses where it leads."""
    middle = tmp_path / "middle"
    middle.mkdir()
    (middle / "link").symlink_to("/bin/true")
    path = Path(settings.directory) / EVENT / "hook"
    path.symlink_to(middle / "link")
    assert unsafe(path) == ""
    middle.chmod(0o777)
    assert unsafe(path) == f"others may write to {middle}"
    middle.chmod(0o1777)
    assert unsafe(path) == ""


def test_another_owner_is_refused(settings: HookSettings) -> None:
    """What belongs to neither root nor us could be changed by its owner at any time."""
    path = write(settings, "hook", "exit 0")
    assert unsafe(path) == ""
    if OWN.pw_uid == 0:
        os.chown(path, NOBODY.pw_uid, -1)
        told = f"{path} belongs to the user with the number {NOBODY.pw_uid}"
        assert unsafe(path) == told
        assert run(settings, EVENT, "hook", FACTS) == Ended(ok=False, detail=f"it is not run: {told}")


def test_as_another_user(other_folder: HookSettings) -> None:
    """Root runs hooks as the user that the settings name, with its groups and its home; nobody else can."""
    write(other_folder, "hook", 'id -u; id -G; echo "$HOME"; umask; : < /dev/stdin && wc -l < /dev/stdin')
    if OWN.pw_uid != 0:
        with pytest.raises(ConfigError, match="cannot be run as 'root'"):
            run(msgspec.structs.replace(other_folder, user="root"), EVENT, "hook", FACTS)
        return
    groups = " ".join(map(str, os.getgrouplist(NOBODY.pw_name, NOBODY.pw_gid)))
    facts_lines = len(json.dumps(FACTS, indent=2).splitlines())
    lines = ["it ended with exit code 0", str(NOBODY.pw_uid), groups, NOBODY.pw_dir, "0022", str(facts_lines)]
    settings = msgspec.structs.replace(other_folder, user=NOBODY.pw_name)
    assert run(settings, EVENT, "hook", FACTS) == Ended(ok=True, detail="\n".join(lines))


def test_only_root_can_be_somebody_else() -> None:
    """An agent without rights says so at its start; its own name is fine."""
    source = (
        "import os, msgspec; from varmenne.enrollment.executables import refuse_unusable\n"
        "from varmenne.errors import VarmenneError\nfrom varmenne.settings import HookSettings\n"
        f"if os.geteuid() == 0: os.setgroups([]); os.setgid({NOBODY.pw_gid}); os.setuid({NOBODY.pw_uid})\n"
        "for user in ('root', 'no-such-user', '', __import__('pwd').getpwuid(os.geteuid()).pw_name):\n"
        "    try: refuse_unusable(HookSettings(directory='/usr', user=user)); print('fine')\n"
        "    except VarmenneError as exc: print(type(exc).__name__, exc)\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=30)
    assert done.stdout.splitlines() == [
        f"ConfigError The hooks cannot be run as 'root': {NOT_ROOT}",
        "ConfigError There is no user 'no-such-user' to run the hooks as",
        "fine",
        "fine",
    ], done.stderr


def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    """Settings that name a folder expect hooks to be run: silence would be wrong."""
    with pytest.raises(ConfigError, match="is not there"):
        refuse_unusable(HookSettings(directory=str(tmp_path / "missing")))
