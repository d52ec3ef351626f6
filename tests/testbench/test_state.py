"""Durable state: what was answered survives any end of the server, and other processes work beside it."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import rsa

from harness.bench import StartBench, copy_keys
from testbench.stranger import CUSTOMER, Stranger, csr, get, kept, sign_new
from varmenne.errors import InputError, StateError
from varmenne.testbench.server import BenchServer
from varmenne.testbench.state import BenchState, parse_moment, parse_span


class Subprocess:
    """A bench in a process of its own, as far as a :class:`Stranger` needs to know it."""

    def __init__(self, directory: Path, *options: str) -> None:
        command = [sys.executable, "-m", "varmenne", "testbench", "serve", "--state", str(directory), "--json"]
        self.process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.line = self.process.stdout.readline()
        if not self.line:
            _out, err = self.process.communicate(timeout=10)
            raise AssertionError(err)
        self.facts = json.loads(self.line)
        self.url = self.facts["url"]
        self.tls_ca = Path(self.facts["tls_ca"])
        self.trust_dir = Path(self.facts["trust"])
        self.state = BenchState.open(directory)

    def end(self, number: int) -> tuple[int, str, str]:
        """Send a signal, and return exit code and what was printed since."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@contextlib.contextmanager
def served(directory: Path, *options: str) -> Iterator[Subprocess]:
    """Serve a folder in a process of its own, and kill it at the end if it still runs."""
    bench = Subprocess(directory, *options)
    try:
        yield bench
    finally:
        if bench.process.poll() is None:
            bench.end(signal.SIGKILL)


@pytest.fixture
def folder(bench_keys: Path, tmp_path: Path) -> Path:
    """A folder with keys, for a bench that is to be made."""
    copy_keys(bench_keys, tmp_path / "bench")
    return tmp_path / "bench"


def test_accepted_requests_survive_kill(folder: Path, keys: Sequence[rsa.RSAPrivateKey]) -> None:
    """After kill -9 the RetrievalId, the used transfer ID, the log and the URL are as before."""
    with served(folder, "--delay", "0") as first:
        stranger = Stranger(first, keys)  # type: ignore[arg-type]  # has what a stranger uses
        order = stranger.order()
        accepted = stranger.call(sign_new(order, csr(keys[0])))
        before = kept(folder)
        first.end(signal.SIGKILL)
    with served(folder, "--delay", "0") as second:
        stranger = Stranger(second, keys)  # type: ignore[arg-type]  # has what a stranger uses
        issued = stranger.call(get(accepted.text("RetrievalId")))
        again = stranger.call(sign_new(order, csr(keys[1])))
        assert (accepted.result, issued.result, again.result) == ("OK", "OK", "PKI113")
        assert (second.url, kept(folder)) == (first.url, before)
        assert [line.status for line in second.state.log()] == ["OK", "OK", "FAIL:PKI113"]


def test_kill_in_the_middle_of_requests_leaves_nothing_half_done(
    folder: Path, keys: Sequence[rsa.RSAPrivateKey]
) -> None:
    """Whenever the server ends, an order is spent exactly if its certificate is kept; what was answered is kept."""
    with served(folder) as bench:
        stranger = Stranger(bench, keys)  # type: ignore[arg-type]  # has what a stranger uses
        answered: list[str] = []

        def submit(request: bytes) -> None:
            order = stranger.order()
            with contextlib.suppress(requests.RequestException):
                answered.append(stranger.call(sign_new(order, request)).text("RetrievalId"))

        threads = [threading.Thread(target=submit, args=(csr(key),)) for key in keys]
        for thread in threads:
            thread.start()
        threads[0].join()
        bench.end(signal.SIGKILL)
        for thread in threads[1:]:
            thread.join()
    orders, issued = kept(folder)
    with contextlib.closing(sqlite3.connect(folder / "bench.sqlite3")) as db:
        certified = {row[0] for row in db.execute("SELECT transfer_id FROM issued")}
    assert {transfer_id for transfer_id, used_at, _until in orders if used_at} == certified
    assert set(answered) <= {row[0] for row in issued}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_the_server_cleanly(folder: Path, number: int) -> None:
    """One line on stdout, exit code 0, and not a word on stderr."""
    with served(folder) as bench:
        facts = {"url": bench.url, "tls_ca": str(folder / "tls-ca.pem"), "trust": str(folder / "trust")}
        assert json.loads(bench.line) == facts
        assert (folder / "url").read_text() == f"{bench.url}\n"
        assert bench.end(number) == (0, "", "")


