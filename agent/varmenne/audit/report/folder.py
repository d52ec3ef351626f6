"""The folder that a report is written to: five files that only their owner may read, each written whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from varmenne.audit.inventory import Inventory
from varmenne.audit.report.controls import evidence
from varmenne.audit.report.language import Language, texts
from varmenne.audit.report.tables import FORMAT, controls_csv, inventory_csv, inventory_json
from varmenne.errors import InputError

PAGE: Final = "report.html"
KNOWN: Final = "inventory.json"
"""The file that is written first, and by which an older report is known."""

FILES: Final = (KNOWN, "inventory.csv", "cbom.json", "controls.csv", PAGE)
DRAFT: Final = ".new"


def report(inventory: Inventory, language: Language) -> dict[str, bytes]:
    """Return the files of a report, by their names in :data:`FILES`, in that order."""
    from varmenne.audit.report.cbom import cbom
    from varmenne.audit.report.page import html

    found = evidence(inventory, texts(language))
    files = dict(
        zip(
            FILES,
            (inventory_json(inventory), inventory_csv(inventory), cbom(inventory), controls_csv(found)),
            strict=False,
        )
    )
    return {**files, PAGE: html(inventory, language, found, files)}


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder in which something is that is not an older report.

    Raises:
        InputError: there is something, or it is no folder that can be used.
    """
    try:
        names = {path.name.removesuffix(DRAFT) for path in folder.iterdir()}
    except FileNotFoundError:
        return
    except OSError as exc:
        raise InputError(f"{folder} cannot be used as the report's folder", why=exc.strerror or str(exc)) from exc
    if not names or (names <= set(FILES) and _is_ours(folder / KNOWN)):
        return
    raise InputError(
        f"{folder} holds something else than a report",
        why=f"{min(names - set(FILES), default=KNOWN)} is there, and nothing is ever overwritten that is not ours",
        next_step="Name a new or an empty folder",
    )


def _is_ours(path: Path) -> bool:
    """Tell whether a file is the inventory of a report, or was to become one when writing it was cut off."""
    if not path.exists():
        return path.with_name(path.name + DRAFT).exists()
    try:
        with path.open("rb") as file:
            return file.read(64).decode("ascii", "replace").split('"')[3:4] == [FORMAT]
    except OSError:
        return False


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a report, in place of an older one.

    Raises:
        InputError: there is something else in the folder, or it cannot be written.
    """
    refuse_foreign(folder)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for name, content in files.items():
            _write(folder / name, content)
    except OSError as exc:
        raise InputError(f"The report cannot be written to {folder}", why=exc.strerror or str(exc)) from exc


def _write(path: Path, content: bytes) -> None:
    """Write a file beside its place, and put it there whole."""
    draft = path.with_name(path.name + DRAFT)
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
