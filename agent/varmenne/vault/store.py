"""The store of published certificates: one record per location, every write check-and-set, nothing overwritten blindly.

How a write is decided, whatever happens on the way: the record carries the ID of the operation that publishes it and a
digest over all that it says. A write is sent for exactly one next version. If its outcome is not known (time limit,
lost connection, HTTP 500 after the commit, a change of leader), the same write is sent again: either it succeeds now,
or Vault says that the version is taken, and then reading that version tells whether it was taken by us.
"""

from __future__ import annotations

import logging
import secrets
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from varmenne.domain.check import Check, Verdict
from varmenne.errors import VarmenneError, VaultConflict, VaultError
from varmenne.vault import checks
from varmenne.vault.anchors import Anchors
from varmenne.vault.connection import Connection, Patience
from varmenne.vault.listing import listed
from varmenne.vault.location import Location, checked_path, is_segment
from varmenne.vault.record import OLDER_THAN, OPERATION
from varmenne.vault.sealing import check_metadata, same, sealed
from varmenne.vault.served import Served, acknowledgement, read_acknowledgement

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from varmenne.clock import Clock
    from varmenne.domain.identifiers import Channel, CustomerId, Environment
    from varmenne.domain.keys import KeyId, Signer
    from varmenne.settings import VaultSettings

log = logging.getLogger(__name__)


class MetadataNotWritten(UserWarning):
    """The record is published, but its custom metadata could not be set."""


@dataclass(frozen=True, slots=True)
class Published:
    """A version of a record as it stands in Vault.

    Attributes:
        version: its number.
        data: its fields, with those that the store adds.
        custom_metadata: the custom metadata of the path.
    """

    version: int
    data: dict[str, Any]
    custom_metadata: dict[str, str] = field(default_factory=dict)

    @property
    def operation(self) -> str | None:
        """The ID of the operation that wrote it, or ``None`` if it was not written by varmenne."""
        value = self.data.get(OPERATION)
        return value if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class _State:
    """What stands at a path: the latest version's number (0: none ever), and its content unless it was deleted."""

    version: int
    published: Published | None


