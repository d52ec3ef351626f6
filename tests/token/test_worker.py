"""The worker process: crashes, hangs, kills, and what it must not show."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from harness.cores import dumps_core
from varmenne.domain.keys import new_key_id
from varmenne.errors import InputError, PinError, TokenError, TokenUnavailable
from varmenne.token import CreatedToken, Token, list_tokens

from .conftest import Shim
from .helpers import p11_kit_server


def worker_pid(client: Token) -> int:
    """Return the process id of a client's worker."""
    assert client._worker is not None
    return client._worker.pid


def wait_until_gone(pid: int, seconds: float = 10) -> None:
    """Wait until a process has ended, whoever collects it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z" and threads == 1:
            return
        time.sleep(0.02)
    pytest.fail(f"process {pid} still runs after {seconds} s")


def test_importing_the_package_loads_no_pkcs11() -> None:
    """The parent never holds the PKCS#11 library, let alone a module, however it uses the package."""
    program = "import sys, varmenne.token, varmenne.token.softhsm; print('pkcs11' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_using_a_token_loads_no_pkcs11_here(token: Token) -> None:
    """After real work, neither the library nor the module is in this process's memory."""
    token.signer(token.generate(new_key_id(), "key").key_id).sign(b"data")
    assert "softhsm" not in Path("/proc/self/maps").read_text()


def test_a_call_over_its_time_limit_ends_the_worker(shim: Shim) -> None:
    """A module that hangs is ended at the limit, the error says so, and the next call starts afresh."""
    with shim.client(call_timeout_seconds=1.0) as client:
        client.login()
        pid = worker_pid(client)
        shim.order("hang C_FindObjectsInit")
        started = time.monotonic()
        with pytest.raises(TokenUnavailable, match="did not answer within 1 seconds") as caught:
            client.keys()
        assert time.monotonic() - started < 3, "a call that hangs is not repeated"
        assert caught.value.transient
        wait_until_gone(pid)
        shim.order()
        assert client.keys() == ()
        assert worker_pid(client) != pid


def test_generation_has_a_time_limit_of_its_own(shim: Shim) -> None:
    """Making a key may take longer than other calls, but not for ever; the same call finds no half-made key later."""
    with shim.client(call_timeout_seconds=20.0, generate_timeout_seconds=0.5) as client:
        client.login()
        shim.order("hang C_GenerateKeyPair")
        with pytest.raises(TokenUnavailable, match=r"within 0\.5 seconds"):
            client.generate(new_key_id(), "key")
        shim.order()
        assert client.keys() == ()


def test_a_crash_under_a_reading_call_is_not_noticed(shim: Shim, shimmed: Token) -> None:
    """A call that only reads is repeated once on a fresh worker."""
    shimmed.login()
    pid = worker_pid(shimmed)
    shim.order("crash-once C_FindObjectsInit")
    assert shimmed.keys() == ()
    assert worker_pid(shimmed) != pid


def test_a_crash_that_repeats_is_an_error(shim: Shim, shimmed: Token) -> None:
    """A module that crashes each time is given up after the second, with the signal's name and its last words."""
    shimmed.login()
    shim.order("crash C_FindObjectsInit", "say the module is out of luck")
    with pytest.raises(TokenUnavailable, match="SIGABRT") as caught:
        shimmed.keys()
    assert "out of luck" in caught.value.why
    assert caught.value.facts["exit_status"] == -signal.SIGABRT


def test_last_words_that_may_hold_a_pin_are_withheld(shim: Shim, shimmed: Token) -> None:
    """Debugging modules print what C_Login is given; that must not end up in an error message."""
    shimmed.login()
    shim.order("crash C_FindObjectsInit", "say C_Login pPin = 31 32 33 34")
    with pytest.raises(TokenUnavailable) as caught:
        shimmed.keys()
    assert "31 32" not in str(caught.value)
    assert "withheld" in caught.value.why


def test_generation_is_never_repeated_in_silence(shim: Shim, shimmed: Token) -> None:
    """A crash while a key is made is an error at once; the caller decides, and resumes with the same CKA_ID."""
    shimmed.login()
    key_id = new_key_id()
    before = shim.calls("C_GenerateKeyPair")
    shim.order("crash C_GenerateKeyPair")
    with pytest.raises(TokenUnavailable):
        shimmed.generate(key_id, "key")
    assert shim.calls("C_GenerateKeyPair") == before + 1
    shim.order()
    assert shimmed.generate(key_id, "key").made_at is not None


