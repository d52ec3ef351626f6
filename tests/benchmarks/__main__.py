"""Runs every benchmark of this folder: ``scripts/benchmark [NAME…]``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> None:
    """Run the benchmarks that are named, or all of them."""
    known = sorted(
        path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in {"__init__", "__main__", "measure"}
    )
    for name in sys.argv[1:] or known:
        if name not in known:
            raise SystemExit(f"there is no benchmark {name}; there are: {', '.join(known)}")
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
