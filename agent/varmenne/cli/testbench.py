"""``varmenne testbench``: a stand-in for the certificate service, for trying and testing on one computer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.domain.identifiers import Channel, Environment
from varmenne.errors import InputError

if TYPE_CHECKING:
    from varmenne.testbench.state import BenchState

OPERATIONS = ("signNewCertificate", "renewCertificate", "getCertificate")

_state_option = click.option(
    "--state",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The bench's folder.",
)


@click.group(
    epilog=f"""{EXAMPLE}Examples:
  varmenne testbench serve --state /tmp/bench
  varmenne testbench order --state /tmp/bench --customer-id 0123456-7 --json > credentials.json
  varmenne testbench clock --state /tmp/bench --advance 680d
"""
)
def testbench() -> None:
    """Run a stand-in for the certificate service, on this computer only.

    It has authorities of its own, all named BENCH, gives one-time credentials to anybody, and issues certificates that
    are worth nothing anywhere else. All commands but `serve` work beside a running bench and without one.
    """


@testbench.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne testbench serve --state /tmp/bench
  varmenne testbench serve --state /tmp/bench --port 8443 --delay 15 --language en
  varmenne testbench serve --state /tmp/bench --signature-form exclusive --json
"""
)
@_state_option
@click.option(
    "--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Loopback address to listen at."
)
@click.option(
    "--port", default=0, type=click.IntRange(0, 65_535), help="Port; otherwise the one of last time, or a free one."
)
@click.option(
    "--delay",
    metavar="SECONDS",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0, 86_400),
    help="Time that issuing a certificate takes.",
)
@click.option(
    "--signature-form",
    default="observed",
    show_default=True,
    type=click.Choice(["observed", "exclusive"]),
    help="Form of the signature on answers.",
)
@click.option(
    "--language",
    default="fi",
    show_default=True,
    type=click.Choice(["fi", "sv", "en"]),
    help="Language of error messages.",
)
@click.option(
    "--environment",
    default=Environment.TEST.value,
    show_default=True,
    type=click.Choice([environment.value for environment in Environment]),
    help="Environment that requests must name.",
)
@click.option(
    "--repeats",
    default="refused",
    show_default=True,
    type=click.Choice(["refused", "same-answer"]),
    help="What spent credentials get when they come again with the same key.",
)
@common_options
@click.pass_obj
def serve(
    app: App,
    *,
    state: Path,
    host: str,
    port: int,
    delay: float,
    signature_form: str,
    language: str,
    environment: str,
    repeats: str,
) -> None:
    """Run the bench in the foreground until SIGTERM or Ctrl-C.

    The first start makes the folder and the authorities. One line on standard output says where it listens; the same
    URL is in the folder's file `url`. Trust anchors are in `trust`, the CA of the TLS certificate in `tls-ca.pem`.
    """
    import signal
    import threading

    from varmenne.testbench.refusals import Language
    from varmenne.testbench.server import BenchServer
    from varmenne.testbench.service import Repeats
    from varmenne.testbench.signing import SignatureForm
    from varmenne.testbench.state import BenchState

    asked_to_stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked_to_stop.set())
    with BenchServer(
        BenchState.create(state),
        host=host,
        port=port,
        delay_seconds=delay,
        signature_form=SignatureForm(signature_form),
        language=Language(language),
        environment=Environment(environment),
        repeats=Repeats(repeats),
    ) as bench:
        facts = {"url": bench.url, "tls_ca": str(bench.tls_ca), "trust": str(bench.trust_dir)}
        click.echo(json.dumps(facts) if app.json else f"BENCH listens at {bench.url}")
        asked_to_stop.wait()


@testbench.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne testbench order --state /tmp/bench --customer-id 0123456-7
  varmenne testbench order --state /tmp/bench --customer-id 0123456-7 --customer-name "Öljy Oy" --json
  varmenne testbench order --state /tmp/bench --customer-id FI01234567 --channel sftp --json
