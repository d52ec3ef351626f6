"""Checkpoints of the audit log in Vault, each at a path of its own that is written once and never changed.

They are out of reach of whoever can write to the journal: the policies let varmenne create them, and neither change nor
delete them. A log that was shortened, rewritten or put back to an earlier state does not fit them any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from varmenne.errors import EvidenceError, VaultConflict, VaultDenied
from varmenne.vault.listing import listed
from varmenne.vault.location import AUDIT, checked_path, is_segment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from varmenne.vault.connection import Connection

DIGITS = 20
NOTE = "note"


@dataclass(frozen=True, slots=True)
class Anchor:
    """A checkpoint as it stands in Vault.

    Attributes:
        origin: the last part of the log's name, which is the path's.
        size: how many records it is of.
        note: the signed note; nothing of it is verified here.
    """

    origin: str
    size: int
    note: str


def signed_text(note: str) -> str:
    """Return what is signed in a note: that before its last empty line."""
    return note.rpartition("\n\n")[0] or note


class Anchors:
    """The checkpoints under one prefix of one KV mount.

    Raises:
        VaultError: Vault cannot be asked, or refuses; any method may raise it.
    """

    def __init__(self, connection: Connection, mount: str, prefix: str) -> None:
        self._connection = connection
        self._mount = mount
        self._folder = f"{prefix}/{AUDIT}"

    def put(self, origin: str, size: int, note: str) -> None:
        """Write a checkpoint. Writing the same again, such as after a lost answer, changes nothing.

        Raises:
            EvidenceError: another one stands there.
        """
        path = self._path(origin, size)
        try:
            self._connection.call(
                f"writing {self._mount}/data/{path}",
                lambda client: client.secrets.kv.v2.create_or_update_secret(
                    path, {NOTE: note}, cas=0, mount_point=self._mount
                ),
            )
        except (VaultConflict, VaultDenied) as exc:  # A policy that lets us create only, denies a second write.
            found = self.get(origin, size)
            if found is None:
                raise
            if signed_text(found.note) != signed_text(note):  # Signatures may differ, such as those of two tokens.
                raise EvidenceError(
                    f"Vault holds another checkpoint of {size} records than the journal",
                    why=f"{self._mount}/{path} was written before, with another content",
                    next_step="The audit log may have been rewritten, or put back: varmenne audit verify",
                ) from exc

    def get(self, origin: str, size: int) -> Anchor | None:
        """Return one checkpoint; ``None`` if it is not there, or was deleted."""
        from hvac.exceptions import InvalidPath

        path = self._path(origin, size)

        def read(client: Any) -> Any:
            try:
                return client.secrets.kv.v2.read_secret_version(
                    path, mount_point=self._mount, raise_on_deleted_version=True
                )["data"]["data"]
            except InvalidPath:
                return None

        data = self._connection.call(f"reading {self._mount}/data/{path}", read)
        return None if data is None else Anchor(origin, size, str(data.get(NOTE, "")))

    def path(self, anchor: Anchor) -> str:
        """Return where a checkpoint stands, for people."""
        return f"{self._mount}/{self._path(anchor.origin, anchor.size)}"

    def newest(self, origin: str) -> Anchor | None:
        """Return the checkpoint of the most records, or ``None`` if there is none of this origin."""
        sizes = self._sizes(origin)
        return self.get(origin, sizes[-1]) if sizes else None

    def every(self) -> Iterator[Anchor]:
        """Yield all checkpoints, by origin and size."""
        for origin in listed(self._connection, self._mount, self._folder):
            if origin.endswith("/") and is_segment(origin[:-1]):
                for size in self._sizes(origin[:-1]):
                    found = self.get(origin[:-1], size)
                    if found is not None:
                        yield found

    def _sizes(self, origin: str) -> list[int]:
        """Return the sizes that there are checkpoints of, smallest first."""
        names = listed(self._connection, self._mount, f"{self._folder}/{checked_path(origin, 'origin')}")
        return sorted(int(name) for name in names if name.isdecimal() and len(name) == DIGITS)

    def _path(self, origin: str, size: int) -> str:
        """Return the path of a checkpoint."""
        return f"{self._folder}/{checked_path(origin, 'origin')}/{size:0{DIGITS}}"
