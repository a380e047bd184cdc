"""The lock beside a checkpoint's files: what they were when verified, so that a start need not hash gigabytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

LOCK_NAME = "mediamill.lock.json"


class BadLock(Exception):
    """The lock is not one."""


class LockedFile(BaseModel):
    """A file as it was."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    size: int


class Lock(BaseModel):
    """A checkpoint as it was."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    repo: str | None = None
    revision: str | None = None
    #: By path inside the folder, with `/`.
    files: dict[str, LockedFile]

    @property
    def digest(self) -> str:
        """sha256 over the sorted names and digests: the same weights have the same digest in any place."""
        lines = (f"{name} {file.sha256}\n" for name, file in sorted(self.files.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_lock(folder: Path) -> Lock | None:
    """The lock of a folder, None where there is none. Raises BadLock."""
    try:
        text = (folder / LOCK_NAME).read_bytes()
    except FileNotFoundError:
        return None
    try:
        return Lock.model_validate_json(text)
    except ValidationError as error:
        raise BadLock(error.errors(include_url=False)[0]["msg"]) from error


def write_lock(folder: Path, lock: Lock) -> None:
    """Writes it whole or not at all."""
    temporary = folder / f".{LOCK_NAME}.{os.getpid()}"
    temporary.write_text(lock.model_dump_json(indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / LOCK_NAME)


def list_files(folder: Path) -> list[str]:
    """Paths of a folder's files, the lock and whatever begins with a dot left out, sorted."""
    found = []
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if path.is_file() and relative.name != LOCK_NAME and not any(part.startswith(".") for part in relative.parts):
            found.append(relative.as_posix())
    return sorted(found)


def hash_files(folder: Path) -> dict[str, LockedFile]:
    """Every file of a folder, read through."""
    return {
        name: LockedFile(sha256=_sha256(folder / name), size=(folder / name).stat().st_size)
        for name in list_files(folder)
    }


def changed_files(folder: Path, lock: Lock) -> list[str]:
    """What differs from the lock as far as names and sizes tell: files added, gone, longer or shorter."""
    there = {name: (folder / name).stat().st_size for name in list_files(folder)}
    return differences({name: file.size for name, file in lock.files.items()}, there)


def differences(expected: Mapping[str, object], found: Mapping[str, object]) -> list[str]:
    """Keys under which two mappings differ, sorted."""
    return sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
