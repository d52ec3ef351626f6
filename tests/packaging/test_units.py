"""The units for a host: installed as ``docs/host.md`` tells, they satisfy systemd's own checks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from varmenne.errors import ConfigError, PinError

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "scripts" / "systemd"
DOCUMENT = (ROOT / "docs" / "host.md").read_text(encoding="utf-8")
VARIANTS = ["", *sorted(path.name for path in (UNITS / "drop-ins").iterdir())]
"""The unit alone, and with each of the drop-ins."""

MOST_EXPOSED = 2.0
"""The exposure that ``systemd-analyze security`` may not reach, on its scale from 0 to 10."""


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def _blocks(*words: str) -> list[str]:
    """The document's blocks for a shell that install into DESTDIR, and have one of the words in them."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    return [block for block in blocks if "$DESTDIR" in block and any(word in block for word in words)]


def _installed(folder: Path, variant: str) -> Path:
    """Install as the document tells, into a folder that stands for a host's root, with systemd's own units in it."""
    lines = [line for block in _blocks("install ") for line in block.splitlines()]
    chosen = [line for line in lines if "/drop-ins/" not in line or (variant and line.endswith(f"/{variant}"))]
    done = _run("/bin/sh", "-euc", "\n".join(chosen), DESTDIR=str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    shutil.copytree("/usr/lib/systemd/system", folder / "usr/lib/systemd/system", symlinks=True)
    for program in ("usr/local/bin/varmenne", "bin/sh"):
        (folder / program).parent.mkdir(parents=True, exist_ok=True)
        (folder / program).touch(mode=0o755)
    return folder


def _verified(host: Path) -> tuple[int, str]:
    """Exit code and words of ``systemd-analyze verify`` for both units."""
    done = _run("systemd-analyze", "verify", "--man=no", f"--root={host}", "varmenne.service", "varmenne.timer")
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_systemd_has_nothing_to_say_about_the_units(tmp_path: Path, variant: str) -> None:
    """Every key is known and has a value that it can have, in the oldest systemd that we support."""
    host = _installed(tmp_path, variant)
    assert (host / "etc/systemd/system/varmenne.service.d").exists() == bool(variant)
    assert _verified(host) == (0, "")


def test_systemd_would_say_if_a_key_were_wrong(tmp_path: Path) -> None:
    """The silence above means something."""
    host = _installed(tmp_path, "")
    with (host / "etc/systemd/system/varmenne.service").open("a", encoding="utf-8") as unit:
        unit.write("[Service]\nProtectSytem=strict\n")
    assert "'ProtectSytem'" in _verified(host)[1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_service_is_hardly_exposed(tmp_path: Path, variant: str) -> None:
    """The number that ``systemd-analyze security`` gives."""
    host = _installed(tmp_path, variant)
    done = _run("systemd-analyze", "security", "--offline=true", f"--root={host}", "varmenne.service")
    [exposure] = re.findall(r"Overall exposure level for varmenne\.service: ([\d.]+)", done.stdout)
    assert float(exposure) < MOST_EXPOSED


def test_the_agent_has_no_door_but_the_network(tmp_path: Path) -> None:
    """What is left open is what it needs: a new door shows here, and wants a reason in the unit."""
    host = _installed(tmp_path, "")
    done = _run("systemd-analyze", "security", "--offline=true", "--json=short", f"--root={host}", "varmenne.service")
    # Newer versions of systemd look at more; what Debian 12's looks at is enough to notice a door.
    open_doors = {line["name"] for line in json.loads(done.stdout) if line["set"] is False and line["exposure"]}
    assert open_doors <= {
        "DeviceAllow=",  # decrypting credentials opens the TPM to systemd
        "IPAddressDeny=",  # addresses of Vault and the service are the site's
        "PrivateNetwork=",
        "ProcSubset=",  # the journal asks /proc whether an owner lives
        "ProtectProc=",
        "RestrictAddressFamilies=~AF_(INET|INET6)",
        "RestrictAddressFamilies=~AF_UNIX",
        "RootDirectory=/RootImage=",
    }


def test_the_agent_is_started_for_as_long_as_it_takes() -> None:
    """A database that is away for longer than a few starts take must not leave the agent stopped for ever."""
    unit = (UNITS / "varmenne.service").read_text(encoding="utf-8")
    assert re.findall("^(?:StartLimit.*|Restart(?:|Sec|PreventExitStatus))=.*", unit, re.MULTILINE) == [
        "StartLimitIntervalSec=0",
        f"RestartPreventExitStatus={ConfigError.exit_code} {PinError.exit_code}",
        "Restart=on-failure",
        "RestartSec=30s",
    ]


def test_the_user_and_the_folders_can_be_made(tmp_path: Path) -> None:
    """Both files are understood; making the folders for real takes root, so here no line's path is asked for."""
    host = _installed(tmp_path, "")
    made = _run("systemd-sysusers", "--dry-run", f"--root={host}", "varmenne.conf")
    assert made.returncode == 0
    assert re.search(r"Would create user varmenne|Creating user 'varmenne'", made.stdout + made.stderr)
    (host / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nvarmenne:x:990:990::/var/lib/varmenne:/bin/false\n")
    (host / "etc/group").write_text("root:x:0:\nvarmenne:x:990:\n")
    made = _run("systemd-tmpfiles", "--create", f"--root={host}", "--prefix=/nowhere", "varmenne.conf")
    assert (made.returncode, made.stdout + made.stderr) == (0, "")


def test_the_document_names_every_file() -> None:
    """What is in the folder is installed by a line of the document."""
    named = "\n".join(_blocks("install "))
    files = [str(path.relative_to(ROOT)) for path in sorted(UNITS.rglob("*")) if path.is_file()]
    assert [name for name in files if name not in named] == []


def test_persons_and_the_agent_get_the_same_secrets() -> None:
    """The unit, the script for persons, and the document's table name the same credentials."""
    pattern = r"LoadCredentialEncrypted=(\S+)"
    unit, script = ((UNITS / name).read_text("utf-8") for name in ("varmenne.service", "varmenne-as-agent"))
    in_unit = re.findall(pattern, unit)
    assert in_unit == re.findall(pattern, script)
    assert in_unit == re.findall(r"^\| `(varmenne\.[\w-]+)` \|", DOCUMENT, re.MULTILINE)
    assert in_unit
