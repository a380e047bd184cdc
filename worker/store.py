"""From the scratch folder to the object store.

The executor touched untrusted media: what it says about its files is checked here, and nothing but a regular file inside
the attempt's own scratch folder is ever read.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from handlers.errors import HandlerBug
from handlers.protocol import OutputFile
from storage.claim import ClaimedJob, Fence
from storage.objects.base import ObjectStore
from storage.objects.uri import ObjectUri
from storage.settle import Artifact

_ROLE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")
_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,60}/[a-z0-9.+-]{1,80}")


def output_prefix(default: str, output: str | None, fence: Fence) -> ObjectUri:
    """Where an attempt's outputs go: `<prefix>/<job id>/<attempt>-<worker, 8 hex>`; two attempts never share a key."""
    base = (output or default).rstrip("/")
    return ObjectUri.parse(f"{base}/{fence.id}/{fence.attempt}-{fence.worker_id.hex[-8:]}")


class Outputs:
    """Stores the files of attempts."""

    def __init__(
        self, store: ObjectStore, *, default_prefix: str, max_bytes: int, limiter: anyio.CapacityLimiter
    ) -> None:
        self._store = store
        self._default_prefix = default_prefix
        self._max_bytes = max_bytes
        self._limiter = limiter

    async def store(self, job: ClaimedJob, scratch: Path, files: Sequence[OutputFile]) -> list[Artifact]:
        """Uploads the files. Raises HandlerBug for one that is not what it should be, and ObjectError."""
        if not files:
            return []
        prefix = output_prefix(self._default_prefix, job.message.get("output"), job.fence)
        names = [(file.role, file.path) for file in files]
        if len(set(names)) != len(names):
            raise HandlerBug("two outputs have the same role and file")
        return [
            await anyio.to_thread.run_sync(self._one, prefix, scratch, file, limiter=self._limiter) for file in files
        ]

    def _one(self, prefix: ObjectUri, scratch: Path, file: OutputFile) -> Artifact:
        if not _ROLE.fullmatch(file.role) or not _MEDIA_TYPE.fullmatch(file.media_type):
            raise HandlerBug(f"an output has no proper role or media type: {file.role[:100]!r}, {file.media_type[:100]!r}")
        path = Path(file.path)
        suffix = path.suffix if re.fullmatch(r"\.[a-z0-9]{1,10}", path.suffix) else ""
        size, digest = self._inspect(scratch, path, file.role)
        uri = ObjectUri(prefix.bucket, f"{prefix.key}/{file.role}{suffix}")
        info = self._store.upload(path, uri, content_type=file.media_type)
        return Artifact(
            role=file.role,
            bucket=uri.bucket,
            key=uri.key,
            media_type=file.media_type,
            size=size,
            sha256=digest,
            version_id=info.version_id,
            etag=info.etag,
        )

    def _inspect(self, scratch: Path, path: Path, role: str) -> tuple[int, bytes]:
        """Size and sha256 of an output, never following a link out of the scratch folder."""
        if path.parent != scratch:
            raise HandlerBug(f"output {role!r} is not in the job's scratch folder")
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise HandlerBug(f"output {role!r} was declared but cannot be read: {error.strerror}") from None
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise HandlerBug(f"output {role!r} is not a regular file")
            if status.st_size > self._max_bytes:
                raise HandlerBug(f"output {role!r} has {status.st_size} bytes, the limit is {self._max_bytes}")
            return status.st_size, hashlib.file_digest(file, "sha256").digest()
