"""The bench's durable state: one SQLite file, shared by ``serve`` and the commands that run beside it.

Every public method is one transaction on a connection of its own, so that any process and any thread may call it, and
nothing is half done after a crash. Times are ISO 8601 in UTC, by the bench's clock. The one-time password is kept as a
salted scrypt hash only.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import TYPE_CHECKING

from varmenne.errors import StateError
from varmenne.testbench.files import PRIVATE_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from varmenne.service.interface import Operation

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE orders (
    transfer_id TEXT PRIMARY KEY,
    customer_id TEXT NOT NULL,
    customer_name TEXT,
    channel TEXT NOT NULL,
    password_salt BLOB NOT NULL,
    password_hash BLOB NOT NULL,
    valid_until TEXT NOT NULL,
    used_at TEXT,
    wrong_passwords INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE issued (
    retrieval_id TEXT PRIMARY KEY,
    customer_id TEXT NOT NULL,
    customer_name TEXT,
    channel TEXT NOT NULL,
    transfer_id TEXT UNIQUE REFERENCES orders,
    public_key_hash TEXT NOT NULL UNIQUE,
    certificate_hash TEXT NOT NULL UNIQUE,
    certificate BLOB NOT NULL,
    serial TEXT NOT NULL,
    ready_at TEXT NOT NULL,
    revoked_at TEXT
) STRICT;
CREATE TABLE requests (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    operation TEXT,
    customer_id TEXT,
    transfer_id TEXT,
    status TEXT NOT NULL,
    fault TEXT
) STRICT;
CREATE TABLE faults (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    operation TEXT,
    remaining INTEGER
) STRICT;
"""

RECEIVED = "RECEIVED"
"""Status of a request whose answer was not finished: it is in the making, or the bench was killed meanwhile."""


_SHOWN_IF_KNOWN = {"transfer_id", "fault"}


