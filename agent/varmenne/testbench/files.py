"""Private folders and files of a bench: modes are set before there is content, and files are replaced whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from typing import TYPE_CHECKING

from varmenne.errors import InputError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600


def private_folder(path: Path) -> None:
    """Make a folder, and those missing above it, that only its owner can enter.

    Raises:
        InputError: the path cannot be made, or is something else than a folder.
    """
    try:
        for folder in (*reversed(path.parents), path):
            if not folder.is_dir():
                folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    except OSError as exc:
        raise InputError(f"The bench's folder {path} cannot be made", why=exc.strerror or str(exc)) from exc


def write_file(path: Path, content: bytes) -> None:
    """Write a file of mode 0600: under another name first, then put in place, so that nobody ever reads a half."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def only_one(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file for the length of a block; the system frees it whatever becomes of the process.

    Raises:
        StateError: another process, or another server of this one, holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(
                f"{what} is in use already",
                why=f"another process holds {path}",
                next_step="Stop the other bench, or give this one a folder of its own",
            ) from None
        yield
    finally:
        os.close(descriptor)
