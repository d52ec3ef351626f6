"""Whether a process can be made to leave a core dump, tried as somebody with rights on the machine could."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def dumps_core(process: subprocess.Popen[bytes]) -> bool:
    """Lift a child's limit, have it abort, and tell whether the kernel has written a core dump. It ends by that."""
    with contextlib.suppress(PermissionError):  # A hard limit may be raised by root only.
        resource.prlimit(process.pid, resource.RLIMIT_CORE, UNLIMITED)
    os.kill(process.pid, signal.SIGABRT)
    _pid, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return os.WCOREDUMP(status)
