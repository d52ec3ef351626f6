"""Fixtures of the use cases' tests."""

from harness.bench import bench_keys
from harness.hooks import hooks
from harness.openbao import openbao
from harness.postgresql import postgresql
from harness.shim import shim_module
from harness.stage import scrubbed, shared_stage, stage, token_template

__all__ = [
    "bench_keys",
    "hooks",
    "openbao",
    "postgresql",
    "scrubbed",
    "shared_stage",
    "shim_module",
    "stage",
    "token_template",
]
