"""The folder of a report: private files, and nothing overwritten that is not an older report."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from harness.inventories import inventory
from varmenne.audit.report.folder import DRAFT, FILES, report, write
from varmenne.audit.report.language import Language
from varmenne.errors import InputError


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """A report of three keys."""
    return report(inventory(3), Language.ENGLISH)


def test_files_are_private_and_a_newer_report_replaces_an_older_one(tmp_path: Path, files: dict[str, bytes]) -> None:
    """Mode 0600 in a folder of mode 0700, whatever the umask."""
    folder = tmp_path / "report"
    write(folder, files)
    (folder / "report.html").write_text("older")
    write(folder, files)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert tuple(files) == FILES
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("present", [{"notes.txt": "mine"}, {"report.html": "mine"}, {"inventory.json": "{}"}])
def test_something_else_is_never_overwritten(tmp_path: Path, files: dict[str, bytes], present: dict[str, str]) -> None:
    """A folder with anything that is not a report is refused, and left as it is."""
    for name, text in present.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="something else"):
        write(tmp_path, files)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == present


def test_a_file_beside_an_older_report_is_not_ours(tmp_path: Path, files: dict[str, bytes]) -> None:
    """What somebody put beside a report stays, and the report is not renewed around it."""
    write(tmp_path, files)
    (tmp_path / "signed.pdf").write_text("mine")
    with pytest.raises(InputError, match=r"signed\.pdf"):
        write(tmp_path, files)


@pytest.mark.parametrize("written", range(len(FILES)))
def test_writing_that_was_cut_off_can_be_done_again(tmp_path: Path, files: dict[str, bytes], written: int) -> None:
    """After any file, with the next one half written."""
    for name in FILES[:written]:
        (tmp_path / name).write_bytes(files[name])
    (tmp_path / f"{FILES[written]}{DRAFT}").write_bytes(b"half")
    write(tmp_path, files)
    assert {path.name for path in tmp_path.iterdir()} == {*FILES}


def test_a_link_is_replaced_and_not_followed(tmp_path: Path, files: dict[str, bytes]) -> None:
    """Whoever can write to the folder must not direct the report elsewhere."""
    other = tmp_path / "other"
    other.write_text("theirs")
    folder = tmp_path / "report"
    write(folder, files)
    (folder / "cbom.json").unlink()
    (folder / "cbom.json").symlink_to(other)
    (folder / f"controls.csv{DRAFT}").symlink_to(other)
    write(folder, files)
    assert other.read_text() == "theirs"
    assert not any(path.is_symlink() for path in folder.iterdir())


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, files: dict[str, bytes]) -> None:
    """A file in its place, or a folder above it that is not there."""
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "none" / "report"):
        with pytest.raises(InputError, match="cannot be"):
            write(place, files)
