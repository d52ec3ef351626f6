"""`varmenne init`: by questions at a terminal and by options alone, without servers."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from cli.test_terminal import at_terminal
from harness.stage import Result, Stage, run_main
from varmenne.journal import Journal
from varmenne.settings import load_settings
from varmenne.token import create_softhsm_token

OPTIONS = ("init", "--no-try", "--environment", "test", "--vault-token-file", "vault-token")
TOKEN = ("--token-module", "/nowhere/module.so", "--token-label", "none")


@dataclass(frozen=True)
class Desk:
    """A folder in which the command line runs, in the place of a stage."""

    folder: Path

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start the command line as a process of its own."""
        return subprocess.Popen([sys.executable, "-m", "varmenne", *arguments], cwd=self.folder, **options)


def run(folder: Path, *arguments: str) -> Result:
    """Run `init` with the settings file of a folder."""
    return run_main("--config", str(folder / "varmenne.toml"), *arguments)


def test_options_alone_write_the_file(tmp_path: Path) -> None:
    """Without a terminal the options say all that has no usual answer."""
    done = run(tmp_path, *OPTIONS, *TOKEN)
    assert (done.code, done.out) == (0, ""), done
    settings = load_settings(tmp_path / "varmenne.toml")
    assert (settings.token.label, settings.vault.address) == ("none", "https://127.0.0.1:8200")
    assert [path.name for path in tmp_path.iterdir()] == ["varmenne.toml"]


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--vault-address", "vault:8200", "an address begins with https:// or http://"),
        ("--pin", "1234", "never the secret itself"),
        ("--state-dir", "", "it may not be empty"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, option: str, value: str, words: str) -> None:
    """The option and what it can be are told in words, before a file is written or a token is made."""
    done = run(tmp_path, *OPTIONS, "--softhsm", "token", option, value)
    assert (done.code, done.out) == (4, "")
    assert f"{option} cannot be '{value}'" in done.err
    assert words in done.err
    assert "regex" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_is_left_behind_is_told(tmp_path: Path) -> None:
    """With another state folder, what was sent is not known any more: that is not done without a word."""
    run(tmp_path, *OPTIONS, *TOKEN, "--state-dir", "old")
    assert "stays in" not in run(tmp_path, "init", "--no-try", "--state-dir", "older").err
    with Journal(tmp_path / "older"):
        pass
    assert "stays in" not in run(tmp_path, "init", "--no-try", "--customer-id", "1").err
    assert f"The journal stays in {tmp_path / 'older'}" in run(tmp_path, "init", "--no-try", "--state-dir", "new").err


def test_answers_are_asked_for_again(tmp_path: Path) -> None:
    """An answer that cannot be, an empty one, and a folder that is in use are asked for again; the token is last."""
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with at_terminal(cast("Stage", Desk(tmp_path)), "init", "--no-try", "--no-color") as terminal:
        for question, answer in (
            ("Environment", ""),
            ("Folder for the journal", ""),
            ("Customer ID", ""),
            ("Address of the service", ""),
            ("CA file of the service", ""),
            ("Folder of the trust anchors", ""),
            ("Address of Vault", "vault.example.org"),
            ("an address begins with https://", "https://vault.example.org"),
            ("CA file of Vault", ""),
            ("Mount of the KV", ""),
            ("Login to Vault", ""),
            ("File of the Vault token", ""),
            ("An answer is needed here", "vault-token"),
        ):
            terminal.until(question)
            terminal.type(f"{answer}\n")
        terminal.until("Which")
        assert not (tmp_path / "token").exists()
        number = next(line.split()[0] for line in terminal.screen if "a new SoftHSM token" in line)
        terminal.type(f"{number}\n")
        terminal.until("Folder for the new token")
        terminal.type("used\n")
        terminal.until("Name another folder")
        terminal.type("token\n")
        assert terminal.to_the_end() == 0
    assert "Customer name" not in terminal.seen
    settings = load_settings(tmp_path / "varmenne.toml")
    assert settings.vault.address == "https://vault.example.org"
    assert settings.token.environment == {"SOFTHSM2_CONF": str(tmp_path / "token" / "softhsm2.conf")}


def test_a_token_beside_the_settings_is_offered(tmp_path: Path) -> None:
    """A token that an earlier try has made is the first offer, with its PIN's file."""
    made = create_softhsm_token(tmp_path / "token", label="earlier")
    with at_terminal(cast("Stage", Desk(tmp_path)), *OPTIONS, "--customer-id", "1", "--no-color") as terminal:
        terminal.until("Folder for the journal")
        terminal.type("\n" * 20)
        assert terminal.to_the_end() == 0
    settings = load_settings(tmp_path / "varmenne.toml")
    assert (settings.token.label, settings.token.serial) == ("earlier", made.serial)
    assert settings.token.pin == made.pin


def test_ctrl_c_says_what_was_written(tmp_path: Path) -> None:
    """Nothing was written yet when a question is left unanswered, and resume is not the way on."""
    with at_terminal(cast("Stage", Desk(tmp_path)), "init") as terminal:
        terminal.until("Environment")
        assert terminal.interrupt() == 130
    assert "Interrupted. varmenne.toml was not written." in terminal.screen
    assert "resume" not in terminal.seen
    assert list(tmp_path.iterdir()) == []
