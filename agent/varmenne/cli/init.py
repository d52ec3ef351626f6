"""``init``: write the settings file, by questions on a terminal or by options alone, with each part tried."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from varmenne.cli.common import EXAMPLE, App, common_options
from varmenne.errors import ChecksFailed, ConfigError, InputError

DEFAULT_LABEL = "varmenne"
SOFTHSM_SETTINGS = (("token", "module"), ("token", "label"), ("token", "pin"))
"""Settings that making a SoftHSM token answers."""
OF_A_TOKEN = (("token", "module"), ("token", "label"), ("token", "serial"))
"""Settings that name a token which needs nothing else."""
SOME_TOKEN: dict[tuple[str, ...], str] = {("token", "module"): "module", ("token", "label"): "label"}
"""Stands for a token that is not made yet, while the other settings are checked."""
TOKEN_FOLDER = "token"  # noqa: S105 - the name of a folder


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to know: the setting, the option that gives it, the words that ask for it, and what is usual."""

    key: tuple[str, ...]
    option: str
    asks: str
    default: str | None = None
    choices: tuple[str, ...] = ()
    only_if: tuple[tuple[str, ...], str] | None = None
    needs: tuple[str, ...] | None = None
    more_help: str = ""

    @property
    def parameter(self) -> str:
        """The option's name in Python."""
        return self.option.removeprefix("--").replace("-", "_")


LOGIN = ("vault", "login", "method")

QUESTIONS = (
    Question(("environment",), "--environment", "Environment", "test", ("test", "production")),
    Question(("state_dir",), "--state-dir", "Folder for the journal", "state"),
    Question(("customer", "id"), "--customer-id", "Customer ID (leave empty if there are many)", ""),
    Question(("customer", "name"), "--customer-name", "Customer name", "", needs=("customer", "id")),
    Question(("service", "endpoint"), "--endpoint", "Address of the service (empty: the real one)", ""),
    Question(("service", "ca_file"), "--service-ca", "CA file of the service's TLS (empty: the system's)", ""),
    Question(("trust", "directory"), "--trust", "Folder of the trust anchors (empty: in the journal's)", ""),
    Question(("vault", "address"), "--vault-address", "Address of Vault", "https://127.0.0.1:8200"),
    Question(("vault", "ca_file"), "--vault-ca", "CA file of Vault's TLS (empty: the system's)", ""),
    Question(("vault", "mount"), "--vault-mount", "Mount of the KV version 2 engine", "secret"),
    Question(
        LOGIN,
        "--vault-login",
        "Login to Vault",
        "token-file",
        ("token-file", "approle"),
        more_help="; jwt, cert and kubernetes are set in the file, see docs/vault-login.md",
    ),
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
    # The token is last: a new one is made only when all else is known to be right.
    Question(("token", "module"), "--token-module", "PKCS#11 module"),
    Question(("token", "label"), "--token-label", "Label of the token"),
    Question(("token", "pin"), "--pin", "Where the PIN comes from (prompt, file:PATH, credential:NAME …)", "prompt"),
)
"""Asked in this order. Everything else has a default that is described in the file."""


