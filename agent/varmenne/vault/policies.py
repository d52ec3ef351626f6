"""The Vault policies of ``policies/``, shipped with the package and fitted to a mount and a prefix."""

from __future__ import annotations

import re
from importlib import resources

from varmenne.vault.location import checked_path

POLICIES = ("agent", "consumer", "auditor")
"""Names of the policies, each a file ``NAME.hcl``."""

WRITTEN_FOR_MOUNT = "secret"
WRITTEN_FOR_PREFIX = "varmenne"

_RECORDS = re.compile(rf'^path "{WRITTEN_FOR_MOUNT}/(data|metadata)/{WRITTEN_FOR_PREFIX}/', re.MULTILINE)


def policy_text(name: str, *, mount: str = WRITTEN_FOR_MOUNT, prefix: str = WRITTEN_FOR_PREFIX) -> str:
    """Return a policy's HCL with the paths of records moved to ``mount`` and ``prefix``.

    Raises:
        ConfigError: mount or prefix cannot be part of a path.
        KeyError: there is no such policy.
    """
    if name not in POLICIES:
        raise KeyError(name)
    checked_path(mount, "vault.mount")
    checked_path(prefix, "vault.prefix")
    text = resources.files("varmenne.vault").joinpath("policies", f"{name}.hcl").read_text(encoding="utf-8")
    return _RECORDS.sub(rf'path "{mount}/\1/{prefix}/', text)