def test_a_key_that_came_into_being_in_spite_of_an_error_is_resumed(shim: Shim, shimmed: Token) -> None:
    """After CKR_GENERAL_ERROR a key may be there. It is found by the next call, and no second one is made."""
    key_id = new_key_id()
    shimmed.login()
    shim.order("fail-after C_GenerateKeyPair 5")
    with pytest.raises(TokenUnavailable):
        shimmed.generate(key_id, "key")
    shim.order()
    assert shimmed.generate(key_id, "key").made_at is None
    assert shimmed.keys() == ((key_id, "key"),)


def test_chatter_does_not_disturb_the_protocol(shim: Shim, shimmed: Token) -> None:
    """What a module prints, even in bulk, neither reaches our output nor blocks."""
    shim.order("say " + "x" * 100)
    key_id = new_key_id()
    shimmed.generate(key_id, "key")
    signer = shimmed.signer(key_id)
    for _ in range(150):
        signer.sign(b"data")
    assert shim.calls("C_Sign") >= 150


def test_a_worker_killed_between_calls_is_replaced(token: Token) -> None:
    """Even generation goes on after kill -9 between two calls, for nothing was under way."""
    token.login()
    pid = worker_pid(token)
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    key_id = new_key_id()
    assert token.generate(key_id, "key").key_id == key_id


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_to_the_group_do_not_reach_into_a_call(token: Token, number: signal.Signals) -> None:
    """Signals that terminals and systemd send to all processes at once change nothing: the parent decides."""
    token.login()
    pid = worker_pid(token)
    os.kill(pid, number)
    assert token.keys() == ()
    assert worker_pid(token) == pid


def test_an_interrupted_call_does_not_leave_its_answer_to_the_next(shim: Shim, shimmed: Token) -> None:
    """KeyboardInterrupt in the middle of a call ends the worker, so answers and questions stay in step."""
    shimmed.login()
    shim.order("hang C_FindObjectsInit")
    pid = worker_pid(shimmed)

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            shimmed.keys()
    finally:
        signal.signal(signal.SIGALRM, before)
    wait_until_gone(pid)
    shim.order()
    assert shimmed.keys() == ()


