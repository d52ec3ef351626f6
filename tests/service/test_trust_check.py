"""The check-up of the trust folder, and what is never loaded from it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from harness.authorities import Command, files_in
from harness.forge import Forge
from varmenne.cli.common import App
from varmenne.cli.program import run
from varmenne.clock import system_clock
from varmenne.domain.identifiers import Environment
from varmenne.errors import ConfigError, VarmenneError
from varmenne.service.trust import load_trust
from varmenne.service.trust_check import check_trust
from varmenne.service.trust_store import TrustStore
from varmenne.testbench.family import pem


def test_check_warns_a_year_ahead(forge: Forge, tmp_path: Path) -> None:
    """Who ends within a year is named, with what to do; a folder that others can write to is a failure."""
    for role, pair in (("services", forge.services), ("providers", forge.providers), ("chain", forge.root)):
        (tmp_path / role).mkdir(mode=0o700)
        (tmp_path / role / "ca.pem").write_bytes(pem(pair.certificate))
    store = TrustStore(tmp_path, Environment.TEST)
    end = forge.services.certificate.not_valid_after_utc
    calm = list(check_trust(store, end - timedelta(days=400)))
    assert {check.verdict for check in calm if "until" in check.detail} == {"ok"}
    assert all("nobody has confirmed" in check.detail for check in calm if check.verdict == "warn")
    late = [check for check in check_trust(store, end - timedelta(days=300)) if "ends on" in check.detail]
    assert len(late) == 3
    assert all("trust import" in check.next_step for check in late)
    (tmp_path / "services").chmod(0o777)
    assert "fail" in {check.verdict for check in check_trust(store, end - timedelta(days=400))}
    assert [check.verdict for check in check_trust(store, end + timedelta(days=1))] == ["fail"]


def test_check_of_an_empty_folder_fails(command: Command, config: Path, tmp_path: Path) -> None:
    """The exit code says so, and the next step is named."""
    del command
    assert run("trust", "check", "--json", app=App(config=str(config))) == 15
    assert files_in(tmp_path / "state") == {}


@pytest.mark.parametrize("mistake", ["leaf", "both", "root", "garbage"])
def test_what_cannot_be_is_not_loaded(forge: Forge, tmp_path: Path, mistake: str) -> None:
    """A file that somebody has put into the folder by hand is checked too."""
    good = {"services": forge.services, "providers": forge.providers, "chain": forge.root}
    for role, pair in good.items():
        (tmp_path / role).mkdir()
        (tmp_path / role / "ca.pem").write_bytes(pem(pair.certificate))
    wrong = {
        "leaf": pem(forge.signer.certificate),
        "both": pem(forge.providers.certificate),
        "root": pem(forge.root.certificate),
        "garbage": b"-----BEGIN CERTIFICATE-----\n",
    }
    load_trust(tmp_path, Environment.TEST, system_clock())
    (tmp_path / "services" / "wrong.pem").write_bytes(wrong[mistake])
    with pytest.raises(ConfigError):
        load_trust(tmp_path, Environment.TEST, system_clock())
    with pytest.raises(VarmenneError) as caught:
        list(TrustStore(tmp_path, Environment.TEST).stored()) if mistake in {"leaf", "garbage"} else load_trust(
            tmp_path, Environment.TEST, system_clock()
        )
    assert caught.value.what
