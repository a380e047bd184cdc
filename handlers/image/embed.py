"""`image.embed`: puts pictures into the space in which they are found by text and by picture."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from handlers.declaration import Context, Handler, Job, Many, Media, Params, Result
from handlers.media.image import FOR_MODELS, Picture, open_picture
from handlers.models import clip, name_of

ROLE = "embed"


class EmbedImageParams(Params):
    """What happens to the vectors."""

    vectors: bool = Field(
        default=False,
        description="Gives the vectors in the result, as for a search by picture. They are recorded with their pictures"
        " in any case, unless the message says `embed: false`.",
    )
    checkpoint: str | None = Field(
        default=None,
        max_length=200,
        description="Name of a CLIP checkpoint of the catalogue for `vectors`; the deployment's default where it is"
        " left out, which is also the one of the vectors that are recorded.",
    )

    @model_validator(mode="after")
    def _checkpoint_is_of_use(self) -> Self:
        if self.checkpoint is not None and not self.vectors:
            raise ValueError("checkpoint chooses the model of the vectors in the result: set vectors to true as well")
        return self


class EmbedImageResult(Result):
    """What was embedded."""

    images: int = Field(description="How many pictures there were.")
    checkpoint: str = Field(description="Name of the checkpoint of the vectors.")
    dimension: int | None = Field(default=None, description="Length of each vector; only with `vectors`.")
    vectors: list[list[float]] | None = Field(
        default=None, description="A vector of length 1 for each picture, in their order; only with `vectors`."
    )


class EmbedImage(Handler[EmbedImageParams, EmbedImageResult]):
    """Embeds one to many pictures by CLIP; one that cannot be read fails the job and is named."""

    type = "image.embed"
    version = 1
    inputs = {"images": Many(Media.IMAGE)}

    def checkpoints(self, params: EmbedImageParams) -> frozenset[str]:
        return frozenset({params.checkpoint or ROLE})

    async def run(self, job: Job[EmbedImageParams], ctx: Context) -> EmbedImageResult:
        checkpoint = job.params.checkpoint or ROLE
        paths = job.many("images")
        samples = []
        for i, path in enumerate(paths):
            of = f"inputs/images/{i}"
            picture: Picture = await ctx.cpu(open_picture, path, ctx.limits, of, FOR_MODELS)
            ctx.probe(of, picture.facts.as_dict())
            ctx.embed(picture.image, of=of)
            if job.params.vectors:
                samples.append(await ctx.prepare(clip.prepare_image, checkpoint, picture.image))
            ctx.progress((i + 1) / len(paths))
        name = await ctx.prepare(name_of, checkpoint)
        if not job.params.vectors:
            return EmbedImageResult(images=len(paths), checkpoint=name)
        vectors = await ctx.infer(clip.embed_images, checkpoint, samples, key=samples[0].shape)
        return EmbedImageResult(
            images=len(paths),
            checkpoint=name,
            dimension=len(vectors[0]),
            vectors=[vector.tolist() for vector in vectors],
        )
