"""Folders that attempts write to, and their end."""

from __future__ import annotations

import os
import time
from functools import partial
from itertools import islice
from pathlib import Path

import anyio
import anyio.to_thread

from worker import folders

#: For how long a folder is emptied while the executor lives, which may fill it as fast.
_REMOVE_S = 30.0
#: Names that are read at once: beats wait for that.
_MOST = 2000


class Scratch:
    """The folders of a worker's attempts, which the executor makes where they are needed: most attempts need none."""

    def __init__(self, root: Path) -> None:
        # Not as a Path: to join one takes longer than all else here.
        self._root = str(root)
        self._there: frozenset[str] | None = None
        self._looked = -1.0

    def of(self, key: str) -> str:
        """The path of the folder of an attempt (`Fence.key`), whether or not it is there."""
        return f"{self._root}/{_name(key)}"

    async def remove(self, key: str, since: float) -> None:
        """Removes the folder of an attempt that the executor has not had any more since then (`time.monotonic()`)."""
        if self._looked <= since:
            # For all that end now, and not each for itself: who asks the kernel hands the interpreter to the other
            # threads, which give it back when it suits them.
            self._looked, self._there = time.monotonic(), self._look()
        name = _name(key)
        if name in self._there if self._there is not None else os.path.lexists(f"{self._root}/{name}"):
            # In a thread: it may hold a million files, and beats must not wait for that.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(partial(folders.remove, Path(self._root, name), within_s=_REMOVE_S))

    def _look(self) -> frozenset[str] | None:
        """All that is there; None where that is too much, or not to be had: the executor may write what it likes."""
        try:
            with os.scandir(self._root) as entries:
                names = [entry.name for entry in islice(entries, _MOST)]
        except OSError:
            return None
        return frozenset(names) if len(names) < _MOST else None


def _name(key: str) -> str:
    return key.replace(":", "-")
