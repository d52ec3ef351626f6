"""The container way: what the compose file and the Dockerfile promise, and the script that makes the first certificate.

There is no container engine here: ``scripts/image --debootstrap`` builds the images with buildah, by hand.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from harness.bench import StartBench, bench_keys, copy_keys, start_bench
from harness.openbao import openbao
from harness.stage import scrubbed
from varmenne.clock import system_clock
from varmenne.enrollment.parts import Parts
from varmenne.settings import load_settings
from varmenne.testbench.openbao import OpenBaoServer
from varmenne.testbench.state import BenchState

__all__ = ["bench_keys", "openbao", "scrubbed", "start_bench"]

DOCKER = Path(__file__).parents[2] / "docker"
COMPOSE_FILE = DOCKER / "compose.yaml"
COMPOSE: Mapping[str, Any] = YAML(typ="safe").load(COMPOSE_FILE)
SERVICES: Mapping[str, Any] = COMPOSE["services"]
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
RENEWAL_OPENS = timedelta(days=60)


def test_the_compose_file_is_one() -> None:
    """It satisfies the schema of the Compose Specification."""
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE_FILE)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_has_no_rights(name: str) -> None:
    """No capabilities, no new privileges, nothing to write but the volume; and no network but the loopback address."""
    service = SERVICES[name]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["network_mode"] == ("none" if name == "bench" else "service:bench")
    assert not {"ports", "privileged", "cap_add", "user"} & set(service)
    for volume in service["volumes"]:
        source, target, *mode = volume.split(":")
        assert (source in COMPOSE["volumes"] and target == "/var/lib/varmenne") or mode == ["ro"]


def test_services_wait_for_what_they_need() -> None:
    """A service that is awaited as healthy can tell its health."""
    for service in SERVICES.values():
        for name, awaited in service.get("depends_on", {}).items():
            assert (awaited["condition"] == "service_healthy") <= ("healthcheck" in SERVICES[name])


def test_the_image_of_the_compose_file_is_a_target_of_the_dockerfile() -> None:
    """All services run the one image that the bench's entry builds."""
    target = SERVICES["bench"]["build"]["target"]
    assert {service["image"] for service in SERVICES.values()} == {f"varmenne:{target}"}
    assert f" AS {target}\n" in DOCKERFILE


@pytest.mark.parametrize("target", ["agent", "demo"])
def test_each_image_ends_as_a_user_without_rights(target: str) -> None:
    """The last USER of each is a number that is not root's, which an orchestrator can check."""
    stage = DOCKERFILE.partition(f" AS {target}\n")[2].partition("\nFROM ")[0]
    assert re.findall(r"^USER (\S+)$", stage, re.MULTILINE)[-1] == "10001:10001"


def test_what_the_image_gets_from_an_index_is_hashed() -> None:
    """Every installation by pip is from the lock, or offline."""
    lines = re.findall(r"pip install [^&]*?(?=&&|\n[A-Z]|\Z)", DOCKERFILE.replace("\\\n", " "))
    assert len(lines) == 2
    assert [line for line in lines if "--require-hashes" not in line and "--no-index" not in line] == []


def test_the_first_certificate_is_soon_due_for_renewal(
    tmp_path: Path, start_bench: StartBench, bench_keys: Path, openbao: OpenBaoServer
) -> None:
    """The script of the compose file makes all that the agent needs, and leaves it something to do; once."""
    copy_keys(bench_keys, tmp_path / "bench")
    start_bench(BenchState.create(tmp_path / "bench"))

    def run_script() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", str(DOCKER / "first-certificate.sh")],
            cwd=tmp_path,
            env={
                "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
                "HOME": str(tmp_path),
                "BAO_ADDR": openbao.address,
                "BAO_TOKEN": openbao.root_token.reveal(),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    done = run_script()
    assert done.returncode == 0, done.stderr
    with Parts(load_settings(tmp_path / "varmenne.toml")) as parts:
        [row] = parts.journal.list()
    assert row.not_after is not None
    # A leap day may lie between the two clocks; it makes the certificate last longer, and never shorter.
    assert timedelta() < row.not_after - RENEWAL_OPENS - system_clock() < timedelta(days=1, minutes=2)
    assert abs(BenchState.open(tmp_path / "bench").now() - system_clock()) < timedelta(minutes=1)
    again = run_script()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_the_document_shows_the_commands_of_the_files() -> None:
    """Who reads the document, the compose file or the README finds the same commands."""
    document = (DOCKER.parent / "docs" / "container.md").read_text(encoding="utf-8")
    commands = re.findall(r"^#   (docker compose .*)$", COMPOSE_FILE.read_text("utf-8"), re.MULTILINE)
    assert len(commands) == 3
    assert [command for command in commands if command not in document] == []
    named = {word for command in commands for word in shlex.split(command)} & set(SERVICES)
    assert named == {"agent"}