@pytest.mark.parametrize("thread", ["main", "other"])
def test_the_worker_ends_with_its_parent(shim: Shim, thread: str) -> None:
    """Kill -9 of the parent ends the worker, even inside a module that hangs, from whichever thread it was started."""
    program = f"""
import sys, threading, msgspec
from varmenne.settings import TokenSettings
from varmenne.token import Token
client = Token(msgspec.json.decode(sys.argv[1].encode(), type=TokenSettings))
def work():
    client.login()
    print(client._worker.pid, flush=True)
if {thread == "main"}:
    work()
else:
    started = threading.Thread(target=work)
    started.start()
    started.join()
sys.stdin.readline()
client.keys()
"""
    command = [sys.executable, "-c", program, msgspec.json.encode(shim.settings).decode()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        pid = int(parent.stdout.readline())
        shim.order("hang C_FindObjectsInit")
        parent.stdin.write("go on\n")
        parent.stdin.flush()
        while not shim.calls("C_FindObjectsInit"):
            time.sleep(0.02)
        parent.kill()
        parent.wait()
        wait_until_gone(pid)


def test_a_worker_outlives_the_thread_that_started_it(token: Token) -> None:
    """The kernel calls the starting thread "the parent"; the end of that thread must not end the worker."""
    import threading

    thread = threading.Thread(target=token.login)
    thread.start()
    thread.join()
    pid = worker_pid(token)
    time.sleep(0.2)
    assert token.keys() == ()
    assert worker_pid(token) == pid


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_of_the_parent_does_not_share_the_worker(token: Token) -> None:
    """A forked child starts a worker of its own instead of talking into its parent's conversation."""
    key_id = new_key_id()
    token.generate(key_id, "key")
    pid = worker_pid(token)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if token.keys() and worker_pid(token) != pid else 2
            token.close()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert token.keys() == ((key_id, "key"),)
    assert worker_pid(token) == pid


def test_the_pin_is_nowhere_to_be_seen(token: Token, softhsm: CreatedToken, caplog: pytest.LogCaptureFixture) -> None:
    """The PIN is not on the worker's command line, in its environment, in logs, nor in anything that is printed."""
    caplog.set_level(logging.DEBUG)
    pin = Path(softhsm.pin.removeprefix("file:")).read_text().strip()
    token.login()
    process = Path(f"/proc/{worker_pid(token)}")
    assert pin.encode() not in (process / "cmdline").read_bytes()
    with contextlib.suppress(PermissionError):  # Not even the same user may read it.
        assert pin.encode() not in (process / "environ").read_bytes()
    assert pin not in caplog.text
    assert pin not in repr(token) + repr(softhsm) + repr(softhsm.settings)
    for argument in token._worker._process.args:  # type: ignore[union-attr]
        assert pin not in str(argument)


def test_the_worker_is_hardened(token: Token) -> None:
    """No core dumps: a dump of the worker would hold the PIN and session keys."""
    token.login()
    process = Path(f"/proc/{worker_pid(token)}")
    limits = (process / "limits").read_text()
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
    assert (process / "environ").stat().st_uid == 0, "an undumpable process belongs to root in /proc"


def test_the_worker_leaves_no_core_dump(token: Token, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when its limit is lifted from outside and it is made to abort."""
    monkeypatch.chdir(tmp_path)
    token.login()
    process = token._worker._process  # type: ignore[union-attr]
    assert process is not None
    assert not dumps_core(process)
    assert list(tmp_path.glob("core*")) == []


def test_vault_tokens_do_not_reach_the_module(softhsm: CreatedToken, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets of other rooms are taken out of the worker's environment; what the settings add is there."""
    monkeypatch.setenv("VAULT_TOKEN", "hvs.secret")
    monkeypatch.setenv("UNRELATED", "kept")
    with Token(softhsm.settings) as client:
        client.status()
        environ = _environ(worker_pid(client))
    if environ is not None:
        assert "VAULT_TOKEN" not in environ
        assert environ["UNRELATED"] == "kept"
        assert environ["SOFTHSM2_CONF"] == softhsm.environment["SOFTHSM2_CONF"]
    assert "SOFTHSM2_CONF" not in os.environ


def _environ(pid: int) -> dict[str, str] | None:
    """Return a process's environment, or ``None`` if nobody but root may read it."""
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except PermissionError:
        return None
    return dict(entry.split("=", 1) for entry in raw.decode().split("\0") if entry)


def test_a_directory_that_was_moved_away_is_not_an_empty_token(token: Token, softhsm: CreatedToken) -> None:
    """SoftHSM answers "no objects" when its folder is gone; that is "unavailable", and passes when it is back."""
    key_id = new_key_id()
    token.generate(key_id, "key")
    tokens = softhsm.directory / "tokens"
    away = softhsm.directory / "away"
    tokens.rename(away)
    for call in (lambda: token.find(key_id), token.keys, lambda: token.certificates(key_id), token.status):
        with pytest.raises(TokenUnavailable):
            call()
    with pytest.raises(TokenUnavailable):
        token.generate(new_key_id(), "another")
    away.rename(tokens)
    assert token.keys() == ((key_id, "key"),)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"label": "no such token"}, TokenUnavailable, "the module has: label 'varmenne test'"),
        ({"serial": "0123"}, TokenUnavailable, "serial '0123'"),
        ({"model": "another"}, TokenUnavailable, "model 'another'"),
        ({"module": "/nowhere/module.so"}, TokenUnavailable, "no PKCS#11 module /nowhere/module.so"),
        ({"module": "/bin/true"}, TokenUnavailable, "cannot be loaded"),
        ({"module": "libc.so.6"}, TokenError, "C_GetFunctionList"),
    ],
)
def test_a_token_that_does_not_answer_to_the_settings(
    softhsm_shared: CreatedToken, changes: dict[str, str], kind: type[TokenError], words: str
) -> None:
    """The error says by which criteria was looked, and what is there."""
    with Token(msgspec.structs.replace(softhsm_shared.settings, **changes)) as client:
        for _ in range(2):
            with pytest.raises(kind) as caught:
                client.status()
            assert words in f"{caught.value} {caught.value.what}"


def test_two_tokens_with_one_label_are_not_guessed_between(softhsm: CreatedToken) -> None:
    """Several matches are a permanent error that lists them; the serial number decides."""
    pin = softhsm.directory / "pin2"
    from varmenne.token import messages as say
    from varmenne.token.one_shot import ask_once

    verb = say.InitToken(label=softhsm.label, pin_file=str(pin), so_pin_file=str(softhsm.directory / "so2"))
    second = ask_once(say.Setup(softhsm.module), verb, environment=softhsm.environment, timeout_seconds=30)
    with Token(msgspec.structs.replace(softhsm.settings, serial="")) as client:
        with pytest.raises(TokenError, match="More than one") as caught:
            client.status()
        assert not isinstance(caught.value, TokenUnavailable)
        assert second.identity.serial in caught.value.why
    with Token(softhsm.settings) as client:
        assert client.identity().serial == softhsm.serial


