"""The ``varmenne`` program: its commands, and the one place where errors become messages and exit codes.

Commands are imported when they are called, so that ``varmenne --help`` costs little more than Python and click.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
import warnings
from typing import Any, NoReturn

import click

from varmenne import __version__
from varmenne.cli.common import App, common_options
from varmenne.errors import VarmenneError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells count it (128 + SIGINT)."""
PIPE_CLOSED = 141
"""Exit code if the reader of standard output went away, as shells count it (128 + SIGPIPE)."""
OUTPUT_LOST = 16
"""Exit code if standard output could not be written, such as to a full disk."""
PR_SET_DUMPABLE = 4
"""``prctl(2)``: zero forbids core dumps, and the user's other processes to read this one's memory."""

COMMANDS: dict[str, tuple[str, str]] = {
    # name: (module of this package that has a command of that name, what the command is for)
    "demo": ("demo", "See it work: a key born in a token, a certificate in Vault, on this machine alone."),
    "init": ("init", "Write the settings file, with each part tried."),
    "doctor": ("doctor", "Check token, service, trust anchors, Vault, journal and clock; change nothing."),
    "enroll": ("enroll", "Get a certificate with the one-time credentials of an order."),
    "csr": ("eservice", "Make a key and a CSR for the e-service's form."),
    "import": ("eservice", "Bring in the certificate that the e-service gave for such a CSR."),
    "resume": ("enroll", "Finish what was interrupted or had to wait."),
    "resolve": ("resolve", "Decide about an enrollment whose fate is uncertain, or give one up."),
    "renew": ("renew", "Get the successor of a certificate in use, signed for by its key."),
    "rehearse": ("renew", "Try all that a renewal will need, long before it is due."),
    "activate": ("generations", "Put a renewed or an earlier certificate to use now."),
    "retire": ("generations", "Retire the key of a certificate that was replaced."),
    "run": ("run", "Look after all certificates, unattended: the agent."),
    "status": ("status", "Tell what needs you, what is due, and what is fine."),
    "list": ("look", "List the enrollments."),
    "show": ("look", "Show one enrollment with all that is known of it."),
    "history": ("look", "Show every transition of one enrollment."),
    "sftp": ("people", "Note the user ID of an SFTP channel."),
    "contact": ("people", "Note who the technical contact person of a certificate is."),
    "hooks": ("hooks", "Look at your hooks, try them, and run again those that failed."),
    "journal": ("journal", "Show, check, back up and restore the journal, which remembers every step."),
    "trust": ("trust", "Bring trust anchors in, look at them, take them out."),
    "audit": ("audit", "Prove custody: the log of every act on a key, checkpoints, passports, reports."),
    "service": ("service", "Look at stored answers of the certificate service, and verify them offline."),
    "pull": ("pull", "Bring a published certificate into files, and reload what serves it."),
    "credentials": ("credentials", "Hand one-time credentials over by Vault, for one reader."),
    "vault": ("vault", "Set Vault up for varmenne, and check what our role may do there."),
    "testbench": ("testbench", "Run a stand-in for the certificate service, for trials and tests."),
    "completion": ("completion", "Print the completion script for a shell."),
}

GOES_ON = "What was done is safe; `varmenne resume --all` goes on."

BEGINNING = ("enroll", "csr", "renew")
"""Commands that begin an enrollment, after they have proven what they can."""

IF_INTERRUPTED = {
    **dict.fromkeys(BEGINNING, "Nothing was begun; run it again."),
    **dict.fromkeys(("import", "resume", "resolve"), GOES_ON),
    **dict.fromkeys(
        ("activate", "retire", "sftp", "contact"), "What was done is safe; the same command again does the rest."
    ),
    **dict.fromkeys(("doctor", "status", "list", "show", "history", "rehearse"), "Nothing was changed."),
}
"""What is true after Ctrl-C in a command; others, such as `init`, say it themselves as they go on."""