def test_commands_in_other_processes_work_beside_a_server(
    start_bench: StartBench, keys: Sequence[rsa.RSAPrivateKey]
) -> None:
    """Orders and the clock are seen by the running server at once."""
    stranger = Stranger(start_bench(), keys)
    beside = BenchState.open(stranger.bench.state.directory)
    order = beside.order(CUSTOMER)
    beside.advance_clock(timedelta(days=15))
    late = stranger.call(sign_new(order, csr(keys[0])))
    beside.reset_clock()
    assert (late.result, stranger.call(sign_new(order, csr(keys[0]))).result) == ("PKI114", "OK")
    assert [line.status for line in beside.log()] == ["FAIL:PKI114", "OK"]


def test_one_folder_has_one_server(bench: BenchServer) -> None:
    """A second server would answer with another delay or language: it is refused and changes nothing."""
    url = (bench.state.directory / "url").read_text()
    with pytest.raises(StateError, match="in use"):
        BenchServer(BenchState.open(bench.state.directory)).start()
    assert (bench.state.directory / "url").read_text() == url
    assert bench.url


def test_a_port_that_is_taken_is_refused(bench: BenchServer, tmp_path: Path) -> None:
    """The message names it; the folder can be served at another port afterwards."""
    port = int(bench.url.split(":")[2].partition("/")[0])
    other = BenchServer(BenchState.create(tmp_path / "other"), port=port)
    with pytest.raises(InputError, match=f"port {port}"):
        other.start()
    with BenchServer(BenchState.open(tmp_path / "other")) as free:
        assert free.url != bench.url


def test_a_last_port_taken_by_somebody_else_is_no_obstacle(
    start_bench: StartBench, keys: Sequence[rsa.RSAPrivateKey]
) -> None:
    """Without --port the bench goes to another one, even for what it publishes."""
    import socket

    bench = start_bench()
    port, publication = int(bench.url.split(":")[2].partition("/")[0]), bench.state.publication_port()
    bench.stop()
    with socket.create_server(("127.0.0.1", port)), socket.create_server(("127.0.0.1", publication)):
        bench.start()
        assert f":{port}/" not in bench.url
        assert Stranger(bench, keys).call(get("unknown")).result == "PKI130"


def test_orders_at_once_from_many_threads(bench: BenchServer) -> None:
    """Each gets a transfer ID of its own."""
    orders: list[str] = []
    threads = [
        threading.Thread(target=lambda: orders.append(bench.state.order(CUSTOMER).transfer_id)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(orders)) == 8


def test_the_clock_runs_on_from_where_it_is_set(bench: BenchServer) -> None:
    """It is an offset: kept in the folder, added to the computer's time, and taken away by a reset."""
    moment = datetime(2028, 10, 1, 12, tzinfo=UTC)
    assert timedelta(0) <= bench.state.set_clock(moment) - moment < timedelta(seconds=5)
    assert timedelta(0) <= bench.state.now() - moment < timedelta(seconds=5)
    bench.state.advance_clock(timedelta(days=-1))
    assert (
        timedelta(0) <= BenchState.open(bench.state.directory).now() - moment + timedelta(days=1) < timedelta(seconds=5)
    )
    assert abs(bench.state.reset_clock() - datetime.now(UTC)) < timedelta(seconds=5)


def test_a_clock_can_be_passed_in(tmp_path: Path) -> None:
    """Simulations count from a clock of their own, which may stand still."""
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    state = BenchState.create(tmp_path / "bench", clock=lambda: moment)
    assert state.now() == moment
    assert state.advance_clock(timedelta(days=1)) == datetime(2030, 1, 2, tzinfo=UTC)
    assert state.order(CUSTOMER).valid_until == datetime(2030, 1, 16, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "30", "d", "1y", "1.5d", "30 d", "9999999999d"])
