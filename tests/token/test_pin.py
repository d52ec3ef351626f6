"""The PIN: tried once, remembered when refused, and never tried where one more failure could lock the token."""

from __future__ import annotations

import json
import os
import pty
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import msgspec
import pytest

from varmenne.domain.keys import TokenIdentity, new_key_id
from varmenne.errors import ConfigError, InputError, PinError, TokenError, TokenUnavailable
from varmenne.secret_sources import ReadableByOthers
from varmenne.token import CreatedToken, Token, TokenStatus
from varmenne.token.pin_rules import MEMORY_NAME, FileStamp, Refusal, objection

from .conftest import Shim

COUNT_LOW, FINAL_TRY, LOCKED = "flags 10000", "flags 20000", "flags 40000"


def right_pin(shim: Shim) -> str:
    """Return the token's real PIN."""
    return shim.pin_file.read_text()


def make_wrong(shim: Shim) -> str:
    """Put a wrong PIN into the file, and return the right one."""
    right = right_pin(shim)
    shim.pin_file.write_text("wrong-pin\n")
    return right


def refuse(shim: Shim, **changes: object) -> PinError:
    """Have the PIN refused, or not tried, by a new client; return the error."""
    with shim.client(**changes) as client, pytest.raises(PinError) as caught:
        client.keys()
    return caught.value


def test_a_refused_pin_is_not_tried_again_by_the_same_client(shim: Shim, shimmed: Token) -> None:
    """After a refusal, every verb that needs a login fails in the same words, and C_Login is not called again."""
    make_wrong(shim)
    for call in (shimmed.login, shimmed.keys, lambda: shimmed.generate(new_key_id(), "key"), shimmed.probe):
        with pytest.raises(PinError, match="the PIN is wrong"):
            call()
    assert shim.calls("C_Login") == 1
    assert shim.calls("C_GenerateKeyPair") == 0
    assert shimmed.status().pin_count_low, "what needs no login still works"


def test_a_refused_pin_is_not_tried_by_a_new_process(shim: Shim) -> None:
    """A service that is restarted again and again tries an unchanged wrong PIN once in all."""
    make_wrong(shim)
    refuse(shim)
    for _ in range(3):
        assert "has not been changed since" in refuse(shim).why
    assert shim.calls("C_Login") == 1


def test_a_changed_file_is_tried_once(shim: Shim) -> None:
    """Correcting the file is all that it takes, even though SoftHSM still shows PIN_COUNT_LOW; then it is forgotten."""
    right = make_wrong(shim)
    refuse(shim)
    shim.pin_file.write_text("wrong again\n")
    refuse(shim)
    refuse(shim)
    assert shim.calls("C_Login") == 2
    shim.pin_file.write_text(right)
    with shim.client() as client:
        assert client.keys() == ()
        assert not client.status().pin_count_low
    assert not (shim.state_dir / MEMORY_NAME).exists()


def test_the_memory_holds_no_pin(shim: Shim) -> None:
    """The file is for its owner alone, and holds the source's name and stamp, not the PIN."""
    make_wrong(shim)
    error = refuse(shim)
    memory = shim.state_dir / MEMORY_NAME
    assert stat.S_IMODE(memory.stat().st_mode) == 0o600
    assert "wrong-pin" not in memory.read_text() + str(error) + repr(error.facts)
    (entry,) = json.loads(memory.read_text())["refusals"]
    assert entry["source"] == shim.settings.pin
    assert entry["code"] == "CKR_PIN_INCORRECT"


def test_a_damaged_memory_stops(shim: Shim) -> None:
    """A memory that cannot be read may have been there to prevent just this try."""
    shim.state_dir.mkdir()
    (shim.state_dir / MEMORY_NAME).write_text("{")
    assert "delete" in refuse(shim).next_step
    assert shim.calls("C_Login") == 0


