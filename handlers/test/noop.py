"""`test.noop`: does nothing, for measuring what everything around a handler costs."""

from __future__ import annotations

import time

from pydantic import Field

from handlers.declaration import Context, Handler, Job, Media, Named, Params, Result


class NoopParams(Params):
    """What the job should pretend."""

    output_bytes: int = Field(default=0, ge=0, le=1 << 30, description="Size of the output file; 0 makes none.")
    timed: bool = Field(default=False, description="Whether the result says when the handler was entered.")


class NoopResult(Result):
    """What came of it."""

    inputs: int = Field(description="How many inputs were there.")
    began_at: float | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="When the handler was entered, in seconds since 1970; only where it was asked for.",
    )


class Noop(Handler[NoopParams, NoopResult]):
    """Does nothing to any inputs, and writes an output of a given size."""

    type = "test.noop"
    version = 1
    inputs = {"files": Named(Media.ANY)}

    def checkpoints(self, params: NoopParams) -> frozenset[str]:
        return frozenset()

    async def run(self, job: Job[NoopParams], ctx: Context) -> NoopResult:
        began_at = time.time() if job.params.timed else None
        if job.params.output_bytes:
            output = ctx.output("data", ".bin", "application/octet-stream")
            await ctx.cpu(output.write_bytes, bytes(job.params.output_bytes))
        return NoopResult(inputs=len(job.named("files")) if "files" in job.inputs else 0, began_at=began_at)
