"""Response wrapping: a value that exactly one reader can open once, for handing secrets over.

A wrapping token is itself the right to open what it holds, so no login is needed. Before it is opened it is looked up,
which does not consume it: a token of another origin has been put in the place of ours by somebody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from varmenne.domain.secret import Secret
from varmenne.errors import VaultDenied, VaultError

if TYPE_CHECKING:
    from varmenne.vault.connection import Connection

WRAP_PATH = "sys/wrapping/wrap"
"""Where values that a client brings are wrapped: the creation path of their tokens."""


@dataclass(frozen=True, slots=True)
class Wrapping:
    """What a wrapping token tells of itself.

    Attributes:
        creation_path: the path whose answer it holds.
        created: when, as Vault writes it.
        ttl_seconds: its whole life.
    """

    creation_path: str
    created: str
    ttl_seconds: int


def look_up(client: Any, token: Secret) -> Wrapping:
    """Ask what a wrapping token holds, without opening it.

    Raises:
        VaultError: what answers is not Vault.
    """
    answer = client.adapter.post("/v1/sys/wrapping/lookup", json={"token": token.reveal()})
    try:
        data = answer["data"]
        return Wrapping(str(data["creation_path"]), str(data["creation_time"]), int(data["creation_ttl"]))
    except (KeyError, TypeError, ValueError):
        raise VaultError("What answers is not Vault", next_step="Check vault.address") from None


def refuse_other_origin(found: Wrapping, path: str) -> None:
    """Refuse a wrapping token that was not made where ours was.

    Raises:
        VaultDenied: its creation path is another one. It has not been opened.
    """
    if found.creation_path != path:
        raise VaultDenied(
            "ALARM: this wrapping token is not the one that was made for us",
            why=f"it was made at {found.creation_path}, not at {path}: somebody may have put it in the place of ours",
            next_step="It was not opened. Find out who could write to its file, and hand a new one over by another way",
            reason="origin",
            creation_path=found.creation_path,
        )


def open_once(client: Any, token: Secret) -> dict[str, Any]:
    """Open a wrapping token and return what it holds; from now on nobody can open it again.

    Raises:
        VaultError: what answers is not Vault.
    """
    before = client.token
    client.token = token.reveal()
    try:
        answer = client.adapter.post("/v1/sys/wrapping/unwrap", json={})
    finally:
        client.token = before
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, dict):
        raise VaultError("What answers is not Vault", next_step="Check vault.address")
    return data


def wrap(connection: Connection, values: dict[str, str], ttl_seconds: int) -> Secret:
    """Hand values to Vault and return the token with which one reader can open them, within a time.

    Raises:
        VaultError: Vault refuses, see :meth:`Connection.call`.
    """
    answer = connection.call(
        "wrapping",
        lambda client: client.adapter.post(f"/v1/{WRAP_PATH}", json=values, wrap_ttl=f"{ttl_seconds}s"),
    )
    try:
        return Secret(str(answer["wrap_info"]["token"]))
    except (KeyError, TypeError):
        raise VaultError("What answers is not Vault", next_step="Check vault.address") from None