def test_spans_that_are_none_are_refused(text: str) -> None:
    """A number and a unit, nothing else."""
    with pytest.raises(InputError):
        parse_span(text)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("90s", timedelta(seconds=90)),
        ("10m", timedelta(minutes=10)),
        ("-12h", timedelta(hours=-12)),
        ("+30d", timedelta(days=30)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_spans_are_a_number_and_a_unit(text: str, span: timedelta) -> None:
    """Seconds to weeks, forwards and backwards."""
    assert parse_span(text) == span


def test_moments_are_iso_8601() -> None:
    """With an offset or in UTC; other texts are refused."""
    noon = datetime(2028, 10, 1, 12, tzinfo=UTC)
    assert [parse_moment(t) for t in ("2028-10-01T12:00:00Z", "2028-10-01T14:00:00+02:00", "2028-10-01 12:00")] == [
        noon
    ] * 3
    with pytest.raises(InputError):
        parse_moment("tomorrow")


@pytest.mark.parametrize("change", [timedelta(days=3_000_000), timedelta(days=-900_000)])
def test_a_clock_beyond_all_years_is_refused(bench: BenchServer, change: timedelta) -> None:
    """There are no years after 9999 and none before 1; the clock stays where it was."""
    with pytest.raises(InputError):
        bench.state.advance_clock(change)
    assert abs(bench.state.now() - datetime.now(UTC)) < timedelta(seconds=5)


@pytest.mark.parametrize(
    ("customer", "name"), [("", None), ("x" * 31, None), ("a\nb", None), ("x", ""), ("x", "n" * 101)]
)
def test_orders_that_the_schema_would_refuse_are_not_taken(bench: BenchServer, customer: str, name: str | None) -> None:
    """The limits of the service's schema hold for the e-service as well."""
    before = kept(bench.state.directory)
    with pytest.raises(InputError):
        bench.state.order(customer, name=name)
    assert kept(bench.state.directory) == before


def test_a_folder_without_a_bench_stays_as_it_is(tmp_path: Path) -> None:
    """A mistyped folder is not made by asking for its log."""
    with pytest.raises(InputError, match="no bench"):
        BenchState.open(tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    """A folder cannot be made where a file is."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError):
        BenchState.create(tmp_path / "file")


def test_state_of_another_version_or_kind_is_refused(tmp_path: Path) -> None:
    """It is neither used nor overwritten."""
    for name, content in (("version", None), ("noise", b"not a database" * 100)):
        folder = tmp_path / name
        state = BenchState.create(folder)
        database = state.directory / "bench.sqlite3"
        if content:
            database.write_bytes(content)
        else:
            with contextlib.closing(sqlite3.connect(database)) as db:
                db.execute("PRAGMA user_version = 99")
        before = database.read_bytes()
        with pytest.raises(StateError):
            BenchState.open(folder)
        assert database.read_bytes() == before


def test_revoking_what_was_not_issued_is_refused(bench: BenchServer) -> None:
    """A serial number that this bench does not know."""
    with pytest.raises(InputError):
        bench.state.revoke(1)
    assert bench.state.store.revoked() == []


def test_the_url_is_known_only_while_it_runs(tmp_path: Path) -> None:
    """A bench that does not run has no URL."""
    bench = BenchServer(BenchState.create(tmp_path / "bench"))
    with pytest.raises(RuntimeError, match="not running"):
        _ = bench.url
    bench.stop()
