"""Writes the reference pages and the manual page from the code's own tables: settings, commands, exit codes, steps."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from varmenne import __version__
from varmenne.cli.common import App
from varmenne.cli.program import COMMANDS, INTERRUPTED, OUTPUT_LOST, PIPE_CLOSED, program
from varmenne.domain.concerns import Reason
from varmenne.domain.steps import BY_ORDER, ENDED, RENEWAL, STEPS, UPKEEP, State, Step
from varmenne.errors import PersonNeeded, family
from varmenne.monitoring.events import Event
from varmenne.settings.reference import tables

NOTE = "<!-- Written by scripts/docs from the code. Change the code, then run it again. -->\n\n"
PAGE_COLUMNS = 100
MANUAL_COLUMNS = 73
"""man(1) indents text by seven columns, in a terminal of 80."""
ROOT = Path(__file__).resolve().parent.parent


def configuration() -> str:
    """Return the reference of the settings file."""
    text = NOTE + (
        "# Settings\n\nOne TOML file, found in this order: `--config FILE`, `VARMENNE_CONFIG`, `./varmenne.toml`,\n"
        "`~/.config/varmenne/varmenne.toml`, `/etc/varmenne/varmenne.toml`. `varmenne init` writes it. Relative paths\n"
        "are relative to the file's folder. Unknown names are refused. Secrets are never settings: a setting names\n"
        "where a secret comes from.\n"
    )
    for table in tables():
        name = ".".join(table.path)
        text += f"\n## {f'`[{name}]`' if name else 'Top of the file'}\n\n{table.description}\n\n"
        text += "| setting | type | default | meaning |\n| --- | --- | --- | --- |\n"
        for setting in table.settings:
            default = "*required*" if setting.default is None else f"`{setting.default}`" if setting.default else "—"
            text += f"| `{setting.path[-1]}` | {setting.kind} | {default} | {setting.description} |\n"
    return text


def exit_codes() -> str:
    """Return the table of exit codes."""
    text = NOTE + (
        "# Exit codes\n\nThe same for every command. With `--json`, an error is one JSON document on standard output:\n"
        '`{"ok": false, "exit_code": …, "error": {"kind", "what", "why", "next_step"}}`; the words for people are on\n'
        "standard error in any case.\n\n| code | meaning |\n| --- | --- |\n| 0 | done |\n"
    )
    meanings: dict[int, str] = {2: "the command line cannot be understood"}
    for cls in family():
        if "exit_code" in vars(cls):
            meanings[cls.exit_code] = cls.meaning
    meanings[OUTPUT_LOST] = "standard output could not be written; what was done is done"
    meanings[PIPE_CLOSED] = "the reader of standard output went away; what was done is done"
    meanings[INTERRUPTED] = "interrupted by Ctrl-C; what was done is safe"
    meanings[1] += "; of `service verify`: an answer did not verify"
    return text + "".join(f"| {code} | {meanings[code]} |\n" for code in sorted(meanings))


def steps() -> str:
    """Return the table of steps and its diagram."""
    text = NOTE + (
        "# States and steps\n\nAn enrollment is a row in the journal with a state. A step takes it on; its result is "
        "durable before anything\nelse happens. This page is written from the table that the engine itself reads.\n\n"
        "```mermaid\nstateDiagram-v2\n  [*] --> prepared\n"
    )
    text += "".join(f"  {edge}\n" for edge in dict.fromkeys(edges()))
    text += "".join(f"  {state} --> [*]\n" for state in sorted(ENDED - {State.ACTIVE, State.SUPERSEDED})) + "```\n\n"
    text += lines(STEPS.values())
    text += (
        "\n## What is different in a renewal\n\nIts request is signed by the key in use and uses nothing up, so a lost "
        "answer leads to the same request again.\n\n" + lines(RENEWAL.values())
    )
    return text + (
        "\n## Upkeep\n\nWhat is done, when it is due, with certificates that are in use or were: by the agent, or by "
        "order.\n\n" + lines(UPKEEP.values())
    )


def lines(table: Iterable[Step]) -> str:
    """Return one table of steps."""
    text = "| state | step | what it does | touches | may be repeated blindly | ends in |\n"
    text += "| --- | --- | --- | --- | --- | --- |\n"
    for step in table:
        ends = ", ".join([f"**{step.target}**", *dict.fromkeys(step.others)])
        repeat = "yes" if step.repeatable else f"no: `{step.intent}` is durable first"
        text += (
            f"| {step.source} | {step.name} | {step.doing} | {', '.join(step.touches) or '—'} | {repeat} | {ends} |\n"
        )
    return text


def edges() -> Iterator[str]:
    """Yield the diagram's arrows; an end that two steps share is drawn once, by the step that normally leads there."""
    named = {(step.intent or step.source, step.target) for step in STEPS.values()}
    for step in (*STEPS.values(), *UPKEEP.values()):
        middle = step.intent or step.source
        if step.intent is not None:
            yield f"{step.source} --> {step.intent}: intent, before the wire"
        yield f"{middle} --> {step.target}: {step.name}"
        yield from (f"{middle} --> {other}" for other in step.others if (middle, other) not in named)
    for source, targets in BY_ORDER.items():
        yield from (f"{source} --> {target}: by order" for target in sorted(targets))