def test_tokens_are_listed_without_login(shim: Shim) -> None:
    """Listing tells about every token, initialised or not, and tries no PIN."""
    tokens = list_tokens(shim.settings.module, environment=shim.settings.environment)
    assert [status.identity.label for status in tokens if status.initialized] == [shim.behind.label]
    assert any(not status.initialized for status in tokens)
    assert shim.calls("C_Login") == 0


def test_listing_survives_a_module_that_crashes(shim: Shim) -> None:
    """A module that crashes while it is looked at is an error, no more."""
    shim.order("crash C_Initialize")
    with pytest.raises(TokenUnavailable, match="SIGABRT"):
        list_tokens(shim.settings.module, environment=shim.settings.environment)


def test_a_module_that_does_not_initialise(shim: Shim) -> None:
    """Why it does not is told by the standard's name, or by its number where the standard has none."""
    for returned, told in (("5", "CKR_GENERAL_ERROR"), ("80000001", "0x80000001")):
        shim.order(f"fail C_Initialize {returned}")
        with pytest.raises(TokenUnavailable, match="does not initialise") as caught:
            list_tokens(shim.settings.module, environment=shim.settings.environment)
        assert caught.value.why == f"C_Initialize returned {told}"


def test_status_does_not_log_in(shim: Shim, shimmed: Token) -> None:
    """Identity and status are to be had without the PIN."""
    status = shimmed.status()
    assert shimmed.identity() == status.identity
    assert (status.can_generate, status.can_sign, status.pin_locked, status.initialized) == (True, True, False, True)
    assert status.identity.manufacturer == "SoftHSM project"
    assert shim.calls("C_Login") == 0


def test_a_wrong_signature_is_refused(shim: Shim, shimmed: Token) -> None:
    """A signature that does not verify never leaves the signer."""
    signer = shimmed.signer(shimmed.generate(new_key_id(), "key").key_id)
    assert signer.sign(b"data")
    shim.order("wrong-signature")
    with pytest.raises(TokenError, match="wrong signature") as caught:
        signer.sign(b"data")
    assert not isinstance(caught.value, PinError | TokenUnavailable)


def test_a_failed_signature_does_not_spoil_the_next(shim: Shim, shimmed: Token) -> None:
    """After a failed operation the session is thrown away, and the login with it is not."""
    signer = shimmed.signer(shimmed.generate(new_key_id(), "key").key_id)
    logins = shim.calls("C_Login")
    shim.order("fail C_Sign 21")
    with pytest.raises(TokenError, match="CKR_DATA_LEN_RANGE"):
        signer.sign(b"data")
    shim.order()
    assert signer.sign(b"data")
    assert shim.calls("C_Login") == logins


def test_a_lost_session_is_replaced_under_a_reading_call(shim: Shim, shimmed: Token) -> None:
    """A stale handle that persists leads to one fresh worker, then to an error."""
    shimmed.login()
    logins = shim.calls("C_Login")
    shim.order("fail C_FindObjectsInit b3")
    with pytest.raises(TokenUnavailable, match="CKR_SESSION_HANDLE_INVALID"):
        shimmed.keys()
    assert shim.calls("C_Login") == logins + 1
    shim.order()
    assert shimmed.keys() == ()


def test_too_much_data_is_refused_before_it_is_sent(softhsm_shared: CreatedToken) -> None:
    """Data beyond the frame limit is bad input, and the worker goes on."""
    with Token(softhsm_shared.settings) as client:
        signer = client.signer(client.generate(new_key_id(), "key").key_id)
        pid = worker_pid(client)
        with pytest.raises(InputError, match="too much data"):
            signer.sign(bytes(17 * 1024 * 1024))
        assert signer.sign(b"data")
        assert worker_pid(client) == pid


def test_a_token_over_p11_kit_survives_its_server(softhsm: CreatedToken, tmp_path: Path) -> None:
    """A token behind a socket is as good as a local one; when its server dies, that is unavailable, and passes."""
    with p11_kit_server(softhsm, tmp_path) as (settings, stop), Token(settings) as client:
        facts = client.generate(new_key_id(), "key")
        assert facts.deviations == ()
        signer = client.signer(facts.key_id)
        assert signer.sign(b"data")
        stop()
        with pytest.raises(TokenUnavailable):
            signer.sign(b"data")
        with p11_kit_server(softhsm, tmp_path):
            assert signer.sign(b"data")
