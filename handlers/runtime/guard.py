"""Ends every process of an executor with it, where no process namespace does that."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def die_with_parent(how: signal.Signals) -> None:
    """Asks the kernel to send `how` to this process when its parent dies; survives exec, not fork."""
    parent = os.getppid()
    _prctl(_PR_SET_PDEATHSIG, how)
    if os.getppid() != parent:
        os._exit(1)  # it died before the kernel had been asked


def stand_guard() -> None:
    """Forks, and returns in the child alone; the parent stays until the child ends, and then ends all it had started.

    The guard adopts the orphans among its descendants (a subreaper), so that also those which made a session of their
    own are found. SIGTERM, which it gets when the courier dies, ends them all.
    """
    watched = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    die_with_parent(signal.SIGTERM)
    guard, child = os.getpid(), os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(1)
        return
    # The pipes are the child's: the courier should read their end when the last who writes is gone.
    os.closerange(0, 64)
    status = _until_end(child, watched)
    _end_descendants()
    if os.WIFSIGNALED(status):
        # Dies the same death, so that the courier reads the cause from the exit status.
        ending = os.WTERMSIG(status)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
        os.kill(guard, ending)
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)


def _until_end(child: int, watched: set[signal.Signals]) -> int:
    while signal.sigwait(watched) == signal.SIGCHLD:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                return ended[1]
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _end_descendants() -> None:
    # Children of a child that was killed become ours, hence again and again until there is none.
    while True:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    own = str(os.getpid())
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # The name stands in brackets and may hold anything: what follows the last bracket is state, then parent.
        if stat.rpartition(")")[2].split()[1] == own:
            found.append(int(entry.name))
    return found


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, int(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) was refused")
