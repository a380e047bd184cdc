"""The scratch folder of a worker's life; those of the dead are removed by whoever comes next."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def scratch(root: Path, worker: uuid.UUID) -> Iterator[Path]:
    """Makes `<root>/<worker>` and holds a lock that says that it is in use; removes it at the end.

    A lock and not the process id: numbers come back, and the kernel frees a lock whatever the end was.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_dead(root)
    folder, lock = root / str(worker), root / f"{worker}.lock"
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            remove(folder)
            lock.unlink(missing_ok=True)


def _remove_dead(root: Path) -> None:
    for lock in root.glob("*.lock"):
        with contextlib.suppress(OSError):
            handle = os.open(lock, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(lock.with_suffix(""))
                lock.unlink(missing_ok=True)
            finally:
                os.close(handle)


def remove(folder: Path, *, within_s: float | None = None, clock: Callable[[], float] = time.monotonic) -> bool:
    """Removes a folder that an executor could write to, whatever it made of it; whether nothing is left.

    Not `shutil.rmtree`: that takes a stack frame and a descriptor for each level, so that a folder a thousand levels
    deep ends the one who removes it. Here what lies deeper is moved up to the first level until nothing is left.
    Links are never followed. What cannot be removed stays. `within_s`: an executor that lives may add without end.
    """
    ends = None if within_s is None else clock() + within_s
    try:
        top = os.open(folder, _FOLDER)
    except FileNotFoundError:
        return True
    except OSError:  # a link or a file in its place
        with contextlib.suppress(OSError):
            folder.unlink()
        return not os.path.lexists(folder)
    try:
        before: set[int] = set()
        while (stuck := _flatten(top, ends, clock)) and stuck != before:
            before = stuck
    finally:
        os.close(top)
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not os.path.lexists(folder)


def _flatten(top: int, ends: float | None, clock: Callable[[], float]) -> set[int]:
    """One pass: unlinks the files on the first two levels and moves the folders of the second to the first.

    Returns the inodes of what is left on the first; none too when the time is up.
    """
    with os.scandir(top) as entries:
        for entry in entries:
            if ends is not None and clock() > ends:
                return set()
            with contextlib.suppress(OSError):
                try:
                    os.unlink(entry.name, dir_fd=top)
                except IsADirectoryError:
                    _empty_into(top, entry.name)
    with os.scandir(top) as entries:
        return {entry.inode() for entry in entries}


def _empty_into(top: int, name: str) -> None:
    folder = os.open(name, _FOLDER, dir_fd=top)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    try:
                        os.unlink(entry.name, dir_fd=folder)
                    except IsADirectoryError:
                        os.rename(entry.name, uuid.uuid4().hex, src_dir_fd=folder, dst_dir_fd=top)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)
