"""`text.embed`: puts texts into the space of the pictures, as a search by text does with what was asked."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from handlers.declaration import Context, Handler, Job, Params, Result
from handlers.models import clip, name_of

ROLE = "embed"


class EmbedTextParams(Params):
    """What is embedded."""

    texts: list[Annotated[str, StringConstraints(min_length=1, max_length=10_000)]] = Field(
        min_length=1,
        max_length=64,
        description="The texts; CLIP reads the first 77 tokens (some 50 English words) of each.",
    )
    checkpoint: str | None = Field(
        default=None,
        max_length=200,
        description="Name of a CLIP checkpoint of the catalogue; the deployment's default where it is left out.",
    )


class EmbedTextResult(Result):
    """The vectors."""

    vectors: list[list[float]] = Field(description="A vector of length 1 for each text, in their order.")
    checkpoint: str = Field(description="Name of the checkpoint of the vectors.")
    dimension: int = Field(description="Length of each vector.")


class EmbedText(Handler[EmbedTextParams, EmbedTextResult]):
    """Embeds texts by CLIP."""

    type = "text.embed"
    version = 1

    def checkpoints(self, params: EmbedTextParams) -> frozenset[str]:
        return frozenset({params.checkpoint or ROLE})

    async def run(self, job: Job[EmbedTextParams], ctx: Context) -> EmbedTextResult:
        checkpoint = job.params.checkpoint or ROLE
        vectors = await ctx.infer(clip.embed_texts, checkpoint, job.params.texts)
        return EmbedTextResult(
            vectors=[vector.tolist() for vector in vectors],
            checkpoint=await ctx.prepare(name_of, checkpoint),
            dimension=len(vectors[0]),
        )
