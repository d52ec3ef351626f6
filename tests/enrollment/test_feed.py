"""Feeds of the audit log: each record at least once, in order, with its number, from where the receiver has come."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.siem import Siem, address, siem
from harness.stage import Stage
from varmenne.clock import system_clock
from varmenne.domain.audit import AuditRecord
from varmenne.enrollment.evidence import receivers
from varmenne.enrollment.evidence.feed import BATCH, Feed, Form, follow
from varmenne.enrollment.evidence.receivers import receiver
from varmenne.errors import EvidenceError, FeedFailed, InputError
from varmenne.journal import Journal
from varmenne.journal.restore import restore
from varmenne.settings import JournalSettings
from varmenne.testbench.tls import server_context

HEADER = re.compile(rb"<(\d+)>1 (\S+) (\S+) varmenne - (\S+) - ")


def add(journal: Journal, number: int, **facts: Any) -> None:
    """Append so many records."""
    for _ in range(number):
        journal.log.add(AuditRecord(at=system_clock(), actor="maija", host="å host", act="acknowledge", **facts))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal with three records."""
    with Journal(tmp_path / "state") as made:
        add(made, 2)
        add(made, 1, outcome="failed", reason="Åland")
        yield made


def feed(journal: Journal, to: str, position: Path | None = None, form: Form = Form.JSON, **options: Any) -> Feed:
    """A feed to an address."""
    send = receiver(to, counted=form is Form.SYSLOG, **options)
    return Feed(journal.log, send, form, position, system_clock)


def indexes(lines: list[dict[str, Any]]) -> list[int]:
    """The numbers of the records among messages."""
    return [line["index"] for line in lines if "index" in line]


def test_lines_are_appended_to_a_file(journal: Journal, tmp_path: Path) -> None:
    """Each has the record's number and its exact bytes; the next feed goes on after the last."""
    out, position = tmp_path / "audit.jsonl", tmp_path / "position"
    assert feed(journal, str(out), position).drain() == 3
    bodies = [body for _index, body in journal.log.records()]
    for index, (line, body) in enumerate(zip(out.read_bytes().splitlines(), bodies, strict=True)):
        assert line.endswith(b'"record":' + body + b"}")
        assert json.loads(line) == {
            "index": index,
            "origin": journal.log.head().origin,
            "record": json.loads(body),
        }
    assert out.stat().st_mode & 0o777 == position.stat().st_mode & 0o777 == 0o600
    assert feed(journal, str(out), position).drain() == 0
    add(journal, 1)
    assert feed(journal, str(out), position).drain() == 1
    assert indexes([json.loads(line) for line in out.read_bytes().splitlines()]) == [0, 1, 2, 3]


def test_without_a_position_all_is_sent(journal: Journal, tmp_path: Path) -> None:
    """Nothing is kept then, but for the feed's own life."""
    out = tmp_path / "audit.jsonl"
    one = feed(journal, str(out))
    assert [one.drain(), one.drain(), feed(journal, str(out)).drain()] == [3, 0, 3]


def test_a_line_that_was_cut_is_ended(journal: Journal, tmp_path: Path) -> None:
    """What a crash has left of a line does not spoil the record that comes again."""
    out = tmp_path / "audit.jsonl"
    out.write_bytes(b'{"index":0,"origin":"varm')
    feed(journal, str(out)).drain()
    assert indexes([json.loads(line) for line in out.read_bytes().splitlines()[1:]]) == [0, 1, 2]


def test_syslog_over_a_stream(journal: Journal, tmp_path: Path) -> None:
    """Messages of RFC 5424 with their length before them; what failed is a warning."""
    with siem() as to:
        assert feed(journal, address(to), tmp_path / "position", Form.SYSLOG).drain() == 3
    messages = to.frames()
    assert len(messages) == 3
    assert b"".join(b"%d %s" % (len(message), message) for message in messages) == b"".join(to.data)
    headers = [HEADER.match(message) for message in messages]
    assert [int(header[1]) for header in headers if header] == [13 * 8 + 5, 13 * 8 + 5, 13 * 8 + 4]
    for (index, body), header, message in zip(journal.log.records(), headers, messages, strict=True):
        assert header is not None
        text, record = json.loads(message[header.end() :]), json.loads(body)
        assert (text["index"], text["record"]) == (index, record)
        assert [part.decode() for part in header.groups()[1:]] == [record["at"], "__host", "acknowledge"]


