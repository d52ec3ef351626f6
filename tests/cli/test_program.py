"""The program as a whole: help, completion, JSON, exit codes, and what is printed where."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from harness.stage import Stage, run_main
from varmenne.cli.program import COMMANDS, INTERRUPTED, OUTPUT_LOST, PIPE_CLOSED, program
from varmenne.errors import family


def commands() -> Iterator[tuple[str, ...]]:
    """Yield the words that name each command, those of groups too."""

    def below(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None, name
                yield from below(child, (*words, name))

    yield from below(program, ())


ALL = tuple(commands())


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_help_has_examples_and_fits(words: tuple[str, ...]) -> None:
    """Every command explains itself, with three or more examples to copy, at most 100 columns wide."""
    result = run_main(*words, "--help")
    assert (result.code, result.err) == (0, "")
    words_of_it, _, examples_of_it = result.out.partition("Examples:")
    assert max(map(len, words_of_it.splitlines())) <= 100
    assert max(map(len, examples_of_it.splitlines()), default=0) <= 120
    if words:
        examples = [line for line in result.out.splitlines() if re.match(r"\s+.*\bvarmenne " + words[0], line)]
        assert len(examples) >= 2, result.out
        assert "--json" in result.out or len(ALL) > len(words), result.out
    assert run_main(*words, "-h").out == result.out


def test_the_environment_is_weaker_than_an_option(
    shared_stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VARMENNE_CONFIG counts only where --config stands neither in front of the command's name nor behind it."""
    other, here = tmp_path / "other.toml", str(shared_stage.config)
    other.write_text(re.sub("state_dir = .*", f'state_dir = "{tmp_path}/other"', shared_stage.config.read_text()))
    monkeypatch.setenv("VARMENNE_CONFIG", here)
    usual = run_main("journal", "path").out
    named = run_main("journal", "path", "--config", str(other)).out
    assert (usual, named) == (f"{shared_stage.state_dir}/journal.sqlite\n", f"{tmp_path}/other/journal.sqlite\n")
    assert run_main("--config", str(other), "journal", "path").out == named
    assert run_main("--config", here, "journal", "path", "--config", str(other)).out == named
    for command in (("journal", "path"), ("list",), ("doctor",)):
        refused = run_main("--config", "/nonexistent.toml", *command)
        assert (refused.code, "/nonexistent.toml" in refused.err) == (3, True)


@pytest.mark.parametrize("words", [(), ("list",), ("trust",), ("trust", "import")], ids=" ".join)
def test_help_as_a_word(words: tuple[str, ...]) -> None:
    """Who types `help` first, as with other programs, gets what --help shows."""
    assert run_main("help", *words) == run_main(*words, "--help")
    assert run_main("help", "lst").code == 2


@pytest.mark.parametrize("words", [words for words in ALL if words], ids=" ".join)
def test_examples_are_valid_command_lines(words: tuple[str, ...]) -> None:
    """Each example of a command's help parses: it names commands and options that there are."""
    import shlex

    epilog = re.sub(r"\\\n\s*", "", run_main(*words, "--help").out)
    for line in re.findall(r"(?:^|\| |&& )\s*(varmenne [^|>&#\n]*)", epilog, re.MULTILINE):
        text = re.sub(r"\s+\((?=[a-zA-Z:~]).*$", "", line.strip())
        text = re.sub(r"\$\(.*", "SERIAL", text)
        arguments = shlex.split(text)[1:]
        if not arguments or arguments[0].startswith("("):
            continue
        command: click.Command = program
        context = click.Context(program)
        while arguments and isinstance(command, click.Group):
            found = command.get_command(context, arguments[0])
            assert found is not None, line
            command, arguments = found, arguments[1:]
        known = {name for option in command.params for name in option.opts}
        used = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert used <= known | {"--help"}, line


def test_the_list_of_commands_is_whole() -> None:
    """The overview names every command with the words that the command itself begins with, or others of its own."""
    out = run_main("--help").out
    for name, (_module, meaning) in COMMANDS.items():
        assert re.search(rf"^\s+{name}\s+{re.escape(meaning.split()[0])}", out, re.MULTILINE), name