"""
)
@_state_option
@click.option("--customer-id", metavar="ID", required=True, help="Customer that the certificate is for.")
@click.option("--customer-name", metavar="NAME", help="The customer's name, for the certificate's subject.")
@click.option(
    "--channel",
    default=Channel.WS.value,
    show_default=True,
    type=click.Choice([channel.value for channel in Channel]),
    help="What the certificate is for: Web Service or SFTP.",
)
@common_options
@click.pass_obj
def order(app: App, *, state: Path, customer_id: str, customer_name: str | None, channel: str) -> None:
    """Order a certificate and print its one-time credentials, valid for 14 days.

    They are shown this once: the bench keeps only a hash of the password. `varmenne enroll --credentials` takes either
    form of the output.
    """
    placed = _open(state).order(customer_id, name=customer_name, channel=Channel(channel)).as_json()
    lines = (f"{name.replace('_', ' ')}: {value}" for name, value in placed.items())
    click.echo(json.dumps(placed, ensure_ascii=False) if app.json else "\n".join(lines))


@testbench.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne testbench log --state /tmp/bench
  varmenne testbench log --state /tmp/bench --json
  varmenne testbench log --state /tmp/bench --json | grep -c signNewCertificate
"""
)
@_state_option
@common_options
@click.pass_obj
def log(app: App, *, state: Path) -> None:
    """Show every request that the bench received, oldest first, one a line.

    The status is OK, FAIL with the error's code, FAULT for a SOAP fault, HTTP or DROPPED where a fault was switched on,
    and RECEIVED as long as there is no answer.
    """
    for request in _open(state).log():
        line = request.as_json()
        click.echo(json.dumps(line, ensure_ascii=False) if app.json else _in_words(line))


@testbench.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne testbench clock --state /tmp/bench
  varmenne testbench clock --state /tmp/bench --set 2028-10-01T12:00:00Z
  varmenne testbench clock --state /tmp/bench --advance 30d
"""
)
@_state_option
@click.option("--set", "moment", metavar="TIME", help="Set the clock to this ISO 8601 time; it runs on from there.")
@click.option("--advance", "span", metavar="SPAN", help="Move the clock on by 90s, 10m, 12h, 30d or 2w.")
@click.option("--reset", is_flag=True, help="Let it be the computer's time again.")
@common_options
@click.pass_obj
def clock(app: App, *, state: Path, moment: str | None, span: str | None, reset: bool) -> None:
    """Show the bench's clock, or set it.

    A running bench follows at once. Its TLS certificate stays on the computer's time.
    """
    from varmenne.testbench.state import parse_moment, parse_span

    if [moment is None, span is None, not reset].count(False) > 1:
        raise click.UsageError("Give one of --set, --advance and --reset.")
    bench = _open(state)
    if moment is not None:
        now = bench.set_clock(parse_moment(moment))
    elif span is not None:
        now = bench.advance_clock(parse_span(span))
    else:
        now = bench.reset_clock() if reset else bench.now()
    click.echo(json.dumps({"now": now.isoformat()}) if app.json else now.isoformat())


@testbench.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne testbench fault --state /tmp/bench list
  varmenne testbench fault --state /tmp/bench drop-after-receipt --operation signNewCertificate
  varmenne testbench fault --state /tmp/bench http-503 --count 3
  varmenne testbench fault --state /tmp/bench none
"""
)
@_state_option
@click.argument("name")
@click.option("--count", default=1, show_default=True, type=click.IntRange(0), help="Requests to meet; 0 means all.")
@click.option("--operation", type=click.Choice(OPERATIONS), help="Operation to wait for; otherwise any that fits.")
@common_options
@click.pass_obj
def fault(app: App, *, state: Path, name: str, count: int, operation: str | None) -> None:
    """Let the bench do something wrong at the next requests.

    NAME is the name of a fault, `list` to show them all, or `none` to switch all of them off.
    """
    from varmenne.service.interface import Operation
    from varmenne.testbench.faults import FAULTS

    bench = _open(state)
    if name == "list":
        meanings = {known: fault.meaning for known, fault in FAULTS.items()}
        app.emit(meanings, "\n".join(f"{known:<24}{meaning}" for known, meaning in meanings.items()))
    elif name == "none":
        bench.clear_faults()
    else:
        bench.fault(name, count=count or None, operation=Operation(operation) if operation else None)


@testbench.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne testbench revoke --state /tmp/bench 5f3a9c21
  varmenne testbench revoke --state /tmp/bench 5F:3A:9C:21
  varmenne testbench revoke --state /tmp/bench $(openssl x509 -in cert.pem -noout -serial | cut -d= -f2)
"""
)
@_state_option
@click.argument("serial")
@common_options
def revoke(*, state: Path, serial: str) -> None:
    """Revoke a certificate, as a person does in the e-service.

    SERIAL is its serial number in hexadecimal.
    """
    try:
        number = int(serial.replace(":", ""), 16)
    except ValueError:
        raise InputError(f"{serial!r} is not a hexadecimal serial number") from None
    _open(state).revoke(number)


def _open(state: Path) -> BenchState:
    """Open the folder of a bench that was made before."""
    from varmenne.testbench.state import BenchState

    return BenchState.open(state)


def _in_words(line: dict[str, str | None]) -> str:
    """Write a line of the log for people."""
    columns = [line["at"], line["operation"], line["customer_id"], line.get("transfer_id"), line["status"]]
    noted = f"  (fault {line['fault']})" if "fault" in line else ""
    return "  ".join(column or "-" for column in columns) + noted
