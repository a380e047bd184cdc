"""Where the toy checkpoints lie, and how one gets there: whole, and sealed with a lock."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config.checkpoint_lock import Lock, hash_files, read_lock, write_lock

CHECKPOINTS = Path(__file__).with_name("checkpoints")


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A folder to write into, which then takes the place of `folder` and what was there."""
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    for path in fresh.rglob("*"):
        # safetensors leaves what its maker alone can read; workers may be another user.
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def seal(checkpoints: Path = CHECKPOINTS) -> list[Path]:
    """Writes the lock of each checkpoint whose files differ from it; returns those folders."""
    sealed = []
    for folder in sorted(path for path in checkpoints.iterdir() if path.is_dir() and not path.name.startswith(".")):
        lock, found = read_lock(folder), hash_files(folder)
        if lock is None or lock.files != found:
            write_lock(folder, Lock(name=folder.name, files=found))
            sealed.append(folder)
    return sealed
