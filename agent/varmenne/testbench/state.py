"""A bench's folder as one object: orders, log, clock and faults. Needs no running server, and disturbs none."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import socket
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Self

from varmenne.clock import Clock, system_clock
from varmenne.domain.credentials import LIFETIME
from varmenne.domain.identifiers import Channel, customer_id, customer_name
from varmenne.errors import InputError
from varmenne.service.interface import Operation
from varmenne.testbench.faults import FAULTS
from varmenne.testbench.files import private_folder
from varmenne.testbench.store import Request, Store, StoredOrder

if TYPE_CHECKING:
    from pathlib import Path

    from varmenne.testbench.family import Family

DATABASE_NAME = "bench.sqlite3"
URL_NAME = "url"
TLS_CA_NAME = "tls-ca.pem"
TRUST_NAME = "trust"

CLOCK_YEARS = (2000, 2100)
"""The clock can be set to a time from the first of these years on, and before the second."""

_CLOCK_OFFSET = "clock_offset_seconds"
_PUBLICATION_PORT = "publication_port"
_SERVICE_PORT = "service_port"
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_PASSWORD_LETTERS = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # noqa: S105  # an alphabet
_PASSWORD_LENGTH = 12
_TRANSFER_ID_DIGITS = 11


@dataclass(frozen=True, slots=True)
class Order:
    """What the technical contact of an order gets by mail. The bench itself forgets the password at once."""

    customer_id: str
    transfer_id: str
    one_time_password: str = field(repr=False)
    valid_until: datetime

    def as_json(self) -> dict[str, str]:
        """Return the order as ``varmenne enroll --credentials`` takes it."""
        return {
            "customer_id": self.customer_id,
            "transfer_id": self.transfer_id,
            "one_time_password": self.one_time_password,
            "valid_until": self.valid_until.isoformat(),
        }


class BenchState:
    """The folder of one bench. Make it with :meth:`create` or :meth:`open`; there is nothing to close.

    Attributes:
        directory: the folder, mode 0700.
        store: its durable state.
    """

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.directory = directory
        self.store = Store(directory / DATABASE_NAME)
        self._clock = clock

    @classmethod
    def create(cls, directory: Path, *, clock: Clock = system_clock) -> Self:
        """Open a bench's folder, and make it first if it is missing.

        Args:
            directory: the folder.
            clock: what the bench's own, settable clock is counted from.

        Raises:
            InputError: the folder cannot be made.
            StateError: its state cannot be read.
        """
        private_folder(directory)
        return cls(directory.resolve(), clock)

    @classmethod
    def open(cls, directory: Path, *, clock: Clock = system_clock) -> Self:
        """Open the folder of a bench that was made before.

        Raises:
            InputError: there is no bench in it.
            StateError: its state cannot be read.
        """
        if not (directory / DATABASE_NAME).is_file():
            raise InputError(
                f"There is no bench in {directory}",
                next_step=f"`varmenne testbench serve --state {directory}` makes one",
            )
        return cls(directory.resolve(), clock)

    @property
    def trust_dir(self) -> Path:
        """Varmenne's trust directory for this bench: one folder per environment."""
        return self.directory / TRUST_NAME

    @property
    def tls_ca(self) -> Path:
        """The CA of the bench's TLS certificate, in PEM."""
        return self.directory / TLS_CA_NAME

    def now(self) -> datetime:
        """Return the bench's time, in UTC."""
        offset = float(self.store.setting(_CLOCK_OFFSET) or 0)
        return self._clock() + timedelta(seconds=offset)

    def set_clock(self, moment: datetime) -> datetime:
        """Set the bench's clock; it runs on from there. Returns the new time.

        Raises:
            InputError: the time is not between the years of :data:`CLOCK_YEARS`; the clock stays as it was.
        """
        if not CLOCK_YEARS[0] <= moment.year < CLOCK_YEARS[1]:
            raise _no_such_time()
        self.store.set_setting(_CLOCK_OFFSET, str((moment - self._clock()).total_seconds()))
        return self.now()

    def advance_clock(self, by: timedelta) -> datetime:
        """Move the bench's clock on (or back, by a negative span). Returns the new time.

        Raises:
            InputError: the time would not be between the years of :data:`CLOCK_YEARS`; the clock stays as it was.
        """
        try:
            moment = self.now() + by
        except OverflowError:
            raise _no_such_time() from None
        return self.set_clock(moment)

    def reset_clock(self) -> datetime:
        """Let the bench's clock be the computer's again. Returns the new time."""
        self.store.set_setting(_CLOCK_OFFSET, "0")
        return self.now()

    def order(self, customer: str, *, name: str | None = None, channel: Channel = Channel.WS) -> Order:
        """Order a certificate, as a person does in the e-service. The one-time password is shown here only.

        Raises:
            InputError: the customer's ID or name breaks the service's limits; nothing was ordered.
        """
        customer = customer_id(customer)
        name = customer_name(name) if name is not None else None
        password = "".join(secrets.choice(_PASSWORD_LETTERS) for _ in range(_PASSWORD_LENGTH))
        salt = secrets.token_bytes(16)
        valid_until = (self.now() + LIFETIME).replace(microsecond=0)
        transfer_id = "".join(secrets.choice("123456789") for _ in range(_TRANSFER_ID_DIGITS))
        self.store.add_order(
            StoredOrder(transfer_id, customer, name, channel.value, salt, _password_hash(password, salt), valid_until)
        )
        return Order(customer, transfer_id, password, valid_until)

    def log(self) -> list[Request]:
        """Return every request received, oldest first."""
        return self.store.requests()

    def fault(self, name: str, *, count: int | None = 1, operation: Operation | None = None) -> None:
        """Switch a fault of :data:`varmenne.testbench.faults.FAULTS` on, for the next ``count`` requests.

        Args:
            name: the fault's name.
            count: how many requests it meets; None means all until :meth:`clear_faults`.
            operation: the operation that it waits for. None means any that the fault fits.

        Raises:
            InputError: there is no fault of that name, it does not fit the operation, or the count is not positive.
        """
        if name not in FAULTS:
            raise InputError(f"There is no fault {name!r}", next_step=f"Faults: {', '.join(FAULTS)}")
        if count is not None and count < 1:
            raise InputError("The count of a fault is at least 1")
        only = FAULTS[name].only
        if only and operation not in {None, only}:
            raise InputError(f"The fault {name!r} fits {only.value} only")
        self.store.add_fault(name, operation or only, count)

    def clear_faults(self) -> None:
        """Switch all faults off."""
        self.store.clear_faults()

    def revoke(self, serial: int) -> None:
        """Revoke a customer's certificate, as a person does in the e-service; the next CRL lists it.

        Raises:
            InputError: this bench issued no certificate with that serial number.
        """
        if not self.store.revoke(serial, self.now()):
            raise InputError(f"The bench issued no certificate with the serial number {serial:x}")

    def publication_port(self) -> int:
        """Return the port at which certificates and CRLs are published; chosen once, since certificates name it."""
        known = self.store.setting(_PUBLICATION_PORT)
        if known is None:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                known = str(probe.getsockname()[1])
            self.store.set_setting(_PUBLICATION_PORT, known)
        return int(known)

    def last_port(self) -> int | None:
        """Return the service's port of the last time, or None before the first."""
        known = self.store.setting(_SERVICE_PORT)
        return None if known is None else int(known)

    def remember_port(self, port: int) -> None:
        """Keep the service's port for the next time."""
        self.store.set_setting(_SERVICE_PORT, str(port))

    def family(self) -> Family:
        """Return the bench's authorities; the first call makes them. Call it under the server's lock file."""
        from varmenne.testbench.family import Family

        return Family(self.directory / "ca", f"http://127.0.0.1:{self.publication_port()}", self.now())


