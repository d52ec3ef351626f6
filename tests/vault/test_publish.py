from __future__ import annotations

from typing import TYPE_CHECKING

from varmenne.clock import system_clock
from varmenne.domain.identifiers import Channel, CustomerId, Environment
from varmenne.vault import CertificateStore

if TYPE_CHECKING:
    from harness.openbao import Vault


def test_published_record_is_read_back(vault: Vault) -> None:
    """What was published is what is read, with its version and custom metadata."""
    with CertificateStore(vault.settings, clock=system_clock) as store:
        where = store.location(Environment.TEST, CustomerId("1234567-8"), Channel.WS)
        version = store.publish(where, {"a": "b"}, operation="op-1", custom_metadata={"k": "v"})
        found = store.read(where)
        print(store.check(where))
    assert version == 1
    assert found is not None
    assert found.version == 1
    assert found.custom_metadata == {"k": "v"}
