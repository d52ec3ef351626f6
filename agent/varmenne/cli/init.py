"""``init``: write the settings file, by questions on a terminal or by options alone, with each part tried."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.errors import ChecksFailed

DEFAULT_LABEL = "varmenne"
SOFTHSM_SETTINGS = (("token", "module"), ("token", "label"), ("token", "pin"))
"""Settings that making a SoftHSM token answers."""


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to know: the setting, the option that gives it, the words that ask for it, and what is usual."""

    key: tuple[str, ...]
    option: str
    asks: str
    default: str | None = None
    choices: tuple[str, ...] = ()
    only_if: tuple[tuple[str, ...], str] | None = None

    @property
    def parameter(self) -> str:
        """The option's name in Python."""
        return self.option.removeprefix("--").replace("-", "_")


LOGIN = ("vault", "login", "method")

QUESTIONS = (
    Question(("environment",), "--environment", "Environment", "test", ("test", "production")),
    Question(("state_dir",), "--state-dir", "Folder for the journal", "state"),
    Question(("customer", "id"), "--customer-id", "Customer ID (leave empty if there are many)", ""),
    Question(("customer", "name"), "--customer-name", "Customer name", ""),
    Question(("token", "module"), "--token-module", "PKCS#11 module"),
    Question(("token", "label"), "--token-label", "Label of the token"),
    Question(("token", "pin"), "--pin", "Where the PIN comes from (prompt, file:PATH, credential:NAME …)", "prompt"),
    Question(("service", "endpoint"), "--endpoint", "Address of the service (empty: the real one)", ""),
    Question(("service", "ca_file"), "--service-ca", "CA file of the service's TLS (empty: the system's)", ""),
    Question(("trust", "directory"), "--trust", "Folder of the trust anchors (empty: in the journal's)", ""),
    Question(("vault", "address"), "--vault-address", "Address of Vault", "https://127.0.0.1:8200"),
    Question(("vault", "ca_file"), "--vault-ca", "CA file of Vault's TLS (empty: the system's)", ""),
    Question(("vault", "mount"), "--vault-mount", "Mount of the KV version 2 engine", "secret"),
    Question(LOGIN, "--vault-login", "Login to Vault", "token-file", ("token-file", "approle")),
    Question(
        ("vault", "login", "token_file"), "--vault-token-file", "File of the Vault token", only_if=(LOGIN, "token-file")
    ),
    Question(("vault", "login", "role_id"), "--vault-role-id", "AppRole role ID", only_if=(LOGIN, "approle")),
    Question(
        ("vault", "login", "secret_id"),
        "--vault-secret-id",
        "Where the secret ID comes from (file:PATH, credential:NAME …)",
        only_if=(LOGIN, "approle"),
    ),
)
"""Asked in this order. Everything else has a default that is described in the file."""


def _question_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for every question."""
    for question in reversed(QUESTIONS):
        kind = click.Choice(question.choices) if question.choices else None
        command = click.option(question.option, type=kind, help=f"{question.asks}.")(command)
    return command


@click.command(
    epilog=f"""{EXAMPLE}Examples:
  varmenne init                                       (asks)
  varmenne init --vault-address https://vault:8200    (changes this alone, if there is a file)
  varmenne init --environment test --softhsm ./token --vault-address https://vault:8200 \\
      --vault-login approle --vault-role-id 1b2c… --vault-secret-id file:/etc/varmenne/secret-id