class CertificateStore:
    """Certificate records in one KV version 2 mount. Owns its session with Vault; a context manager.

    Opening costs nothing: the first call connects and logs in. A store is for one thread at a time.

    Args:
        settings: where Vault is and how to log in.
        clock: the time of day, for renewing the token.
        patience: how long to try again what may pass by itself.
        signer: returns the signer of a key in the PKCS#11 token, for the login by `jwt`.

    Raises:
        ConfigError: mount or prefix are no usable paths, or the login's settings are incomplete.
    """

    def __init__(
        self,
        settings: VaultSettings,
        *,
        clock: Clock,
        patience: Patience | None = None,
        signer: Callable[[KeyId], Signer] | None = None,
    ) -> None:
        self._mount = checked_path(settings.mount, "vault.mount")
        self._prefix = checked_path(settings.prefix, "vault.prefix")
        self._connection = Connection(settings, clock, patience or Patience(), signer=signer)
        self._mount_checked = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session. A token that we logged in for is revoked; one from a token file is left alone."""
        self._connection.close()

    def location(self, environment: Environment, customer: CustomerId, channel: Channel) -> Location:
        """Return the location of a certificate under the prefix of the settings."""
        return Location(prefix=self._prefix, environment=environment, customer=customer, channel=channel)

    @property
    def anchors(self) -> Anchors:
        """The checkpoints of the audit log."""
        return Anchors(self._connection, self._mount, self._prefix)

    def check(self, location: Location) -> tuple[Check, ...]:
        """Make the checks of :data:`varmenne.vault.checks.CHECKS` and return what they found, up to the first failure.

        Nothing is changed in Vault but that a login happens. Never raises for what it finds.
        """
        found: list[Check] = []
        for name, made in checks.CHECKS:
            try:
                found.append(made(self._connection, location))
            except VarmenneError as exc:
                found.append(Check(name, Verdict.FAIL, str(exc), exc.next_step))
                break
        return tuple(found)

    def preflight(self, location: Location) -> None:
        """Make the same checks, for the moment before one-time credentials are spent.

        Raises:
            VaultError: of the class and with the words of the first check that fails.
            ConfigError: the settings cannot be used.
            InputError: a secret's source gives nothing usable.
        """
        for _, made in checks.CHECKS:
            made(self._connection, location)
        self._mount_checked = True

    def read(self, location: Location) -> Published | None:
        """Return the latest version of a record; ``None`` if there is none, or the latest was deleted or destroyed.

        Raises:
            VaultError: Vault cannot be asked, see :meth:`Connection.call`.
        """
        return self._state(location.path).published

    def publish(
        self,
        location: Location,
        record: Mapping[str, object],
        *,
        operation: str,
        custom_metadata: Mapping[str, str] | None = None,
        expected_version: int | None = None,
        older: bool = False,
    ) -> int:
        """Publish a record as the next version, exactly once per operation, and return the version's number.

        Doing the same operation again, after a crash or a lost answer, writes nothing and returns the version that it
        made. A version that was deleted or destroyed is followed by the next one.

        Args:
            location: where: the current certificate's record, or ``location.generation(n)``.
            record: what :func:`varmenne.vault.record.build_record` returned; JSON values only.
            operation: ID of this act of publishing; the same if it is repeated, and never used for another record.
            custom_metadata: strings to find the record by; merged into those that are there.
            expected_version: the latest version as far as the caller's own books tell (0: none yet). Then the write
                goes first, and only if that is not so is the record read and decided upon.
            older: take the place of a certificate that begins later. Only for going back, ordered by a person: the
                record then says so (:data:`varmenne.vault.record.OLDER_THAN`), and those who pull follow.

        Raises:
            VaultConflict: somebody else wrote in between, the operation was used for another record, or a certificate
                that begins later is already there. Nothing was overwritten; the facts tell ``version`` and, where
                known, ``their_enrollment`` and ``their_operation``.
            VaultUnavailable: Vault did not do it in time. With the fact ``executed`` it may have been done; the same
                call later finds out.
            VaultDenied: the login or the policy refuses.
            VaultError: the record is too large, the mount is not KV version 2, or Vault refuses for another reason.
            InputError: the custom metadata breaks Vault's limits, or the record is not JSON.

        Warns:
            MetadataNotWritten: the record is published, its custom metadata is not.
        """
        wanted = dict(custom_metadata or {})
        check_metadata(wanted)
        data = sealed(record, operation)
        path = location.path
        if not self._mount_checked:
            checks.mount(self._connection, location)
            self._mount_checked = True
        version = None if expected_version is None or older else self._write_unseen(path, data, expected_version)
        present: dict[str, str] = {}
        if version is None:
            state = self._state(path)
            if older:
                data = sealed({**record, **_passed_over(state, record)}, operation)
            version = _already(state, data, path, older=older) or self._write(path, data, state.version)
            present = state.published.custom_metadata if state.published else {}
        if not wanted.items() <= present.items():
            self._merge_metadata(path, wanted)
        return version

    def served(self, location: Location) -> tuple[Served, ...]:
        """Return what consumers say that they serve of a customer's channel, in the order of their names.

        Nobody has to say anything: one who does not is not there.

        Raises:
            VaultDenied: the policy does not let us look.
            VaultError: Vault cannot be asked, see :meth:`Connection.call`.
        """
        names = listed(self._connection, self._mount, location.served().path)
        return tuple(
            said for name in names if not name.endswith("/") and (said := self._said(location, name)) is not None
        )

    def acknowledge(
        self, location: Location, consumer: str, record: Mapping[str, Any], *, host: str, now: datetime
    ) -> bool:
        """Say that a consumer serves the certificate of a record, unless it has just said so; tell whether it was said.

        Raises:
            InputError: the consumer's name cannot be part of a path.
            VaultConflict: another consumer of that name has said something at the same time.
            VaultError: Vault refuses, as in :meth:`publish`.
        """
        path = location.served_by(consumer).path
        state = self._state(path)
        said = read_acknowledgement(consumer, state.published.data) if state.published else None
        if said is not None and not said.needs_telling(record, host, now):
            return False
        data = sealed(acknowledgement(consumer, record, host, now), secrets.token_hex(16))
        self._write(path, data, state.version)
        return True

    def _said(self, location: Location, name: str) -> Served | None:
        """Read what one consumer says; ``None`` if that was deleted."""
        if not is_segment(name):  # Nobody has such a name by our policies. It is told of, but not put into a path.
            return Served(name, None, None)
        found = self._state(location.served_by(name).path).published
        return read_acknowledgement(name, found.data) if found else None

    def _state(self, path: str, version: int | None = None) -> _State:
        """Read a version (by default the latest) of what stands at a path."""
        from hvac.exceptions import InvalidPath

        def read(client: Any) -> Any:
            try:
                return client.secrets.kv.v2.read_secret_version(
                    path, version=version, mount_point=self._mount, raise_on_deleted_version=True
                )
            except InvalidPath as exc:
                # Deleted and destroyed versions come as 404 with their metadata. (hvac would return only the former.)
                if isinstance(exc.json, dict) and exc.json.get("data"):
                    return exc.json
                # An empty list of errors means: never written. Anything else is about the mount or the namespace.
                if exc.errors != []:
                    raise
                return None

        answer = self._connection.call(f"reading {self._mount}/data/{path}", read)
        if answer is None:
            return _State(0, None)
        try:
            metadata, data = answer["data"]["metadata"], answer["data"]["data"]
            number = int(metadata["version"])
            custom = {str(key): str(value) for key, value in (metadata.get("custom_metadata") or {}).items()}
            return _State(number, None if data is None else Published(number, dict(data), custom))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise _not_kv2(self._mount) from None

    def _write_unseen(self, path: str, data: dict[str, object], latest: int) -> int | None:
        """Write the version after ``latest`` without having read it; ``None`` if that is not the latest."""
        try:
            return self._write(path, data, latest)
        except VaultConflict:
            return None

    def _write(self, path: str, data: dict[str, object], latest: int) -> int:
        """Write the version after ``latest``, or learn that an earlier try of ours has done it."""
        version = latest + 1
        try:
            answer = self._connection.call(
                f"writing {self._mount}/data/{path}",
                lambda client: client.secrets.kv.v2.create_or_update_secret(
                    path, data, cas=latest, mount_point=self._mount
                ),
            )
        except VaultConflict as exc:
            taken = self._state(path, version)
            if taken.published is None or not same(taken.published.data, data):
                raise _conflict("The record was changed by somebody else in between", taken, version, path) from exc
            log.info("An earlier try has written version %d of %s", version, path)
            return version
        try:
            written = int(answer["data"]["version"])
        except (KeyError, TypeError, ValueError):
            raise _not_kv2(self._mount) from None
        log.info("Published version %d of %s", written, path)
        return written

    def _merge_metadata(self, path: str, wanted: dict[str, str]) -> None:
        """Set custom metadata by PATCH, which leaves all else as it is: hvac's own call resets the path's settings."""
        from varmenne.vault.wire import MERGE_PATCH

        try:
            self._connection.call(
                f"setting the custom metadata of {self._mount}/metadata/{path}",
                lambda client: client.adapter.request(
                    "patch",
                    f"/v1/{self._mount}/metadata/{path}",
                    json={"custom_metadata": wanted},
                    headers={"Content-Type": MERGE_PATCH},
                ),
            )
        except VaultError as exc:
            warnings.warn(f"The record is published, but without: {exc}", MetadataNotWritten, stacklevel=3)


def _already(state: _State, data: Mapping[str, object], path: str, *, older: bool) -> int | None:
    """Return the latest version if it is this operation's own, ``None`` if a next one may be written.

    With ``older``, one may be written also where a later certificate is.

    Raises:
        VaultConflict: the operation's version says something else, or a later certificate is there.
    """
    if state.published is None:
        return None
    theirs = state.published.data
    if same(theirs, data):
        return state.version
    if theirs.get(OPERATION) == data[OPERATION]:
        raise _conflict("This operation has already published another record", state, state.version, path)
    begin, our_begin = theirs.get("not_before"), data.get("not_before")
    if not older and isinstance(begin, str) and isinstance(our_begin, str) and begin > our_begin:
        # Both are ISO 8601 in UTC, so they sort as text. It happens when an old run is resumed after a newer one.
        raise _conflict("A certificate that begins later is already published", state, state.version, path)
    return None


def _passed_over(state: _State, record: Mapping[str, object]) -> dict[str, object]:
    """Return the field that tells how late the certificates begin that an older one takes the place of on purpose."""
    theirs = state.published.data if state.published else {}
    latest = max((str(theirs[name]) for name in ("not_before", OLDER_THAN) if name in theirs), default="")
    return {OLDER_THAN: latest} if latest > str(record.get("not_before", "")) else {}


def _conflict(what: str, state: _State, version: int, path: str) -> VaultConflict:
    """Make the error, with what is known of the version that stands in the way."""
    theirs = state.published.data if state.published else {}
    enrollment, operation = theirs.get("enrollment"), theirs.get(OPERATION)
    return VaultConflict(
        what,
        why=f"version {version} of {path} is of enrollment {enrollment}" if enrollment else f"version {version}",
        next_step="Nothing was overwritten. See what that version is; `varmenne resume` decides anew",
        path=path,
        version=version,
        their_enrollment=enrollment,
        their_operation=operation,
    )


def _not_kv2(mount: str) -> VaultError:
    """Make the error for an answer that no KV version 2 engine gives."""
    return VaultError(
        f"The mount {mount} does not answer as a KV engine of version 2",
        next_step="Check vault.mount and vault.address; `varmenne doctor` looks at both",
        mount=mount,
    )
