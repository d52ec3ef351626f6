"""The executables of hooks: which there are, who could have changed them, and how one is run.

An executable gets facts on standard input and in its environment, and nothing else of ours: no descriptor, no variable,
no terminal. It has a session of its own, a time limit, and room for a few lines. When it ends, by itself or not,
whatever it has left running in its session's group is ended too.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import selectors
import signal
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from varmenne.domain.hooks import HookEvent
from varmenne.errors import ConfigError

if TYPE_CHECKING:
    from varmenne.settings import HookSettings

NAME = re.compile(r"[A-Za-z0-9_-]+")
"""Names that are taken, as run-parts(8) takes them: what editors and package managers leave behind has other ones."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UMASK = 0o022
MAX_OUTPUT_BYTES = 4096
"""So much of what it writes is kept, from the end: that is where errors are."""
MAX_VARIABLE = 1000
"""Letters of a variable, at most. The whole is on standard input."""
GRACE_SECONDS = 5.0
"""How long ended processes may take to be gone."""
MOST_LINKS = 40
"""Symbolic links that are followed, as many as Linux follows (path_resolution(7))."""
WRITABLE_BY_OTHERS = 0o022


@dataclass(frozen=True, slots=True)
class Ended:
    """How an executable ended: whether well, and in words, with the end of what it wrote."""

    ok: bool
    detail: str


def refuse_unusable(settings: HookSettings) -> None:
    """Refuse settings by which no hook could be run.

    Raises:
        ConfigError: the folder is missing, or others may write to it, or hooks cannot be run as the user.
    """
    if not settings.directory:
        return
    _user(settings.user)
    top = Path(settings.directory)
    if not top.is_dir():
        raise ConfigError(
            f"The folder of the hooks, {top}, is not there",
            next_step="Make it, with a folder for each event in it, or leave `hooks.directory` out",
        )
    for folder in (top, *(top / event for event in HookEvent if (top / event).exists())):
        if why := unsafe(folder):
            raise ConfigError(f"The hooks in {folder} are not run", why=why, next_step=ADVICE)


ADVICE = "Whoever can change a hook acts in our name: let root or the agent's user own it, and chmod go-w"


@dataclass(frozen=True, slots=True)
class Entry:
    """What is in the folder of an event.

    Attributes:
        event: the event.
        name: the file's name.
        passed_over: why it is no hook; empty if it is one.
        unsafe: who else could change it; empty if nobody could.
    """

    event: HookEvent
    name: str
    passed_over: str
    unsafe: str


def listed(settings: HookSettings) -> Iterator[Entry]:
    """Yield what is in the folder of each event, in the order in which it is run.

    Raises:
        ConfigError: a folder cannot be read.
    """
    for event in HookEvent:
        for path in _files(settings, event):
            why = _passed_over(path)
            yield Entry(event, path.name, why, "" if why else unsafe(path))


def strange(settings: HookSettings) -> list[str]:
    """Return the folders beside those of the events that no event looks into, such as one that was mistyped.

    Raises:
        ConfigError: the folder of the hooks cannot be read.
    """
    if not settings.directory:
        return []
    try:
        folders = [path.name for path in Path(settings.directory).iterdir() if path.is_dir()]
    except OSError as exc:
        raise ConfigError(f"The folder {settings.directory} cannot be read", why=exc.strerror or str(exc)) from exc
    return sorted(name for name in folders if name not in set(HookEvent) and not name.startswith("."))


def _files(settings: HookSettings, event: HookEvent) -> list[Path]:
    """Return what is in the folder of an event, in lexical order; nothing if there is no folder."""
    folder = Path(settings.directory) / event
    if not settings.directory or not folder.exists():
        return []
    try:
        return sorted(folder.iterdir())
    except OSError as exc:
        raise ConfigError(f"The folder {folder} cannot be read", why=exc.strerror or str(exc)) from exc


