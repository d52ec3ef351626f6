"""Fixtures of the signals' tests."""

from harness.bench import bench_keys
from harness.openbao import openbao
from harness.postgresql import postgresql
from harness.stage import scrubbed, shared_stage, stage, token_template

__all__ = ["bench_keys", "openbao", "postgresql", "scrubbed", "shared_stage", "stage", "token_template"]
