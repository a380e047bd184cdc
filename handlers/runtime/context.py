"""What a running handler asks of the runtime: `handlers.declaration.Context`, for one attempt."""

from __future__ import annotations

import asyncio
import importlib
import logging
import re
import struct
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.abc import TaskGroup

from handlers.declaration import InferFunction, TextKind
from handlers.errors import HandlerBug, Retry
from handlers.models import FAMILIES, CheckpointBroken
from handlers.protocol import CheckpointSpec, Embedding, Limits, Order, OutputFile, Progress, Text
from handlers.runtime.hub import Hub, UnknownCheckpoint
from handlers.runtime.outcome import clean
from handlers.runtime.scheduler import Scheduler, Usage

log = logging.getLogger(__name__)

T = TypeVar("T")

_EMBED_ROLE = "embed"
_ROLE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SUFFIX = re.compile(r"(\.[a-z0-9]{1,16}){1,3}")
_MAX_NOTE = 200
#: Places for programs that wait for their readers.
LIGHT_PROGRAMS = 16


@dataclass(frozen=True, slots=True)
class Embedder:
    """How a family makes vectors: `prepare(processor, image)` on the CPU, then `infer` on the device."""

    prepare: Callable[[Any, Any], Any]
    infer: InferFunction


def embedder_of(spec: CheckpointSpec) -> Embedder:
    """The `prepare_image` and `embed_images` of a checkpoint's family."""
    module = importlib.import_module(FAMILIES[spec.family])
    return Embedder(module.prepare_image, module.embed_images)


@dataclass(frozen=True, slots=True)
class Tools:
    """What all attempts share."""

    hub: Hub
    scheduler: Scheduler
    cpu: anyio.CapacityLimiter
    roles: Mapping[str, str]
    limits: Limits
    tell: Callable[[Progress], None]
    #: Where the attempts' embeddings run beside their handlers.
    tasks: TaskGroup
    #: Places for outside programs.
    programs: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1))
    light_programs: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(LIGHT_PROGRAMS))
    fonts: Mapping[str, Path] = field(default_factory=dict)
    embedder_of: Callable[[CheckpointSpec], Embedder] = embedder_of
    clock: Callable[[], float] = time.monotonic
    #: Between two words about one job's progress, in seconds.
    progress_every_s: float = 0.5


class _Steps:
    """`handlers.declaration.Steps` of one attempt."""

    def __init__(self, context: AttemptContext) -> None:
        self._context = context
        self._loop = asyncio.get_running_loop()

    @property
    def ended(self) -> bool:
        return self._context.ended

    def done(self, fraction: float, note: str = "") -> None:
        self._loop.call_soon_threadsafe(self._context.progress, fraction, note)


