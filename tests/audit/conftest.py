"""Fixtures of the tests of evidence that need a whole installation."""

from harness.bench import bench_keys
from harness.openbao import openbao
from harness.stage import scrubbed, stage, token_template

__all__ = ["bench_keys", "openbao", "scrubbed", "stage", "token_template"]
