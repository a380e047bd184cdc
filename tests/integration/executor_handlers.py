"""Job types from outside, as a package of a user would bring them: for tests of what surrounds a handler.

Loaded by the executor through the entry-point group, never by the courier.
"""

from __future__ import annotations

import subprocess
import time
from typing import Any

import anyio
from pydantic import Field

from handlers.declaration import Context, Handler, Job, Params, Result
from handlers.media import ffmpeg


class CodeParams(Params):
    code: str
    given: dict[str, Any] = Field(default_factory=dict)


class CodeResult(Result):
    found: Any = None


class RunCode(Handler[CodeParams, CodeResult]):
    """Runs Python in the pool; what it calls `found` is the result."""

    type = "test.code"
    version = 1

    def checkpoints(self, params: CodeParams) -> frozenset[str]:
        return frozenset()

    async def run(self, job: Job[CodeParams], ctx: Context) -> CodeResult:
        names: dict[str, Any] = {"given": job.params.given, "found": None}
        await ctx.cpu(exec, job.params.code, names)
        return CodeResult(found=names["found"])


class ActParams(Params):
    act: str
    seconds: float = 3600.0


class Act(Handler[ActParams, CodeResult]):
    """Sleeps, hangs, tells progress or starts programs."""

    type = "test.act"
    version = 1

    def checkpoints(self, params: ActParams) -> frozenset[str]:
        return frozenset()

    async def run(self, job: Job[ActParams], ctx: Context) -> CodeResult:
        seconds = job.params.seconds
        match job.params.act:
            case "hang in the pool":
                await ctx.cpu(time.sleep, seconds)
            case "hang in the loop":
                time.sleep(seconds)  # noqa: ASYNC251 - this is the fault
            case "start a program":
                # In a session of its own: the signals to the executor's group do not reach it.
                await ctx.cpu(subprocess.run, ["sleep", str(seconds)])
            case "render":
                endless = ["-re", "-f", "lavfi", "-i", f"color=size=16x16:duration={seconds}"]
                await ffmpeg.run(ctx, [*endless, "-f", "null", "-"])
            case "leave a program behind":
                await ctx.cpu(_leave_behind, seconds)
            case "progress":
                ctx.progress(0.5, "half")
            case _:
                await anyio.sleep(seconds)
        return CodeResult()


def _leave_behind(seconds: float) -> None:
    with subprocess.Popen(["sleep", str(seconds)], start_new_session=True) as program:
        program.wait()
