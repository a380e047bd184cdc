"""The words between the courier and an executor: one JSON object a line, versioned.

The executor touches untrusted media, so the courier treats every line from it as untrusted input: these models are
the whole of what it may say. `Order.key` names one attempt of a job and stands in every line about it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

PROTOCOL_VERSION = 1

#: A longer line from the executor is a breach of the protocol: its sender is ended.
MAX_LINE_BYTES = 64 << 20

#: Objects and lists in a line, and commas: an empty list of two bytes takes forty times that when it is parsed.
MOST_CONTAINERS = 500_000
MOST_COMMAS = 4_000_000

#: `Failure.type` of a job that was ended for `Cancel(reason="interrupted")`. It stands in lines alone and on no row:
#: an interruption is no failure of the job. The other reasons answer with `Cancelled` and `Timeout` (`ErrorType`).
INTERRUPTED = "Interrupted"


class Line(BaseModel):
    """Base of every line, and of the objects in it."""

    # A NaN must not become a null or a word on its way: `constants` keeps it, for `unstorable` to be found.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


# --- courier -> executor ---------------------------------------------------------------------------------------------


class GenerationDefaults(Line):
    """What a checkpoint that makes pictures does best where a job says nothing: few-step checkpoints differ much."""

    width: int
    height: int
    steps: int
    guidance: float
    scheduler: str | None = None
    """None: the one that the checkpoint brings."""


SafetyChecker = Literal["auto", "required", "off"]


class CheckpointSpec(Line):
    """One checkpoint of the catalogue, as the executor needs it to load it."""

    name: str
    family: str
    """Which loader: a name of `handlers.models.FAMILIES`."""
    path: str
    """A folder that `from_pretrained` reads."""
    dtype: str
    digest: str
    """sha256 over the files' digests: names the weights."""
    alignment_heads: tuple[tuple[int, int], ...] | None = None
    """Of a `whisper`: (layer, head) of the decoder's heads that follow the sound; None: as the files say."""
    generation: GenerationDefaults | None = None
    """Of one that makes pictures; None: as the files say."""
    safety_checker: SafetyChecker = "auto"
    """Of one that makes pictures: whether its safety checker is used where it has one, must be there, or is off."""


class Limits(Line):
    """What a decoder may take: of a picture bytes, pixels and frames, of sound and film seconds and streams.

    Pixels hold for a frame of a film as well.
    """

    max_bytes: int
    max_pixels: int
    max_frames: int
    max_seconds: float = 12 * 3600.0
    max_streams: int = 32


class Hello(Line):
    """The first line: everything the executor needs to know, since it reads no configuration of its own."""

    op: Literal["hello"] = "hello"
    version: int = PROTOCOL_VERSION
    device: str
    """`cpu`, `cuda:0`."""
    cpu_threads: int
    programs: int = 1
    """How many outside programs (ffmpeg) may run at a time."""
    max_batch: int
    checkpoints: tuple[CheckpointSpec, ...]
    roles: dict[str, str]
    """Role -> name of the checkpoint that is its default: `{"caption": ..., "embed": ...}`."""
    preload: tuple[str, ...] = ()
    fonts: dict[str, str] = {}
    """Font files by id."""
    limits: Limits
    test_types: bool = False
    """Whether `test.*` types are registered."""


class Order(Line):
    """One job to run."""

    key: str
    """`<job id>:<attempt>`."""
    type: str
    params: dict[str, Any]
    inputs: dict[str, str | list[str] | dict[str, str]]
    """Paths of local files, shaped as the handler declares."""
    scratch: str
    """The folder that outputs are written to; the executor makes it when there is one (most jobs need none)."""
    seed: int
    limits: Limits | None = None
    """What a decoder may take where the inputs' buckets have limits of their own; None: those of Hello."""
    embed: tuple[str, ...] = ()
    """Pointers (`inputs/image`) of the items whose content lacks its embedding."""
    embed_outputs: bool = False
    """Whether pictures that the job makes get their embedding too."""


class Run(Line):
    """Jobs to start now."""

    op: Literal["run"] = "run"
    jobs: tuple[Order, ...]


class Cancel(Line):
    """Ends one job; its answer is an Outcome like any other, which may still be a success that came first."""

    op: Literal["cancel"] = "cancel"
    key: str
    reason: Literal["cancelled", "timeout", "interrupted"]


class Stop(Line):
    """No more jobs: leave when those at hand are done."""

    op: Literal["stop"] = "stop"


# --- executor -> courier ---------------------------------------------------------------------------------------------


class Ready(Line):
    """The executor can work."""

    op: Literal["ready"] = "ready"
    version: int
    device: str
    device_name: str
    device_memory_bytes: int | None = None
    types: tuple[str, ...]
    broken: dict[str, str] = {}
    """Checkpoint -> why it cannot be loaded."""
    libraries: dict[str, str] = {}


