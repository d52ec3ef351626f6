from __future__ import annotations

from harness.openbao import openbao, vault

__all__ = ["openbao", "vault"]
