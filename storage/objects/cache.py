"""What was fetched, by content: a folder of files named by their SHA-256, shared by the processes of one host.

    content/<2 hex>/<sha256>      the entries, mode 0444; their access time is when they were last wanted
    process/<id>/                 what one process holds: hard links to entries, and files on their way in
    process/<id>.lock             locked by that process as long as it lives, so that others may clear up after it

To hold an entry is to link it: whatever another process removes, the bytes stay until the last link is gone; an entry
with a second link is held by somebody and is not evicted. So no process needs to ask another one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

CHUNK_BYTES = 1 << 20
#: Evicted is down to this share of the limit, so that the folder is not looked through again for the next entry.
LOW_WATER = 0.9
#: After adding this share of the limit, a process looks how much the others have added.
LOOK_AGAIN = 1 / 8


class Held:
    """An entry that stays as long as this is held: until `release` or the end of `with`.

    `path`: a read-only file of `size` bytes, this holder's own name for it.
    """

    def __init__(self, path: Path, sha256: str, size: int, released: Callable[[], None]) -> None:
        self.path = path
        self.sha256 = sha256
        self.size = size
        self._released = released
        # A caller that was abandoned in its thread never gets what it asked for: then the collector lets go of it.
        # It may run anywhere, so it takes no lock.
        self._unlink = weakref.finalize(self, path.unlink, missing_ok=True)
        self._unlink.atexit = False

    def release(self) -> None:
        """Lets go of the entry; a second call does nothing."""
        if self._unlink.alive:
            self._unlink()
            self._released()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    size: int
    links: int
    wanted_ns: int


class ContentCache:
    """Files by content, the least recently wanted evicted above a limit. Thread-safe; close it, or use `with`."""

    def __init__(self, folder: Path, max_bytes: int, *, now_ns: Callable[[], int] = time.time_ns) -> None:
        """`max_bytes`: what the entries may take; what is held is not evicted and may for that time take more.

        All processes that share the folder are of one user. Raises OSError where the folder cannot be used.
        """
        self._content = folder / "content"
        self._processes = folder / "process"
        self._max_bytes = max_bytes
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._evicting = False
        self._evict_again = False
        self._verified: set[tuple[int, int, int]] = set()  # inode, size, time of the last change
        for part in (self._content, self._processes):
            part.mkdir(parents=True, exist_ok=True)
        self._id = uuid.uuid4().hex
        self._own = self._processes / self._id
        self._own_lock = _claim(self._processes, self._id)
        self._bytes = sum(entry.size for entry in self._entries())
        self._added = 0  # since the folder was last looked through

    def close(self) -> None:
        """Lets go of everything that this process holds. Entries stay."""
        shutil.rmtree(self._own, ignore_errors=True)
        (self._processes / f"{self._id}.lock").unlink(missing_ok=True)
        with suppress(OSError):
            os.close(self._own_lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """A path for a new file, for `add`; what is left there at the end is removed."""
        path = self._own / uuid.uuid4().hex
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def add(self, path: Path, sha256: str) -> Held:
        """Moves a file whose SHA-256 the caller has verified into the cache, and holds it.

        `path` is of `incoming`, or in the same file system. Raises OSError.
        """
        entry = self._path(sha256)
        path.chmod(0o444)
        found = path.stat()
        own = self._link(path)
        entry.parent.mkdir(exist_ok=True)
        now = self._now_ns()
        os.utime(path, ns=(now, found.st_mtime_ns))
        path.replace(entry)
        with self._lock:
            self._verified.add(_mark(found))
            self._bytes += found.st_size
            self._added += found.st_size
        self._evict()
        return Held(own, sha256, found.st_size, self._evict)

    def hold(self, sha256: str) -> Held | None:
        """The entry with that content, or None. One of another process is verified first, and dropped if damaged."""
        entry = self._path(sha256)
        try:
            own = self._link(entry)
        except FileNotFoundError:
            return None
        found = own.stat()
        with self._lock:
            verified = _mark(found) in self._verified
        if not verified and _digest(own) != sha256:
            self._drop(entry, found)
            own.unlink()
            return None
        with self._lock:
            self._verified.add(_mark(found))
        os.utime(own, ns=(self._now_ns(), found.st_mtime_ns))
        return Held(own, sha256, found.st_size, self._evict)

    def share(self, held: Held) -> Held:
        """Another hold of the same entry."""
        return Held(self._link(held.path), held.sha256, held.size, self._evict)

    def _path(self, sha256: str) -> Path:
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise ValueError(f"{sha256!r} is no SHA-256 in hexadecimal")
        return self._content / sha256[:2] / sha256

    def _link(self, path: Path) -> Path:
        own = self._own / uuid.uuid4().hex
        own.hardlink_to(path)
        return own

    def _drop(self, entry: Path, damaged: os.stat_result) -> None:
        with suppress(FileNotFoundError):
            if entry.stat().st_ino == damaged.st_ino:  # else somebody has put a good one there meanwhile
                entry.unlink()

    def _evict(self) -> None:
        """Removes the least recently wanted entries that nobody holds, where there are too many bytes."""
        with self._lock:
            # Other processes add too: the folder is looked through now and then, in any case.
            if self._bytes <= self._max_bytes and self._added <= self._max_bytes * LOOK_AGAIN:
                return
            self._evict_again = True
            if self._evicting:
                return  # whoever is at it will look once more
            self._evicting = True
        try:
            while self._has_to_look():
                self._look_through()
        except BaseException:
            with self._lock:
                self._evicting = False
            raise

    def _has_to_look(self) -> bool:
        with self._lock:
            again, self._evict_again = self._evict_again, False
            if not again:
                self._evicting = False
            else:
                self._added = 0
            return again

    def _look_through(self) -> None:
        entries = sorted(self._entries(), key=lambda entry: entry.wanted_ns)
        total = sum(entry.size for entry in entries)
        goal = self._max_bytes * LOW_WATER if total > self._max_bytes else total
        for entry in entries:
            if total <= goal:
                break
            if entry.links == 1:
                entry.path.unlink(missing_ok=True)
                total -= entry.size
        with self._lock:
            # What was added meanwhile may be in the total already: better counted twice than not at all.
            self._bytes = total + self._added

    def _entries(self) -> Iterator[_Entry]:
        for folder in self._content.iterdir():
            for path in folder.iterdir():
                with suppress(FileNotFoundError):  # another process evicts too
                    found = path.stat()
                    yield _Entry(path, found.st_size, found.st_nlink, found.st_atime_ns)


def _mark(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _claim(processes: Path, name: str) -> int:
    """Makes the folder of this process and clears up after those that died. Returns the locked descriptor."""
    with (processes / "lock").open("a") as gate:  # so that nobody takes a folder for dead before it is locked
        fcntl.flock(gate, fcntl.LOCK_EX)
        for other in processes.glob("*.lock"):
            _clear_if_dead(other)
        (processes / name).mkdir()
        lock = os.open(processes / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _clear_if_dead(lock: Path) -> None:
    with suppress(FileNotFoundError), lock.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            return
        shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        lock.unlink(missing_ok=True)
