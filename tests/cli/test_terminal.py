"""At a terminal: the countdown keeps to its line, prompts hide what is typed, and Ctrl-C is safe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from harness.stage import Stage
from varmenne.domain.steps import State
from varmenne.service.interface import Operation

COLUMNS = 80


@dataclass
class Terminal:
    """A command at a terminal of 80 columns, and a person before it."""

    process: subprocess.Popen[bytes]
    descriptor: int
    seen: str = ""
    _raw: bytearray = field(default_factory=bytearray)

    def until(self, words: str, seconds: float = 30) -> None:
        """Look until something is shown."""
        deadline = time.monotonic() + seconds
        while words not in self.seen:
            assert time.monotonic() < deadline, self.seen
            self._look(0.1)

    def to_the_end(self, seconds: float = 60) -> int:
        """Look until the command has ended, and return its exit code."""
        deadline = time.monotonic() + seconds
        while self._look(1):
            assert time.monotonic() < deadline, self.seen
        return self.process.wait(seconds)

    def interrupt(self, seconds: float = 60) -> int:
        """Press Ctrl-C until the command has ended, as people do, and return its exit code.

        Once is not always enough: Python misses a signal that arrives just before it begins to read a line.
        """
        deadline = time.monotonic() + seconds
        pressed = 0.0
        while time.monotonic() < deadline:
            if time.monotonic() > pressed + 2:
                pressed = time.monotonic()
                self.type("\x03")
            if not self._look(0.5):
                return self.process.wait(seconds)
        raise AssertionError(self.seen)

    def type(self, keys: str) -> None:
        """Type something."""
        os.write(self.descriptor, keys.encode())

    def _look(self, seconds: float) -> bool:
        """Take in what is shown. False when there will be no more."""
        if not select.select([self.descriptor], [], [], seconds)[0]:
            return True
        try:
            chunk = os.read(self.descriptor, 65_536)
        except OSError:  # Linux says so when the last process at the terminal has gone.
            return False
        self._raw += chunk
        self.seen = self._raw.decode(errors="replace")
        return bool(chunk)

    @property
    def screen(self) -> list[str]:
        """The lines as they stand: what came after a line was cleared, without colours."""
        lines = [line.split("\x1b[2K")[-1].split("\r")[-1] for line in self.seen.replace("\r\n", "\n").split("\n")]
        return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]


@contextmanager
def at_terminal(stage: Stage, *arguments: str, columns: int = COLUMNS) -> Iterator[Terminal]:
    """Run the command line at a terminal of its own, which sends Ctrl-C as terminals do."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = stage.start(
        *arguments, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=take_terminal
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)
        os.close(master)


def enrolling(stage: Stage, customer: str, *more: str) -> list[str]:
    """Return a command that enrolls."""
    file = stage.credentials_file(stage.order(customer))
    return ["enroll", "--customer-id", customer, "--credentials", str(file), *more]


@pytest.fixture
def waiting(stage: Stage) -> Stage:
    """A stage whose certificates are not ready, and whose waits last some seconds."""
    stage.configure(service={"first_poll_seconds": 1.5, "longest_poll_seconds": 1.5})
    return stage


@pytest.mark.parametrize("more", [(), ("--no-color",)], ids=["colours", "no colours"])
def test_countdown_keeps_to_its_line(waiting: Stage, more: tuple[str, ...]) -> None:
    """The countdown rewrites one line, never wider than the terminal, and leaves nothing of it behind."""
    waiting.bench.state.fault("never-ready", count=2, operation=Operation.GET)
    with at_terminal(waiting, *enrolling(waiting, "countdown", *more)) as terminal:
        assert terminal.to_the_end() == 0
    shown = [part for part in re.split(r"\x1b\[2K|\r\n", terminal.seen) if "asking in" in part]
    assert {int(found[1]) for part in shown if (found := re.search(r"asking in (\d+) s", part))} <= {0, 1, 2}
    assert len(shown) >= 6
    assert all("Ctrl-C is safe." in part for part in shown)
    assert max(len(part.strip("\r")) for part in shown) < COLUMNS
    assert any("…; asking in" in part for part in shown)  # RetrievalId and reason are longer than the line.
    assert [line for line in terminal.screen if "asking in" in line] == []
    doing = [line for line in terminal.screen if line.startswith("•")]
    assert len(doing) == len(set(doing)), doing
    assert ("\x1b[3" in terminal.seen) is (more == ())


