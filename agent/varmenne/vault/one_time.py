"""One-time credentials that wait in a KV mount of their own until the agent takes and erases them.

The other way beside wrapping (:mod:`varmenne.vault.handover`), for those who want the agent's own login to be the right
to them, and no token to carry. The mount keeps one version and lets it end after 14 days (``varmenne vault setup --for
credentials-kv-writer`` makes it). Taking is a check-and-set write, so of two readers one gets them; then every version
is destroyed, the path's metadata deleted, and both read back, before the credentials are given to anybody.
"""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any, TypeVar

from varmenne.domain.credentials import Credentials, parse_credentials
from varmenne.errors import InputError, VaultConflict, VaultDenied, VaultError
from varmenne.vault.handover import FROM_THE_MAIL, plain_values
from varmenne.vault.location import is_segment
from varmenne.vault.policies import needs_policy

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from datetime import datetime

    from varmenne.vault.connection import Connection

Answer = TypeVar("Answer")

MOUNT = "one-time"
"""The KV mount of one-time credentials; the policies name it."""

TAKEN = "taken"
"""Field of the version that a reader writes in their place, with a number that nobody else has."""


def put_away(connection: Connection, credentials: Credentials, folder: str, now: datetime) -> str:
    """Put credentials under a new name into an agent's folder; return their address, ``one-time/FOLDER/NAME``.

    Raises:
        InputError: the folder cannot be part of a path, or the credentials have expired.
        VaultError: Vault refuses, or the mount would keep them for ever; then nothing is told of their address.
    """
    if not is_segment(folder):
        raise InputError(f"{folder!r} cannot be a folder in Vault", why="it is letters, digits, '.', '_' and '-'")
    credentials.refuse_expired(now)
    path = f"{folder}/{secrets.token_hex(16)}"
    body = {"data": plain_values(credentials), "options": {"cas": 0}}
    try:
        with needs_policy("credentials-kv-writer"):
            answer = connection.call(
                "putting the credentials", lambda client: client.adapter.post(_url("data", path), json=body)
            )
        ends = answer["data"]["deletion_time"]
    except VaultConflict:  # Nobody else knows the name: an earlier try of ours has written it.
        return f"{MOUNT}/{path}"
    except (KeyError, TypeError):
        raise VaultError("What answers is not a KV engine of version 2", next_step="Check vault.address") from None
    if not ends:
        raise VaultError(
            f"The mount {MOUNT} would keep one-time credentials for ever",
            why="it has no delete_version_after",
            next_step=f"Run `varmenne vault setup --for credentials-kv-writer`, and delete {MOUNT}/{path}",
        )
    return f"{MOUNT}/{path}"


