"""How a job type is declared.

One subclass of `Handler` is the only declaration of a job type. Validation, JSON Schema, command-line help and
docs/handlers.md are derived from it. Modules that declare handlers are imported by the courier too: they import
torch, transformers, numpy or PIL only inside functions.
"""

from __future__ import annotations

import builtins
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, get_args

from pydantic import BaseModel, ConfigDict

from handlers.errors import Problem
from handlers.protocol import Limits


class Media(StrEnum):
    """What kind of bytes an input is; the runtime checks it by decoding, never by the name of the object."""

    IMAGE = "image"
    AUDIO = "audio"
    VIDEO = "video"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class One:
    """One reference: `"inputs": {"image": "s3://bucket/key"}`."""

    media: Media


@dataclass(frozen=True, slots=True)
class Many:
    """A list of references, `at_least` to `at_most` long."""

    media: Media
    at_least: int = 1
    at_most: int = 1000


@dataclass(frozen=True, slots=True)
class Named:
    """A map of references by names that the params use."""

    media: Media
    at_least: int = 0
    at_most: int = 1000


Inputs = One | Many | Named


class Params(BaseModel):
    """Base of a handler's parameters: unknown keys and NaN are refused, values are not changed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Result(BaseModel):
    """Base of a handler's result: what stands in `job_details.result`, as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


P = TypeVar("P", bound=Params)
R = TypeVar("R", bound=Result)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job(Generic[P]):
    """What a handler sees of a job: parameters and local files, no credentials, no URIs."""

    id: uuid.UUID
    attempt: int
    params: P
    inputs: Mapping[str, Path | Sequence[Path] | Mapping[str, Path]]
    #: `params.seed` where the client gave one, else made from the job's id: a retry samples the same.
    seed: int

    def one(self, role: str) -> Path:
        """The file of an input declared as `One`."""
        path = self.inputs[role]
        assert isinstance(path, Path), role
        return path

    def many(self, role: str) -> Sequence[Path]:
        """The files of an input declared as `Many`, in the order of the message."""
        paths = self.inputs[role]
        assert isinstance(paths, Sequence), role
        return paths

    def named(self, role: str) -> Mapping[str, Path]:
        """The files of an input declared as `Named`."""
        paths = self.inputs[role]
        assert isinstance(paths, Mapping), role
        return paths


#: Runs on the device: `(model, samples) -> results`, results of the same length as samples; an item of the results may
#: be an exception, which then fails only the job of that sample. A module-level function: its identity is part of the
#: batch key.
InferFunction = Callable[[Any, Sequence[Any]], Sequence[Any]]


class Steps(Protocol):
    """Put into a sample, it lets a long call on the device say how far it is, and learn that nobody waits for it.

    Both may be used in any thread.
    """

    @property
    def ended(self) -> bool:
        """Whether the sample's job was cancelled or is out of time: a batch whose samples have all ended may stop."""

    def done(self, fraction: float, note: str = "") -> None:
        """Says how far the job is, 0 to 1."""