def _no_such_time() -> InputError:
    """Say between which years the clock can be set."""
    first, last = CLOCK_YEARS
    return InputError(f"The bench's clock can be set to the years from {first} to {last - 1} only")


def password_fits(password: str, order: StoredOrder) -> bool:
    """Compare a one-time password with an order's, in time that does not depend on it."""
    return hmac.compare_digest(_password_hash(password, order.password_salt), order.password_hash)


def _password_hash(password: str, salt: bytes) -> bytes:
    """Hash a one-time password (RFC 7914: N = 2^12, r = 8, p = 1, that is 4 MiB; ours have 69 bits of chance)."""
    return hashlib.scrypt(password.encode(), salt=salt, n=2**12, r=8, p=1)


def parse_moment(text: str) -> datetime:
    """Parse an ISO 8601 date or time; without an offset it is UTC.

    Raises:
        InputError: it is not one.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{text!r} is not an ISO 8601 time", next_step="Write it as 2028-10-01T12:00:00Z") from None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_span(text: str) -> timedelta:
    """Parse a span such as ``30d``, ``-12h`` or ``1w``: a number and one of s, m, h, d, w.

    Raises:
        InputError: it is not one.
    """
    match = re.fullmatch(r"([+-]?\d{1,9})([smhdw])", text)
    if match is None:
        raise InputError(f"{text!r} is not a span of time", next_step="Write it as 90s, 10m, 12h, 30d or 2w")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
