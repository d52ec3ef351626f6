"""What all commands share: the options that work before and after a command's name, and how things are printed.

Data goes to standard output, words to standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from varmenne.enrollment.parts import Parts
    from varmenne.errors import VarmenneError
    from varmenne.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

NAMED = 3
SEEN = 100
"""How many unfinished enrollments are looked at for the notice before a command; `list` knows them all."""

NARROW = 40
"""A terminal of fewer columns folds lines by itself, since words would leave too much of it empty."""

HANGING = re.compile(r"\s*(?:(?:Error|Why|Next|Warning|Unfinished):\s+|[•✓→]\s+)?")
"""What a folded line goes on below: the text after a label or a mark."""

EXAMPLE = "\b\n"
"""Begins a paragraph of help that click must not wrap."""


@dataclass(slots=True)
class App:
    """What the common options say, and the ways to print.

    ``if_interrupted`` is true after Ctrl-C now, ``if_interrupted_later`` once there is an enrollment to go on with.
    """

    config: str | None = None
    json: bool = False
    verbosity: int = 0
    color: bool | None = None
    if_interrupted: str = ""
    if_interrupted_later: str = ""
    _warned: set[str] = field(default_factory=set)

    def settings(self, environment: str | None = None, endpoint: str | None = None) -> Settings:
        """Load the settings; an environment or endpoint given to a command is put in, if it fits.

        Raises:
            ConfigError: the settings cannot be used.
            InputError: the environment is not the settings' own.
        """
        import msgspec

        from varmenne.errors import InputError
        from varmenne.settings import find_config, load_settings

        path = find_config(self.config)
        settings = load_settings(path)
        if environment is not None and environment != settings.environment:
            raise InputError(
                f"{path} is for the {settings.environment} environment, not for {environment}",
                why="test and production are kept apart: trust, journal and Vault paths never mix",
                next_step="Use a settings file of its own for each, and name it with --config",
            )
        if endpoint:
            settings = msgspec.structs.replace(
                settings, service=msgspec.structs.replace(settings.service, endpoint=endpoint)
            )
        return settings

    @contextlib.contextmanager
    def parts(self, settings: Settings, *, retry_pin: bool = False, notice: bool = True) -> Iterator[Parts]:
        """Open the parts that use cases work with; with ``notice``, tell first of work that was left unfinished."""
        from varmenne.enrollment.parts import Parts

        with Parts(settings, retry_pin=retry_pin) as parts:
            if notice:
                self._tell_unfinished(parts)
            try:
                yield parts
            finally:
                self._sign_log(parts)

    def _sign_log(self, parts: Parts) -> None:
        """Make a checkpoint of the audit log after something was done to a key, also if more of it failed."""
        acted = parts.has("journal") and parts.has("token")
        if acted and not isinstance(sys.exception(), KeyboardInterrupt):
            from varmenne.enrollment.evidence.checkpoints import after_acts

            after_acts(parts, self.warn)

    def _tell_unfinished(self, parts: Parts) -> None:
        """Name the enrollments that can go on and that no process is at work on."""
        from varmenne.domain.steps import State
        from varmenne.enrollment.enroll import unfinished

        waiting = [row for row in unfinished(parts, at_most=SEEN) if parts.journal.is_free(row, parts.now)]
        open_ = [row.id for row in waiting if row.state is State.UNCERTAIN]
        others = [f"{row.id} ({row.state})" for row in waiting if row.state is not State.UNCERTAIN]
        for name, found, advice in (
            ("Unfinished", others, "`varmenne resume --all` goes on"),
            ("Needs a decision", open_, "`varmenne resolve ID` tells what is known and what can be done"),
        ):
            if found:
                named = ", ".join(found[:NAMED]) + (", …" if len(found) > NAMED else "")
                self.say(f"{click.style(f'{name}:', fg='yellow')} {named}. {advice}.")

    def emit(self, data: object, text: str) -> None:
        """Print the result on standard output: as one JSON document with --json, else as text."""
        click.echo(as_json(data, indent=2) if self.json else text, color=self.color)

    def say(self, text: str = "", *, newline: bool = True) -> None:
        """Print words on standard error. Work does not stop because nobody can read them."""
        with contextlib.suppress(OSError):
            click.echo(_folded(text) if newline else text, err=True, nl=newline, color=self.color)

    def warn(self, sentence: str) -> None:
        """Print a warning on standard error, each only once."""
        if sentence not in self._warned:
            self._warned.add(sentence)
            self.say(f"{click.style('Warning:', fg='yellow')} {sentence}")

    def fail(self, error: VarmenneError) -> None:
        """Print an error for people on standard error and, with --json, for programs on standard output."""
        if self.verbosity >= 2:
            import traceback

            self.say("".join(traceback.format_exception(error)))
        self.print_failure(
            error.exit_code, kind=type(error).__name__, what=error.what, why=error.why, next_step=error.next_step
        )
        self.say(f"{click.style('Error:', fg='red')} {error.what}.")
        for name, sentence in (("Why", error.why), ("Next", error.next_step)):
            if sentence:
                self.say(f"  {name + ':':<6}{sentence}{'' if sentence.endswith(('.', '?', '!')) else '.'}")

    def print_failure(self, exit_code: int, **error: str) -> None:
        """With --json, print on standard output, for programs, how the command failed."""
        if self.json:
            click.echo(as_json({"ok": False, "exit_code": exit_code, "error": error}))


def _folded(text: str) -> str:
    """Fold the lines that are wider than the terminal between words, and indent what comes after the fold.

    Where standard error is no terminal, lines stay whole: programs and people search them.
    """
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns if sys.stderr.isatty() else 0
    except (OSError, ValueError, AttributeError):
        columns = 0
    if columns < NARROW:
        return text
    return "\n".join(_fold(line, columns) for line in text.split("\n"))


def _fold(line: str, columns: int) -> str:
    """Fold one line. Colours count as letters here, so the first line may be a little short."""
    if len(click.unstyle(line)) <= columns:
        return line
    import textwrap

    label = HANGING.match(click.unstyle(line))
    return textwrap.fill(
        line,
        columns,
        subsequent_indent=" " * len(label[0] if label else ""),
        break_long_words=False,
        break_on_hyphens=False,
    )


def as_json(data: object, *, indent: int | None = None) -> str:
    """Return JSON with letters as they are; escaped, where standard output has no code for one of them."""
    text = json.dumps(data, ensure_ascii=False, indent=indent)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(data, indent=indent)
    return text


def _store(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """Make a callback that keeps an option's value in the app, unless it was not given here.

    A command has the program's options again, and click gives the environment's value to each of them: that must not
    take the place of what was given in front of the command's name.
    """

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        app = ctx.ensure_object(App)
        from_environment = ctx.get_parameter_source(param.name or "") is ParameterSource.ENVIRONMENT
        if value and not (from_environment and getattr(app, name)):
            setattr(app, name, value)

    return callback


def _verbose(ctx: click.Context, _param: click.Parameter, value: int) -> None:
    """Raise this package's loggers only: other libraries would log what they are given."""
    if not value:
        return
    import logging

    ctx.ensure_object(App).verbosity = value
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    logger = logging.getLogger("varmenne")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO if value == 1 else logging.DEBUG)


def _no_color(ctx: click.Context, _param: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's signature
    """Print without colours; NO_COLOR (no-color.org) does the same."""
    if value or os.environ.get("NO_COLOR"):
        ctx.ensure_object(App).color = False


def common_options(command: F) -> F:
    """Add the options that every command takes. Given before a command's name or after it, they mean the same."""
    for option in (
        click.option("--no-color", is_flag=True, expose_value=False, callback=_no_color, help="Print without colours."),
        click.option(
            "-v", "--verbose", count=True, expose_value=False, callback=_verbose, help="Tell more; -vv for defects."
        ),
        click.option(
            "--json", is_flag=True, expose_value=False, callback=_store("json"), help="Print the result as JSON."
        ),
        click.option(
            "--config",
            metavar="FILE",
            envvar="VARMENNE_CONFIG",
            expose_value=False,
            callback=_store("config"),
            help="Settings file; otherwise VARMENNE_CONFIG, ./varmenne.toml, the user's, or /etc/varmenne.",
        ),
    ):
        command = option(command)
    return command
