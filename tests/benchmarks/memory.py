"""Peak memory of one whole enrollment, its token worker included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import report
from varmenne.demo.stage import Stage


def main() -> None:
    """Run one enrollment as a process of its own and print its peak resident memory."""
    with tempfile.TemporaryDirectory() as folder, Stage(Path(folder), keep=False) as stage:
        order = stage.bench.order("0123456-7", name="Example Oy")
        command = [sys.executable, "-m", "varmenne", "enroll", "--customer-id", "0123456-7", "--credentials", "-"]
        process = subprocess.Popen(
            command,
            env={**os.environ, "VARMENNE_CONFIG": str(stage.config)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(order.as_json()).encode())
        process.stdin.close()
        _pid, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, f"the enrollment ended with {process.returncode}"
    # ru_maxrss of a waited-for child is the larger of its own peak and those of the children that it waited for.
    report("peak memory of one enrollment", usage.ru_maxrss / 1024, 120, "largest process", unit=" MB")


if __name__ == "__main__":
    main()
