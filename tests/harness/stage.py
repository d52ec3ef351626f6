"""A whole stage for a test: a SoftHSM token, a mount in Vault, a running bench, and a settings file that ties them.

Use it from a room's ``conftest.py``::

    from harness.bench import bench_keys
    from harness.openbao import openbao
    from harness.stage import scrubbed, shared_stage, stage, token_template

``stage`` is fresh for every test and costs a fifth of a second, since token and bench are copied from templates;
``shared_stage`` is for a whole module, for tests that bring customers of their own.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomlkit

from harness.bench import copy_keys
from harness.openbao import Vault
from harness.softhsm import softhsm_module
from varmenne.clock import Clock, system_clock
from varmenne.domain.credentials import Credentials, parse_credentials
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.identifiers import Channel, CustomerId, CustomerName, EnrollmentId, Environment, RetrievalId
from varmenne.domain.keys import KeyId
from varmenne.domain.steps import State
from varmenne.enrollment.enroll import Order, enroll
from varmenne.enrollment.evidence.checkpoints import LABEL as LOG_KEY
from varmenne.enrollment.facts import pem_to_der
from varmenne.enrollment.parts import Parts
from varmenne.enrollment.preflight import probe, probe_name
from varmenne.journal import Journal
from varmenne.service.answers import verify_answer
from varmenne.service.client import CertificateService
from varmenne.service.interface import Operation
from varmenne.service.trust import load_trust
from varmenne.settings import Settings, load_settings
from varmenne.testbench.openbao import OpenBaoServer, provision
from varmenne.testbench.refusals import Language
from varmenne.testbench.server import BenchServer
from varmenne.testbench.state import BenchState
from varmenne.testbench.state import Order as BenchOrder
from varmenne.token import CreatedToken, Token, create_softhsm_token
from varmenne.vault.location import AUDIT

__all__ = [
    "CUSTOMER",
    "NAME",
    "Listener",
    "Result",
    "Stage",
    "Template",
    "open_stage",
    "scrubbed",
    "shared_stage",
    "stage",
    "token_template",
]

CUSTOMER = CustomerId("0123456-7")
NAME = CustomerName("Åkerlund & Öljy Oy")
PATIENCE_SECONDS = 60
"""Longest time that a command of a test may take."""

_SCRUBBED = ("VARMENNE_", "VAULT_", "BAO_", "XDG_", "SOFTHSM2_", "CREDENTIALS_")
_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def scrubbed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take away what a developer's environment could bring in: variables of ours and of Vault, and settings at home."""
    for name in list(os.environ):
        if name.startswith(_SCRUBBED):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which has to be exactly one JSON document."""
        return json.loads(self.out)


@dataclass(frozen=True)
class World:
    """All that a command could have changed, for tests of refusals: they compare it before and after."""

    rows: tuple[tuple[EnrollmentId, State, int], ...]
    keys: frozenset[tuple[KeyId, str]]
    requests: int
    records: tuple[str, ...]


class Listener:
    """Hears progress, and keeps it as words: ``begins``, ``done``, ``waits``, ``warns`` and ``reached``."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def begins(self, doing: str) -> None:
        """Keep it."""
        self.heard.append(("begins", doing))

    def done(self, result: str) -> None:
        """Keep it."""
        self.heard.append(("done", result))

    def waits(self, what: str, until: object) -> None:
        """Keep it, once for each wait."""
        line = ("waits", f"{what} {until}")
        if self.heard[-1] != line:
            self.heard.append(line)

    def warns(self, sentence: str) -> None:
        """Keep it."""
        self.heard.append(("warns", sentence))

    def reached(self, row: Enrollment) -> None:
        """Keep the state."""
        self.heard.append(("reached", row.state.value))

    def told(self, kind: str) -> list[str]:
        """Return what was told in one way."""
        return [text for way, text in self.heard if way == kind]


@dataclass(frozen=True)
class Template:
    """A token that has been probed once; copies of it are tokens of the same name with nothing in them."""

    token: CreatedToken
    name: str
    probe: tuple[datetime, bool, dict[str, Any]]

    def copy(self, folder: Path) -> CreatedToken:
        """Copy the token to a new folder."""
        source = self.token.directory
        shutil.copytree(source, folder)
        config = folder / "softhsm2.conf"
        config.write_text(config.read_text().replace(str(source), str(folder)))
        return CreatedToken(
            directory=folder,
            module=self.token.module,
            label=self.token.label,
            serial=self.token.serial,
            environment={"SOFTHSM2_CONF": str(config)},
            pin=f"file:{folder / 'pin'}",
            so_pin_file=folder / "so-pin",
        )


@pytest.fixture(scope="session")
def token_template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """Make a SoftHSM token and try once to get keys out of it, which is most of what a first enrollment costs."""
    folder = tmp_path_factory.mktemp("token-template")
    made = create_softhsm_token(folder / "token", label="varmenne stage", module=softhsm_module())
    settings = msgspec.convert(
        {
            "environment": "test",
            "state_dir": str(folder / "state"),
            "token": msgspec.to_builtins(made.settings),
            "vault": {"address": "http://127.0.0.1:9"},
        },
        Settings,
    )
    with Parts(settings) as parts:
        probe(parts)
        name = probe_name(parts, parts.token.identity())
        found = parts.journal.latest_probe(name)
    assert found is not None
    return Template(made, name, found)