def test_version() -> None:
    """The version is on standard output."""
    from varmenne import __version__

    assert run_main("--version").out == f"varmenne {__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, tmp_path: Path) -> None:
    """The shell itself finds no fault in its script; a shell that is not installed is passed over, bash never is."""
    script = tmp_path / "script"
    script.write_text(run_main("completion", shell).out)
    assert "_VARMENNE_COMPLETE" in script.read_text()
    if shutil.which(shell) or shell == "bash":
        subprocess.run([shell, "-n", script], check=True, timeout=20)


def test_completion_completes() -> None:
    """Typing a command's beginning offers its name, and its options after it."""
    environment = {
        **os.environ,
        "_VARMENNE_COMPLETE": "bash_complete",
        "COMP_WORDS": "varmenne en",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[0] = 'varmenne'; from varmenne.cli import main; main()"],
        env=environment,
        check=False,
        capture_output=True,
        timeout=30,
    )
    assert done.stdout.decode().split() == ["plain,enroll"], done


def test_json_is_one_document(shared_stage: Stage) -> None:
    """Whatever reports prints exactly one JSON document on standard output, in success and in failure."""
    stage = shared_stage
    order = stage.order("json", name="Öljy Oy")
    file = stage.credentials_file(order)
    enrolled = stage.run(
        "enroll", "--customer-id", "json", "--customer-name", "Öljy Oy", "--credentials", file, "--json"
    )
    assert enrolled.code == 0
    row = enrolled.json
    assert (row["state"], row["customer_name"], row["vault_version"]) == ("active", "Öljy Oy", 1)
    assert "Öljy" in enrolled.out  # Not escaped: people read it too.
    shown = stage.run("--json", "show", row["id"])
    assert shown.json == {**shown.json, **row, "refused_answers": [], "hooks": []}
    for command in (["list"], ["history", row["id"]], ["resume", "--all"], ["resume", row["id"]], ["doctor"]):
        result = stage.run(*command, "--json")
        assert (result.code, isinstance(result.json, list | dict)) == (0, True), result
    failed = stage.run("doctor", "--json", "--endpoint", "https://127.0.0.1:9/")
    assert failed.code == 15
    assert {line["verdict"] for line in failed.json} == {"ok", "warn", "fail"}
    assert "127.0.0.1:9" in next(line["detail"] for line in failed.json if line["verdict"] == "fail")
    text = stage.run("show", row["id"])
    assert row["serial_number"] in text.out
    assert "BEGIN CERTIFICATE" not in text.out
    assert stage.run("list", "--customer-id", "nobody").out == ""
    assert stage.run("list", "--customer-id", "nobody", "--json").json == []


def test_list_is_in_order_of_time(stage: Stage) -> None:
    """IDs of one day are random; the list goes by time, oldest first, in columns that hold the longest ID."""
    customers = ["c" * 30, "b", "a"]
    for customer in customers:
        result = stage.run("csr", "--customer-id", customer, "--out", stage.folder / f"{customer}.pem")
        assert result.code == 0, result
    assert [row["customer_id"] for row in stage.run("list", "--json").json] == customers
    header, *lines = stage.run("list").out.splitlines()
    column = header.index("CHANNEL")
    assert [line[column : column + 2] for line in lines] == ["ws"] * 3


def test_next_step_of_each_kind(shared_stage: Stage, tmp_path: Path) -> None:
    """`show` says how an enrollment goes on, in words and with the command to type."""
    stage = shared_stage
    made = stage.run("csr", "--customer-id", "next", "--out", tmp_path / "r.pem", "--json").json
    assert f"varmenne import {made['id']} FILE" in stage.run("show", made["id"]).out
    resumed = stage.run("resume", made["id"])
    assert resumed.code == 0
    assert "Nothing is left to do" not in resumed.err
    order = stage.order("next-2")
    waiting = stage.run(
        "enroll", "--customer-id", "next-2", "--credentials", stage.credentials_file(order), "--wait", "0", "--json"
    )
    assert waiting.code == waiting.json["exit_code"] == 14
    (row,) = [row for row in stage.rows() if row.customer_id == "next-2"]
    assert f"varmenne resume {row.id}" in stage.run("show", row.id).out
    assert stage.run("resume", row.id).code == 0
    done = stage.run("show", row.id).out
    assert "resume" not in done
    assert "Nothing is left to do" in stage.run("resume", row.id).err
    assert "Nothing is left to do" in stage.run("resume", "--all").err


