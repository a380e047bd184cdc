"""Processes of a measurement: what they are made of, and the CPU time they have taken."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        if (fields := _stat(int(stat.parent.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, ahead = [pid], [pid]
    while ahead:
        ahead += (mine := children.get(ahead.pop(), []))
        found += mine
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds that these processes have taken so far, with those of their children that have ended."""
    found = (_stat(pid) for pid in pids)
    return sum(sum(map(int, fields[11:15])) for fields in found if fields is not None) * _TICK_S


def _stat(pid: int) -> list[str] | None:
    """The fields after the name; the first is the state."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
