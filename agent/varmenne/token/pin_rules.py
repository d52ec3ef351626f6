"""When a PIN may be tried, and the memory of the ones that were refused.

Tokens lock after a few wrong PINs: openCryptoki after three, a TPM after three for everybody who uses it. So:

* a PIN that a token refused is never tried again by itself, neither by this process nor by the next one (a service
  that systemd restarts again and again). What is remembered is the name of the PIN's source, and for a file its stamp
  (device, inode, size, times); neither the PIN nor anything computed from it;
* a changed file is a new PIN, and is tried once;
* a token that says that wrong PINs were given before (``CKF_USER_PIN_COUNT_LOW``) is tried with a typed PIN, or with
  a file that was changed after its refusal, but not with a stored PIN that nobody has looked at since;
* at the last try (``CKF_USER_PIN_FINAL_TRY``) a PIN is tried only by explicit order, and when locked, never.

The explicit order is ``retry_pin=True`` of :class:`varmenne.token.Token`, on the command line
``varmenne doctor --retry-pin``: one try, and if it succeeds, the refusal is forgotten.
A PIN that is typed is asked for again by every new command, and so is not remembered beyond the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from varmenne.domain.keys import TokenIdentity
from varmenne.errors import PinError, TokenError
from varmenne.token.status import TokenStatus

MEMORY_NAME = "pin-refused.json"
_LOCK_NAME = "pin-refused.lock"

_BY_ORDER = "or order one try with `varmenne doctor --retry-pin`"


class FileStamp(msgspec.Struct, frozen=True):
    """What changes when a file is written or replaced."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """One source whose PIN one token refused."""

    label: str
    serial: str
    model: str
    source: str
    stamp: FileStamp | None
    refused_at: datetime
    code: str

    def is_of(self, token: TokenIdentity, source: str) -> bool:
        """Tell whether this is about a token and a source."""
        return (self.label, self.serial, self.model, self.source) == (token.label, token.serial, token.model, source)


class _Memory(msgspec.Struct, frozen=True):
    """The file's content."""

    refusals: tuple[Refusal, ...] = ()


def interactive(source: str) -> bool:
    """Tell whether a person types the PIN."""
    return source == "prompt"


def stamp(source: str) -> FileStamp | None:
    """Return the stamp of a ``file:PATH`` source.

    Other sources have none: a systemd credential is a new file at each start of the service, with the same PIN in it.
    """
    kind, _, name = source.partition(":")
    if kind != "file":
        return None
    try:
        found = Path(name).stat()
    except OSError:
        return None  # Reading it will say why.
    return FileStamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def objection(
    status: TokenStatus, source: str, *, refusal: Refusal | None, now_stamp: FileStamp | None, ordered: bool
) -> PinError | None:
    """Return why the PIN may not be tried now, or ``None`` if it may. Pure: decides by its arguments alone.

    Args:
        status: the token's flags, read just before.
        source: where the PIN comes from.
        refusal: what is remembered of this token and source.
        now_stamp: the file's stamp now, if the source is a file.
        ordered: a person ordered one try in so many words.
    """
    hopeless = _unusable(status)
    if hopeless is not None or ordered:
        return hopeless
    if status.pin_final_try:
        return _error(
            status,
            "one more wrong PIN locks it, so none is tried by itself",
            f"Make sure that the PIN is right and log in with the tools of the token's maker, {_BY_ORDER}",
        )
    if interactive(source):
        return None
    return _stored_pin(status, source, refusal, now_stamp)


def _unusable(status: TokenStatus) -> PinError | None:
    """Return why no PIN can be right, if so."""
    if not status.pin_initialized:
        return _error(status, "the user PIN has never been set", "Set it as security officer")
    if status.pin_locked:
        return _error(
            status,
            "the user PIN is locked after too many wrong ones",
            "Unlock or reset it as security officer with the tools of the token's maker",
        )
    return None