def walk(width: int) -> Iterator[tuple[click.Context, click.Command]]:
    """Yield every command with its context, groups before their members; help is folded at a width."""
    options: dict[str, Any] = {"max_content_width": width, "terminal_width": width}
    root = click.Context(program, info_name="varmenne", obj=App(), help_option_names=["-h", "--help"], **options)
    yield root, program
    for name in COMMANDS:
        command = program.get_command(root, name)
        if command is None:
            continue
        context = click.Context(command, info_name=name, parent=root, **options)
        yield context, command
        if isinstance(command, click.Group):
            for member in command.list_commands(context):
                inner = command.get_command(context, member)
                if inner is not None:
                    yield click.Context(inner, info_name=member, parent=context, **options), inner


def commands() -> str:
    """Return the help of every command, as the program prints it."""
    text = NOTE + "# Commands\n"
    for context, command in walk(PAGE_COLUMNS):
        depth = "##" if context.command_path.count(" ") < 2 else "###"
        text += f"\n{depth} `{context.command_path}`\n\n```\n{command.get_help(context).strip()}\n```\n"
    return text


def manual() -> str:
    """Return the manual page, varmenne(1), in the man macros of troff."""
    text = f'.\\" Written by scripts/docs from the code.\n.TH VARMENNE 1 "" "varmenne {__version__}" "User Commands"\n'
    text += (
        ".SH NAME\nvarmenne \\- certificates of the Finnish Tax Administration, with keys that stay in their token\n"
    )
    text += ".SH SYNOPSIS\n.B varmenne\n[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGS\\fR]...\n.SH DESCRIPTION\n"
    for context, command in walk(MANUAL_COLUMNS):
        if command is not program:
            text += f".SH {_troff(context.command_path.upper())}\n"
        text += f".nf\n{_troff(command.get_help(context).strip())}\n.fi\n"
    text += ".SH EXIT STATUS\n"
    for line in exit_codes().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 2 and cells[0].isdigit():
            text += f".TP\n{cells[0]}\n{_troff(cells[1])}\n"
    text += ".SH ENVIRONMENT\n"
    for name, meaning in ENVIRONMENT:
        text += f".TP\n.B {name}\n{_troff(meaning)}\n"
    text += ".SH FILES\n./varmenne.toml, ~/.config/varmenne/varmenne.toml, /etc/varmenne/varmenne.toml\n"
    return text


ENVIRONMENT = (
    ("VARMENNE_CONFIG", "The settings file, where --config names none."),
    ("NO_COLOR", "If it is set to anything, print without colours, as --no-color does."),
)


def _troff(text: str) -> str:
    """Escape text for troff."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in escaped.splitlines())


def signals() -> str:
    """Return the vocabulary of the log, and the reasons for which a person is needed."""
    text = NOTE + (
        "# Signals\n\nWhat [monitoring](../monitoring.md) is made from: the words of the log, and the reasons of "
        "`varmenne status`.\n\n## Events\n\nEach has a line in the log and a counter, "
        '`varmenne_events_total{event="…"}`.\n\n| event | level | what has happened |\n| --- | --- | --- |\n'
    )
    text += "".join(
        f"| `{event}` | {logging.getLevelName(event.level).lower()} | {event.meaning} |\n" for event in Event
    )
    text += (
        "\n## Reasons\n\nThe most urgent first. Those that need a person make `varmenne status` end with exit code "
        f'{PersonNeeded.exit_code}, and are counted\nin `varmenne_attention{{reason="…"}}`, but for `trust`, which the '
        "journal does not know.\n\n| reason | needs a person | meaning |\n| --- | --- | --- |\n"
    )
    return text + "".join(
        f"| `{reason}` | {'yes' if reason.person else 'no'} | {reason.meaning} |\n" for reason in Reason
    )


PAGES = {
    "docs/reference/signals.md": signals,
    "docs/reference/configuration.md": configuration,
    "docs/reference/exit-codes.md": exit_codes,
    "docs/reference/states.md": steps,
    "docs/reference/commands.md": commands,
    "docs/man/varmenne.1": manual,
}


def main() -> int:
    """Write the pages, or with ``--check`` only tell which ones are not up to date."""
    stale = []
    for name, write in PAGES.items():
        path, text = ROOT / name, write()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if sys.argv[1:] != ["--check"]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale and sys.argv[1:] == ["--check"]:
        print("not as the code says, run scripts/docs:", ", ".join(stale))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
