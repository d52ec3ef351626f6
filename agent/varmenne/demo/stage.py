"""The stage of a demonstration: one folder with every part in it, and a settings file that ties them together."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from varmenne.domain.identifiers import Environment
from varmenne.errors import InputError
from varmenne.settings import CONFIG_NAME, Settings, load_settings
from varmenne.testbench.openbao import OpenBaoServer, provision
from varmenne.testbench.refusals import Language
from varmenne.testbench.server import BenchServer
from varmenne.testbench.state import BenchState
from varmenne.token import create_softhsm_token

TOKEN_LABEL = "varmenne-demo"  # noqa: S105 - the label of a PKCS#11 token
ISSUING_SECONDS = 2.0
POLL_SECONDS = 1.0

START_SCRIPT = """#!/bin/sh
# Runs the demonstration's parts again, in the foreground: the test bench and the Vault-compatible server.
# Prints "ready" when they are. Ctrl-C or SIGTERM stops them.
exec {python} -m varmenne.demo {folder}
"""


class Stage:
    """The parts of one demonstration. A context manager: the servers run inside the block.

    Args:
        folder: where everything is kept.
        keep: make the Vault-compatible server a lasting one, and leave a script that runs the parts again.
        issuing_seconds: how long the bench takes to issue a certificate.
    """

    def __init__(self, folder: Path, *, keep: bool, issuing_seconds: float = ISSUING_SECONDS) -> None:
        self.folder = folder.resolve()
        self.keep = keep
        self.issuing_seconds = issuing_seconds
        self.bench = BenchState.create(self.folder / "bench")
        self._running = contextlib.ExitStack()

    @property
    def config(self) -> Path:
        """The settings file."""
        return self.folder / CONFIG_NAME

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the servers; the first time, make the token, the mount, the role and the settings too.

        Raises:
            VarmenneError: a part could not be made or started.
        """
        with contextlib.ExitStack() as running:
            vault = running.enter_context(OpenBaoServer(self.folder / "vault", persistent=self.keep))
            bench = running.enter_context(
                BenchServer(self.bench, delay_seconds=self.issuing_seconds, language=Language.ENGLISH)
            )
            if not self.config.exists():
                self._furnish(vault, bench)
            self._running = running.pop_all()

    def stop(self) -> None:
        """Stop the servers."""
        self._running.close()

    def settings(self) -> Settings:
        """Return the settings of this stage."""
        return load_settings(self.config)

    def _furnish(self, vault: OpenBaoServer, bench: BenchServer) -> None:
        """Make what the servers do not bring: the token, the place in Vault, the settings, the start script."""
        token = create_softhsm_token(self.folder / "token", label=TOKEN_LABEL)
        settings = {
            "environment": Environment.TEST.value,
            "state_dir": str(self.folder / "state"),
            "token": msgspec.to_builtins(token.settings),
            "service": {
                "endpoint": bench.url,
                "ca_file": str(bench.tls_ca),
                "first_poll_seconds": POLL_SECONDS,
                "longest_poll_seconds": 5.0,
            },
            "trust": {"directory": str(bench.trust_dir)},
            "vault": msgspec.to_builtins(provision(vault, secret_id_file=self.folder / "vault-secret-id")),
        }
        _write_settings(self.config, settings)
        if self.keep:
            start = self.folder / "start"
            start.write_text(
                START_SCRIPT.format(python=shlex.quote(sys.executable), folder=shlex.quote(str(self.folder))),
                encoding="utf-8",
            )
            start.chmod(0o755)


def refuse_used(folder: Path) -> None:
    """Refuse a folder that has something in it.

    Raises:
        InputError: it exists and is not an empty folder, or it cannot be looked at.
    """
    try:
        used = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as exc:
        raise InputError(
            f"{folder} cannot be read", why=exc.strerror or str(exc), next_step="Name a folder of your own"
        ) from exc
    if used:
        raise InputError(
            f"{folder} exists already and is not empty",
            next_step=f"Name a new folder. If it is an earlier demonstration's: {folder}/start runs that again",
        )


def _write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write a settings file, leaving out what has no value."""
    import tomlkit

    def filled(table: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: filled(value) if isinstance(value, Mapping) else value
            for name, value in table.items()
            if value or value is False
        }

    document = tomlkit.document()
    document.add(tomlkit.comment("Settings of a demonstration. Nothing here is for real certificates."))
    document.update(filled(settings))
    path.write_text(tomlkit.dumps(document), encoding="utf-8")