class Stage:
    """Everything that an enrollment needs, running."""

    def __init__(self, folder: Path, token: CreatedToken, bench: BenchServer, vault: Vault) -> None:
        self.folder = folder
        self.token = token
        self.bench = bench
        self.vault = vault
        self.config = folder / "varmenne.toml"
        self.state_dir = folder / "state"
        self.configure()

    @property
    def settings(self) -> Settings:
        """The settings as the file has them now."""
        return load_settings(self.config)

    def configure(self, **changes: Mapping[str, object] | str) -> None:
        """Write the settings file anew, with changes by table, such as ``vault={"address": …}``."""
        document: dict[str, Any] = {
            "environment": "test",
            "state_dir": str(self.state_dir),
            "token": msgspec.to_builtins(self.token.settings),
            "service": {
                "endpoint": self.bench.url,
                "ca_file": str(self.bench.tls_ca),
                "first_poll_seconds": 0.05,
                "longest_poll_seconds": 0.2,
                "connect_timeout_seconds": 5.0,
                "read_timeout_seconds": 3.0,
            },
            "trust": {"directory": str(self.bench.trust_dir)},
            "vault": msgspec.to_builtins(self.vault.settings),
        }
        for name, change in changes.items():
            document[name] = change if isinstance(change, str) else {**document.get(name, {}), **change}
        self.config.write_text(tomlkit.dumps(_without_none(document)))

    def order(self, customer: str = CUSTOMER, **options: Any) -> BenchOrder:
        """Order a certificate at the bench."""
        return self.bench.state.order(customer, **options)

    def credentials(self, order: BenchOrder) -> Credentials:
        """Return an order's credentials as a use case takes them."""
        return parse_credentials(json.dumps(order.as_json()))

    def credentials_file(self, order: BenchOrder) -> Path:
        """Write an order's credentials to a private file."""
        path = self.folder / f"credentials-{order.transfer_id}.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(order.as_json()))
        return path

    def parts(self, *, clock: Clock = system_clock, sleep: Callable[[float], None] | None = None) -> Parts:
        """Return the parts for use cases in this process; use as a context manager."""
        return Parts(self.settings, clock=clock) if sleep is None else Parts(self.settings, clock=clock, sleep=sleep)

    def token_client(self) -> Token:
        """Return a client of the token that remembers no refused PIN."""
        return Token(self.token.settings)

    def aged(self, order: BenchOrder, age: timedelta, channel: Channel = Channel.WS) -> Enrollment:
        """Enroll so that the certificate began long ago, as if it had been issued then; no clock is off later."""
        with self.parts() as parts:
            self.bench.state.advance_clock(-age)
            try:
                wanted = order_for(order.customer_id, channel=channel)
                return enroll(parts, Listener(), wanted, self.credentials(order), wait=timedelta(seconds=20))
            finally:
                self.bench.state.advance_clock(age)

    def carried(self, csr: str, customer: str = CUSTOMER) -> bytes:
        """Carry a CSR to the service in a person's place, and return the certificate that it gives (DER)."""
        order = self.order(customer)
        trust = load_trust(self.bench.trust_dir / "test", Environment.TEST, system_clock())
        who = CustomerId(customer)
        with CertificateService(Environment.TEST, self.settings.service) as service:
            raw = service.sign_new_certificate(who, None, self.credentials(order), pem_to_der(csr))
            accepted = verify_answer(raw.body, Operation.SIGN_NEW, trust.services, system_clock())
            raw = service.get_certificate(who, None, RetrievalId(accepted.retrieval_id or ""))
        answer = verify_answer(raw.body, Operation.GET, trust.services, system_clock())
        assert answer.certificate is not None
        return answer.certificate

    def rows(self) -> tuple[Enrollment, ...]:
        """Return all rows of the journal; none if there is no journal yet."""
        settings = self.settings.journal
        if not settings.url and not (self.state_dir / "journal.sqlite").exists():
            return ()
        with Journal(self.state_dir, settings) as journal:
            return journal.list()

    def keys(self) -> frozenset[tuple[KeyId, str]]:
        """Return CKA_ID and label of all private keys in the token, but for the one that signs the audit log."""
        with self.token_client() as token:
            found = token.keys()
        return frozenset(key for key in found if not key[1].startswith(LOG_KEY))

    def keys_of(self, row: Enrollment) -> int:
        """Return how many private keys the token holds for an enrollment."""
        return sum(row.key_id == key_id or row.key_label == label for key_id, label in self.keys())

    def sent(self, transfer: str | None = None) -> int:
        """Return how many signNewCertificate the bench has received, of one transfer ID or of all."""
        lines = [request.as_json() for request in self.bench.state.log()]
        return sum(
            line["operation"] == "signNewCertificate" and transfer in {None, line.get("transfer_id")} for line in lines
        )

    def versions(self, customer: str = CUSTOMER, channel: str = "ws") -> dict[str, Any]:
        """Return number → metadata of the versions of a record in Vault."""
        return self.vault.versions(f"{self.vault.settings.prefix}/test/{customer}/{channel}/current")

    def world(self) -> World:
        """Return all that could be changed, as it is now."""
        return World(
            rows=tuple((row.id, row.state, row.version) for row in self.rows()),
            keys=self.keys(),
            requests=len(self.bench.state.log()),
            records=self._records(),
        )

    def _records(self, path: str = "") -> tuple[str, ...]:
        """Return the paths of all records under the mount, but for the audit log's checkpoints."""
        from hvac.exceptions import InvalidPath

        try:
            answer = self.vault.root.secrets.kv.v2.list_secrets(path, mount_point=self.vault.settings.mount)
        except InvalidPath:
            return ()
        found: list[str] = []
        for key in answer["data"]["keys"]:
            if key == f"{AUDIT}/":
                continue
            found += self._records(path + key) if key.endswith("/") else [path + key]
        return tuple(found)

    def environment(self) -> dict[str, str]:
        """Return the environment of a subprocess: this one's, scrubbed, and the settings file named."""
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        return {**os.environ, "VARMENNE_CONFIG": str(self.config), "PYTHONPATH": path}

    def start(self, *arguments: str | Path, module: str = "varmenne", **options: Any) -> subprocess.Popen[bytes]:
        """Start the command line as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            **{
                "env": self.environment(),
                "cwd": self.folder,
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                **options,
            },
        )

    def command(self, *arguments: str | Path, module: str = "varmenne", given: bytes = b"") -> Result:
        """Run the command line as a process of its own, and wait for its end."""
        with self.start(*arguments, module=module, stdin=subprocess.PIPE) as process:
            out, err = process.communicate(given, timeout=PATIENCE_SECONDS)
        return Result(process.returncode, out.decode(), err.decode())

    def run(self, *arguments: str | Path, given: bytes = b"") -> Result:
        """Run the command line in this process, with its output caught."""
        return run_main("--config", str(self.config), *map(str, arguments), given=given)


def run_main(*arguments: str, given: bytes = b"") -> Result:
    """Run ``varmenne`` in this process as its console script does, and leave no trace of it."""
    from varmenne.cli.program import main

    out, err = io.StringIO(), io.StringIO()
    logger = logging.getLogger("varmenne")
    before = sys.argv, sys.stdin, list(logger.handlers), logger.level
    sys.argv = ["varmenne", *arguments]
    sys.stdin = io.TextIOWrapper(io.BytesIO(given), encoding="utf-8")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            main()
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 0
    finally:
        sys.argv, sys.stdin, logger.handlers, level = before
        logger.setLevel(level)
    return Result(code, out.getvalue(), err.getvalue())


def order_for(customer: str = CUSTOMER, **options: Any) -> Order:
    """Return what a use case is told of an order."""
    return Order(customer=CustomerId(customer), name=options.pop("name", None), **options)


@contextlib.contextmanager
def open_stage(
    folder: Path, template: Template, openbao: OpenBaoServer, bench_keys: Path, **bench_options: Any
) -> Iterator[Stage]:
    """Furnish a folder and run a bench in it; Vault is the session's server, with a mount of this stage's own."""
    folder.mkdir(mode=0o700, exist_ok=True)
    token = template.copy(folder / "token")
    bench_folder = folder / "bench"
    copy_keys(bench_keys, bench_folder)
    options = {"delay_seconds": 0.0, "language": Language.ENGLISH, **bench_options}
    number = next(_numbers)
    settings = provision(openbao, mount=f"stage-{number}", secret_id_file=folder / "secret-id")
    root = openbao.client()
    with contextlib.closing(root.adapter), BenchServer(BenchState.create(bench_folder), **options) as bench:
        stage = Stage(folder, token, bench, Vault(settings, root, openbao))
        at, fit, result = template.probe
        with Journal(stage.state_dir) as journal:
            journal.save_probe(template.name, at, fit=fit, result=result)
        yield stage
        root.sys.disable_secrets_engine(settings.mount)


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what has no value, which TOML cannot say."""
    return {
        name: _without_none(value) if isinstance(value, Mapping) else value
        for name, value in table.items()
        if value is not None
    }


@pytest.fixture
def stage(tmp_path: Path, token_template: Template, openbao: OpenBaoServer, bench_keys: Path) -> Iterator[Stage]:
    """Give a test a stage of its own. Certificates are ready at once, messages are in English."""
    with open_stage(tmp_path / "stage", token_template, openbao, bench_keys) as made:
        yield made


@pytest.fixture(scope="module")
def shared_stage(
    tmp_path_factory: pytest.TempPathFactory, token_template: Template, openbao: OpenBaoServer, bench_keys: Path
) -> Iterator[Stage]:
    """Give a test module one stage, for tests that use customers of their own."""
    with open_stage(tmp_path_factory.mktemp("shared-stage"), token_template, openbao, bench_keys) as made:
        yield made
