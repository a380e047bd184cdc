"""From the object store to local files: each object once, and what was read is pinned on the row."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from anyio.from_thread import check_cancelled

from handlers.declaration import Inputs, Many, Named, One
from storage import claim
from storage.claim import ClaimedJob, Pin, PinnedInput
from storage.database import Connection, Database, bisected
from storage.objects.base import ObjectRef
from storage.objects.errors import ObjectError
from storage.objects.reader import HeldObject, ObjectReader
from storage.objects.uri import ObjectUri
from worker.group import Group
from worker.metrics import Metrics
from worker.outage import Patience
from worker.record import FenceLost


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """One input as a local, read-only file."""

    role: str
    name: str
    path: Path
    pinned: PinnedInput

    @property
    def pointer(self) -> str:
        """How handlers name it: `inputs/image`, `inputs/images/0`."""
        return f"inputs/{self.role}/{self.name}" if self.name else f"inputs/{self.role}"


@dataclass(frozen=True, slots=True)
class Files:
    """All inputs of an attempt."""

    files: Sequence[FetchedFile]
    #: sha256 (hex) of the pictures among them that have their embedding in the active space already.
    embedded: frozenset[str]

    def by_pointer(self) -> dict[str, FetchedFile]:
        """The files by the names that handlers use."""
        return {file.pointer: file for file in self.files}


@dataclass(frozen=True, slots=True)
class Reference:
    """One reference of the message, or its pin."""

    role: str
    name: str
    ref: ObjectRef


def reads(job: ClaimedJob) -> bool:
    """Whether a job has inputs at all."""
    return bool(job.resolved or job.message.get("inputs"))


def references(job: ClaimedJob, declared: Mapping[str, Inputs]) -> Iterator[Reference]:
    """What a job reads: as pinned by an earlier attempt, else as its message says."""
    if job.resolved is not None:
        for role, names in job.resolved.items():
            for name, pin in names.items():
                yield Reference(role, name, _ref({k: v for k, v in pin.items() if k != "size"}))
        return
    inputs: Mapping[str, Any] = job.message.get("inputs") or {}
    for role, value in inputs.items():
        shape = declared[role]
        if isinstance(shape, One):
            yield Reference(role, "", _ref(value))
        elif isinstance(shape, Many):
            yield from (Reference(role, str(n), _ref(each)) for n, each in enumerate(value))
        elif isinstance(shape, Named):
            yield from (Reference(role, name, _ref(each)) for name, each in value.items())


def _ref(value: str | Mapping[str, Any]) -> ObjectRef:
    if isinstance(value, str):
        return ObjectRef(ObjectUri.parse(value))
    return ObjectRef(
        ObjectUri.parse(value["uri"]),
        version_id=value.get("version_id"),
        etag=value.get("etag"),
        sha256=value.get("sha256"),
    )


class Pinner:
    """Pins what attempts read, and says which contents have their embedding; `write` is what a `Group` calls."""

    def __init__(self, database: Database, space: int | None, patience: Patience) -> None:
        self._database = database
        self._space = space
        self._patience = patience

    def write(self, pins: Sequence[Pin]) -> list[frozenset[str] | Exception]:
        """Answers the embedded contents of each pin, or FenceLost."""
        return list(self._patience.through("pin", lambda: bisected(pins, self._together)))

    def _together(self, pins: Sequence[Pin]) -> list[frozenset[str] | FenceLost]:
        held, embedded = self._database.retrying(lambda connection: self._transaction(connection, pins))
        return [embedded if pin.fence.id in held else FenceLost(str(pin.fence.id)) for pin in pins]

    def _transaction(self, connection: Connection, pins: Sequence[Pin]) -> tuple[set[uuid.UUID], frozenset[str]]:
        held = claim.pin(connection, pins)
        if self._space is None:
            return held, frozenset()
        contents = {i.sha256.hex() for pin in pins for i in pin.inputs}
        return held, frozenset(claim.embedded(connection, sorted(contents), self._space))


class Fetcher:
    """Fetches inputs in threads behind a limiter."""

    def __init__(
        self,
        reader: ObjectReader,
        pin: Group[Pin, frozenset[str]],
        *,
        max_bytes: int,
        limiter: anyio.CapacityLimiter,
        metrics: Metrics,
    ) -> None:
        self._reader = reader
        self._pin = pin
        self._max_bytes = max_bytes
        self._limiter = limiter
        self._metrics = metrics

    async def fetch(self, job: ClaimedJob, declared: Mapping[str, Inputs], held: AsyncExitStack) -> Files:
        """Fetches all inputs; the files stay readable until `held` closes. Cancelled, it ends within a chunk.

        Raises the errors of `storage.objects.errors`, OSError for trouble with the local disk, and FenceLost.
        """
        wanted = list(references(job, declared))
        if not wanted:
            return Files((), frozenset())
        objects: list[HeldObject | ObjectError | OSError | None] = [None] * len(wanted)

        async def one(index: int, reference: Reference) -> None:
            try:
                objects[index] = held.enter_context(
                    await anyio.to_thread.run_sync(
                        lambda: self._reader.read(reference.ref, max_bytes=self._max_bytes, check=check_cancelled),
                        limiter=self._limiter,
                    )
                )
            except (ObjectError, OSError) as error:
                objects[index] = error
            self._count(objects[index])

        async with anyio.create_task_group() as group:
            for index, reference in enumerate(wanted):
                group.start_soon(one, index, reference)
        files = [_file(reference, object_) for reference, object_ in zip(wanted, objects, strict=True)]
        embedded = await self._pin(Pin(job.fence, [file.pinned for file in files]))
        return Files(files, embedded)

    def _count(self, found: HeldObject | ObjectError | OSError | None) -> None:
        if isinstance(found, HeldObject) and found.downloaded:
            self._metrics.count("cache_misses_total")
            self._metrics.count("fetched_bytes_total", found.pinned.size)
        elif isinstance(found, HeldObject):
            self._metrics.count("cache_hits_total")
        elif isinstance(found, ObjectError) and not found.permanent:
            self._metrics.count("store_errors_total", what="fetch")


def _file(reference: Reference, held: HeldObject | ObjectError | OSError | None) -> FetchedFile:
    if not isinstance(held, HeldObject):
        raise held or AssertionError(reference)
    pinned = held.pinned
    return FetchedFile(
        reference.role,
        reference.name,
        held.path,
        PinnedInput(
            role=reference.role,
            name=reference.name,
            bucket=pinned.uri.bucket,
            key=pinned.uri.key,
            version_id=pinned.version_id,
            etag=pinned.etag,
            size=pinned.size,
            sha256=bytes.fromhex(pinned.sha256),
        ),
    )