def names(settings: HookSettings, event: HookEvent) -> tuple[str, ...]:
    """Return the names of what is run for an event, in the order in which it is run.

    Raises:
        ConfigError: the folder cannot be read.
    """
    return tuple(path.name for path in _files(settings, event) if not _passed_over(path))


def _passed_over(path: Path) -> str:
    """Say why a file is no hook; nothing if it is one. Whether others could change it is not looked at here."""
    if not NAME.fullmatch(path.name):
        return "its name has other signs than letters, digits, `_` and `-`"
    try:
        mode = path.stat().st_mode
    except OSError as exc:
        return exc.strerror or str(exc)
    if not stat.S_ISREG(mode):
        return "it is no file"
    return "" if mode & 0o111 else "it is not executable"


def unsafe(path: Path) -> str:
    """Say who else could change a file or folder, or put another in its place; nothing if nobody could.

    Everything on the way is looked at, links and folders up to the root, as sshd(8) does with StrictModes. In a folder
    above, that anybody may write to is no danger if it has the sticky bit, as ``/tmp`` has.
    """
    try:
        for number, passed in enumerate(_way(path)):
            found = passed.lstat()
            if found.st_uid not in {0, os.geteuid()}:
                return f"{passed} belongs to the user with the number {found.st_uid}"
            spared = stat.S_ISLNK(found.st_mode) or (number and found.st_mode & stat.S_ISVTX and passed.is_dir())
            if found.st_mode & WRITABLE_BY_OTHERS and not spared:
                return f"others may write to {passed}"
    except OSError as exc:
        return f"{path}: {exc.strerror or exc}"
    return ""


def _way(path: Path) -> Iterator[Path]:
    """Yield what a path leads to, and then everything that it leads through."""
    through: list[Path] = []
    for _ in range(MOST_LINKS):
        folder = path.parent.resolve(strict=True)
        through += [folder, *folder.parents]
        path = folder / path.name
        if not path.is_symlink():
            break
        through.append(path)
        path = folder / path.readlink()
    yield path
    yield from through


def run(settings: HookSettings, event: HookEvent, name: str, facts: Mapping[str, Any]) -> Ended:
    """Run an executable to its end, or until its time is over.

    Raises:
        ConfigError: the folder is missing, or others may write to it, or hooks cannot be run as the user.
    """
    refuse_unusable(settings)
    path = Path(settings.directory) / event / name
    if why := unsafe(path):
        return Ended(ok=False, detail=f"it is not run: {why}")
    user = _user(settings.user)
    groups = None if user.pw_uid == os.geteuid() else os.getgrouplist(user.pw_name, user.pw_gid)
    with _document(facts) as document:
        try:
            process = subprocess.Popen(
                [str(path)],
                executable=path.resolve(),
                stdin=document,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=_environment(facts, user.pw_dir),
                umask=UMASK,
                start_new_session=True,
                user=None if groups is None else user.pw_uid,
                group=None if groups is None else user.pw_gid,
                extra_groups=groups,
            )
        except OSError as exc:
            return Ended(ok=False, detail=f"it cannot be run: {exc.strerror or exc}")
        return _attend(process, settings.timeout_seconds)


def _user(name: str) -> pwd.struct_passwd:
    """Return who hooks are run as.

    Raises:
        ConfigError: there is no such user, or we may not act for it.
    """
    own = os.geteuid()
    try:
        user = pwd.getpwnam(name) if name else pwd.getpwuid(own)
    except KeyError as exc:
        if not name:  # A container may give us a number without a name.
            return pwd.struct_passwd((str(own), "x", own, os.getegid(), "", "/", ""))
        raise ConfigError(f"There is no user {name!r} to run the hooks as", next_step="Set `hooks.user`") from exc
    if own not in {0, user.pw_uid}:
        raise ConfigError(
            f"The hooks cannot be run as {name!r}",
            why="only root may run programs as another user, and the agent is not root",
            next_step="Leave `hooks.user` out; let a hook that needs more rights tell a service of its own",
        )
    return user


