"""The hooks that the documentation shows, run as they stand there but for paths; nginx and sendmail are stand-ins."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.stage import CUSTOMER, Result, Stage
from varmenne.cli.pull import pull
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.hooks import HookEvent

DOCUMENT = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
PRE_NGINX, POST_NGINX, TELL, MAIL = BLOCKS


@pytest.fixture
def nginx(stage: Stage) -> Path:
    """Return a folder with a stand-in: it notes its arguments, and refuses while there is a file ``broken``."""
    folder = stage.folder / "nginx"
    folder.mkdir()
    write(folder / "nginx", f'#!/bin/sh\necho "$@" >> {folder}/log\ncase "$1" in -t) [ ! -e {folder}/broken ];; esac\n')
    hooks = stage.folder / "hooks"
    for event, script in ((HookEvent.PRE_ACTIVATE, PRE_NGINX), (HookEvent.POST_ACTIVATE, POST_NGINX)):
        (hooks / event).mkdir(parents=True)
        here = re.sub(r"\bnginx -", f"{folder}/nginx -", script).replace("/etc/nginx", str(folder))
        write(hooks / event / "10-nginx", here)
    stage.configure(hooks={"directory": str(hooks)})
    return folder


def write(path: Path, script: str) -> None:
    """Write an executable."""
    path.write_text(script, encoding="utf-8")
    path.chmod(0o755)


def enroll(stage: Stage) -> Result:
    """Get a certificate."""
    return stage.run("enroll", "--customer-id", CUSTOMER, "--credentials", stage.credentials_file(stage.order()))


def row(stage: Stage) -> Enrollment:
    """Return the only enrollment."""
    (found,) = stage.rows()
    return found


def test_nginx_is_reloaded(stage: Stage, nginx: Path) -> None:
    """It is asked first, gets certificate, chain and key reference, is asked again, and reloaded."""
    assert enroll(stage).code == 0
    pem = nginx / f"varmenne-{row(stage).id}.pem"
    assert pem.read_text(encoding="utf-8").split() == f"{row(stage).certificate}{row(stage).chain}".split()
    uri = stage.run("show", row(stage).id, "--json").json["pkcs11_uri"]
    assert (nginx / "varmenne.conf").read_text(encoding="utf-8").splitlines() == [
        f"ssl_certificate     {pem};",
        f'ssl_certificate_key "store:{uri}";',
    ]
    assert (nginx / "log").read_text(encoding="utf-8").splitlines() == ["-t -q", "-t -q", "-s reload"]


def test_a_broken_nginx_is_left_alone(stage: Stage, nginx: Path) -> None:
    """Nothing is switched before it is well; afterwards, what it does not take is taken back."""
    (nginx / "broken").touch()
    assert enroll(stage).code == 17
    assert row(stage).state == "stored"
    (nginx / "broken").unlink()
    assert stage.run("resume", row(stage).id).code == 0
    before = (nginx / "varmenne.conf").read_text(encoding="utf-8")
    (nginx / "broken").touch()
    assert stage.run("hooks", "test", "post-activate", row(stage).id).code == 17
    assert (nginx / "varmenne.conf").read_text(encoding="utf-8") == before
    assert (nginx / "log").read_text(encoding="utf-8").splitlines()[-1] == "-t -q"


def test_a_mail_is_sent(stage: Stage, nginx: Path) -> None:
    """It says in its own words who, what and what to do."""
    assert enroll(stage).code == 0
    folder = stage.folder / "hooks" / "attention"
    folder.mkdir()
    write(nginx / "sendmail", f"#!/bin/sh\n[ \"$*\" = '-t -i' ] && cat > {nginx}/mail\n")
    write(folder / "mail", MAIL.replace("/usr/sbin/sendmail", str(nginx / "sendmail")))
    assert stage.run("hooks", "test", "attention", row(stage).id).code == 0
    text = (nginx / "mail").read_text(encoding="utf-8")
    head, _, body = text.partition("\n\n")
    assert f"Subject: varmenne: {CUSTOMER} needs you" in head.splitlines()
    not_after = row(stage).not_after
    assert not_after is not None
    assert "This is a test" in body
    assert f"Enrollment {row(stage).id}, channel ws, test" in body
    assert f"Certificate valid until: {not_after:%Y-%m-%d}" in body
    assert "Order a new one by: 20" in body


def test_a_service_of_roots_is_told(stage: Stage, nginx: Path) -> None:
    """The hook touches the file that the path unit watches, in the folder that is the agent's."""
    folder = stage.folder / "hooks" / "post-activate"
    write(folder / "10-nginx", TELL.replace("/run/varmenne", str(nginx)))
    assert enroll(stage).code == 0
    assert (nginx / "activated").exists()


def test_the_units_satisfy_systemd(tmp_path: Path) -> None:
    """Both, as they are shown, with the options that `pull` has; they watch what the hook touches."""
    path, service = re.findall(r"^```ini\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    units = tmp_path / "usr/lib/systemd/system"
    shutil.copytree("/usr/lib/systemd/system", units, symlinks=True)
    (units / "varmenne-activated.path").write_text(path, encoding="utf-8")
    (units / "varmenne-activated.service").write_text(service, encoding="utf-8")
    program = tmp_path / "usr/local/bin/varmenne"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    command = ["systemd-analyze", "verify", "--man=no", f"--root={tmp_path}"]
    done = subprocess.run(
        [*command, "varmenne-activated.path", "varmenne-activated.service"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert re.findall("PathChanged=(.*)", path) == re.findall("touch (.*)", TELL)
    [words] = re.findall(r"^ExecStart=(.*\n.*)$", service, re.MULTILINE)
    known = {option for parameter in pull.params for option in parameter.opts}
    assert set(re.findall(r"--[a-z-]+", words)) <= known
