"""``varmenne testbench``: what people and scripts see."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from testbench.stranger import CUSTOMER, NAME, Stranger, csr, get, sign_new
from varmenne.cli.common import App
from varmenne.cli.testbench import testbench as group
from varmenne.domain.credentials import parse_credentials
from varmenne.errors import InputError
from varmenne.testbench.faults import FAULTS
from varmenne.testbench.server import BenchServer
from varmenne.testbench.state import BenchState


def run(bench: BenchServer, command: str, *options: str) -> Result:
    """Run a command on a bench's folder, in this process."""
    arguments = [command, "--state", str(bench.state.directory), *options]
    return CliRunner().invoke(group, arguments, obj=App(), standalone_mode=False)


def test_an_order_as_json_has_exactly_four_keys(bench: BenchServer) -> None:
    """Other programs read it; the 14 days are counted by the bench's clock."""
    result = run(bench, "order", "--customer-id", CUSTOMER, "--customer-name", NAME, "--channel", "sftp", "--json")
    order = json.loads(result.stdout)
    valid_until = datetime.fromisoformat(order["valid_until"])
    assert list(order) == ["customer_id", "transfer_id", "one_time_password", "valid_until"]
    assert (order["customer_id"], result.stdout.count("\n")) == (CUSTOMER, 1)
    assert abs(valid_until - datetime.now(UTC) - timedelta(days=14)) < timedelta(seconds=10)
    assert 1 <= len(order["one_time_password"]) <= 16
    stored = bench.state.store.find_order(order["transfer_id"])
    assert stored
    assert (stored.customer_name, stored.channel) == (NAME, "sftp")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_varmenne_reads_both_forms_of_an_order(bench: BenchServer, options: list[str]) -> None:
    """What the bench prints is what ``enroll --credentials`` takes."""
    credentials = parse_credentials(run(bench, "order", "--customer-id", CUSTOMER, *options).stdout)
    stored = bench.state.store.find_order(credentials.transfer)
    assert stored
    assert (credentials.customer, credentials.valid_until) == (CUSTOMER, stored.valid_until)


def test_an_order_for_people_is_like_a_mail(bench: BenchServer) -> None:
    """Name and value, a line each."""
    lines = run(bench, "order", "--customer-id", CUSTOMER).stdout.splitlines()
    names = [line.partition(": ")[0] for line in lines]
    assert names == ["customer id", "transfer id", "one time password", "valid until"]


def test_the_log_has_a_line_of_json_for_every_request(stranger: Stranger) -> None:
    """Exact keys: the transfer ID only where the request had one, a fault only where one was switched on."""
    order = stranger.order()
    stranger.call(sign_new(order, csr(stranger.keys[0])))
    stranger.bench.state.fault("http-503")
    stranger.call(get("unknown"))
    stranger.call(get("unknown"))
    stranger.post(b"nonsense")
    stranger.bench.state.fault("drop-unread")
    with pytest.raises(Exception, match=r".*"):  # the connection ends
        stranger.call(get("unknown"))
    lines = [json.loads(line) for line in run(stranger.bench, "log", "--json").stdout.splitlines()]
    for line in lines:
        assert datetime.fromisoformat(line.pop("at")).tzinfo
    getting: dict[str, Any] = {"operation": "getCertificate", "customer_id": CUSTOMER}
    assert lines == [
        {
            "operation": "signNewCertificate",
            "transfer_id": order.transfer_id,
            "customer_id": CUSTOMER,
            "status": "OK",
        },
        {**getting, "status": "HTTP 503", "fault": "http-503"},
        {**getting, "status": "FAIL:PKI130"},
        {"operation": None, "customer_id": None, "status": "FAULT"},
        {**getting, "status": "DROPPED", "fault": "drop-unread"},
    ]


def test_the_log_for_people_has_the_same_words(stranger: Stranger) -> None:
    """One line a request, a dash where something is missing."""
    stranger.bench.state.fault("temporary-error")
    stranger.call(get("unknown"))
    (line,) = run(stranger.bench, "log").stdout.splitlines()
    assert line.split("  ")[1:] == ["getCertificate", CUSTOMER, "-", "FAIL:PKI001", "(fault temporary-error)"]


def test_the_clock_is_shown_set_advanced_and_reset(bench: BenchServer) -> None:
    """Each way prints the new time, for people or programs."""
    texts = [
        run(bench, "clock", "--set", "2030-01-01T00:00:00Z").stdout,
        run(bench, "clock", "--advance", "30d").stdout,
        run(bench, "clock").stdout,
    ]
    moments = [datetime.fromisoformat(text.strip()) for text in texts]
    now = json.loads(run(bench, "clock", "--reset", "--json").stdout)["now"]
    assert [f"{moment:%Y-%m-%d %H:%M}" for moment in moments] == [
        "2030-01-01 00:00",
        "2030-01-31 00:00",
        "2030-01-31 00:00",
    ]
    assert abs(datetime.fromisoformat(now) - datetime.now(UTC)) < timedelta(seconds=10)


