"""A disk that loses power: replays what a process did to a folder, and makes what could be left of it at any moment.

A write is on the disk for certain when the file was synced after it, a name when the folder was. Until then it may be
there, or not, or in part: in units of a sector, in any order.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR_BYTES = 512
SOURCE = Path(__file__).with_name("power.c")


def build_shim(folder: Path) -> Path:
    """Compile the library that writes down what a process does to its files."""
    path = folder / "power.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", path, SOURCE, "-ldl"], check=True)
    return path


@dataclass(frozen=True)
class Act:
    """One thing that was done to a file, or to the name of one."""

    verb: str
    offset: int
    data: bytes
    path: str


def read_log(path: Path) -> list[Act]:
    """Read the log of the shim."""
    log, acts, place = path.read_bytes(), [], 0
    while place < len(log):
        end = log.index(b"\n", place)
        verb, offset, length, name = log[place:end].decode().split(" ", 3)
        place = end + 1 + int(length)
        acts.append(Act(verb, int(offset), log[end + 1 : place], name))
    return acts


def _apply(content: bytearray, act: Act) -> None:
    """Do a write or a truncation to a file's content."""
    if act.verb == "truncate":
        del content[act.offset :]
        content.extend(bytes(act.offset - len(content)))
        return
    content.extend(bytes(max(0, act.offset + len(act.data) - len(content))))
    content[act.offset : act.offset + len(act.data)] = act.data


@dataclass
class _File:
    """A file's content on the disk for certain, and what was done to it since."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Act] = field(default_factory=list)

    def left(self, chance: float, rng: random.Random) -> bytes:
        """Return what a power cut leaves: each act since the last sync with a chance, writes by sector."""
        content = bytearray(self.durable)
        for act in self.pending:
            if act.verb == "truncate":
                if rng.random() < chance:
                    _apply(content, act)
                continue
            for begin in range(0, len(act.data), SECTOR_BYTES):
                if rng.random() < chance:
                    part = act.data[begin : begin + SECTOR_BYTES]
                    _apply(content, Act("write", act.offset + begin, part, act.path))
        return bytes(content)

    def sync(self) -> None:
        """Make all of it certain."""
        for act in self.pending:
            _apply(self.durable, act)
        self.pending.clear()


class Disk:
    """The files of a folder, with what is certain and what is not."""

    def __init__(self, folder: Path, start: Path) -> None:
        self._folder = str(folder)
        files = {str(folder / path.name): _File(bytearray(path.read_bytes())) for path in start.iterdir()}
        self._names = files
        self._durable_names = dict(files)

    def do(self, act: Act) -> None:
        """Let an act happen."""
        match act.verb:
            case "create":
                self._names[act.path] = _File()
            case "unlink":
                self._names.pop(act.path, None)
            case "rename":
                self._names[act.data.decode()] = self._names.pop(act.path)
            case "link":
                self._names[act.data.decode()] = self._names[act.path]
            case "sync" if act.path == self._folder:
                self._durable_names = dict(self._names)
            case "sync":
                self._names[act.path].sync()
            case _:
                self._names[act.path].pending.append(act)

    def left(self, target: Path, chance: float, rng: random.Random) -> None:
        """Write to a folder what a power cut at this moment leaves; the chance is that of what is not certain."""
        target.mkdir(mode=0o700)
        names = self._names if rng.random() < chance else self._durable_names
        for name, file in names.items():
            handle = os.open(target / Path(name).name, os.O_CREAT | os.O_WRONLY, 0o600)
            try:
                os.write(handle, file.left(chance, rng))
            finally:
                os.close(handle)


def power_cuts(
    folder: Path, start: Path, targets: Path, *, moments: int | None, seed: int = 20261124
) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder as a power cut leaves it, and the lines of the file ``told`` by then.

    This is done for every moment, or for some that are drawn, and at each moment for three cuts: all that was written
    has reached the disk, only what is certain has, and some of the rest has.

    Args:
        folder: what the process worked in; its log lies beside it.
        start: a copy of the folder from before.
        targets: where the folders are made.
        moments: how many moments are drawn; ``None`` for all.
        seed: makes the drawing repeatable.
    """
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    acts = read_log(folder.with_name(f"{folder.name}.log"))
    chosen = set(range(len(acts)) if moments is None else rng.sample(range(len(acts)), moments))
    disk, told = Disk(folder, start), ""
    for number, act in enumerate(acts):
        if Path(act.path).name == "told":
            told += act.data.decode()
            continue
        disk.do(act)
        for chance in (1.0, 0.0, rng.uniform(0.1, 0.9)) if number in chosen else ():
            target = targets / f"{number}-{chance:.3f}"
            disk.left(target, chance, rng)
            yield target, told.split("\n")[:-1]