def test_colours_only_where_they_are_wanted(shared_stage: Stage) -> None:
    """A pipe gets no escape sequences."""
    result = shared_stage.run("doctor")
    assert "\x1b" not in result.out + result.err


def test_unexpected_errors_are_one_line(shared_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect gets no traceback unasked, since its text could be anything; -vv shows it."""

    def fail(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("s3cRet-of-a-library")

    monkeypatch.setattr("varmenne.journal.Journal.list", fail)
    result = shared_stage.run("list", "--json")
    assert result.code == result.json["exit_code"] == 1
    assert "An unexpected error: RuntimeError" in result.err
    assert "s3cRet-of-a-library" not in result.out + result.err
    assert "s3cRet-of-a-library" in shared_stage.run("-vv", "list").err


def test_exit_codes_are_told_apart() -> None:
    """Each family of errors that has a code of its own has another one than the others, and none of click's."""
    codes = [error.exit_code for error in family() if "exit_code" in vars(error)]
    assert len(codes) == len(set(codes))
    assert not {0, 2, INTERRUPTED, OUTPUT_LOST, PIPE_CLOSED} & set(codes)


def test_as_a_module(shared_stage: Stage) -> None:
    """`python -m varmenne` is the same program, as a process of its own."""
    result = shared_stage.command("list", "--json")
    assert (result.code, result.err) == (0, "")
    assert result.json == shared_stage.run("list", "--json").json


def test_closed_pipe(shared_stage: Stage) -> None:
    """A reader that goes away is no error to speak of."""
    with shared_stage.start("list", "--json") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read().decode()
    assert err == ""
    assert process.returncode == PIPE_CLOSED


@pytest.mark.parametrize("arguments", [("list", "--json"), ("--help",), ("show", "nonsense", "--json")], ids=" ".join)
def test_output_that_cannot_be_written(shared_stage: Stage, arguments: tuple[str, ...]) -> None:
    """A full disk behind standard output is told in a sentence, with an exit code of its own."""
    with Path("/dev/full").open("wb") as full, shared_stage.start(*arguments, stdout=full) as process:
        _out, err = process.communicate(timeout=30)
    assert process.returncode == OUTPUT_LOST, err
    assert b"Standard output could not be written: No space left on device" in err
    assert b"Traceback" not in err


def test_words_that_cannot_be_written_stop_nothing(shared_stage: Stage) -> None:
    """A full disk behind standard error does not keep a command from its work."""
    order = shared_stage.order("quiet")
    file = shared_stage.credentials_file(order)
    arguments = ("enroll", "--customer-id", "quiet", "--credentials", file, "--json")
    with Path("/dev/full").open("wb") as full, shared_stage.start(*arguments, stderr=full) as process:
        out, _err = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out)["state"]) == (0, "active")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_terminals_that_lack_letters(shared_stage: Stage, encoding: str) -> None:
    """What a terminal cannot show becomes something else, and JSON stays whole by its escapes."""
    order = shared_stage.order(encoding, name="Öljy → Oy")
    file = shared_stage.credentials_file(order)
    environment = {**shared_stage.environment(), "PYTHONIOENCODING": encoding}
    arguments = ("enroll", "--customer-id", encoding, "--customer-name", "Öljy → Oy", "--credentials", file, "--json")
    with shared_stage.start(*arguments, env=environment) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out.decode(encoding))["customer_name"] == "Öljy → Oy"
    assert b"Enrollment" in err
    with shared_stage.start("doctor", env=environment) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
