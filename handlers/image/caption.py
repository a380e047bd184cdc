"""`image.caption`: says in words what is to be seen in a picture."""

from __future__ import annotations

from pydantic import Field

from handlers.declaration import Context, Handler, Job, Media, One, Params, Result, TextKind
from handlers.media.image import FOR_MODELS, open_picture
from handlers.models import blip_caption, name_of
from handlers.models.blip_caption import CaptionRequest
from handlers.models.sampling import Sampling

ROLE = "caption"
_IMAGE = "inputs/image"


class CaptionParams(Params):
    """How the picture is captioned."""

    prompt: str | None = Field(
        default=None,
        max_length=500,
        description="The beginning of a sentence that each caption continues, as `a photograph of`; captions come"
        " without it.",
    )
    count: int = Field(
        default=1,
        ge=1,
        le=20,
        description="How many captions. More than one are sampled; those that came out alike are given once.",
    )
    max_tokens: int = Field(default=30, ge=1, le=128, description="Longest caption, in the model's tokens.")
    temperature: float | None = Field(
        default=None,
        gt=0,
        le=5,
        description="Samples, and how boldly: below 1 the likely words, above 1 the unlikely ones more often."
        " 1 where only `count` or `top_p` ask for sampling; without any of them the likeliest word is taken each time.",
    )
    top_p: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Samples from the likeliest words that together have this probability; 0.9 where only `count` or"
        " `temperature` ask for sampling.",
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        lt=1 << 63,
        description="Of the sampling: the same seed, picture and params give the same captions. Made from the job's id"
        " where it is left out.",
    )
    checkpoint: str | None = Field(
        default=None,
        max_length=200,
        description="Name of a caption checkpoint of the catalogue; the deployment's default where it is left out.",
    )

    def sampling(self) -> Sampling:
        """How words are chosen."""
        if self.count == 1 and self.temperature is None and self.top_p is None:
            return Sampling(max_tokens=self.max_tokens)
        return Sampling(
            max_tokens=self.max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=0.9 if self.top_p is None else self.top_p,
        )


class CaptionText(Result):
    """One caption."""

    text: str = Field(description="The caption, in English, without the prompt.")
    score: float = Field(description="Mean log-probability of its tokens by the model, at most 0: greater is better.")


class CaptionResult(Result):
    """What was seen."""

    captions: list[CaptionText] = Field(description="The captions, best score first.")
    checkpoint: str = Field(description="Name of the checkpoint that wrote them.")


class Caption(Handler[CaptionParams, CaptionResult]):
    """Captions one picture; the output `captions` is the result as a JSON file, the best caption becomes searchable."""

    type = "image.caption"
    version = 1
    inputs = {"image": One(Media.IMAGE)}

    def checkpoints(self, params: CaptionParams) -> frozenset[str]:
        return frozenset({params.checkpoint or ROLE})

    def samples(self, params: CaptionParams) -> bool:
        return params.sampling().temperature is not None

    async def run(self, job: Job[CaptionParams], ctx: Context) -> CaptionResult:
        params = job.params
        checkpoint = params.checkpoint or ROLE
        picture = await ctx.cpu(open_picture, job.one("image"), ctx.limits, _IMAGE, FOR_MODELS)
        ctx.probe(_IMAGE, picture.facts.as_dict())
        ctx.embed(picture.image, of=_IMAGE)

        request = CaptionRequest((params.prompt or "").strip(), params.count, job.seed, params.sampling())
        sample = await ctx.prepare(blip_caption.prepare, checkpoint, picture.image, request)
        [captions] = await ctx.infer(blip_caption.generate, checkpoint, [sample], key=sample.batch_key)

        result = CaptionResult(
            captions=[CaptionText(text=caption.text, score=caption.score) for caption in captions],
            checkpoint=await ctx.prepare(name_of, checkpoint),
        )
        if best := next((caption.text for caption in result.captions if caption.text), None):
            ctx.text(TextKind.CAPTION, best, of=_IMAGE, language="en")
        output = ctx.output("captions", ".json", "application/json")
        await ctx.cpu(output.write_bytes, result.model_dump_json(indent=1).encode() + b"\n")
        return result