class Waiting:
    """Credentials that wait in KV; a callable that takes and erases them.

    Args:
        address: ``one-time/FOLDER/NAME``, as :func:`put_away` returned it.
        session: opens a session with Vault by the agent's own login.

    Raises:
        InputError: it is no such address.
    """

    def __init__(self, address: str, session: Callable[[], AbstractContextManager[Connection]]) -> None:
        mount, _, self._path = address.partition("/")
        parts = self._path.split("/")
        if mount != MOUNT or len(parts) != 2 or not all(map(is_segment, parts)):
            raise InputError(
                "This is no address of one-time credentials in Vault",
                next_step=f"Give it as `varmenne credentials put --kv` printed it: vault-kv:{MOUNT}/FOLDER/NAME",
            )
        self._session = session

    def check(self) -> None:
        """Make sure that they are there and nobody has taken them. Reads their metadata only.

        Raises:
            VaultDenied: somebody has taken them, or their time is over; or the policy does not let us look.
            VaultError: Vault cannot be asked.
        """
        with self._session() as connection:
            found = _ask(connection, "looking for the credentials", lambda client: _get(client, "metadata", self._path))
        latest = (found or {}).get("versions", {}).get("1")
        if found is None or found.get("current_version") != 1 or latest is None or latest["destroyed"]:
            raise _taken()

    def __call__(self) -> Credentials:
        """Take them, and erase them in Vault. From now on nobody else can have them, and we cannot again.

        Raises:
            VaultDenied: somebody has taken them in the meantime, or the policy does not let us.
            VaultError: Vault did not do it, or they can still be found afterwards.
            InputError: what was there are no credentials.
        """
        with self._session() as connection:
            values = self._take(connection)
            try:
                self._erase(connection)
            except VaultError as exc:
                raise VaultError(
                    "The one-time credentials could not be erased in Vault, so they are not used",
                    why=str(exc),
                    next_step=f"Nothing was sent. Delete {MOUNT}/{self._path}. {FROM_THE_MAIL}",
                ) from exc
        return parse_credentials(json.dumps(values))

    def _take(self, connection: Connection) -> dict[str, Any]:
        """Read them, and write our mark in their place: of several readers, one can."""
        found = _ask(connection, "reading the credentials", lambda client: _get(client, "data", self._path))
        if found is None or TAKEN in found["data"]:
            raise _taken()
        mark = {TAKEN: secrets.token_hex(16)}
        body = {"data": mark, "options": {"cas": found["metadata"]["version"]}}
        try:
            _ask(
                connection,
                "taking the credentials",
                lambda client: client.adapter.post(_url("data", self._path), json=body),
            )
        except (VaultConflict, VaultDenied):
            # To write where everything is gone already would need another right, so a refusal may mean that as well.
            there = _ask(connection, "reading our mark", lambda client: _get(client, "data", self._path))
            if there is not None and there["data"] == found["data"]:
                raise
            if there is None or there["data"] != mark:
                raise _taken() from None
        values: dict[str, Any] = found["data"]
        return values

    def _erase(self, connection: Connection) -> None:
        """Destroy all versions, delete the metadata, and see that nothing is left."""

        def metadata(client: Any) -> dict[str, Any] | None:
            return _get(client, "metadata", self._path)

        versions = [int(number) for number in (_ask(connection, "looking", metadata) or {}).get("versions", {})]
        body = {"versions": versions}
        _ask(connection, "destroying", lambda client: client.adapter.post(_url("destroy", self._path), json=body))
        left = (_ask(connection, "looking", metadata) or {}).get("versions", {})
        if not all(version["destroyed"] for version in left.values()):
            raise VaultError("They are still there after they were destroyed")
        _ask(connection, "deleting", lambda client: client.adapter.delete(_url("metadata", self._path)))
        if _ask(connection, "looking", metadata) is not None:
            raise VaultError("Their path is still there after it was deleted")


def _ask(connection: Connection, doing: str, function: Callable[[Any], Answer]) -> Answer:
    """Ask Vault; a policy that is in the way is named."""
    try:
        return connection.call(doing, function)
    except VaultDenied as exc:
        if exc.facts.get("reason") != "policy":
            raise
        next_step = "Give the agent's role policies/credentials-kv-reader.hcl beside its own, for this folder"
        raise VaultDenied(exc.what, why=exc.why, next_step=next_step, **exc.facts) from exc


def _url(kind: str, path: str) -> str:
    """Return the URL's path."""
    return f"/v1/{MOUNT}/{kind}/{path}"


def _get(client: Any, kind: str, path: str) -> dict[str, Any] | None:
    """Read; ``None`` where there is nothing, or nothing any more."""
    from hvac.exceptions import InvalidPath

    try:
        answer = client.adapter.get(_url(kind, path))
    except InvalidPath:
        return None
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, dict):
        raise VaultError("What answers is not Vault", next_step="Check vault.address")
    return data


def _taken() -> VaultDenied:
    """Make the alarm for credentials that are not there any more."""
    return VaultDenied(
        "ALARM: somebody has taken the one-time credentials before us, or their time in Vault is over",
        why="they can be taken once; Vault's audit log tells when, from where and by whom that was done",
        next_step="Nothing was sent. If their time was not over, somebody else knows them: have the service cancel the "
        "order, and find out who it was",
        reason="opened",
    )