def _question_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for every question."""
    for question in reversed(QUESTIONS):
        kind = click.Choice(question.choices) if question.choices else None
        command = click.option(question.option, type=kind, help=f"{question.asks}{question.more_help}.")(command)
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
    from varmenne.settings import CONFIG_NAME, parse_settings
    from varmenne.settings.editing import changed, write_checked

    path = Path(app.config or CONFIG_NAME)
    app.if_interrupted = f"{path} was not written."
    values: dict[tuple[str, ...], Any] = {
        q.key: given[q.parameter] for q in QUESTIONS if given[q.parameter] is not None
    }
    _refuse_wrong(path, values)
    new = not _is_there(path)
    asking = new and sys.stdin.isatty()
    if new and not asking:
        _require_all(values, {} if softhsm is None else dict.fromkeys(SOFTHSM_SETTINGS, softhsm))
    elif not (new or values or softhsm):
        raise click.UsageError(f"{path} is there already. Name what to change by options; see `varmenne init --help`.")
    if asking:
        _ask_all(app, path, values, softhsm, given["token_label"] or DEFAULT_LABEL)
    elif softhsm is not None:
        parse_settings(changed(path, {**SOME_TOKEN, **values}), path)
        values |= _new_softhsm_token(app, path.parent / softhsm, given["token_label"] or DEFAULT_LABEL)
    left = _left_journal(path, values)
    write_checked(path, changed(path, values))
    app.if_interrupted = f"{path} is written; `varmenne doctor` tries the parts."
    app.say(f"{'Wrote' if new else 'Changed'} {path}.")
    if left is not None:
        app.warn(
            f"The journal stays in {left}. What it knows of certificates and of credentials that were sent is not in "
            "the new folder: move all files there, or set state_dir back."
        )
    if app.json:
        app.emit({"config": str(path), "changed": sorted(".".join(key) for key in values)}, "")
    if not no_try:
        _try_parts(app, path)


def _is_there(path: Path) -> bool:
    """Tell whether there is a settings file already.

    Raises:
        ConfigError: nobody can tell, since a folder may not be entered.
    """
    try:
        return path.exists()
    except OSError as exc:
        raise ConfigError(f"The settings file {path} cannot be read", why=exc.strerror or str(exc)) from exc


def _refuse_wrong(path: Path, values: Mapping[tuple[str, ...], Any]) -> None:
    """Refuse an option's value that its setting cannot have.

    Raises:
        InputError: there is one. Nothing was written.
    """
    from varmenne.settings import why_wrong

    for question in QUESTIONS:
        if question.key in values and (why := why_wrong(question.key, values[question.key])):
            raise InputError(
                f"{question.option} cannot be {values[question.key]!r}",
                why=why,
                next_step=f"Nothing was written to {path}; it is the setting {'.'.join(question.key)} there",
            )


def _left_journal(path: Path, values: Mapping[tuple[str, ...], Any]) -> Path | None:
    """Return the folder that would be left with a journal in it, if the state folder changes."""
    from varmenne.journal.database import JOURNAL_NAME
    from varmenne.settings import load_settings

    if ("state_dir",) not in values or not _is_there(path):
        return None
    try:
        old = Path(load_settings(path).state_dir)
        new = path.resolve().parent / Path(values[("state_dir",)]).expanduser()
        return old if old.resolve() != new.resolve() and (old / JOURNAL_NAME).exists() else None
    except (OSError, ConfigError):
        return None


def _new_softhsm_token(app: App, folder: Path, label: str) -> dict[tuple[str, ...], Any]:
    """Make a SoftHSM token and return the settings that name it."""
    from varmenne.token import create_softhsm_token

    token = create_softhsm_token(folder, label=label)
    pin_file = token.pin.removeprefix("file:")
    app.if_interrupted = f"The token in {folder} is made; the settings were not written."
    app.say(f"Made a SoftHSM token {label!r} in {folder}. Its PIN is in {pin_file}, and nowhere else.")
    app.warn("SoftHSM keeps keys in files: whoever copies folder and PIN has them. For real use, take an HSM.")
    return _settings_of(token.module, token.label, token.serial, folder.absolute())


def _settings_of(module: str, label: str, serial: str, folder: Path) -> dict[tuple[str, ...], Any]:
    """Return the settings that name a SoftHSM token in a folder of its own, as it is made here."""
    return {
        ("token", "module"): module,
        ("token", "label"): label,
        ("token", "serial"): serial,
        ("token", "pin"): f"file:{folder / 'pin'}",
        ("token", "environment"): {"SOFTHSM2_CONF": str(folder / "softhsm2.conf")},
    }


def _applies(question: Question, values: Mapping[tuple[str, ...], Any]) -> bool:
    """Tell whether a question is still open, and makes sense after the answers so far."""
    if question.key in values:
        return False
    if question.needs is not None and not values.get(question.needs):
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


def _ask_all(app: App, path: Path, values: dict[tuple[str, ...], Any], softhsm: str | None, label: str) -> None:
    """Ask every question that is still open; the token comes last."""
    app.say(f"{path} will be written. Press Enter to take what stands in brackets.")
    for question in QUESTIONS:
        if question.key == ("token", "module") and question.key not in values:
            if softhsm is not None:
                values |= _new_softhsm_token(app, path.parent / softhsm, label)
            else:
                _ask_token(app, path, values, label)
        if _applies(question, values) and (answer := _answer(app, question)):
            values[question.key] = answer


def _answer(app: App, question: Question) -> str:
    """Ask until the answer can be a setting's value; empty where nothing needs to be set."""
    from varmenne.settings import why_wrong

    kind = click.Choice(question.choices) if question.choices else str
    while True:
        answer: str = click.prompt(
            question.asks, default=question.default or "", show_default=bool(question.default), type=kind, err=True
        ).strip()
        if not answer and question.default is None:
            app.say("  An answer is needed here.")
        elif answer and (why := why_wrong(question.key, answer)):
            app.say(f"  That cannot be: {why}.")
        else:
            return answer


def _ask_token(app: App, path: Path, values: dict[tuple[str, ...], Any], label: str) -> None:
    """Offer the tokens that are there, and a new SoftHSM token."""
    offers = list(_offers(app, path.absolute().parent / TOKEN_FOLDER))
    app.say("Tokens on this machine:")
    for number, (words, _settings) in enumerate(offers, 1):
        app.say(f"  {number}  {words}")
    last = len(offers) + 1
    app.say(f"  {last}  a new SoftHSM token\n  {last + 1}  another module")
    choice = click.prompt("Which", type=click.IntRange(1, last + 1), default=1, err=True)
    if choice < last:
        values |= {key: value for key, value in offers[choice - 1][1].items() if key not in values}
    while choice == last:
        folder = click.prompt("Folder for the new token", default=TOKEN_FOLDER, err=True)
        try:
            values |= _new_softhsm_token(app, path.parent / folder, label)
        except InputError as exc:
            app.say(f"  {exc.what}. Name another folder.")
        else:
            return


def _offers(app: App, beside: Path) -> Iterator[tuple[str, dict[tuple[str, ...], Any]]]:
    """Yield the tokens of this machine, in words and as settings; first one that was made beside the settings."""
    from varmenne.errors import VarmenneError
    from varmenne.token import find_modules, list_tokens

    modules = [str(module) for module in find_modules()]
    softhsm = [module for module in modules if module.endswith("libsofthsm2.so")]
    config = beside / "softhsm2.conf"
    wanted = [(module, beside) for module in softhsm[:1] if config.is_file()] + [(module, None) for module in modules]
    for module, folder in wanted:
        try:
            found = list_tokens(module, environment={} if folder is None else {"SOFTHSM2_CONF": str(config)})
        except VarmenneError as exc:
            app.say(
                f"{module} shows no tokens{f': {exc}' if app.verbosity else ', and is passed over (-v tells why)'}."
            )
            continue
        for status in found:
            if status.initialized:
                name, serial = status.identity.label, status.identity.serial
                words = f"{name}, serial {serial or '-'}, {f'in {folder}' if folder else f'by {module}'}"
                settings = _settings_of(module, name, serial, folder or beside)
                if folder is None:
                    settings = {key: settings[key] for key in OF_A_TOKEN}
                yield words, settings


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