class AttemptContext:
    """The context of one attempt, and what came together in it."""

    def __init__(self, order: Order, tools: Tools) -> None:
        self._order = order
        self._tools = tools
        self.limits = order.limits or tools.limits
        self.fonts = tools.fonts
        #: Set when nobody waits for the job any more; read by the device's thread too.
        self.ended = False
        self._told = -float("inf")
        self.usage = Usage(order.key)
        self.cpu_calls = 0
        self.programs = 0
        #: Programs that wait for a place.
        self.programs_waiting = 0
        self.first_infer: float | None = None
        self.last_infer: float | None = None
        self.files: list[OutputFile] = []
        self.texts: list[Text] = []
        self.probes: dict[str, dict[str, Any]] = {}
        self.embeddings: list[Embedding] = []
        self._embedding: set[anyio.CancelScope] = set()
        self._embedded = anyio.Event()

    async def cpu(self, function: Callable[..., T], *args: Any) -> T:
        self.cpu_calls += 1
        try:
            result = await anyio.to_thread.run_sync(function, *args, limiter=self._tools.cpu)
            # A cancel meanwhile had to await the thread, and would otherwise take effect only at the next call.
            await anyio.lowlevel.checkpoint_if_cancelled()
            return result
        finally:
            self.cpu_calls -= 1

    @property
    def scratch(self) -> Path:
        # Inside the attempt's own folder, with which it goes; outputs lie beside it.
        folder = Path(self._order.scratch) / "temporary"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    @asynccontextmanager
    async def program(self, *, light: bool = False) -> AsyncIterator[None]:
        places = self._tools.light_programs if light else self._tools.programs
        self.programs_waiting += 1
        try:
            await places.acquire()
        finally:
            self.programs_waiting -= 1
        self.programs += 1
        try:
            yield
        finally:
            self.programs -= 1
            places.release()

    def steps(self) -> _Steps:
        return _Steps(self)

    async def prepare(self, function: Callable[..., T], checkpoint: str, *args: Any) -> T:
        name = self._tools.roles.get(checkpoint, checkpoint)

        def prepared() -> T:
            # Loaded in the pool too: a tokenizer takes a while to read.
            return function(self._tools.hub.processor(name), *args)

        try:
            return await self.cpu(prepared)
        except UnknownCheckpoint as error:
            raise HandlerBug(str(error)) from error
        except CheckpointBroken as error:
            # Not the job's fault: as where its weights cannot be loaded.
            raise Retry(str(error)) from error

    async def infer(
        self, function: InferFunction, checkpoint: str, samples: Sequence[Any], *, key: Hashable = ()
    ) -> list[Any]:
        if self.first_infer is None:
            self.first_infer = self._tools.clock()
        name = self._tools.roles.get(checkpoint, checkpoint)
        try:
            return await self._tools.scheduler.infer(self.usage, function, name, samples, key)
        except UnknownCheckpoint as error:
            raise HandlerBug(str(error)) from error
        finally:
            self.last_infer = self._tools.clock()

    def embed(self, image: Any, *, of: str) -> None:
        wanted = self._order.embed_outputs if of.startswith("outputs/") else of in self._order.embed
        if wanted and (name := self._tools.roles.get(_EMBED_ROLE)) is not None:
            scope = anyio.CancelScope()
            self._embedding.add(scope)
            self._tools.tasks.start_soon(self._embed, scope, name, image, of)

    def progress(self, fraction: float, note: str = "") -> None:
        now = self._tools.clock()
        # A sample that was left behind on the device may go on telling of a job that is over.
        if self.ended or now - self._told < self._tools.progress_every_s:
            return
        self._told = now
        fraction = min(1.0, max(0.0, float(fraction)))
        self._tools.tell(Progress(key=self._order.key, fraction=fraction, note=clean(str(note))[:_MAX_NOTE]))

    def output(self, role: str, suffix: str, media_type: str) -> Path:
        if not _ROLE.fullmatch(role) or not _SUFFIX.fullmatch(suffix):
            raise HandlerBug(f"output {role!r} with suffix {suffix!r}: names are like `picture`, suffixes like `.png`")
        if any(file.role == role for file in self.files):
            raise HandlerBug(f"output {role!r} was declared twice: give each file a role of its own")
        scratch = Path(self._order.scratch)
        scratch.mkdir(mode=0o700, exist_ok=True)
        path = scratch / f"{role}{suffix}"
        self.files.append(OutputFile(role=role, path=str(path), media_type=media_type))
        return path

    def text(
        self,
        kind: TextKind,
        text: str,
        *,
        of: str,
        language: str | None = None,
        segments: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        parts = [dict(segment) for segment in segments]
        self.texts.append(Text(of=of, kind=kind.value, text=text, language=language, segments=parts))

    def probe(self, of: str, facts: Mapping[str, Any]) -> None:
        self.probes[of] = dict(facts)

    def is_only_waiting(self) -> bool:
        """Whether nothing of this job runs now, and it waits for the device or for a place of a program."""
        waits = self.usage.queued > 0 or self.programs_waiting > 0
        return waits and self.usage.on_device == 0 and self.cpu_calls == self.programs == 0

    def check_files(self) -> None:
        """Raises HandlerBug where an output that was declared is not there as a plain file in scratch."""
        for file in self.files:
            path = Path(file.path)
            if path.is_symlink() or not path.is_file():
                raise HandlerBug(f"output {file.role!r} was declared and not written: there is no file {path.name}")

    async def embedded(self) -> None:
        """Returns when the embeddings that were asked for are done."""
        while self._embedding:
            await self._embedded.wait()

    async def drop_embeddings(self) -> None:
        """Ends those that are not done, and returns when nothing of them runs."""
        for scope in self._embedding:
            scope.cancel()
        with anyio.CancelScope(shield=True):
            await self.embedded()

    async def _embed(self, scope: anyio.CancelScope, checkpoint: str, image: Any, of: str) -> None:
        try:
            with scope:
                self.embeddings.append(await self._vector(checkpoint, image, of))
        except Exception:  # the job has its result, and a job of its own will make this vector
            log.warning("the embedding of %s of job %s failed", of, self._order.key, exc_info=True)
        finally:
            self._embedding.discard(scope)
            if not self._embedding:
                self._embedded.set()
                self._embedded = anyio.Event()

    async def _vector(self, checkpoint: str, image: Any, of: str) -> Embedding:
        embedder = self._tools.embedder_of(self._tools.hub.spec(checkpoint))

        def prepare() -> Any:
            return embedder.prepare(self._tools.hub.processor(checkpoint), image)

        sample = await self.cpu(prepare)
        shape = getattr(sample, "shape", ())
        vector = (await self._tools.scheduler.infer(self.usage, embedder.infer, checkpoint, [sample], shape))[0]
        packed = struct.pack(f"<{len(vector)}f", *vector)
        return Embedding(of=of, checkpoint=checkpoint, dimension=len(vector), vector=b64encode(packed).decode())
