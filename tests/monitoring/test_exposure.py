"""Metrics of a real stage, at a socket, a port and in a file; and that nothing of them can harm the agent."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from harness.scraping import scrape, series, value
from harness.stage import Stage
from harness.years import IN_THE_WINDOW, Years
from varmenne import __version__
from varmenne.clock import system_clock
from varmenne.domain.concerns import Reason
from varmenne.domain.enrollment import Enrollment
from varmenne.domain.steps import State
from varmenne.errors import ConfigError, JournalError
from varmenne.journal import Journal
from varmenne.monitoring import Event, Exposure, exposed, log_event
from varmenne.monitoring.places import MOST_CLIENTS


def _opener(stage: Stage) -> Callable[[], Journal]:
    return lambda: Journal(stage.state_dir, stage.settings.journal)


@contextmanager
def _exposed(years: Years, **metrics: Any) -> Iterator[Exposure]:
    """Expose the metrics of a stage, at its present moment."""
    years.stage.configure(metrics=metrics)
    clock = lambda: system_clock() + years.passed  # noqa: E731 - as the agent has it
    with exposed(years.stage.settings, _opener(years.stage), clock) as exposure:
        yield exposure


@pytest.fixture
def years(stage: Stage) -> Years:
    """Return a stage whose time can be moved on."""
    return Years(stage)


def _socket(stage: Stage) -> str:
    return f"unix:{stage.folder / 'metrics.sock'}"


def test_a_certificate_is_told_by_its_dates(years: Years) -> None:
    """End, renewal and the day to order are those of the journal; the labels name the enrollment, not the customer."""
    row = years.first()
    assert row.not_after is not None
    with _exposed(years, listen=_socket(years.stage)):
        text = scrape(_socket(years.stage))
        found = series(text)
        mine = {"enrollment": row.id, "environment": "test", "channel": "ws"}
        assert value(found, "varmenne_certificate_not_after_timestamp_seconds", **mine) == row.not_after.timestamp()
        due = value(found, "varmenne_certificate_renewal_due_timestamp_seconds", **mine)
        assert 55 <= (row.not_after.timestamp() - due) / 86_400 <= 60
        order_by = value(found, "varmenne_certificate_order_by_timestamp_seconds", **mine)
        assert order_by == (row.not_after - timedelta(days=21)).timestamp()
        assert value(found, "varmenne_enrollments", state="active") == 1
        assert value(found, "varmenne_enrollments", state="uncertain") == 0
        assert value(found, "varmenne_overdue") == 0
        assert value(found, "varmenne_journal_up") == 1
        assert value(found, "varmenne_build_info", version=__version__) == 1
        reasons = {dict(labels)["reason"] for name, labels in found if name == "varmenne_attention"}
        assert reasons == {reason.value for reason in Reason if reason.person and reason is not Reason.TRUST}
        assert row.customer_id not in text
        assert (row.customer_name or "?") not in text


def test_calls_are_measured_where_they_are_made(years: Years) -> None:
    """A whole enrollment, and then a service that is away: calls, seconds, errors and last successes."""
    with _exposed(years, listen=_socket(years.stage)):
        years.first()
        found = series(scrape(_socket(years.stage)))
        for part, call in (
            ("token", "Generate"),
            ("token", "Sign"),
            ("service", "getCertificate"),
            ("vault", "writing"),
        ):
            assert value(found, "varmenne_call_duration_seconds_count", part=part, call=call) >= 1
            assert value(found, "varmenne_call_duration_seconds_sum", part=part, call=call) > 0
            last = value(found, "varmenne_call_last_success_timestamp_seconds", part=part)
            assert abs(last - time.time()) < 60
        assert {number for (name, _labels), number in found.items() if name == "varmenne_call_errors_total"} == {0}
        greetings = value(found, "varmenne_call_duration_seconds_count", part="service", call="greet")
        years.stage.configure(service={"endpoint": "https://127.0.0.1:9"})
        years.stage.run("doctor")
        found = series(scrape(_socket(years.stage)))
        assert value(found, "varmenne_call_errors_total", part="service", error="ServiceUnreachable") == 1
        assert value(found, "varmenne_call_duration_seconds_count", part="service", call="greet") == greetings + 1


def test_trouble_shows(years: Years) -> None:
    """A lost answer, an overdue certificate, a failing renewal, a failed rehearsal: each is a number."""
    row = years.first()
    years.stage.bench.state.fault("drop-after-receipt")
    order = years.stage.order("7017233-8")
    years.stage.run("enroll", "--customer-id", "7017233-8", "--credentials", years.stage.credentials_file(order))
    years.pass_by(IN_THE_WINDOW)
    for _try in range(3):
        years.stage.bench.state.fault("http-503")
    years.once()
    _spoil(years, row)
    with _exposed(years, listen=_socket(years.stage)):
        found = series(scrape(_socket(years.stage)))
        assert value(found, "varmenne_enrollments", state="uncertain") == 1
        assert value(found, "varmenne_attention", reason="uncertain") == 1
        assert value(found, "varmenne_attention", reason="rehearsal") == 1
        assert value(found, "varmenne_certificate_rehearsal_ok", enrollment=row.id) == 0
        assert value(found, "varmenne_certificate_rehearsal_timestamp_seconds", enrollment=row.id) > 0
        since = value(found, "varmenne_unfinished_since_timestamp_seconds", state="uncertain")
        assert abs(since - time.time()) < 60
        assert value(found, "varmenne_certificate_renewal_failing_since_timestamp_seconds", enrollment=row.id) > 0
        years.pass_by(timedelta(days=2))
        found = series(scrape(_socket(years.stage)))
        assert value(found, "varmenne_overdue") >= 1
        assert value(found, "varmenne_overdue_since_timestamp_seconds") < (system_clock() + years.passed).timestamp()


def _spoil(years: Years, row: Enrollment) -> None:
    """Write that the rehearsal of a certificate failed."""
    with years.parts() as parts:
        failed = {"at": "2026-11-24T00:00:00Z", "ok": False, "failed": {"token": "gone"}}
        newest = parts.journal.get(row.id)
        parts.journal.commit(newest, parts.now, State.ACTIVE, step="rehearse", changes={"rehearsal": failed})


def test_a_port_of_the_loopback_serves_gzip_and_openmetrics(years: Years) -> None:
    """What Prometheus asks for in its headers is what it gets; other addresses are no setting."""
    port = _free_port()
    with _exposed(years, listen=f"127.0.0.1:{port}"):
        wanted = {"Accept": "application/openmetrics-text; version=1.0.0"}
        assert scrape(f"127.0.0.1:{port}", wanted).endswith("# EOF\n")
        assert "varmenne_journal_up 1.0" in scrape(f"127.0.0.1:{port}")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    years.stage.configure(metrics={"listen": "0.0.0.0:9105"})
    assert years.stage.run("status").code == ConfigError.exit_code


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_the_socket_is_for_user_and_group_and_is_taken_away(years: Years) -> None:
    """Mode 0660; a socket file that was left behind is replaced, one that is served or no socket is not touched."""
    path = years.stage.folder / "metrics.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with _exposed(years, listen=f"unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with pytest.raises(ConfigError, match="another process serves there"), _exposed(years, listen=f"unix:{path}"):
            pass
        assert "varmenne_journal_up 1.0" in scrape(f"unix:{path}")
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(ConfigError, match="cannot be served"), _exposed(years, listen=f"unix:{path}"):
        pass
    assert path.read_text() == "mine"


def test_a_file_is_whole_at_any_moment_and_written_at_the_end(years: Years) -> None:
    """For node_exporter's textfile collector: readable by others, no time stamps, nothing left beside it."""
    path = years.stage.folder / "textfile" / "varmenne.prom"
    with pytest.raises(ConfigError, match="cannot be written"), _exposed(years, textfile=str(path)):
        pass
    path.parent.mkdir()
    with _exposed(years, textfile=str(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert value(series(path.read_text()), "varmenne_enrollments", state="active") == 0
        years.first()
    assert value(series(path.read_text()), "varmenne_enrollments", state="active") == 1
    assert [*path.parent.iterdir()] == [path]
    assert all(
        len(line.rsplit(" ")) == 2 for line in path.read_text().splitlines() if "{" not in line and line[0] != "#"
    )


def test_a_journal_that_cannot_be_read_is_told_and_read_again_later(
    years: Years, caplog: pytest.LogCaptureFixture
) -> None:
    """The other metrics are there all the same; it is logged once, not at each scrape."""
    broken = True

    def open_journal() -> Journal:
        if broken:
            raise JournalError("The journal cannot be used")
        return Journal(years.stage.state_dir)

    years.stage.configure(metrics={"listen": _socket(years.stage)})
    with exposed(years.stage.settings, open_journal, system_clock), caplog.at_level("INFO", "varmenne"):
        for _scrape in range(2):
            found = series(scrape(_socket(years.stage)))
            assert value(found, "varmenne_journal_up") == 0
            assert value(found, "varmenne_events_total", event="woke") == 0
        assert [record.event for record in caplog.records if hasattr(record, "event")] == [Event.METRICS_FAILED]
        broken = False
        assert value(series(scrape(_socket(years.stage))), "varmenne_journal_up") == 1


def test_a_journal_that_hangs_keeps_nobody_from_ending(years: Years) -> None:
    """The agent's own thread is never the one that reads."""
    reading, release = threading.Event(), threading.Event()

    def open_journal() -> Journal:
        reading.set()
        release.wait(60)
        raise JournalError("released")

    years.stage.configure(metrics={"listen": _socket(years.stage)})
    begun = time.monotonic()
    with exposed(years.stage.settings, open_journal, system_clock):
        client = threading.Thread(target=scrape, args=(_socket(years.stage),), daemon=True)
        client.start()
        assert reading.wait(20)
        log_event(Event.WOKE)
    assert time.monotonic() - begun < 10
    release.set()
    client.join(20)


def test_clients_that_say_nothing_do_not_pile_up(years: Years) -> None:
    """A few are served at once; more are hung up on, and when they have gone others are served again."""
    path = str(years.stage.folder / "metrics.sock")
    with _exposed(years, listen=f"unix:{path}"):
        before = threading.active_count()
        silent = []
        for _client in range(3 * MOST_CLIENTS):
            client = socket.socket(socket.AF_UNIX)
            client.connect(path)
            client.settimeout(20)
            silent.append(client)
        assert silent[-1].recv(1) == b""
        assert threading.active_count() - before <= MOST_CLIENTS
        for client in silent:
            client.close()
        deadline = time.monotonic() + 20
        while threading.active_count() > before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "varmenne_journal_up" in scrape(f"unix:{path}")


def test_other_settings_move_it_and_keep_what_was_counted(years: Years) -> None:
    """A place that cannot be used is refused, and the old one serves on."""
    first, second = years.stage.folder / "one.sock", years.stage.folder / "two.sock"
    with _exposed(years, listen=f"unix:{first}") as exposure:
        log_event(Event.WOKE)
        years.stage.configure(metrics={"listen": f"unix:{second}"}, renewal={"lead_days": 30.0})
        exposure.reload(years.stage.settings)
        assert value(series(scrape(f"unix:{second}")), "varmenne_events_total", event="woke") == 1
        assert not first.exists()
        years.stage.configure(metrics={"listen": "unix:/nonexistent/metrics.sock"})
        with pytest.raises(ConfigError):
            exposure.reload(years.stage.settings)
        log_event(Event.WOKE)
        assert value(series(scrape(f"unix:{second}")), "varmenne_events_total", event="woke") == 2
    assert not second.exists()


def test_without_settings_nothing_is_loaded_and_nothing_is_counted(years: Years) -> None:
    """The library is slow to load, and most commands have no metrics."""
    script = (
        "import pathlib, sys\n"
        "from varmenne.monitoring import exposed, log_event, Event\n"
        "from varmenne.settings import load_settings\n"
        "from varmenne.clock import system_clock\n"
        f"with exposed(load_settings(pathlib.Path({str(years.stage.config)!r})), None, system_clock):\n"
        "    log_event(Event.WOKE)\n"
        "sys.exit('prometheus_client' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0