class Beat(Line):
    """Said every second by the executor's main loop: a loop that is stuck says nothing."""

    op: Literal["beat"] = "beat"
    jobs: int
    on_device: tuple[str, ...] = ()
    """Keys of the jobs with a sample in the batch that is on the device now."""
    device_busy_s: float = 0
    """For how long that batch has been running."""
    broken: dict[str, str] = {}
    """As in `Ready`, of those that were first wanted since."""


class Progress(Line):
    """How far a job is."""

    op: Literal["progress"] = "progress"
    key: str
    fraction: float
    note: str = ""


class OutputFile(Line):
    """A file that the handler made."""

    role: str
    path: str
    media_type: str


class Text(Line):
    """A searchable text about an item."""

    of: str
    kind: Literal["caption", "transcript", "ocr"]
    text: str
    language: str | None = None
    segments: list[dict[str, Any]] = []


class Embedding(Line):
    """A vector of an item."""

    of: str
    checkpoint: str
    dimension: int
    vector: str
    """base64 of little-endian float32, L2-normalised, `dimension` long."""
    t0: float | None = None
    t1: float | None = None


class Timings(Line):
    """Seconds of an attempt inside the executor.

    `prepare`: until the first `infer`; `finish`: after the last. `wait`: what its samples waited for the device (the
    mean of one call's samples, summed over the calls). `infer`: its share of the batches it was in, so that the
    `infer` of all jobs adds up to the seconds of the device.
    """

    prepare: float = 0
    wait: float = 0
    infer: float = 0
    finish: float = 0


class Flaw(Line):
    """One thing that is wrong with what the job asks for (`handlers.errors.Problem`)."""

    pointer: str
    code: str
    message: str
    fix: str


class Failure(Line):
    """Why a job did not succeed."""

    type: str
    message: str
    problems: Annotated[tuple[Flaw, ...], Field(max_length=1000)] = ()
    """Of an `InvalidInput`: everything that was found, where it was found."""
    traceback: str = ""
    retry_after_s: float | None = None
    waiting: bool = False
    """The job was only waiting for the device when its time ran out: others took its time."""


class Outcome(Line):
    """The end of an attempt: `failure` is None on success."""

    key: str
    failure: Failure | None = None
    result: dict[str, Any] | None = None
    files: Annotated[tuple[OutputFile, ...], Field(max_length=1000)] = ()
    texts: Annotated[tuple[Text, ...], Field(max_length=10_000)] = ()
    embeddings: Annotated[tuple[Embedding, ...], Field(max_length=10_000)] = ()
    probes: Annotated[dict[str, dict[str, Any]], Field(max_length=2000)] = {}
    timings: Timings = Timings()


class Outcomes(Line):
    """Ends of attempts, gathered."""

    op: Literal["outcomes"] = "outcomes"
    items: tuple[Outcome, ...]


ToExecutor = Annotated[Hello | Run | Cancel | Stop, Field(discriminator="op")]
FromExecutor = Annotated[Ready | Beat | Progress | Outcomes, Field(discriminator="op")]

to_executor: TypeAdapter[Hello | Run | Cancel | Stop] = TypeAdapter(ToExecutor)
from_executor: TypeAdapter[Ready | Beat | Progress | Outcomes] = TypeAdapter(FromExecutor)

#: A line without any of these holds nothing that `unstorable` would find: the walk is saved for nearly all.
_MARKS = (b"\\u0000", b"NaN", b"Infinity")


def too_intricate(line: bytes) -> str | None:
    """Why a line of JSON should not be parsed, in words; None where it may be. Brackets inside of texts count too."""
    if (containers := line.count(b"[") + line.count(b"{")) > MOST_CONTAINERS:
        return f"it holds {containers:,} lists and objects, the limit is {MOST_CONTAINERS:,}"
    if (commas := line.count(b",")) > MOST_COMMAS:
        return f"it holds {commas:,} commas, the limit is {MOST_COMMAS:,}"
    return None


def may_be_unstorable(line: bytes) -> bool:
    """Whether a line of JSON is worth a walk with `unstorable`."""
    return any(mark in line for mark in _MARKS)


def unstorable(value: object) -> str | None:
    """What JSON allows (or Python's JSON does) and Postgres cannot hold, in words; None where all is well."""
    if isinstance(value, str):
        return "a NUL character" if "\x00" in value else None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"the number {value}"
    inner: list[object] = []
    if isinstance(value, Mapping):
        inner = [*value.keys(), *value.values()]
    elif isinstance(value, Sequence):
        inner = list(value)
    return next((found for each in inner if (found := unstorable(each)) is not None), None)