@dataclass(frozen=True, slots=True)
class StoredOrder:
    """An order as stored; the password is only a hash."""

    transfer_id: str
    customer_id: str
    customer_name: str | None
    channel: str
    password_salt: bytes
    password_hash: bytes
    valid_until: datetime
    used: bool = False
    wrong_passwords: int = 0


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was issued, and may be fetched from ``ready_at`` on."""

    retrieval_id: str
    customer_id: str
    customer_name: str | None
    channel: str
    transfer_id: str | None
    public_key_hash: str
    certificate_hash: str
    certificate: bytes
    serial: int
    ready_at: datetime
    revoked_at: datetime | None = None


class Clash(Enum):
    """What two requests at the same time wanted, and only one could have."""

    ORDER = auto()
    KEY = auto()


@dataclass(frozen=True, slots=True)
class Request:
    """One line of the log."""

    at: datetime
    operation: str | None
    customer_id: str | None
    transfer_id: str | None
    status: str
    fault: str | None

    def as_json(self) -> dict[str, str | None]:
        """Return the line as ``varmenne testbench log --json`` prints it."""
        line = {
            "operation": self.operation,
            "transfer_id": self.transfer_id,
            "customer_id": self.customer_id,
            "at": self.at.isoformat(),
            "status": self.status,
            "fault": self.fault,
        }
        return {name: value for name, value in line.items() if value is not None or name not in _SHOWN_IF_KNOWN}


class Store:
    """The SQLite file of one bench.

    Args:
        path: the file; it is made if it is missing.

    Raises:
        StateError: the file is not a bench's, or was made by another version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE))
        with self._transaction() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            elif version != SCHEMA_VERSION:
                raise StateError(
                    f"{path} was made by another version of the bench",
                    why=f"its schema is number {version}, this version's is {SCHEMA_VERSION}",
                    next_step="Give the bench a new folder: nothing in the old one is worth keeping",
                )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Open a connection and a writing transaction; commit at the end of the block, roll back on any error."""
        try:
            db = sqlite3.connect(self._path, timeout=30, isolation_level=None)
            with contextlib.closing(db):
                db.row_factory = sqlite3.Row
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = NORMAL")
                db.execute("PRAGMA foreign_keys = ON")
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                except BaseException:
                    db.execute("ROLLBACK")
                    raise
                db.execute("COMMIT")
        except sqlite3.Error as exc:
            raise StateError(f"The bench's state {self._path} cannot be used", why=str(exc)) from exc

    @contextlib.contextmanager
    def kept_open(self) -> Iterator[None]:
        """Hold the file open for the length of a block: SQLite then need not tidy it up after every transaction."""
        with contextlib.closing(sqlite3.connect(self._path, check_same_thread=False)) as db:
            db.execute("SELECT 1 FROM settings").fetchone()
            yield

    def setting(self, name: str) -> str | None:
        """Return a setting, or None if it was never set."""
        with self._transaction() as db:
            row = db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
            return None if row is None else str(row["value"])

    def set_setting(self, name: str, value: str) -> None:
        """Set a setting."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO settings VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", (name, value)
            )

    def add_order(self, order: StoredOrder) -> None:
        """Keep a new order."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO orders (transfer_id, customer_id, customer_name, channel, password_salt, password_hash,"
                " valid_until) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    order.transfer_id,
                    order.customer_id,
                    order.customer_name,
                    order.channel,
                    order.password_salt,
                    order.password_hash,
                    order.valid_until.isoformat(),
                ),
            )

    def find_order(self, transfer_id: str) -> StoredOrder | None:
        """Return the order of a transfer ID."""
        with self._transaction() as db:
            row = db.execute("SELECT * FROM orders WHERE transfer_id = ?", (transfer_id,)).fetchone()
        if row is None:
            return None
        return StoredOrder(
            transfer_id=row["transfer_id"],
            customer_id=row["customer_id"],
            customer_name=row["customer_name"],
            channel=row["channel"],
            password_salt=row["password_salt"],
            password_hash=row["password_hash"],
            valid_until=datetime.fromisoformat(row["valid_until"]),
            used=row["used_at"] is not None,
            wrong_passwords=row["wrong_passwords"],
        )

    def count_wrong_password(self, transfer_id: str) -> None:
        """Count a wrong password; the order is not burnt by it."""
        with self._transaction() as db:
            db.execute("UPDATE orders SET wrong_passwords = wrong_passwords + 1 WHERE transfer_id = ?", (transfer_id,))

    def add_issued(self, issued: Issued, now: datetime) -> Clash | None:
        """Keep a new certificate and use up its order, in one transaction.

        Returns what another request was faster with, and then nothing was changed; None if all went well.
        """
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM issued WHERE public_key_hash = ?", (issued.public_key_hash,)).fetchone():
                return Clash.KEY
            if issued.transfer_id is not None:
                spent = db.execute(
                    "UPDATE orders SET used_at = ? WHERE transfer_id = ? AND used_at IS NULL",
                    (now.isoformat(), issued.transfer_id),
                )
                if spent.rowcount != 1:
                    return Clash.ORDER
            db.execute(
                "INSERT INTO issued (retrieval_id, customer_id, customer_name, channel, transfer_id, public_key_hash,"
                " certificate_hash, certificate, serial, ready_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    issued.retrieval_id,
                    issued.customer_id,
                    issued.customer_name,
                    issued.channel,
                    issued.transfer_id,
                    issued.public_key_hash,
                    issued.certificate_hash,
                    issued.certificate,
                    f"{issued.serial:x}",
                    issued.ready_at.isoformat(),
                ),
            )
        return None

    def find_issued(self, *, by: str, value: str) -> Issued | None:
        """Return an issued certificate by one of the columns of :data:`ISSUED_KEYS`."""
        with self._transaction() as db:
            row = db.execute(ISSUED_KEYS[by], (value,)).fetchone()
        return None if row is None else _issued(row)

    def revoke(self, serial: int, now: datetime) -> bool:
        """Mark a certificate as revoked; False if there is no such serial number. Revoking twice changes nothing."""
        with self._transaction() as db:
            found = db.execute("SELECT revoked_at FROM issued WHERE serial = ?", (f"{serial:x}",)).fetchone()
            if found is not None and found["revoked_at"] is None:
                db.execute("UPDATE issued SET revoked_at = ? WHERE serial = ?", (now.isoformat(), f"{serial:x}"))
            return found is not None

    def revoked(self) -> list[tuple[int, datetime]]:
        """Return serial number and time of every revoked certificate."""
        with self._transaction() as db:
            rows = db.execute("SELECT serial, revoked_at FROM issued WHERE revoked_at IS NOT NULL ORDER BY revoked_at")
            return [(int(row["serial"], 16), datetime.fromisoformat(row["revoked_at"])) for row in rows]

    def begin_request(
        self, at: datetime, operation: Operation | None, customer_id: str | None, transfer_id: str | None
    ) -> tuple[int, str | None]:
        """Log a request that was received, and take the fault that is waiting for it, in one transaction.

        Returns the number of the log line, and the name of the fault or None.
        """
        with self._transaction() as db:
            fault = _take_fault(db, operation) if operation else None
            row = db.execute(
                "INSERT INTO requests (at, operation, customer_id, transfer_id, status, fault)"
                " VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
                (at.isoformat(), operation and operation.value, customer_id, transfer_id, RECEIVED, fault),
            ).fetchone()
            return int(row["id"]), fault

    def end_request(self, number: int, status: str) -> None:
        """Complete a log line."""
        with self._transaction() as db:
            db.execute("UPDATE requests SET status = ? WHERE id = ?", (status, number))

    def requests(self) -> list[Request]:
        """Return the log, oldest first."""
        with self._transaction() as db:
            rows = db.execute("SELECT * FROM requests ORDER BY id").fetchall()
        return [
            Request(
                at=datetime.fromisoformat(row["at"]),
                operation=row["operation"],
                customer_id=row["customer_id"],
                transfer_id=row["transfer_id"],
                status=row["status"],
                fault=row["fault"],
            )
            for row in rows
        ]

    def add_fault(self, name: str, operation: Operation | None, count: int | None) -> None:
        """Switch a fault on for the next ``count`` requests of an operation (None: of any), or until cleared (None)."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO faults (name, operation, remaining) VALUES (?, ?, ?)",
                (name, operation and operation.value, count),
            )

    def clear_faults(self) -> None:
        """Switch all faults off."""
        with self._transaction() as db:
            db.execute("DELETE FROM faults")


