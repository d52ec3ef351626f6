"""Brings a published certificate onto a host: read from Vault, verified, checked against the token, put into files.

The files of one version are a folder of their own; the link ``current`` changes from one to the next in one step, so a
reader never sees the certificate of one generation beside the chain or the key reference of another. A reload that is
due is noted before that step and struck off after the command has succeeded: a crash in between costs a second reload,
never a missing one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from varmenne.domain.forms import iso
from varmenne.enrollment import facts, revoked
from varmenne.errors import InputError, NotFinished, VaultError, VerificationError
from varmenne.service.certificates import SubjectPolicy, verify_certificate
from varmenne.vault.location import consumer_name
from varmenne.vault.policies import CONSUMER, needs_policy

if TYPE_CHECKING:
    from varmenne.domain.identifiers import Channel, CustomerId
    from varmenne.enrollment.parts import Parts
    from varmenne.enrollment.progress import Progress
    from varmenne.vault import Location

CURRENT = "current"
PLACE = "place"
"""The file that tells whose certificate, for which channel, is in the folder: nothing else there does."""

RELOAD_DUE = ".reload-due"
RELOAD_SECONDS = 60.0
FOLDER_MODE, FILE_MODE = 0o755, 0o644
"""Certificates are public, and whoever serves them runs as somebody else."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did.

    Attributes:
        changed: whether the files are new.
        reloaded: whether the reload command was run.
        acknowledged: whether Vault was told now that the certificate is served here.
        version: the record's version in Vault.
        record: the record.
        folder: where the files are.
    """

    changed: bool
    reloaded: bool
    acknowledged: bool
    version: int
    record: dict[str, Any]
    folder: Path


def pull(
    parts: Parts,
    progress: Progress,
    customer: CustomerId,
    channel: Channel,
    folder: Path,
    *,
    reload: str = "",
    with_key: bool = True,
    consumer: str = "",
) -> Pulled:
    """Bring the current certificate of a customer's channel into a folder.

    Args:
        parts: the parts.
        progress: hears what happens.
        customer: whose.
        channel: which.
        folder: where to; the files are in its ``current``.
        reload: a command, without a shell, to run if the files have changed or an earlier run of it is still due.
        with_key: demand that the certificate's key is in the local token.
        consumer: name under which Vault is told, after all else, that the certificate is served here; empty for not.

    Raises:
        VaultError: Vault cannot be asked, or nothing is published.
        VerificationError: the record contradicts itself, is another customer's, is not trusted or revoked, is older
            than what is here, or the local token has another key or none. Nothing was changed.
        InputError: the folder cannot be written or has the certificate of another customer or channel, or the
            consumer's name cannot be part of a path. Nothing was changed.
        NotFinished: the files are in place, but the reload command failed, or Vault does not take it that they are
            served: the next pull tries again; or the settings demand to know that the certificate is not revoked, and
            it is not known: nothing was changed.
    """
    where = facts.place(parts.settings, customer, channel)
    if consumer:
        consumer_name(consumer)
    with needs_policy(CONSUMER, _setup_options(where)):
        published = parts.store.read(where)
    if published is None:
        raise VaultError(
            f"No certificate is published at {where.path}",
            next_step="Check customer and channel, and that an enrollment is active: `varmenne list` at the agent",
        )
    record = published.data
    _verify(parts, progress, customer, channel, record, with_key=with_key)
    with _alone(folder):
        _refuse_another_place(folder, record)
        _refuse_older(folder, record, progress)
        try:
            changed = _put(folder, _files(record), note=bool(reload))
        except OSError as exc:
            raise _unwritable(folder, exc) from exc
        reloaded = bool(reload) and (folder / RELOAD_DUE).exists()
        if reloaded:
            _reload(reload, folder)
        acknowledged = bool(consumer) and _acknowledge(parts, where, consumer, record)
    return Pulled(changed, reloaded, acknowledged, published.version, record, folder / CURRENT)


def _verify(
    parts: Parts, progress: Progress, customer: CustomerId, channel: Channel, record: dict[str, Any], *, with_key: bool
) -> None:
    """Trust nothing because it stands in Vault: look at the record as at a fresh answer of the service."""
    from varmenne.vault.record import refuse_contradictions

    leaf = refuse_contradictions(record)
    asked = (parts.settings.environment.value, customer, channel.value)
    found = tuple(record.get(name) for name in ("environment", "customer_id", "channel"))
    if found != asked:
        raise VerificationError(
            "The published certificate is another one's", check="place", why=f"it is for {found}, not for {asked}"
        )
    public_key = leaf.public_key
    if with_key:
        key = parts.token.find(leaf.key_id)
        if key is None or key.public_key != public_key:
            raise VerificationError(
                "The published certificate's key is not in the local token",
                check="key",
                why="the token has another key under this CKA_ID"
                if key
                else f"no key has the CKA_ID {leaf.key_id.hex()}",
                next_step="A host without the token gives --no-key. Else: was the token replaced, or the record?",
            )
    issued = verify_certificate(
        leaf.der,
        public_key=public_key,
        customer=customer,
        trust=parts.trust(),
        at=parts.now,
        subject=SubjectPolicy(parts.settings.trust.subject),
    )
    for warning in (*issued.warnings, *revoked.look_up(parts, [issued.certificate, *issued.chain])):
        progress.warns(warning)


def _refuse_another_place(folder: Path, record: dict[str, Any]) -> None:
    """Refuse to put one certificate in the place of another customer's or channel's: whoever serves it would not know.

    Raises:
        InputError: the folder has another one.
    """
    here, wanted = _content(folder / CURRENT / PLACE), _place(record)
    if here in {None, wanted}:
        return
    raise InputError(
        f"The folder {folder} has the certificate of {(here or '').strip()}, not of {wanted.strip()}",
        why="each customer's channel needs a folder of its own",
        next_step="Nothing was changed. Name another folder with --to; if this one is to change over, remove its link "
        f"first: rm {shlex.quote(str(folder / CURRENT))}",
    )


def _place(record: dict[str, Any]) -> str:
    """Return whose certificate it is, and for which channel, as the files tell it."""
    return f"{record['environment']}/{record['customer_id']}/{record['channel']}\n"


def _refuse_older(folder: Path, record: dict[str, Any], progress: Progress) -> None:
    """Refuse to go back behind the certificate that is here: Vault may have been restored from an old snapshot.

    Unless the record says that a person has ordered to go back, behind one that begins as late as the one here.
    """
    from cryptography import x509

    from varmenne.vault.record import OLDER_THAN

    try:
        here = x509.load_pem_x509_certificate((folder / CURRENT / "certificate.pem").read_bytes())
    except (OSError, ValueError):
        return
    if datetime.fromisoformat(record["not_before"]) >= here.not_valid_before_utc:
        return
    if str(record.get(OLDER_THAN, "")) >= iso(here.not_valid_before_utc):
        progress.warns(f"Going back to an older certificate, as ordered: it begins on {record['not_before']}")
    else:
        raise VerificationError(
            "ALARM: the published certificate is older than the one that is here",
            check="rollback",
            why=f"it begins on {record['not_before']}, ours on {iso(here.not_valid_before_utc)}",
            next_step="Nothing was changed. Was Vault restored from a snapshot? `varmenne doctor` at the agent tells; "
            "if going back is wanted, remove the folder's link `current` first",
        )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other pulls out of the folder, which is made if need be; they wait."""
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise _unwritable(folder, exc) from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _unwritable(folder: Path, exc: OSError) -> InputError:
    """Make the error for a folder that cannot be used."""
    return InputError(f"The folder {folder} cannot be written", why=exc.strerror or str(exc))