@contextlib.contextmanager
def _document(facts: Mapping[str, Any]) -> Iterator[int]:
    """Give a descriptor from which the facts are read; it is in memory, so nobody waits for a hook to read them."""
    descriptor = os.memfd_create("facts", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "w", encoding="utf-8") as file:
            json.dump(facts, file, ensure_ascii=False, indent=2)
            file.write("\n")
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def _environment(facts: Mapping[str, Any], home: str) -> dict[str, str]:
    """Return all variables of a hook: what is one line of the facts is a variable too, empty where nothing is known."""
    reason = facts.get("reason") or {}
    lines = {name: value for name, value in facts.items() if name not in {"certificate", "chain", "reason"}}
    lines |= {"reason": ": ".join(filter(None, [reason.get("what"), reason.get("why")]))}
    lines |= {"reason_kind": reason.get("kind"), "next_step": reason.get("next_step")}
    own = {f"VARMENNE_{name.upper()}": _line(value) for name, value in lines.items()}
    return {"PATH": PATH, "LANG": "C.UTF-8", "HOME": home, **own}


def _line(value: object) -> str:
    """Write a value as one line of bounded length."""
    text = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)[:MAX_VARIABLE]


def _attend(process: subprocess.Popen[bytes], seconds: float) -> Ended:
    """Listen to a process until it ends or its time is over, and end what it leaves behind."""
    deadline = time.monotonic() + seconds
    tail = bytearray()
    assert process.stdout is not None  # noqa: S101 - for the type checker: it was asked for
    output = process.stdout.fileno()
    os.set_blocking(output, False)
    over = True
    with process.stdout, contextlib.closing(_Exit(process.pid)) as ended, selectors.DefaultSelector() as selector:
        try:
            selector.register(ended, selectors.EVENT_READ)
            selector.register(output, selectors.EVENT_READ)
            while over and (left := deadline - time.monotonic()) > 0:
                ready = [key.fd for key, _events in selector.select(left)]
                if output in ready and not _listen(output, tail):
                    selector.unregister(output)
                over = ended.fileno() not in ready
        finally:
            code = _end(process)
        _listen(output, tail)
    how = f"it took longer than {seconds:g} s and was ended" if over else _how(code)
    return Ended(ok=not over and code == 0, detail="\n".join(filter(None, [how, _readable(tail)])))


def _end(process: subprocess.Popen[bytes]) -> int | None:
    """End a process and its group, and return its exit code; ``None`` if another user's it has become, and stays.

    The group is ended before the process is waited for: until then its number, which is the group's as well, is nobody
    else's. Orphans are ours to wait for where we are the first process of a container.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    until = time.monotonic() + GRACE_SECONDS
    with contextlib.suppress(subprocess.TimeoutExpired, ChildProcessError):
        process.wait(GRACE_SECONDS)
        while time.monotonic() < until:
            if os.waitpid(-process.pid, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
    return process.returncode


class _Exit:
    """A descriptor that can be read from when a process has ended (pidfd_open(2)), which is not waited for by that."""

    def __init__(self, pid: int) -> None:
        self._descriptor = os.pidfd_open(pid)

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def close(self) -> None:
        """Give it back."""
        os.close(self._descriptor)


def _listen(output: int, tail: bytearray) -> bool:
    """Take in what there is now, a pipe's fill at most, and keep its end. False when there will be no more."""
    try:
        chunk = os.read(output, 1 << 16)
    except BlockingIOError:
        return True
    tail += chunk
    del tail[:-MAX_OUTPUT_BYTES]
    return bool(chunk)


def _how(code: int | None) -> str:
    """Say in words how a process ended."""
    if code is None:
        return "it could not be waited for"
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        return f"it was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was ended by signal {-code}"


def _readable(output: bytearray) -> str:
    """Turn output into text that no terminal obeys and every database takes."""
    text = output.decode("utf-8", errors="replace").replace("\r\n", "\n").expandtabs().strip()
    return "".join(sign if sign.isprintable() or sign == "\n" else "\N{REPLACEMENT CHARACTER}" for sign in text)