ISSUED_KEYS = {
    column: f"SELECT * FROM issued WHERE {column} = ?"  # noqa: S608  # the columns are the constants of this line
    for column in ("retrieval_id", "public_key_hash", "certificate_hash", "transfer_id")
}
"""Column that finds at most one issued certificate → its query."""


def _issued(row: sqlite3.Row) -> Issued:
    """Turn a row into a value."""
    revoked_at = row["revoked_at"]
    return Issued(
        retrieval_id=row["retrieval_id"],
        customer_id=row["customer_id"],
        customer_name=row["customer_name"],
        channel=row["channel"],
        transfer_id=row["transfer_id"],
        public_key_hash=row["public_key_hash"],
        certificate_hash=row["certificate_hash"],
        certificate=row["certificate"],
        serial=int(row["serial"], 16),
        ready_at=datetime.fromisoformat(row["ready_at"]),
        revoked_at=datetime.fromisoformat(revoked_at) if revoked_at else None,
    )


def _take_fault(db: sqlite3.Connection, operation: Operation) -> str | None:
    """Use up one count of the oldest fault that waits for this operation."""
    row = db.execute(
        "SELECT id, name, remaining FROM faults WHERE operation IS NULL OR operation = ? ORDER BY id LIMIT 1",
        (operation.value,),
    ).fetchone()
    if row is None:
        return None
    if row["remaining"] == 1:
        db.execute("DELETE FROM faults WHERE id = ?", (row["id"],))
    else:
        db.execute("UPDATE faults SET remaining = remaining - 1 WHERE id = ?", (row["id"],))
    return str(row["name"])