"""
)
@_question_options
@click.option("--softhsm", metavar="DIR", help="Make a SoftHSM token in this new folder, with a random PIN in a file.")
@click.option("--no-try", is_flag=True, help="Write the file without trying the parts.")
@common_options
@click.pass_obj
def init(app: App, /, *, softhsm: str | None, no_try: bool, **given: str | None) -> None:
    """Write the settings file, with each part tried.

    On a terminal it asks; elsewhere the options must say everything. A second run changes only what its options say.
    """
    from varmenne.settings import CONFIG_NAME
    from varmenne.settings_file import changed, write_checked

    path = Path(app.config or CONFIG_NAME)
    values: dict[tuple[str, ...], Any] = {
        q.key: given[q.parameter] for q in QUESTIONS if given[q.parameter] is not None
    }
    new = not path.exists()
    asking = new and sys.stdin.isatty()
    if new and not asking:
        _require_all(values, {} if softhsm is None else dict.fromkeys(SOFTHSM_SETTINGS, softhsm))
    elif not (new or values or softhsm):
        raise click.UsageError(f"{path} is there already. Name what to change by options; see `varmenne init --help`.")
    if softhsm is not None:
        values |= _new_softhsm_token(app, path.parent / softhsm, given["token_label"] or DEFAULT_LABEL)
    if asking:
        _ask_all(app, path, values)
    write_checked(path, changed(path, values))
    app.say(f"{'Wrote' if new else 'Changed'} {path}.")
    if app.json:
        app.emit({"config": str(path), "changed": sorted(".".join(key) for key in values)}, "")
    if not no_try:
        _try_parts(app, path)


def _new_softhsm_token(app: App, folder: Path, label: str) -> dict[tuple[str, ...], Any]:
    """Make a SoftHSM token and return the settings that name it."""
    from varmenne.token import create_softhsm_token

    token = create_softhsm_token(folder, label=label)
    pin_file = token.pin.removeprefix("file:")
    app.say(f"Made a SoftHSM token {label!r} in {folder}. Its PIN is in {pin_file}, and nowhere else.")
    app.warn("SoftHSM keeps keys in files: whoever copies folder and PIN has them. For real use, take an HSM.")
    return {
        ("token", "module"): token.module,
        ("token", "label"): token.label,
        ("token", "serial"): token.serial,
        ("token", "pin"): token.pin,
        ("token", "environment"): dict(token.environment),
    }


def _applies(question: Question, values: Mapping[tuple[str, ...], Any]) -> bool:
    """Tell whether a question is still open, and makes sense after the answers so far."""
    if question.key in values:
        return False
    return question.only_if is None or values.get(question.only_if[0], "token-file") == question.only_if[1]


def _require_all(values: dict[tuple[str, ...], Any], to_come: Mapping[tuple[str, ...], Any]) -> None:
    """Without a terminal, take the usual answers, and refuse if something has none and does not come later either."""
    missing = []
    for question in QUESTIONS:
        if not _applies(question, {**values, **to_come}):
            continue
        if question.default is None:
            missing.append(question.option)
        elif question.default:
            values[question.key] = question.default
    if missing:
        raise click.UsageError(
            f"Standard input is not a terminal, so nobody can be asked. Missing: {', '.join(missing)}"
            + (" (or --softhsm DIR)" if "--token-module" in missing else "")
        )


def _ask_all(app: App, path: Path, values: dict[tuple[str, ...], Any]) -> None:
    """Ask every question that is still open."""
    app.say(f"{path} will be written. Press Enter to take what stands in brackets.")
    for question in QUESTIONS:
        if question.key == ("token", "module") and question.key not in values:
            _ask_token(app, path, values)
        if not _applies(question, values):
            continue
        kind = click.Choice(question.choices) if question.choices else str
        answer = click.prompt(
            question.asks, default=question.default, show_default=bool(question.default), type=kind, err=True
        )
        if answer:
            values[question.key] = answer


def _ask_token(app: App, path: Path, values: dict[tuple[str, ...], Any]) -> None:
    """Offer the tokens that are there, and a new SoftHSM token."""
    from varmenne.errors import VarmenneError
    from varmenne.token import TokenStatus, find_modules, list_tokens

    offers: list[tuple[str, TokenStatus]] = []
    for module in map(str, find_modules()):
        try:
            offers += [(module, status) for status in list_tokens(module) if status.initialized]
        except VarmenneError as exc:
            app.warn(f"{module}: {exc}")
    app.say("Tokens on this machine:")
    for number, (module, status) in enumerate(offers, 1):
        app.say(f"  {number}  {status.identity.label}, serial {status.identity.serial or '-'}, by {module}")
    last = len(offers) + 1
    app.say(f"  {last}  a new SoftHSM token\n  {last + 1}  another module")
    choice = click.prompt("Which", type=click.IntRange(1, last + 1), default=1, err=True)
    if choice == last:
        folder = click.prompt("Folder for the new token", default="token", err=True)
        values |= _new_softhsm_token(app, path.parent / folder, DEFAULT_LABEL)
    elif choice < last:
        module, status = offers[choice - 1]
        values[("token", "module")] = module
        values[("token", "label")] = status.identity.label
        values[("token", "serial")] = status.identity.serial


def _try_parts(app: App, path: Path) -> None:
    """Run the check-up with the new settings."""
    from varmenne.cli.doctor import show_checks

    app.config = str(path)
    with app.parts(app.settings(), notice=False) as parts:
        failed = [check.name for check in show_checks(app, parts) if check.verdict == "fail"]
    if failed:
        raise ChecksFailed(
            f"{path} is written, but not everything works yet",
            why=", ".join(failed),
            next_step="Put right what the lines above say; `varmenne doctor` looks again",
        )
