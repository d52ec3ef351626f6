"""Vault as the place where certificates are published: the store, its records and their paths.

Works with HashiCorp Vault and OpenBao. hvac is loaded when a store first connects, so importing this is cheap. Rules:

1. Every write is check-and-set, carries its operation's ID, and happens exactly once however often it is tried.
2. Nothing in a path, a record or custom metadata is secret: no transfer ID, no PIN, no token.
3. Nothing of hvac or requests leaves this room: errors are those of :mod:`varmenne.errors`, without tokens in them.
"""

from varmenne.vault.connection import Patience
from varmenne.vault.location import Location
from varmenne.vault.policies import policy_text
from varmenne.vault.record import build_record, index_strings, record_schema
from varmenne.vault.served import Served, served_schema
from varmenne.vault.store import CertificateStore, MetadataNotWritten, Published

__all__ = [
    "CertificateStore",
    "Location",
    "MetadataNotWritten",
    "Patience",
    "Published",
    "Served",
    "build_record",
    "index_strings",
    "policy_text",
    "record_schema",
    "served_schema",
]