def test_a_credential_is_tried_again_only_by_order(shim: Shim, monkeypatch: pytest.MonkeyPatch) -> None:
    """A systemd credential is a new file at each start, so its stamp means nothing: a person must order the try."""
    right = make_wrong(shim)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(shim.pin_file.parent))
    refuse(shim, pin="credential:pin")
    shim.pin_file.write_text(right)
    assert "--retry-pin" in refuse(shim, pin="credential:pin").next_step
    assert shim.calls("C_Login") == 1
    with shim.client(pin="credential:pin", retry_pin=True) as client:
        client.login()
    with shim.client(pin="credential:pin") as client:
        client.login()


def test_a_credential_that_systemd_gives_by_an_access_list_is_no_reason_to_warn(
    shim: Shim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By systemd 254 and later its mode is 0440, though only one user may read it; here a warning is an error."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(shim.pin_file.parent))
    shim.pin_file.chmod(0o440)
    with shim.client(pin="credential:pin") as client:
        client.login()


def test_an_order_is_for_one_try(shim: Shim) -> None:
    """``retry_pin`` lets the PIN be tried once, not once per call."""
    make_wrong(shim)
    refuse(shim)
    with shim.client(retry_pin=True) as client:
        for _ in range(3):
            with pytest.raises(PinError):
                client.login()
    assert shim.calls("C_Login") == 2


@pytest.mark.parametrize(
    ("flags", "retry_pin", "words"),
    [
        (COUNT_LOW, False, "a wrong PIN was given to it before"),
        (FINAL_TRY, False, "one more wrong PIN locks it"),
        (LOCKED, False, "is locked"),
        (LOCKED, True, "is locked"),
    ],
)
def test_flags_stop_before_the_pin_is_even_read(shim: Shim, flags: str, words: str, *, retry_pin: bool) -> None:
    """A stored PIN is not tried at COUNT_LOW or FINAL_TRY, and none is when locked; the error says what to do."""
    shim.order(flags)
    shim.pin_file.unlink()
    error = refuse(shim, retry_pin=retry_pin)
    assert words in error.why
    assert error.next_step
    assert shim.calls("C_Login") == 0
    assert not (shim.state_dir / MEMORY_NAME).exists()


@pytest.mark.parametrize("flags", [COUNT_LOW, FINAL_TRY])
def test_a_person_may_order_the_try(shim: Shim, flags: str) -> None:
    """By order, one try is made in spite of the flags."""
    shim.order(flags)
    with shim.client(retry_pin=True) as client:
        client.login()
    assert shim.calls("C_Login") == 1


def test_parallel_clients_try_a_wrong_pin_once(shim: Shim) -> None:
    """Four workers that start at the same moment with the same wrong PIN do not make four tries."""
    make_wrong(shim)
    with ThreadPoolExecutor(4) as pool:
        errors = list(pool.map(lambda _: refuse(shim), range(4)))
    assert len(errors) == 4
    assert shim.calls("C_Login") == 1


def test_a_crash_at_login_is_not_followed_by_another_try(shim: Shim, shimmed: Token) -> None:
    """Nobody knows whether the token counted the PIN, so even a call that only reads is not repeated."""
    shim.order("crash C_Login")
    with pytest.raises(TokenUnavailable):
        shimmed.keys()
    assert shim.calls("C_Login") == 1


def test_a_lock_found_only_at_login_is_a_pin_error(shim: Shim, shimmed: Token) -> None:
    """A TPM has no flags; its answer to C_Login says that it is locked, and it is asked once."""
    shim.order("fail C_Login a4")
    for _ in range(2):
        with pytest.raises(PinError, match="CKR_PIN_LOCKED"):
            shimmed.login()
    assert shim.calls("C_Login") == 1


@pytest.mark.parametrize(
    ("pin", "kind"),
    [
        ("file:/nowhere/pin", ConfigError),
        ("env:VARMENNE_TEST_NO_SUCH_PIN", ConfigError),
        ("credential:nothing", ConfigError),
        ("fd:777", ConfigError),
    ],
)
def test_a_missing_source_is_not_a_try(shim: Shim, pin: str, kind: type[Exception]) -> None:
    """A source that cannot be read is an error of the settings, and the token is not asked."""
    with shim.client(pin=pin) as client, pytest.raises(kind):
        client.login()
    assert shim.calls("C_Login") == 0


def test_an_empty_file_is_not_a_try(shim: Shim, shimmed: Token) -> None:
    """An empty PIN counts as a wrong one at some tokens, so it never gets there."""
    shim.pin_file.write_text("\n")
    with pytest.raises(InputError, match="empty"):
        shimmed.login()
    assert shim.calls("C_Login") == 0


def test_warnings_reach_the_parent(shim: Shim, shimmed: Token) -> None:
    """The worker reads the PIN; that others may read the file too is said here."""
    shim.pin_file.chmod(0o644)
    with pytest.warns(ReadableByOthers, match="chmod 600"):
        shimmed.login()


def test_the_environment_works_with_a_warning(shim: Shim, monkeypatch: pytest.MonkeyPatch) -> None:
    """``env:NAME`` is read by the worker from the environment that it inherits."""
    monkeypatch.setenv("TEST_TOKEN_PIN", right_pin(shim).strip())
    with shim.client(pin="env:TEST_TOKEN_PIN") as client, pytest.warns(ReadableByOthers, match="environment"):
        client.login()


def test_a_descriptor_is_passed_through_and_read_once(shim: Shim) -> None:
    """``fd:N`` reaches the worker; when a second worker would need it, the error says that it has been read."""
    reading, writing = os.pipe()
    os.write(writing, right_pin(shim).encode())
    os.close(writing)
    try:
        with shim.client(pin=f"fd:{reading}") as client:
            assert client.keys() == ()
            assert client._worker is not None
            os.kill(client._worker.pid, signal.SIGKILL)
            time.sleep(0.1)
            with pytest.raises(TokenUnavailable, match="only once"):
                client.keys()
    finally:
        os.close(reading)


def test_nobody_at_the_terminal_is_an_input_error(shim: Shim) -> None:
    """``prompt`` without a terminal says so, names other sources, and tries nothing."""
    program = _prompt_program()
    settings = msgspec.json.encode(msgspec.structs.replace(shim.settings, pin="prompt")).decode()
    result = subprocess.run(
        [sys.executable, "-c", program, settings], capture_output=True, text=True, start_new_session=True, check=False
    )
    assert "there is no terminal" in result.stdout
    assert shim.calls("C_Login") == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_typed_pin_logs_in_and_is_not_echoed(shim: Shim) -> None:
    """``prompt`` asks on the terminal, even at PIN_COUNT_LOW, and the PIN does not appear there."""
    shim.order(COUNT_LOW)
    settings = msgspec.json.encode(msgspec.structs.replace(shim.settings, pin="prompt")).decode()
    child, terminal = _at_a_terminal(settings)
    shown = _read_until(terminal, b"User PIN: ")
    time.sleep(0.2)
    os.write(terminal, right_pin(shim).strip().encode() + b"\n")
    shown += _read_until(terminal, b"logged in")
    os.waitpid(child, 0)
    os.close(terminal)
    assert b"logged in" in shown
    assert right_pin(shim).strip().encode() not in shown


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_ctrl_c_at_the_prompt_leaves_a_usable_terminal(shim: Shim) -> None:
    """When a person gives up, echo is on again, although the worker that switched it off was killed."""
    import termios

    settings = msgspec.json.encode(msgspec.structs.replace(shim.settings, pin="prompt")).decode()
    child, terminal = _at_a_terminal(settings)
    assert b"User PIN: " in _read_until(terminal, b"User PIN: ")
    time.sleep(0.2)
    os.write(terminal, b"\x03")
    _read_until(terminal, b"given up")
    echo = termios.tcgetattr(terminal)[3] & termios.ECHO
    os.waitpid(child, 0)
    os.close(terminal)
    assert echo
    assert shim.calls("C_Login") == 0


def _at_a_terminal(settings: str) -> tuple[int, int]:
    """Run the program at a terminal of its own; return its process id and the terminal's other end."""
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", _prompt_program(), settings])  # noqa: S606 - a fixed program
    return child, terminal


def _prompt_program() -> str:
    """Return a program that logs in with the settings on its command line and says how it went."""
    return """
import sys, time, msgspec
from varmenne.errors import VarmenneError
from varmenne.settings import TokenSettings
from varmenne.token import Token
with Token(msgspec.json.decode(sys.argv[1].encode(), type=TokenSettings)) as client:
    try:
        client.login()
        print("logged in", flush=True)
    except VarmenneError as exc:
        print(exc.what, flush=True)
    except KeyboardInterrupt:
        print("given up", flush=True)
        time.sleep(0.5)
"""


def _read_until(terminal: int, words: bytes) -> bytes:
    """Read a terminal until words appear, or it is closed."""
    shown = b""
    while words not in shown:
        try:
            chunk = os.read(terminal, 1024)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    return shown


IDENTITY = TokenIdentity("label", "serial", "model", "maker", "1.0", "library")
STAMP = FileStamp(1, 2, 3, 4, 5)
OTHER_STAMP = FileStamp(1, 2, 3, 4, 6)


def status(**flags: bool) -> TokenStatus:
    """Return a status with some flags set."""
    ordinary = {
        "initialized": True,
        "pin_initialized": True,
        "pin_count_low": False,
        "pin_final_try": False,
        "pin_locked": False,
        "write_protected": False,
        "can_generate": True,
        "can_sign": True,
    }
    return TokenStatus(identity=IDENTITY, slot=0, **{**ordinary, **flags})


def refusal(stamp: FileStamp | None) -> Refusal:
    """Return a remembered refusal."""
    return Refusal(
        label="label",
        serial="serial",
        model="model",
        source="x",
        stamp=stamp,
        refused_at=datetime(2026, 1, 2, tzinfo=UTC),
        code="CKR_PIN_INCORRECT",
    )


@pytest.mark.parametrize(
    ("flags", "source", "remembered", "now_stamp", "ordered", "tried"),
    [
        ({}, "file:x", None, STAMP, False, True),
        ({}, "prompt", None, None, False, True),
        ({}, "file:x", refusal(STAMP), STAMP, False, False),
        ({}, "file:x", refusal(STAMP), OTHER_STAMP, False, True),
        ({}, "file:x", refusal(STAMP), STAMP, True, True),
        ({}, "env:x", refusal(None), None, False, False),
        ({}, "fd:3", refusal(None), None, True, True),
        ({"pin_count_low": True}, "file:x", None, STAMP, False, False),
        ({"pin_count_low": True}, "file:x", refusal(STAMP), OTHER_STAMP, False, True),
        ({"pin_count_low": True}, "prompt", None, None, False, True),
        ({"pin_count_low": True}, "env:x", None, None, True, True),
        ({"pin_final_try": True}, "prompt", None, None, False, False),
        ({"pin_final_try": True}, "file:x", refusal(STAMP), OTHER_STAMP, False, False),
        ({"pin_final_try": True}, "prompt", None, None, True, True),
        ({"pin_locked": True}, "prompt", None, None, True, False),
        ({"pin_initialized": False}, "prompt", None, None, True, False),
    ],
)
def test_the_rules(
    flags: dict[str, bool],
    source: str,
    remembered: Refusal | None,
    now_stamp: FileStamp | None,
    *,
    ordered: bool,
    tried: bool,
) -> None:
    """Each row: the token's flags, the source, what is remembered, the file's stamp, an order, and whether to try."""
    error = objection(status(**flags), source, refusal=remembered, now_stamp=now_stamp, ordered=ordered)
    assert (error is None) == tried
    if error is not None:
        assert error.why
        assert error.next_step


def test_a_refusal_is_of_one_token_and_source() -> None:
    """What one token refused says nothing about another one or another source."""
    assert refusal(STAMP).is_of(IDENTITY, "x")
    assert not refusal(STAMP).is_of(IDENTITY, "y")
    assert not refusal(STAMP).is_of(TokenIdentity("label", "other", "model", "maker", "1.0", "library"), "x")


def test_a_state_folder_that_cannot_be_written_is_an_error_of_ours(shim: Shim, softhsm: CreatedToken) -> None:
    """Without a place to remember a refusal, the error says so instead of letting an OSError through."""
    blocked = softhsm.directory / "softhsm2.conf" / "state"
    with Token(shim.settings, state_dir=blocked) as client, pytest.raises(TokenError, match="state folder"):
        client.login()
    assert shim.calls("C_Login") == 0