def test_tls(journal: Journal, tmp_path: Path) -> None:
    """A receiver that proves its name is fed; one that does not gets nothing, and the position stays."""
    position = tmp_path / "position"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    context = server_context(tmp_path / "one", tmp_path / "one" / "ca.pem", system_clock())
    server_context(tmp_path / "two", tmp_path / "two" / "ca.pem", system_clock())
    with siem(context) as to:
        with pytest.raises(FeedFailed, match="did not take"):
            feed(journal, address(to, "tls"), position, ca_file=tmp_path / "two" / "ca.pem").drain()
        assert (to.size, position.exists()) == (0, False)
        assert feed(journal, address(to, "tls"), position, ca_file=tmp_path / "one" / "ca.pem").drain() == 3
    assert indexes(to.lines()) == [0, 1, 2]


def test_sockets_of_this_host(journal: Journal, tmp_path: Path) -> None:
    """Of either kind: each message is a datagram, or they are a stream."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / "log"))
        assert feed(journal, f"unix:{tmp_path / 'log'}", form=Form.SYSLOG).drain() == 3
        assert all(HEADER.match(log.recv(65_536)) for _ in range(3))
    with siem(path=tmp_path / "stream") as to:
        assert feed(journal, f"unix:{tmp_path / 'stream'}").drain() == 3
    assert indexes(to.lines()) == [0, 1, 2]


@pytest.mark.parametrize("to", ["udp://127.0.0.1:514", "tcp://127.0.0.1", "https://siem"])
def test_what_cannot_be_fed(to: str) -> None:
    """Nobody would know what was taken by UDP; an address without a port is none."""
    with pytest.raises(InputError, match="cannot be fed"):
        receiver(to, counted=False)


def test_a_receiver_that_dies_gets_it_again(journal: Journal, tmp_path: Path) -> None:
    """That the connection took the bytes is not enough: the position stays until the receiver has read them."""
    position = tmp_path / "position"
    with siem() as to:
        to.dies = 1
        with pytest.raises(FeedFailed):
            feed(journal, address(to), position).drain()
        assert not position.exists()
        assert feed(journal, address(to), position).drain() == 3
    add(journal, 1)
    with pytest.raises(FeedFailed, match="did not take"):  # It is gone.
        feed(journal, address_of_nobody(), position).drain()
    with siem() as to:
        assert feed(journal, address(to), position).drain() == 1


def address_of_nobody() -> str:
    """An address where nobody listens."""
    with socket.socket() as once:
        once.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{once.getsockname()[1]}"


def test_a_receiver_that_says_nothing(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that never ends its side is not waited for longer than the limit."""
    monkeypatch.setattr(receivers, "TIMEOUT_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(FeedFailed):
            feed(journal, f"tcp://127.0.0.1:{silent.getsockname()[1]}", tmp_path / "position").drain()
    assert not (tmp_path / "position").exists()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"origin":"a","next":"1","root":"","first":""}', b"\xff"])
def test_a_file_that_is_no_position(journal: Journal, tmp_path: Path, content: bytes) -> None:
    """It is not overwritten: it may be something of somebody's."""
    position = tmp_path / "position"
    position.write_bytes(content)
    with pytest.raises(InputError, match="no position"):
        feed(journal, str(tmp_path / "out"), position)
    assert position.read_bytes() == content


@pytest.mark.parametrize("taken_more", [True, False], ids=["taken more than the backup has", "taken less"])
def test_a_restored_log_goes_on(tmp_path: Path, *, taken_more: bool) -> None:
    """It is told, and all that the receiver cannot have comes: from the backup's end on, or from where it was."""
    state, out, position, backup = (tmp_path / name for name in ("state", "out", "position", "backup"))
    with Journal(state) as journal:
        add(journal, 3)
        if not taken_more:
            feed(journal, str(out), position).drain()
            add(journal, 2)
        size = journal.log.head().size
        journal.backup(backup)
        add(journal, 4)
        before = journal.log.head().origin
        if taken_more:
            feed(journal, str(out), position).drain()
    restore(state, JournalSettings(), backup, system_clock())
    with Journal(state) as journal:
        add(journal, 1)
        total = journal.log.head().size
        assert feed(journal, str(out), position).drain() == total - 3
        lines = [json.loads(line) for line in out.read_bytes().splitlines()]
        (told,) = (line for line in lines if "event" in line)
        assert (told["event"], told["before"], told["from"]) == ("log-restored", before, 3)
        assert told["origin"] == journal.log.head().origin != before
        after = lines[lines.index(told) + 1 :]
        assert indexes(after) == [*range(3, total)]
        assert "restore" in {line["record"]["act"] for line in after}
        assert feed(journal, str(out), position).drain() == 0
    assert size == (3 if taken_more else 5)


