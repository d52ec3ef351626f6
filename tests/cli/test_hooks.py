"""``varmenne hooks list``: what looks like a hook and is none is said to be none."""

from __future__ import annotations

from pathlib import Path

from harness.stage import Stage


def test_what_is_not_run_is_said_so(stage: Stage) -> None:
    """A file that cannot be executed, and a folder whose name is mistyped; of the two, the folder fails."""
    top = stage.folder / "hooks"
    write(top / "post-activate" / "reload", 0o644)
    stage.configure(hooks={"directory": str(top)})
    listed = stage.run("hooks", "list")
    assert (listed.code, listed.out) == (0, "post-activate  reload  NOT RUN: it is not executable\n")
    write(top / "post-activation" / "reload", 0o755)
    (top / ".git").mkdir()
    (top / "README").touch()
    listed = stage.run("hooks", "list")
    assert listed.code == 17
    assert [line.split("  NOT RUN: ")[0].split() for line in listed.out.splitlines()] == [
        ["post-activate", "reload"],
        ["post-activation"],
    ]
    assert "no event has this name; events: pre-activate, post-activate, failed, attention" in listed.out
    told = stage.run("hooks", "list", "--json").json[1]
    assert (told["event"], told["name"], told["why"][:8]) == ("post-activation", "", "no event")


def write(path: Path, mode: int) -> None:
    """Write an executable that does nothing."""
    path.parent.mkdir(mode=0o755, parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
