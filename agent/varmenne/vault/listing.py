"""What is in a folder of a KV mount."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from varmenne.vault.connection import Connection


def listed(connection: Connection, mount: str, path: str) -> list[str]:
    """Return the names in a folder, in their order; those of folders end with a slash. None if there is no folder.

    Raises:
        VaultError: Vault cannot be asked, or refuses, see :meth:`Connection.call`.
    """
    from hvac.exceptions import InvalidPath

    def names(client: Any) -> list[str]:
        try:
            answer = client.secrets.kv.v2.list_secrets(path, mount_point=mount)
            return [str(name) for name in answer["data"]["keys"]]
        except InvalidPath as exc:
            if exc.errors != []:
                raise
            return []

    return sorted(connection.call(f"listing {mount}/metadata/{path}", names))
