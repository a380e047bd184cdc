"""The scratch folder of a worker's life; those of the dead are removed by whoever comes next."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


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
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _remove_dead(root: Path) -> None:
    for lock in root.glob("*.lock"):
        with contextlib.suppress(OSError):
            handle = os.open(lock, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink(missing_ok=True)
            finally:
                os.close(handle)
