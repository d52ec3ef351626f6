"""What the worker does to itself before it loads foreign code: no core dump, no debugger, no life after its parent."""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import threading
import time

_PR_SET_PDEATHSIG = 1
"""``prctl(2)``: the signal that this process gets when the thread that started it ends."""

_PR_SET_DUMPABLE = 4
"""``prctl(2)``: zero forbids core dumps, and ptrace and reading ``/proc/PID/mem`` by other processes of the user."""

_GRACE_SECONDS = 2.0
"""How long the worker may take to log out after its parent has gone."""


def harden(*, tied_to_thread: bool, parent: int) -> None:
    """Keep secrets of this process from disk and debuggers, and leave signals to the parent.

    Args:
        tied_to_thread: the parent's main thread started this process. Only then can the kernel be told to kill this
            process when "the parent" ends, because by that the kernel means the thread.
        parent: the parent's process id, to notice that it ended before this function ran.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # NOTE: Ctrl-C goes to the whole foreground group, and systemd's SIGTERM to the whole unit. A module must not be cut
    # off by them in the middle of a call: the parent decides, and its end ends this process.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if tied_to_thread:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def leave_with_parent(descriptor: int) -> None:
    """Watch the socket from a thread of its own: when the parent has closed it, end, even from inside a hung module."""

    def watch() -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLRDHUP)
        poll.poll()
        time.sleep(_GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="leave-with-parent", daemon=True).start()