class Program(click.Group):
    """Knows its commands by the table above, and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names in the table's order, which is the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import the module of a command and return it."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"varmenne.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, {"import": "import_", "list": "list_"}.get(cmd_name, cmd_name))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first word names, or suggest the nearest one; `help` in front is --help behind."""
        if args[:1] == ["help"]:
            if not args[1:]:
                click.echo(ctx.get_help(), color=ctx.color)
                ctx.exit()
            args = [*args[1:], "--help"]
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            advice = f"Did you mean '{near[0]}'?" if near else "`varmenne --help` lists them."
            raise click.UsageError(f"There is no command '{args[0]}'. {advice}", ctx)
        if args:
            app = ctx.ensure_object(App)
            app.if_interrupted = IF_INTERRUPTED.get(args[0], "")
            app.if_interrupted_later = GOES_ON if args[0] in BEGINNING else ""
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Write the list of commands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_module, text) in COMMANDS.items()])


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="varmenne %(version)s")
@common_options
def program() -> None:
    """Get certificates from the Finnish Tax Administration's certificate service.

    Private keys are made in a PKCS#11 token and never leave it; certificates go to Vault.

    \b
      varmenne demo             see it work on this machine
      varmenne init             write the settings
      varmenne enroll --help    get the first certificate
    """


def main() -> NoReturn:
    """Run the program and exit with a code of the table in ``varmenne.errors``."""
    _forbid_core_dumps()
    for stream in (sys.stdout, sys.stderr):
        # A terminal that has no "→" shows something else for it; that is no reason to fail.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app = App()
    warnings.showwarning = lambda message, *_rest, **_more: app.warn(str(message))
    warnings.simplefilter("always", UserWarning)
    try:
        code = _exit_code(app)
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as exc:
        code = _output_lost(app, exc)
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        _mute(2)  # Words that could not be written must not turn into an exit code of Python's own when it ends.
    sys.exit(code)


def _exit_code(app: App) -> int:
    """Run the program, print how it failed if it did, and return the exit code.

    Raises:
        OSError: standard output cannot be written.
    """
    stdout = sys.stdout
    try:
        code = program.main(standalone_mode=False, obj=app, prog_name="varmenne")
    except SystemExit:
        if sys.stdout is not stdout:  # click has met a closed pipe, put a mute in its place, and exits with 1.
            sys.stdout = stdout
            raise BrokenPipeError from None
        raise
    except click.exceptions.Exit as exc:
        code = exc.exit_code
    except click.ClickException as exc:
        # The option may stand behind the one that was wrong, where click has not read it.
        app.json = app.json or "--json" in sys.argv
        exc.show()
        app.print_failure(exc.exit_code, kind="UsageError", what=exc.format_message())
        code = exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        app.say(f"\nInterrupted. {app.if_interrupted}".rstrip(" "))
        app.print_failure(INTERRUPTED, kind="Interrupted", what="Interrupted")
        code = INTERRUPTED
    except VarmenneError as exc:
        app.fail(exc)
        code = exc.exit_code
    except Exception as exc:  # the last resort: nobody gets a traceback unasked
        if isinstance(exc, OSError) and _came_from_printing(exc):
            raise
        app.fail(_defect(exc))
        code = VarmenneError.exit_code
    return code if isinstance(code, int) else 0


def _came_from_printing(exc: OSError) -> bool:
    """Tell whether click met the error while it wrote; it does not say so, and a stream fails only once."""
    *_above, (frame, _line) = traceback.walk_tb(exc.__traceback__)
    return frame.f_globals.get("__name__") == click.echo.__module__


def _output_lost(app: App, exc: OSError) -> int:
    """Say that standard output cannot be written, unless its reader went away on purpose; return the exit code."""
    # What is still buffered would fail once more when Python ends.
    _mute(1)
    if isinstance(exc, BrokenPipeError):
        return PIPE_CLOSED
    app.say(f"{click.style('Error:', fg='red')} Standard output could not be written: {exc.strerror}.")
    app.say("  Next: What was done is done; look with `varmenne list`, and give the output room.")
    return OUTPUT_LOST


def _mute(descriptor: int) -> None:
    """Let what is still written to a descriptor go nowhere."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _defect(exc: Exception) -> VarmenneError:
    """Wrap an error that was not translated where it arose; its text may be anything, so only -vv shows it."""
    error = VarmenneError(
        f"An unexpected error: {type(exc).__name__}",
        next_step="This is a defect in varmenne. Run the command again with -vv and report what it shows, "
        "after looking through it for anything private",
    )
    error.__cause__ = exc
    return error


def _forbid_core_dumps() -> None:
    """A core dump could hold a one-time password: allow none, not even to a program that the kernel hands it to.

    The limit alone would not do: the kernel does not heed it where dumps go to a program.
    """
    import ctypes
    import resource

    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    _soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def run(*arguments: str, app: App | None = None) -> Any:
    """Run a command in this process and return what it returns (for tests and for generating documentation)."""
    return program.main(list(arguments), standalone_mode=False, obj=app or App(), prog_name="varmenne")
