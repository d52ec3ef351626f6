"""The command line: one small module per command group. Commands parse, call one use case, print and exit."""

from varmenne.cli.program import main

__all__ = ["main"]
