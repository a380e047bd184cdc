"""From the scratch folder to the object store.

The executor touched untrusted media: what it says about its files is checked here, and nothing but a regular file in
the attempt's own scratch folder is ever read.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.from_thread import check_cancelled

from handlers.errors import HandlerBug
from handlers.protocol import OutputFile
from storage.claim import ClaimedJob, Fence
from storage.objects.base import ObjectInfo, ObjectStore
from storage.objects.errors import ObjectError
from storage.objects.uri import ObjectUri
from storage.settle import Artifact
from worker.metrics import Metrics

_ROLE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")
_SUFFIX = re.compile(r"\.[a-z0-9]{1,10}")
_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,60}/[a-z0-9.+-]{1,80}")


def output_prefix(default: str, output: str | None, fence: Fence) -> ObjectUri:
    """Where an attempt's outputs go: `<prefix>/<job id>/<attempt>-<worker, 8 hex>`; two attempts never share a key."""
    base = (output or default).rstrip("/")
    return ObjectUri.parse(f"{base}/{fence.id}/{fence.attempt}-{fence.worker_id.hex[-8:]}")


class Outputs:
    """Stores the files of attempts."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        default_prefix: str,
        max_bytes: int,
        limiter: anyio.CapacityLimiter,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._default_prefix = default_prefix
        self._max_bytes = max_bytes
        self._limiter = limiter
        self._metrics = metrics

    async def store(self, job: ClaimedJob, scratch: Path, files: Sequence[OutputFile]) -> list[Artifact]:
        """Uploads the files; cancelled, it ends within a chunk and leaves none half there.

        Raises HandlerBug for a file that is not what it should be, and ObjectError.
        """
        if not files:
            return []
        prefix = output_prefix(self._default_prefix, job.message.get("output"), job.fence)
        names = [(file.role, file.path) for file in files]
        if len(set(names)) != len(names):
            raise HandlerBug("two outputs have the same role and file")
        artifacts: list[Artifact] = []
        for file in files:
            # Together, since a sparse file costs its maker nothing.
            left = self._max_bytes - sum(artifact.size for artifact in artifacts)
            artifacts.append(
                await anyio.to_thread.run_sync(self._one, prefix, scratch, file, left, limiter=self._limiter)
            )
        return artifacts

    def _one(self, prefix: ObjectUri, scratch: Path, file: OutputFile, most_bytes: int) -> Artifact:
        if not _ROLE.fullmatch(file.role) or not _MEDIA_TYPE.fullmatch(file.media_type):
            said = f"{file.role[:100]!r}, {file.media_type[:100]!r}"
            raise HandlerBug(f"an output has no proper role or media type: {said}")
        path = Path(file.path)
        suffix = path.suffix if _SUFFIX.fullmatch(path.suffix) else ""
        uri = ObjectUri(prefix.bucket, f"{prefix.key}/{file.role}{suffix}")
        with _opened(scratch, path, file.role) as handle:
            before = os.fstat(handle.fileno())
            if before.st_size > most_bytes:
                said = f"output {file.role!r} has {before.st_size} bytes"
                raise HandlerBug(f"{said}, the limit for all outputs of a job is {self._max_bytes}")
            # By its descriptor: behind the path there may be another file by now.
            try:
                info = self._upload(Path(f"/proc/self/fd/{handle.fileno()}"), uri, file.media_type)
            except PermissionError as error:  # its mode was changed; not trouble with the disk, which costs no attempt
                raise HandlerBug(f"output {file.role!r} cannot be read: {error.strerror}") from None
            if _changed(before, os.fstat(handle.fileno())):
                raise HandlerBug(f"output {file.role!r} was written to while it was stored")
        assert info.sha256 is not None
        return Artifact(
            role=file.role,
            bucket=uri.bucket,
            key=uri.key,
            media_type=file.media_type,
            size=info.size,
            # Of what was sent: a file that its maker has mapped into memory changes without a trace.
            sha256=bytes.fromhex(info.sha256),
            version_id=info.version_id,
            etag=info.etag,
        )

    def _upload(self, source: Path, uri: ObjectUri, media_type: str) -> ObjectInfo:
        try:
            info = self._store.upload(source, uri, content_type=media_type, check=check_cancelled)
        except ObjectError as error:
            if not error.permanent:
                self._metrics.count("store_errors_total", what="store")
            raise
        self._metrics.count("stored_bytes_total", info.size)
        return info


@contextmanager
def _opened(scratch: Path, path: Path, role: str) -> Iterator[BufferedReader]:
    """An output, opened without following a link: not in its own place, not in place of the job's scratch folder."""
    if path.parent != scratch:
        raise HandlerBug(f"output {role!r} is not in the job's scratch folder")
    try:
        folder = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            descriptor = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise HandlerBug(f"output {role!r} was declared but cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise HandlerBug(f"output {role!r} is not a regular file")
    with os.fdopen(descriptor, "rb") as handle:
        yield handle


def _changed(before: os.stat_result, after: os.stat_result) -> bool:
    """By the change time, which no program can set."""
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) != (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )
