"""Names of processes, so that a journal row tells who is at work on it, and whether that process still lives."""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path


@functools.cache
def _boot() -> str:
    """Return a short name of this boot of this host; a process of an earlier boot is certainly gone."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
    except OSError:
        return "unknown"


def _started(pid: int) -> str | None:
    """Return when a process was started (clock ticks since boot, ``/proc/PID/stat`` field 22), or ``None`` if gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else fields[19]


def this_process() -> str:
    """Name this process: host, boot, process number and start time."""
    return _name(os.getpid())


@functools.cache
def _name(pid: int) -> str:
    """Name a process of ours; after a fork, the child has another number."""
    return f"{socket.gethostname()}/{_boot()}/{pid}/{_started(pid)}"


def is_gone(owner: str) -> bool:
    """Tell whether a process is known to have ended. One of another host is never known to."""
    host, boot, pid, started = owner.rsplit("/", 3)
    if host != socket.gethostname():
        return False
    return boot != _boot() or _started(int(pid)) != started