def _stored_pin(
    status: TokenStatus, source: str, refusal: Refusal | None, now_stamp: FileStamp | None
) -> PinError | None:
    """Return why a PIN that nobody types may not be tried, if so."""
    if refusal is None:
        if not status.pin_count_low:
            return None
        return _error(
            status,
            "a wrong PIN was given to it before, by another program or unknown to this state folder, and one more from "
            "a stored source could lock it",
            f'Log in once with the right PIN typed in (token.pin = "prompt"), {_BY_ORDER}',
        )
    before = f"it refused the PIN from {source} before ({refusal.code}, {refusal.refused_at:%Y-%m-%d %H:%M} UTC)"
    if refusal.stamp is None:
        return _error(
            status,
            f"{before}, and nobody has said that it is another one now",
            f"Correct the PIN at its source, and then {_BY_ORDER.removeprefix('or ')}",
        )
    if refusal.stamp != now_stamp:
        return None
    return _error(
        status,
        f"{before}, and the file has not been changed since",
        f"Write the right PIN into the file and run the command again, {_BY_ORDER}",
    )


def _error(status: TokenStatus, why: str, next_step: str) -> PinError:
    """Say that a PIN is not tried."""
    label = status.identity.label
    return PinError(f"The PIN of the token {label!r} is not tried", why=why, next_step=next_step, label=label)


class PinMemory:
    """The file that remembers refusals, mode 0600 in the state folder. Without a folder, nothing is remembered."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """Keep other processes from trying a PIN meanwhile, so that ten workers do not try one wrong PIN ten times.

        Raises:
            TokenError: the folder cannot be written, so a refusal could not be remembered either.
        """
        if self._folder is None:
            yield
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise self._unwritable(exc) from exc
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def recall(self, token: TokenIdentity, source: str) -> Refusal | None:
        """Return what is remembered of a token and a source."""
        return next((refusal for refusal in self._load() if refusal.is_of(token, source)), None)

    def remember(self, token: TokenIdentity, source: str, stamp: FileStamp | None, now: datetime, code: str) -> None:
        """Remember a refusal, durably. What is typed is not remembered."""
        if interactive(source):
            return
        refusal = Refusal(
            label=token.label,
            serial=token.serial,
            model=token.model,
            source=source,
            stamp=stamp,
            refused_at=now,
            code=code,
        )
        self._save((*self._others(token, source), refusal))

    def forget(self, token: TokenIdentity, source: str) -> None:
        """Forget a refusal, because the PIN from this source was taken."""
        if self.recall(token, source) is not None:
            self._save(self._others(token, source))

    def _others(self, token: TokenIdentity, source: str) -> tuple[Refusal, ...]:
        """Return what is remembered of everything else."""
        return tuple(refusal for refusal in self._load() if not refusal.is_of(token, source))

    def _load(self) -> tuple[Refusal, ...]:
        """Read the file.

        Raises:
            PinError: it cannot be read or understood. Then nothing is tried: it may be there to prevent just that.
        """
        if self._folder is None:
            return ()
        path = self._folder / MEMORY_NAME
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Memory).refusals
        except FileNotFoundError:
            return ()
        except (OSError, msgspec.DecodeError) as exc:
            raise PinError(
                "The PIN is not tried",
                why=f"{path}, which remembers refused PINs, cannot be read",
                next_step=f"Make sure that the PIN is right, then delete {path}",
            ) from exc

    def _save(self, refusals: tuple[Refusal, ...]) -> None:
        """Replace the file by a new one, never half written."""
        if self._folder is None:
            return
        path = self._folder / MEMORY_NAME
        try:
            if not refusals:
                path.unlink(missing_ok=True)
                return
            descriptor, temporary = tempfile.mkstemp(prefix=f".{MEMORY_NAME}.", dir=self._folder)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(_Memory(refusals)), indent=2) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except OSError as exc:
            raise self._unwritable(exc) from exc

    def _unwritable(self, error: OSError) -> TokenError:
        """Say that nothing can be remembered."""
        return TokenError(
            "A refused PIN could not be remembered in the state folder",
            why=f"{self._folder}: {error.strerror}",
            next_step="Make the state folder writable for this user",
        )
