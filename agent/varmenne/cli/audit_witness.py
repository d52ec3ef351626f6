"""``varmenne audit witness``: somebody elsewhere signs that the log only grew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from varmenne.cli.common import EXAMPLE, App, common_options

if TYPE_CHECKING:
    from varmenne.audit.verifier import Key

SIGNED, UNREADABLE, OLD_SIZE = 200, 400, 409
"""Statuses of a witness's replies (C2SP ``tlog-witness``)."""
MAX_REQUEST = 65_536

KEY_OPTIONS = (
    click.option("--name", required=True, help="The witness's name, such as witness.example.org."),
    click.option(
        "--key",
        "key_file",
        type=click.Path(path_type=Path),
        required=True,
        help="Its Ed25519 key in PEM, readable by its owner alone.",
    ),
)


@click.group(
    epilog=f"""{EXAMPLE}Examples:
  varmenne audit witness request |
    ssh witness varmenne audit witness cosign - --name w.example.org --key w.pem --log VKEY --state w |
    varmenne audit witness add - --witness WITNESS_VKEY
"""
)
def witness() -> None:
    """Have another host sign that the log only grew, or be that host.

    A witness keeps what it signed last. It is what shows a log that was rewritten together with all that its host and
    its Vault have.
    """


@witness.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne audit witness request > request
  varmenne audit witness request --old 1200
"""
)
@click.option("--old", type=click.IntRange(min=0), help="The size that the witness signed last, as it tells.")
@common_options
@click.pass_obj
def request(app: App, *, old: int | None) -> None:
    """Print the newest checkpoint for a witness, with the proof that the log grew to it."""
    from varmenne.enrollment.evidence.witnessing import request as made

    with app.parts(app.settings(), notice=False) as parts:
        body = made(parts, old).decode()
    app.emit({"request": body}, body.rstrip("\n"))


@witness.command(
    epilog=f"""{EXAMPLE}Examples:
  (umask 077; openssl genpkey -algorithm ed25519 -out w.pem)
  varmenne audit witness key --name w.example.org --key w.pem
  varmenne audit witness key --name w.example.org --key w.pem --json | jq -r .vkey
"""
)
@KEY_OPTIONS[0]
@KEY_OPTIONS[1]
@common_options
@click.pass_obj
def key(app: App, *, name: str, key_file: Path) -> None:
    """Print a witness's verification key. No settings are needed."""
    from varmenne.audit.witness import read_witness_key

    vkey = read_witness_key(name, key_file).public.vkey
    app.emit({"vkey": vkey}, vkey)


@witness.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne audit witness cosign request --name w.example.org --key w.pem --log VKEY --state seen > reply
  varmenne audit witness cosign - --name w.example.org --key w.pem --log VKEY --state seen < request
"""
)
@click.argument("request_file", metavar="REQUEST", type=click.File("rb"))
@KEY_OPTIONS[0]
@KEY_OPTIONS[1]
@click.option("--log", "logs", metavar="VKEY", multiple=True, required=True, help="The key of a log, as you noted it.")
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder where the witness keeps what it signed last.",
)
@common_options
@click.pass_obj
def cosign(app: App, *, request_file: BinaryIO, name: str, key_file: Path, logs: tuple[str, ...], state: Path) -> None:
    """Sign a log's checkpoint as a witness, if the log is proven to have grown. No settings are needed."""
    from varmenne.audit.witness import Witness, read_witness_key
    from varmenne.clock import system_clock
    from varmenne.errors import EvidenceError, InputError

    here = Witness(read_witness_key(name, key_file), parsed(logs), state)
    request = request_file.read(MAX_REQUEST)
    reply = here.add_checkpoint(request, system_clock())
    text = reply.body.decode(errors="replace").strip()
    if reply.status == OLD_SIZE and request.startswith(f"old {text}\n".encode()):
        raise EvidenceError(
            "The checkpoint was not signed",
            why=f"another tree of {text} records was signed before: the log was rewritten",
        )
    if reply.status == OLD_SIZE:
        raise EvidenceError(
            "Another size was signed last than the log thinks",
            why=f"the newest checkpoint that was signed here is of {text} records",
            next_step=f"On the log's host: varmenne audit witness request --old {text}",
        )
    if reply.status != SIGNED:
        error = InputError if reply.status == UNREADABLE else EvidenceError
        raise error("The checkpoint was not signed", why=text)
    app.emit({"signatures": text.splitlines()}, text)


@witness.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne audit witness add reply --witness WITNESS_VKEY
  varmenne audit witness add - --witness WITNESS_VKEY < reply
"""
)
@click.argument("reply_file", metavar="REPLY", type=click.File("rb"))
@click.option("--witness", "witnesses", metavar="VKEY", multiple=True, required=True, help="A witness's key.")
@common_options
@click.pass_obj
def add(app: App, *, reply_file: BinaryIO, witnesses: tuple[str, ...]) -> None:
    """Put a witness's signature beside ours. It is then part of exports."""
    from varmenne.enrollment.evidence.witnessing import add as put

    reply = reply_file.read(MAX_REQUEST)
    keys = parsed(witnesses)
    with app.parts(app.settings(), notice=False) as parts:
        signed = put(parts, reply, keys)
    app.emit({"size": signed.size, "note": signed.note}, f"The checkpoint of {signed.size} records is witnessed.")


def parsed(vkeys: tuple[str, ...]) -> tuple[Key, ...]:
    """Read verification keys.

    Raises:
        InputError: one of them is none.
    """
    from varmenne.audit import verifier
    from varmenne.errors import InputError

    try:
        return tuple(verifier.parse_vkey(text) for text in vkeys)
    except verifier.Refused as exc:
        raise InputError("A verification key cannot be read", why=str(exc)) from exc
