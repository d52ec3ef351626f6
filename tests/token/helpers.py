"""Another program at the token: what varmenne itself would never do, done in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest

from varmenne.settings import TokenSettings
from varmenne.token import CreatedToken

_PROGRAM = """
import json, sys
import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass
order = json.load(sys.stdin)
token = pkcs11.lib(order["module"]).get_token(token_label=order["label"])
with token.open(rw=True, user_pin=order["pin"]) as session:
    key_id = bytes.fromhex(order["key_id"])
    if order["destroy"]:
        kinds = [ObjectClass.PUBLIC_KEY] if order["only_public"] else [ObjectClass.PUBLIC_KEY, ObjectClass.PRIVATE_KEY]
        for kind in kinds:
            for thing in list(session.get_objects({Attribute.CLASS: kind, Attribute.ID: key_id})):
                thing.destroy()
    elif order["derives"]:
        curve = {Attribute.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107")}
        session.create_domain_parameters(KeyType.EC, curve, local=True).generate_keypair(
            id=key_id, label=order["key_label"], store=True, private_template={Attribute.DERIVE: True}
        )
    else:
        session.generate_keypair(
            KeyType.RSA, order["bits"], id=key_id, label=order["key_label"], store=True,
            private_template={Attribute.EXTRACTABLE: True, Attribute.DESTROYABLE: order["destroyable"]},
        )
"""


def foreign_key(
    token: CreatedToken,
    key_id: bytes,
    key_label: str,
    *,
    bits: int = 1024,
    destroy: bool = False,
    only_public: bool = False,
    destroyable: bool = True,
    derives: bool = False,
) -> None:
    """Have another program make a key with a ``CKA_ID``, or destroy the key objects with it.

    The key is an extractable RSA key, or one of P-256 that derives others.
    """
    order = {
        "module": token.module,
        "label": token.label,
        "pin": Path(token.pin.removeprefix("file:")).read_text().strip(),
        "key_id": key_id.hex(),
        "key_label": key_label,
        "bits": bits,
        "destroy": destroy,
        "only_public": only_public,
        "destroyable": destroyable,
        "derives": derives,
    }
    subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=json.dumps(order).encode(),
        env={**os.environ, **token.environment},
        check=True,
    )


_PUT_PUBLIC_KEY = """
import json, sys
import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass
order = json.load(sys.stdin)
token = pkcs11.lib(order["module"]).get_token(token_label=order["label"])
with token.open(rw=True, user_pin=order["pin"]) as session:
    session.create_object({
        Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.KEY_TYPE: KeyType.EC_EDWARDS, Attribute.TOKEN: True,
        Attribute.ID: bytes.fromhex(order["key_id"]), Attribute.EC_PARAMS: bytes.fromhex("06032b6570"),
        Attribute.EC_POINT: bytes.fromhex(order["point"]),
    })
"""


def put_public_key(token: CreatedToken, key_id: bytes, point: bytes) -> None:
    """Have another program put an Ed25519 public key (32 bytes) into the token, with a ``CKA_ID`` of its choice."""
    order = {
        "module": token.module,
        "label": token.label,
        "pin": Path(token.pin.removeprefix("file:")).read_text().strip(),
        "key_id": key_id.hex(),
        "point": (b"\x04\x20" + point).hex(),
    }
    subprocess.run(
        [sys.executable, "-c", _PUT_PUBLIC_KEY],
        input=json.dumps(order).encode(),
        env={**os.environ, **token.environment},
        check=True,
    )


@contextlib.contextmanager
def p11_kit_server(token: CreatedToken, folder: Path) -> Iterator[tuple[TokenSettings, Callable[[], None]]]:
    """Serve a token on a socket; yield the settings of a client of it, and a way to kill the server."""
    module = Path(f"/usr/lib/{os.uname().machine}-linux-gnu/pkcs11/p11-kit-client.so")
    if not module.is_file() or shutil.which("p11-kit") is None:
        pytest.fail("p11-kit is missing: install the packages p11-kit and p11-kit-modules")
    address = folder / "p11.sock"
    address.unlink(missing_ok=True)
    command = ["p11-kit", "server", "-f", "--provider", token.module, "-n", str(address)]
    command.append(f"pkcs11:token={quote(token.label)}")
    environment = {**os.environ, **token.environment, "XDG_RUNTIME_DIR": str(folder)}
    with (folder / "p11-kit.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def stop() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()

    try:
        _until(address.exists)
        client = {"P11_KIT_SERVER_ADDRESS": f"unix:path={address}", "XDG_RUNTIME_DIR": str(folder)}
        yield msgspec.structs.replace(token.settings, module=str(module), environment=client), stop
    finally:
        stop()


_TPM_PIN = "tpm-pin-1234"
_TPM_PACKAGES = (
    "swtpm swtpm-tools tpm2-tools tpm2-abrmd libtss2-tcti-swtpm0 libtss2-tcti-tabrmd0 libtpm2-pkcs11-1 "
    "libtpm2-pkcs11-tools dbus-daemon"
)


@contextlib.contextmanager
def swtpm(folder: Path) -> Iterator[TokenSettings]:
    """Run a software TPM with its resource manager, and make a token in it."""
    module = Path(f"/usr/lib/{os.uname().machine}-linux-gnu/pkcs11/libtpm2_pkcs11.so")
    tools = ("swtpm", "dbus-daemon", "tpm2-abrmd", "tpm2_ptool")
    if not module.is_file() or not all(map(shutil.which, tools)):
        pytest.fail(f"a software TPM is missing: install the packages {_TPM_PACKAGES}")
    state, store, bus = folder / "tpm-state", folder / "tpm-store", folder / "bus"
    state.mkdir()
    store.mkdir()
    server = _free_port_pair()
    environment = {
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={bus}",
        "TPM2_PKCS11_STORE": str(store),
        "TPM2_PKCS11_TCTI": "tabrmd:bus_type=session",
        "TPM2TOOLS_TCTI": "tabrmd:bus_type=session",
    }
    whole = {**os.environ, **environment}
    with contextlib.ExitStack() as stack:

        def run(*command: str) -> None:
            log = stack.enter_context((folder / f"{command[0]}.log").open("wb"))
            process = subprocess.Popen(command, env=whole, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)

        run(
            *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "not-need-init,startup-clear"),
            *("--server", f"type=tcp,port={server},bindaddr=127.0.0.1"),
            *("--ctrl", f"type=tcp,port={server + 1},bindaddr=127.0.0.1"),
        )
        run("dbus-daemon", "--session", "--nofork", f"--address=unix:path={bus}")
        _until(bus.exists)
        _until(lambda: _listens(server))
        as_root = ["--allow-root"] if os.getuid() == 0 else []
        run("tpm2-abrmd", "--session", "--flush-all", f"--tcti=swtpm:port={server}", *as_root)
        ptool = ("tpm2_ptool", "init", "--path", str(store))
        _until(lambda: subprocess.run(ptool, env=whole, capture_output=True, check=False).returncode == 0)
        ptool_add = ("tpm2_ptool", "addtoken", "--path", str(store))
        subprocess.run(
            [*ptool_add, "--pid=1", "--sopin=12345678", f"--userpin={_TPM_PIN}", "--label=agent"],
            env=whole,
            capture_output=True,
            check=True,
        )
        pin = folder / "tpm-pin"
        pin.touch(mode=0o600)
        pin.write_text(f"{_TPM_PIN}\n")
        yield TokenSettings(module=str(module), label="agent", pin=f"file:{pin}", environment=environment)


def _free_port_pair() -> int:
    """Return a loopback port that was free a moment ago, and the next one too: clients take the pair for granted."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            two.bind(("127.0.0.1", port + 1))
            return port


def _listens(port: int) -> bool:
    """Tell whether a port is listened on, without connecting: swtpm serves one connection."""
    wanted = f"0100007F:{port:04X} 00000000:0000 0A"
    return wanted in Path("/proc/net/tcp").read_text()


def _until(ready: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "a server of the test did not come up"
        time.sleep(0.1)
