"""The agent as a process: its metrics, its log and its end."""

from __future__ import annotations

import json
import signal
import time
from datetime import timedelta

from harness.scraping import Series, scrape, series, value
from harness.stage import PATIENCE_SECONDS, Stage
from harness.years import IN_THE_WINDOW, Years
from varmenne import __version__
from varmenne.clock import system_clock
from varmenne.journal import Journal
from varmenne.monitoring import exposed


def _scraped(place: str) -> Series:
    """Read metrics as soon as they are served."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return series(scrape(place))
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_service_shows_metrics_and_logs_events(stage: Stage) -> None:
    """It counts its wake-ups and calls, says each event in one line, and takes its socket away when it ends."""
    years = Years(stage)
    row = years.first()
    with years.parts() as parts:
        parts.journal.release(parts.journal.get(row.id), parts.now, due_at=parts.now - timedelta(seconds=1))
    path = stage.folder / "metrics.sock"
    stage.configure(metrics={"listen": f"unix:{path}"}, agent={"log_format": "json"})
    with stage.start("run") as process:
        deadline = time.monotonic() + PATIENCE_SECONDS
        found = _scraped(f"unix:{path}")
        while ("varmenne_certificate_rehearsal_ok", _labels(row.id)) not in found:
            assert time.monotonic() < deadline
            time.sleep(0.2)
            found = _scraped(f"unix:{path}")
        assert value(found, "varmenne_certificate_rehearsal_ok", enrollment=row.id) == 1
        assert value(found, "varmenne_events_total", event="woke") >= 1
        assert value(found, "varmenne_events_total", event="started") == 1
        assert value(found, "varmenne_call_duration_seconds_count", part="token", call="Sign") >= 1
        assert value(found, "varmenne_build_info", version=__version__) == 1
        process.send_signal(signal.SIGTERM)
        _out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, err.decode()
    assert not path.exists()
    events = [json.loads(line)["event"] for line in err.decode().splitlines()]
    assert events[0] == "started"
    assert events[-2:] == ["stopping", "stopped"]
    assert "done" in events


def _labels(enrollment: str) -> frozenset[tuple[str, str]]:
    return frozenset({"environment": "test", "channel": "ws", "enrollment": enrollment}.items())


def test_a_timer_leaves_a_file(stage: Stage) -> None:
    """`run --once` writes the file at its end, and leaves the socket to an agent that may run beside it."""
    path, file = stage.folder / "metrics.sock", stage.folder / "varmenne.prom"
    stage.configure(metrics={"listen": f"unix:{path}", "textfile": str(file)})
    years = Years(stage)
    years.first()
    done = stage.command("run", "--once", "--wait", "0")
    assert done.code == 0, done.err
    found = series(file.read_text())
    assert value(found, "varmenne_events_total", event="woke") >= 1
    assert value(found, "varmenne_enrollments", state="active") == 1
    assert not path.exists()


def test_a_renewal_is_counted(stage: Stage) -> None:
    """A renewal from its begin to its use: each state is an event, and the dates are those of the new certificate."""
    years = Years(stage)
    first = years.first()
    years.pass_by(IN_THE_WINDOW)
    file = stage.folder / "varmenne.prom"
    stage.configure(metrics={"textfile": str(file)})
    with exposed(stage.settings, lambda: Journal(stage.state_dir), lambda: system_clock() + years.passed):
        years.once()
    found = series(file.read_text())
    reached = ("prepared", "keyed", "accepted", "issued", "stored", "active")
    assert [value(found, "varmenne_events_total", event=name) for name in reached] == [1] * len(reached)
    second = years.rows()[-1]
    assert (second.id, second.replaces) != (first.id, None)
    assert second.not_after is not None
    ends = value(found, "varmenne_certificate_not_after_timestamp_seconds")
    assert ends == second.not_after.timestamp()