def test_the_clock_is_set_in_one_way_at_a_time(bench: BenchServer) -> None:
    """Two ways at once are a misuse, and the clock stays."""
    result = run(bench, "clock", "--reset", "--advance", "30d")
    assert isinstance(result.exception, click.UsageError)
    assert abs(bench.state.now() - datetime.now(UTC)) < timedelta(seconds=10)


def test_faults_are_listed_switched_on_and_cleared(stranger: Stranger) -> None:
    """`list` shows the table; `none` ends even a fault without a count."""
    assert json.loads(run(stranger.bench, "fault", "list", "--json").stdout) == {
        name: fault.meaning for name, fault in FAULTS.items()
    }
    assert all(name in run(stranger.bench, "fault", "list").stdout for name in FAULTS)
    run(stranger.bench, "fault", "http-503", "--count", "0", "--operation", "getCertificate")
    down = [stranger.call(get("unknown")).status for _ in range(3)]
    run(stranger.bench, "fault", "none")
    assert [*down, stranger.call(get("unknown")).status] == [503, 503, 503, 200]


def test_a_serial_number_as_openssl_prints_it_is_revoked(stranger: Stranger) -> None:
    """Hexadecimal, with or without colons; anything else is refused."""
    from cryptography import x509

    serial = x509.load_der_x509_certificate(stranger.enroll()).serial_number
    colons = ":".join(f"{byte:02X}" for byte in serial.to_bytes(20, "big"))
    assert isinstance(run(stranger.bench, "revoke", "no number").exception, InputError)
    assert stranger.bench.state.store.revoked() == []
    assert run(stranger.bench, "revoke", colons).exit_code == 0
    assert [found for found, _at in stranger.bench.state.store.revoked()] == [serial]


@pytest.mark.parametrize("command", ["order --customer-id x", "log", "clock", "fault none", "revoke 1"])
def test_commands_do_not_make_a_bench(tmp_path: Path, command: str) -> None:
    """Only `serve` does; the others name the way, and leave no folder behind."""
    name, *options = command.split()
    arguments = [name, "--state", str(tmp_path / "none"), *options]
    result = CliRunner().invoke(group, arguments, obj=App(), standalone_mode=False)
    assert isinstance(result.exception, InputError)
    assert "testbench serve" in result.exception.next_step
    assert list(tmp_path.iterdir()) == []


def test_importing_the_commands_loads_no_heavy_library() -> None:
    """`varmenne --help` reads this module; libraries come when a command runs."""
    script = (
        "import sys, varmenne.cli.testbench; print([m for m in sys.modules if m.split('.')[0] in set(sys.argv[1:])])"
    )
    heavy = ["lxml", "cryptography", "zeep", "requests", "signxml", "sqlite3", "http", "asn1crypto"]
    done = subprocess.run(
        [sys.executable, "-c", script, *heavy], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(group.commands))
def test_every_command_has_three_examples(name: str) -> None:
    """Copyable, and with the command's own name."""
    epilog = group.commands[name].epilog or ""
    assert epilog.count(f"  varmenne testbench {name} --state ") >= 3


def test_the_operations_offered_are_those_of_the_service() -> None:
    """They are written out, since importing them would cost start-up."""
    from varmenne.cli.testbench import OPERATIONS
    from varmenne.service.interface import Operation

    assert set(OPERATIONS) == set(Operation)


def test_the_choices_offered_are_those_of_the_bench() -> None:
    """Languages and forms too are written out."""
    from varmenne.testbench.refusals import Language
    from varmenne.testbench.service import Repeats
    from varmenne.testbench.signing import SignatureForm

    offered = {
        parameter.name: parameter.type.choices
        for parameter in group.commands["serve"].params
        if isinstance(parameter.type, click.Choice)
    }
    assert list(offered["language"]) == list(Language)
    assert list(offered["signature_form"]) == list(SignatureForm)
    assert list(offered["repeats"]) == list(Repeats)


def test_serving_for_people_prints_the_url(bench_keys: Path, tmp_path: Path) -> None:
    """One line of words; what happens goes to stderr only when asked, and always says BENCH."""
    from harness.bench import copy_keys

    copy_keys(bench_keys, tmp_path / "bench")
    command = [sys.executable, "-m", "varmenne", "testbench", "serve", "--state", str(tmp_path / "bench"), "-v"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        state = BenchState.open(tmp_path / "bench")
        assert line == f"BENCH listens at {(state.directory / 'url').read_text()}"
    finally:
        process.terminate()
        _out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "BENCH listens" in err
