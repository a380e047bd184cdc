"""`test.fault`: does something bad on request, for the tests of what everything around a handler makes of it."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NoReturn

import anyio
from pydantic import Field

from handlers.declaration import Context, Handler, Job, Media, Named, Params, Result, TextKind
from handlers.errors import InvalidInput, ResourceExhausted, Retry

ROLE = "embed"


class Kind(StrEnum):
    """What can go wrong."""

    NONE = "none"
    SLEEP = "sleep"
    HANG_LOOP = "hang_loop"
    HANG_GIL = "hang_gil"
    HANG_CPU = "hang_cpu"
    HANG_DEVICE = "hang_device"
    SEGFAULT = "segfault"
    SEGFAULT_ON_DEVICE = "segfault_on_device"
    EXIT = "exit"
    KILL = "kill"
    RAISE = "raise"
    RETRY = "retry"
    INVALID_INPUT = "invalid_input"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    MISSING_OUTPUT = "missing_output"
    NUL_TEXT = "nul_text"
    LONE_SURROGATE = "lone_surrogate"
    NAN = "nan"
    ALLOCATE = "allocate"
    SAMPLE = "sample"
    POISON_BATCH = "poison_batch"
    POISON_SAMPLE = "poison_sample"
    TOO_FEW_RESULTS = "too_few_results"


class FaultParams(Params):
    """Which fault, and when."""

    fault: Kind = Field(
        description="`none`; `sleep` (ends on cancel); hangs: `hang_loop` (the executor's event loop), `hang_gil` (all"
        " of its threads), `hang_cpu` (a thread of the pool), `hang_device`; ends of the process: `segfault`,"
        " `segfault_on_device`, `exit`, `kill`; errors: `raise` (a bug), `retry`, `invalid_input`,"
        " `resource_exhausted`; broken promises: `missing_output`, `nul_text`, `lone_surrogate`, `nan`;"
        " `allocate` (memory); in a batch: `sample` (a good one), `poison_batch` (the whole batch raises),"
        " `poison_sample` (its own result is an exception), `too_few_results`."
    )
    seconds: float = Field(default=3600, ge=0, le=86_400, description="Of `sleep` and the hangs.")
    megabytes: int = Field(default=1024, ge=1, le=1 << 20, description="Of `allocate`.")
    exit_code: int = Field(default=3, ge=0, le=255, description="Of `exit`.")
    retry_after_s: float | None = Field(default=None, ge=0, description="Of `retry`.")
    message: str = Field(default="a fault was asked for", description="Of the errors.")
    only_first_attempts: int | None = Field(
        default=None, ge=0, description="Behaves from the attempt after this one on; always faulty where left out."
    )


class FaultResult(Result):
    """What came of it."""

    attempt: int = Field(description="The attempt that got through.")
    number: float = Field(default=0, description="NaN on `nan`.")


class FaultyCode(Exception):
    """What `raise` and the poisons raise: no error of `handlers.errors`, as a bug would not be."""


class Fault(Handler[FaultParams, FaultResult]):
    """Goes wrong as asked."""

    type = "test.fault"
    version = 1
    inputs = {"files": Named(Media.ANY)}

    def checkpoints(self, params: FaultParams) -> frozenset[str]:
        return frozenset({ROLE}) if params.fault in _ON_DEVICE else frozenset()

    async def run(self, job: Job[FaultParams], ctx: Context) -> FaultResult:
        params = job.params
        good = FaultResult(attempt=job.attempt)
        if params.only_first_attempts is not None and job.attempt > params.only_first_attempts:
            return good
        if params.fault in _ON_DEVICE:
            await ctx.infer(on_device, ROLE, [params])
        elif params.fault is Kind.SLEEP:
            await anyio.sleep(params.seconds)
        elif params.fault is Kind.HANG_CPU:
            await ctx.cpu(time.sleep, params.seconds)
        elif params.fault is Kind.ALLOCATE:
            await ctx.cpu(_allocate, params.megabytes)
        elif params.fault is Kind.MISSING_OUTPUT:
            ctx.output("missing", ".bin", "application/octet-stream")
        elif params.fault is Kind.NUL_TEXT:
            ctx.text(TextKind.CAPTION, "a\x00b", of="inputs/files")
        elif params.fault is Kind.LONE_SURROGATE:
            ctx.text(TextKind.CAPTION, "a\ud800b", of="inputs/files")
        elif params.fault is Kind.NAN:
            return FaultResult.model_construct(attempt=job.attempt, number=float("nan"))
        elif params.fault in _ENDS:
            _end(params)
        elif params.fault is not Kind.NONE:
            _raise(params)
        return good


_ON_DEVICE = frozenset(
    {
        Kind.HANG_DEVICE,
        Kind.SEGFAULT_ON_DEVICE,
        Kind.SAMPLE,
        Kind.POISON_BATCH,
        Kind.POISON_SAMPLE,
        Kind.TOO_FEW_RESULTS,
    }
)
_ENDS = frozenset({Kind.HANG_LOOP, Kind.HANG_GIL, Kind.SEGFAULT, Kind.EXIT, Kind.KILL})


def on_device(_model: Any, samples: Sequence[FaultParams]) -> list[str | Exception]:
    """An infer function: good samples become `good`, whatever model they are on."""
    faults = {sample.fault: sample for sample in samples}
    if Kind.SEGFAULT_ON_DEVICE in faults:
        ctypes.string_at(0)
    if (hang := faults.get(Kind.HANG_DEVICE)) is not None:
        time.sleep(hang.seconds)
    if (poison := faults.get(Kind.POISON_BATCH)) is not None:
        raise FaultyCode(poison.message)
    if Kind.TOO_FEW_RESULTS in faults:
        return []
    return [FaultyCode(s.message) if s.fault is Kind.POISON_SAMPLE else "good" for s in samples]


def _allocate(megabytes: int) -> None:
    """Touches each page, since memory that was only asked for is not used."""
    block = bytearray(megabytes << 20)
    block[:: os.sysconf("SC_PAGE_SIZE")] = b"\x01" * len(block[:: os.sysconf("SC_PAGE_SIZE")])


def _end(params: FaultParams) -> None:
    match params.fault:
        case Kind.HANG_LOOP:
            time.sleep(params.seconds)
        case Kind.HANG_GIL:
            # PyDLL keeps the global interpreter lock during the call: no thread of the process runs meanwhile.
            ctypes.PyDLL(None).usleep(int(min(params.seconds, 4_000) * 1e6))
        case Kind.SEGFAULT:
            ctypes.string_at(0)
        case Kind.EXIT:
            os._exit(params.exit_code)
        case _:
            os.kill(os.getpid(), signal.SIGKILL)


def _raise(params: FaultParams) -> NoReturn:
    match params.fault:
        case Kind.RETRY:
            raise Retry(params.message, after=params.retry_after_s)
        case Kind.INVALID_INPUT:
            raise InvalidInput(params.message)
        case Kind.RESOURCE_EXHAUSTED:
            raise ResourceExhausted(params.message)
        case _:
            raise FaultyCode(params.message)