def test_countdown_in_a_narrow_terminal(waiting: Stage) -> None:
    """Even a terminal that is too narrow for the words is not flooded with lines."""
    with at_terminal(waiting, *enrolling(waiting, "narrow"), columns=20) as terminal:
        assert terminal.to_the_end() == 0
    shown = terminal.seen.split("\x1b[2K")[1:-1]
    assert shown
    assert all(len(part.split("\r")[0]) < 20 for part in shown[:-1])


def test_long_sentences_are_folded_between_words(stage: Stage) -> None:
    """A sentence that is wider than the terminal goes on below its beginning, and no word is cut."""
    stage.configure(service={"endpoint": "https://pkiws.vero.fi/2017/10/CertificateServices"})
    with at_terminal(stage, *enrolling(stage, "folded", "--no-color")) as terminal:
        assert terminal.to_the_end() == 4
    lines = [line for line in terminal.screen if line]
    assert max(map(len, lines)) <= COLUMNS
    first = next(number for number, line in enumerate(lines) if line.startswith("Error:"))
    assert lines[first + 1].startswith(" " * len("Error: ")), lines
    whole = stage.run("enroll", "--customer-id", "folded", "--credentials", "-", given=b"{").err
    assert len(whole.splitlines()) <= 3, whole


def test_ctrl_c_while_waiting(waiting: Stage) -> None:
    """Ctrl-C ends it with 130 and a way on; the row is free at once, and going on finishes it."""
    waiting.bench.state.fault("never-ready", count=50, operation=Operation.GET)
    with at_terminal(waiting, *enrolling(waiting, "interrupted")) as terminal:
        terminal.until("asking in")
        assert terminal.interrupt() == 130
    assert "Interrupted. What was done is safe; `varmenne resume --all` goes on." in terminal.screen
    assert "Traceback" not in terminal.seen
    (row,) = waiting.rows()
    assert (row.state, row.owner, row.problem) == (State.ACCEPTED, None, None)
    assert row.due_at is not None
    waiting.bench.state.clear_faults()
    assert waiting.run("resume", "--all").code == 0
    (row,) = waiting.rows()
    assert row.state is State.ACTIVE
    assert waiting.sent() == waiting.keys_of(row) == 1


def test_ctrl_c_with_json(waiting: Stage) -> None:
    """A program that asked for JSON gets a document then too."""
    waiting.bench.state.fault("never-ready", count=50, operation=Operation.GET)
    process = waiting.start(*enrolling(waiting, "interrupted", "--json"), start_new_session=True)
    assert process.stderr is not None
    while b"asking in" not in process.stderr.readline():
        pass
    os.killpg(process.pid, signal.SIGINT)
    out, _err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b'"exit_code": 130' in out
    (row,) = waiting.rows()
    assert row.owner is None


def test_credentials_are_asked_for(stage: Stage) -> None:
    """Without a file both are asked for; the password is not shown, and the enrollment goes through."""
    order = stage.order("asked")
    with at_terminal(stage, "enroll", "--customer-id", "asked") as terminal:
        terminal.until("Transfer ID")
        terminal.type(f"  {order.transfer_id} \n")
        terminal.until("One-time password")
        time.sleep(0.3)  # Until the terminal has been told not to echo.
        terminal.type(f"{order.one_time_password}\n")
        assert terminal.to_the_end() == 0
    assert order.one_time_password not in terminal.seen
    assert order.transfer_id in terminal.seen


def test_ctrl_c_at_the_prompt(stage: Stage) -> None:
    """Nothing has been begun when the first question is left unanswered."""
    with at_terminal(stage, "enroll", "--customer-id", "asked") as terminal:
        terminal.until("Transfer ID")
        time.sleep(0.3)  # Until it waits for the answer.
        assert terminal.interrupt() == 130
    assert stage.rows() == ()
    assert stage.bench.state.log() == []


def test_pin_is_asked_for(stage: Stage) -> None:
    """With `prompt` as its source the PIN is typed at the terminal, unseen."""
    stage.configure(token={"pin": "prompt"})
    pin = (stage.token.directory / "pin").read_text().strip()
    with at_terminal(stage, *enrolling(stage, "typed-pin")) as terminal:
        terminal.until("ser PIN")
        time.sleep(0.3)  # Until the terminal has been told not to echo.
        terminal.type(f"{pin}\n")
        assert terminal.to_the_end() == 0, terminal.seen
    assert pin not in terminal.seen