def _files(record: dict[str, Any]) -> dict[str, str]:
    """Return the files' names and contents."""
    return {
        "certificate.pem": f"{record['certificate']}\n",
        "chain.pem": f"{record['ca_chain']}\n",
        "fullchain.pem": f"{record['fullchain']}\n",
        "key-ref": f"{record['key_ref']}\n",
        PLACE: _place(record),
    }


def _put(folder: Path, files: dict[str, str], *, note: bool) -> bool:
    """Put the files in place in one step, unless they are; note that a reload is due before that."""
    if all(_content(folder / CURRENT / name) == text for name, text in files.items()):
        return False
    new = folder / f".version-{secrets.token_hex(8)}"
    new.mkdir()
    new.chmod(FOLDER_MODE)
    for name, text in files.items():
        with (new / name).open("x", encoding="utf-8") as file:
            os.fchmod(file.fileno(), FILE_MODE)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    if note:
        (folder / RELOAD_DUE).touch()
    before = (folder / CURRENT).readlink().name if (folder / CURRENT).is_symlink() else ""
    draft = folder / f".{CURRENT}.{secrets.token_hex(4)}"
    draft.symlink_to(new.name)
    draft.replace(folder / CURRENT)
    _sync(folder)
    for old in folder.glob(".version-*"):
        # The one before stays for readers that have just followed the link.
        if old.name not in {new.name, before}:
            shutil.rmtree(old, ignore_errors=True)
    return True


def _content(path: Path) -> str | None:
    """Return a file's text, or ``None``."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _sync(folder: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _acknowledge(parts: Parts, where: Location, consumer: str, record: dict[str, Any]) -> bool:
    """Tell Vault that the certificate is served here, so that the one before can be retired; return whether it was new.

    Raises:
        NotFinished: Vault does not take it.
    """
    try:
        with needs_policy(CONSUMER, f"{_setup_options(where)} --consumer {consumer}"):
            return parts.store.acknowledge(where, consumer, record, host=socket.gethostname(), now=parts.now)
    except VaultError as exc:
        raise NotFinished(
            "The new files are in place, but Vault could not be told that they are served",
            why=str(exc),
            next_step=f"{exc.next_step}. The next `varmenne pull` tries again".removeprefix(". "),
        ) from exc


def _setup_options(where: Location) -> str:
    """Return what `varmenne vault setup` is to be told of a customer's channel."""
    return f"--customer-id {shlex.quote(where.customer)} --channel {where.channel}"


def _reload(command: str, folder: Path) -> None:
    """Run the reload command; what it says goes where our own words go.

    Raises:
        NotFinished: it failed, could not be run, or took too long.
    """
    try:
        done = subprocess.run(
            shlex.split(command), stdin=subprocess.DEVNULL, stdout=2, timeout=RELOAD_SECONDS, check=False
        )
        failed = f"it ended with {done.returncode}" if done.returncode else ""
    except (OSError, ValueError) as exc:
        failed = getattr(exc, "strerror", None) or str(exc)
    except subprocess.TimeoutExpired:
        failed = f"it took longer than {RELOAD_SECONDS:.0f} s"
    if failed:
        raise NotFinished(
            "The new files are in place, but the reload command failed",
            why=failed,
            next_step="Whoever serves them may still serve the old ones. The next `varmenne pull` runs it again",
        )
    with contextlib.suppress(FileNotFoundError):
        (folder / RELOAD_DUE).unlink()
