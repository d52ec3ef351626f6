"""Names of processes, so that a journal row tells who is at work on it, and whether that process still lives.

A name is host, boot, process number, start time and PID namespace. Whether a process has ended can be looked up only
where ``/proc`` shows it: in our own PID namespace. One of an earlier boot is gone as well, but a container has its
machine's boot and a name that containers of other machines may have too; so a boot counts only between processes that
run on the machine itself. Of all others nothing is known, and their leases have to end.
"""

from __future__ import annotations

import functools
import os
import pwd
import re
import socket
from pathlib import Path

INITIAL_NAMESPACE = str(0xEFFFFFFC)
"""The PID namespace of a machine itself, not of a container (``PROC_PID_INIT_INO`` in Linux's ``proc_ns.h``)."""

ON_BEHALF = "VARMENNE_ON_BEHALF_OF"
"""Environment variable in which ``varmenne-as-agent`` names the person whose command a service runs."""

_UNKNOWN = "unknown"
_NOBODY_LOGGED_IN = 0xFFFFFFFF
"""What the kernel says then (``AUDIT_UID_UNSET`` in Linux's ``audit.h``)."""


@functools.cache
def _boot() -> str:
    """Return a short name of this boot of this host."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
    except OSError:
        return _UNKNOWN


def _namespace() -> str:
    """Return the number of our PID namespace, if ``/proc`` shows that one and not another."""
    try:
        if Path("/proc/self").readlink().name != str(os.getpid()):
            return _UNKNOWN
        return re.sub(r"\D", "", Path("/proc/self/ns/pid").readlink().name) or _UNKNOWN
    except OSError:
        return _UNKNOWN


def _started(pid: int) -> str | None:
    """Return when a process was started (clock ticks since boot, ``/proc/PID/stat`` field 22), or ``None`` if gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else fields[19]


@functools.cache
def this_host() -> str:
    """Name this host, as its kernel does."""
    return socket.gethostname()


def _login() -> int:
    """Return the number of the account that logged in, as the kernel keeps it."""
    try:
        return int(Path("/proc/self/loginuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return _NOBODY_LOGGED_IN


@functools.cache
def this_person() -> str:
    """Return the login name of who started this process: the kernel keeps it through `sudo` and `su`.

    Where nobody logged in, it is the account that the process runs under; or, in a service of the machine itself, which
    only root can begin, whoever is named in :data:`ON_BEHALF`. Somebody who logged in cannot take another's name so,
    and in a container it is not looked at.
    """
    number = _login()
    if number == _NOBODY_LOGGED_IN:
        named = os.environ.get(ON_BEHALF, "")
        if named and _namespace() == INITIAL_NAMESPACE:
            return named
        number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"


def in_container() -> bool:
    """Tell whether this is not the machine itself, whose host's name is whatever somebody chose for it."""
    return _namespace() != INITIAL_NAMESPACE


def this_process() -> str:
    """Name this process."""
    return _name(os.getpid())


@functools.cache
def _name(pid: int) -> str:
    """Name a process of ours; after a fork, the child has another number."""
    return f"{socket.gethostname()}/{_boot()}/{pid}/{_started(pid)}/{_namespace()}"


def is_gone(owner: str) -> bool:
    """Tell whether a process is known to have ended. Names of before, without a namespace, tell too little for that."""
    parts = owner.split("/")
    if len(parts) != 5 or parts[0] != socket.gethostname():
        return False
    _host, boot, pid, started, namespace = parts
    if namespace != _namespace() or _UNKNOWN in {namespace, boot, _boot()}:
        return False
    if boot != _boot():
        return namespace == INITIAL_NAMESPACE
    return _started(int(pid)) != started