def test_a_log_that_was_put_back_is_told(tmp_path: Path) -> None:
    """An older copy in its place, without a restore: the receiver hears of it, and nothing is fed any more."""
    state, out, position = tmp_path / "state", tmp_path / "out", tmp_path / "position"
    with Journal(state) as journal:
        add(journal, 3)
    shutil.copytree(state, tmp_path / "old")
    with Journal(state) as journal:
        add(journal, 3)
        feed(journal, str(out), position).drain()
    shutil.rmtree(state)
    shutil.copytree(tmp_path / "old", state)
    with Journal(state) as journal:
        with pytest.raises(EvidenceError, match="not any more what was fed"):
            feed(journal, str(out), position).drain()
        add(journal, 4)
        with pytest.raises(EvidenceError, match="its first 6 records are others"):
            feed(journal, str(out), position).drain()
    lines = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert [line.get("event") for line in lines] == [None] * 6 + ["log-rewritten"] * 2


def test_a_feed_that_follows_tries_again(journal: Journal, tmp_path: Path) -> None:
    """It sends what comes, waits longer after each failure, and ends only with its process."""
    pauses: list[float] = []
    failed: list[FeedFailed] = []

    class Over(Exception):
        """The test has seen enough."""

    with siem() as to:

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 1:
                to.dies = 2
            if len(pauses) == 5:
                raise Over
            add(journal, 1)

        with pytest.raises(Over):
            follow(feed(journal, address(to), tmp_path / "position"), failed.append, sleep)
    assert pauses == [1.0, 2.0, 4.0, 1.0, 1.0]
    assert len(failed) == 2
    assert indexes(to.lines()) == [0, 1, 2, 3, 4, 5, 6]


def started(stage: Stage, to: Siem, *more: str) -> subprocess.Popen[bytes]:
    """Start a feed as a process of its own."""
    position = stage.folder / "position"
    return stage.start("audit", "feed", "--to", address(to), "--position", position, *more)


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to it"
        time.sleep(0.01)


def test_killed_in_between(stage: Stage) -> None:
    """Whatever was under way when it was killed, all records come, none is left out, and they come in order."""
    records = 5 * BATCH + 17
    with stage.parts() as parts:
        add(parts.journal, records)
        total = parts.journal.log.head().size
    with siem() as to:
        to.pause = 0.02
        for share in (0.1, 0.3, 0.5, 0.7):
            with started(stage, to) as process:
                until(lambda share=share: to.size > share * records * 350)  # type: ignore[misc]  # mypy and defaults
                process.send_signal(signal.SIGKILL)
                assert process.wait() == -signal.SIGKILL
        to.pause = 0.0
        with started(stage, to) as process:
            assert process.wait(60) == 0
    seen = indexes(to.lines())
    assert {*seen} == {*range(total)}
    firsts = list(dict.fromkeys(seen))
    assert firsts == sorted(firsts)
    assert len(seen) <= total + 4 * 2 * BATCH


def test_a_feed_that_follows_as_a_process(stage: Stage) -> None:
    """What is done by another process comes while it runs; a service manager ends it."""
    with siem() as to, started(stage, to, "--follow") as process:
        try:
            until(lambda: bool(to.data))
            before = to.size
            with stage.parts() as parts:
                add(parts.journal, 1)
            until(lambda: to.size > before)
        finally:
            process.terminate()
        process.wait(30)
    assert to.lines()[-1]["record"]["act"] == "acknowledge"


def test_the_command(stage: Stage) -> None:
    """Records go to standard output exactly; a receiver that is not there ends it with its own exit code."""
    said = stage.command("audit", "feed")
    with stage.parts() as parts:
        bodies = [body.decode() for _index, body in parts.journal.log.records()]
    assert said.code == 0
    assert [line.partition('"record":')[2][:-1] for line in said.out.splitlines()] == bodies
    lost = stage.run("audit", "feed", "--to", address_of_nobody())
    assert (lost.code, "sent again" in lost.err) == (FeedFailed.exit_code, True)
    out = stage.folder / "audit.jsonl"
    told = stage.run("audit", "feed", "--to", str(out), "--position", str(stage.folder / "p"), "--json")
    assert (told.code, told.json) == (0, {"records": len(bodies)})