class Context(Protocol):
    """What a running handler may ask of the runtime. Every `await` here is a place where a cancel takes effect."""

    limits: Limits
    """What a decoder may take for this job's inputs."""
    fonts: Mapping[str, Path]
    """The deployment's fonts: files by id."""

    @property
    def scratch(self) -> Path:
        """A folder for temporary files of this attempt, which ends with it. Outputs go where `output` says."""

    def program(self, *, light: bool = False) -> AbstractAsyncContextManager[None]:
        """Waits for one of the places for outside programs (ffmpeg), and holds it while one runs.

        `light`: it mostly waits for whoever reads what it writes, or is over in no time; there are more places for
        such programs, so that a long render keeps no decoder from its reader.
        """

    def steps(self) -> Steps:
        """What a sample carries whose `infer` takes long."""

    async def cpu(self, function: Callable[..., T], *args: Any) -> T:
        """Runs `function(*args)` in the bounded thread pool for decoding and encoding."""

    async def prepare(self, function: Callable[..., T], checkpoint: str, *args: Any) -> T:
        """Runs `function(processor, *args)` as `cpu` does, with the processor (tokenizer, sizes) of a checkpoint."""

    async def infer(
        self, function: InferFunction, checkpoint: str, samples: Sequence[Any], *, key: Hashable = ()
    ) -> list[Any]:
        """Runs `function(model, batch)` on the device, where the batch may hold other jobs' samples too.

        Samples share a batch when function, checkpoint and key are equal. Returns one result for each of `samples`,
        in their order. `checkpoint` is a name in the catalogue. Raises the exception of the first sample that failed.
        """

    def embed(self, image: Any, *, of: str) -> None:
        """Lets the CLIP embedding of a decoded image (PIL, RGB) be computed in a batch with others and be recorded.

        `of` is the item that the picture is, as a pointer: `inputs/image`, `inputs/images/0`, `outputs/picture`.
        Does nothing where that content already has its embedding or the message said `embed: false`. The job ends
        when its embeddings are done; an embedding that fails does not fail the job (it is made by a job of its own).
        """

    def progress(self, fraction: float, note: str = "") -> None:
        """Says how far the job is, 0 to 1."""

    def output(self, role: str, suffix: str, media_type: str) -> Path:
        """Declares an output file and gives the path to write it to; it must exist when the handler returns."""

    def text(
        self,
        kind: TextKind,
        text: str,
        *,
        of: str,
        language: str | None = None,
        segments: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Records a searchable text about an item (`of`, a pointer as for `embed`).

        `segments` are `{"start": seconds, "end": seconds, "text": ...}` for sound and film.
        """

    def probe(self, of: str, facts: Mapping[str, Any]) -> None:
        """Records what the bytes of an item are: `{"mime": "image/jpeg", "width": 640, "height": 480, ...}`."""


class TextKind(StrEnum):
    """What a searchable text is."""

    CAPTION = "caption"
    TRANSCRIPT = "transcript"
    OCR = "ocr"


class Handler(ABC, Generic[P, R]):
    """A job type: what it takes, what it gives, and the linear coroutine that does it."""

    #: The name in messages: `image.caption`.
    type: ClassVar[str]
    #: Raise it when the same input gives another result: older results are then marked stale.
    version: ClassVar[int]
    #: What stands in the message's `inputs`, by role.
    inputs: ClassVar[Mapping[str, Inputs]] = {}
    #: The job's time limit in seconds where neither message nor settings name one; None: the setting.
    time_limit_s: ClassVar[float | None] = None

    @abstractmethod
    def checkpoints(self, params: P) -> frozenset[str]:
        """Names of the catalogue's checkpoints or roles (`caption`, `embed`) that a job with these params needs."""

    def samples(self, params: P) -> bool:
        """Whether the result depends on the seed; then a job without one of its own is like no other."""
        return False

    def problems(self, params: P, names: Mapping[str, Collection[str]]) -> Iterable[Problem]:
        """What is wrong with a message where only params and inputs together show it; asked at the door.

        `names`: of each `Named` input the names that it has. Reads no file, and takes no longer than the params' size.
        """
        return ()

    def problems_beside(
        self, params: Mapping[str, Any], wrong: Sequence[tuple[str | int, ...]], names: Mapping[str, Collection[str]]
    ) -> Iterable[Problem]:
        """As `problems`, of params that are not valid: what is wrong beside the places `wrong`, where one can say."""
        return ()

    @abstractmethod
    async def run(self, job: Job[P], ctx: Context) -> R:
        """Does the job. Raises one of `handlers.errors`; anything else counts as a `HandlerBug`."""

    @classmethod
    def params_type(cls) -> builtins.type[Params]:
        """The params model, from the type arguments of the subclass."""
        return _type_argument(cls, 0, Params)

    @classmethod
    def result_type(cls) -> builtins.type[Result]:
        """The result model, from the type arguments of the subclass."""
        return _type_argument(cls, 1, Result)


B = TypeVar("B")


@cache
def _type_argument(cls: type, position: int, bound: type[B]) -> type[B]:
    for base in getattr(cls, "__orig_bases__", ()):
        arguments = get_args(base)
        if len(arguments) == 2 and isinstance(arguments[position], type) and issubclass(arguments[position], bound):
            return arguments[position]
    raise TypeError(
        f"{cls.__qualname__} must name its params and result: class {cls.__name__}(Handler[Params, Result])"
    )
