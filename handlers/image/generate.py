"""`image.generate`: makes pictures from a text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from pydantic import Field, model_validator

from handlers.declaration import Context, Handler, Job, Params, Result, Steps
from handlers.errors import InvalidInput
from handlers.media.image import FOR_MODELS, Picture, open_picture
from handlers.media.picture_files import DEFAULT_QUALITY, FILES, MadeWith, PictureFormat, write_picture
from handlers.models import diffusion, name_of, schedulers
from handlers.models.diffusion import SEEDS, MadePicture, PictureRequest, PictureSample, Recipe
from handlers.models.schedulers import SchedulerName
from handlers.protocol import Limits

ROLE = "generate"

_LONGEST_PROMPT = 4000
_LONGEST_SIDE = 2048
#: How far a job is when all pictures are made and none is written.
_MADE = 0.95
#: What we wrote ourselves needs no more guarding than this.
_OURS = Limits(max_bytes=1 << 30, max_pixels=_LONGEST_SIDE**2, max_frames=1)


def _side(of: str) -> Any:
    return Field(
        default=None,
        ge=64,
        le=_LONGEST_SIDE,
        multiple_of=8,
        description=f"{of} in pixels, a multiple of 8; what is right for the checkpoint where it is left out.",
    )


class GenerateParams(Params):
    """What is to be seen, and how it is made. What is left out is what is right for the checkpoint."""

    prompt: str = Field(
        min_length=1,
        max_length=_LONGEST_PROMPT,
        description="What is to be seen. Models read about 75 tokens of it; the result says where it was cut.",
    )
    negative_prompt: str = Field(
        default="",
        max_length=_LONGEST_PROMPT,
        description="What is not to be seen; of no effect where guidance is 1 or less.",
    )
    width: int | None = _side("Width")
    height: int | None = _side("Height")
    steps: int | None = Field(default=None, ge=1, le=150, description="In how many steps noise becomes a picture.")
    guidance: float | None = Field(
        default=None,
        ge=0,
        le=30,
        description="How closely the prompt is followed (classifier-free guidance); at 1 or less it is off, and steps"
        " take half the time.",
    )
    scheduler: SchedulerName | None = Field(default=None, description="The way from noise to a picture.")
    count: int = Field(default=1, ge=1, le=16, description="How many pictures, each with a seed of its own.")
    seed: int | None = Field(
        default=None,
        ge=0,
        lt=SEEDS,
        description="Of the first picture; those after it have the next ones. The same seed and params give the same"
        " picture, whatever else runs. Made from the job's id where it is left out.",
    )
    format: PictureFormat = Field(default="png", description="Of the files.")
    quality: int | None = Field(
        default=None, ge=1, le=100, description=f"Of jpeg and webp; {DEFAULT_QUALITY} where it is left out."
    )
    metadata: bool = Field(
        default=True,
        description="Writes prompt, seed and the other parameters into the files. That a model made them stands there"
        " in any case (IPTC DigitalSourceType).",
    )
    checkpoint: str | None = Field(
        default=None,
        max_length=200,
        description="Name of a checkpoint of the catalogue that makes pictures; the deployment's default where it is"
        " left out.",
    )

    @model_validator(mode="after")
    def _quality_is_of_use(self) -> Self:
        if self.quality is not None and self.format == "png":
            raise ValueError("quality has no effect on a png, which loses nothing: leave it out or set format")
        return self

    def request(self) -> PictureRequest:
        """What is wanted of a checkpoint."""
        return PictureRequest(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            width=self.width,
            height=self.height,
            steps=self.steps,
            guidance=self.guidance,
            scheduler=self.scheduler,
        )


class GeneratedPicture(Result):
    """One picture."""

    role: str | None = Field(description="Name of its output; null where it was flagged, and not stored.")
    seed: int = Field(description="With this seed and the same params a job makes this picture alone.")
    width: int
    height: int
    flagged: bool = Field(description="Whether the safety checker found it to be what must not be shown.")


class GenerateResult(Result):
    """What was made, and with what."""

    pictures: list[GeneratedPicture] = Field(description="In the order of their seeds.")
    checkpoint: str = Field(description="Name of the checkpoint that made them.")
    steps: int
    guidance: float
    scheduler: SchedulerName
    width: int
    height: int
    truncated: bool = Field(description="Whether a prompt was longer than what the model reads.")
    prompt_cut: str | None = Field(default=None, description="The end of the prompt, which the model did not read.")
    negative_prompt_cut: str | None = Field(default=None, description="Likewise of the negative prompt.")
    warnings: list[str] = Field(description="What was asked for and had no effect, in words.")


class Generate(Handler[GenerateParams, GenerateResult]):
    """Makes one to sixteen pictures; the outputs are `picture` for one, `picture-1`, `picture-2` ... for more."""

    type = "image.generate"
    version = 1

    def checkpoints(self, params: GenerateParams) -> frozenset[str]:
        return frozenset({params.checkpoint or ROLE})

    def samples(self, params: GenerateParams) -> bool:
        return True

    async def run(self, job: Job[GenerateParams], ctx: Context) -> GenerateResult:
        params = job.params
        checkpoint = params.checkpoint or ROLE
        recipe = await ctx.prepare(diffusion.prepare, checkpoint, params.request())
        name = await ctx.prepare(name_of, checkpoint)
        seeds = [(job.seed + i) % SEEDS for i in range(params.count)]
        together = _Together(ctx.steps(), [0.0] * params.count)
        samples = [PictureSample(recipe, seed, _OfOne(together, i)) for i, seed in enumerate(seeds)]
        made: list[MadePicture] = await ctx.infer(diffusion.generate, checkpoint, samples, key=recipe.batch_key)
        if all(picture.flagged for picture in made):
            raise InvalidInput(
                f"the safety checker of {name} flagged {'the picture' if len(made) == 1 else 'all pictures'}:"
                " change params/prompt, or try another params/seed"
            )
        pictures = []
        for i, (seed, picture) in enumerate(zip(seeds, made, strict=True)):
            role = None
            if not picture.flagged:
                role = "picture" if params.count == 1 else f"picture-{i + 1}"
                made_with = _made_with(recipe, seed, name) if params.metadata else None
                await _store(ctx, role, picture, params, made_with)
            pictures.append(
                GeneratedPicture(
                    role=role, seed=seed, width=recipe.width, height=recipe.height, flagged=picture.flagged
                )
            )
            ctx.progress(_MADE + (1 - _MADE) * (i + 1) / len(made))
        return GenerateResult(
            pictures=pictures,
            checkpoint=name,
            steps=recipe.steps,
            guidance=recipe.guidance,
            scheduler=recipe.scheduler,
            width=recipe.width,
            height=recipe.height,
            truncated=bool(recipe.prompt_cut or recipe.negative_prompt_cut),
            prompt_cut=recipe.prompt_cut or None,
            negative_prompt_cut=recipe.negative_prompt_cut or None,
            warnings=list(_warnings(recipe)),
        )


async def _store(
    ctx: Context, role: str, picture: MadePicture, params: GenerateParams, made_with: MadeWith | None
) -> None:
    """Writes a picture, and lets it be embedded as whoever reads the file will see it."""
    suffix, media_type = FILES[params.format]
    path, of = ctx.output(role, suffix, media_type), f"outputs/{role}"

    def written() -> Picture:
        from PIL import Image

        write_picture(path, Image.fromarray(picture.pixels), params.format, params.quality, made_with)
        return open_picture(path, _OURS, of, FOR_MODELS)

    read = await ctx.cpu(written)
    ctx.probe(of, read.facts.as_dict())
    ctx.embed(read.image, of=of)


def _made_with(recipe: Recipe, seed: int, checkpoint: str) -> MadeWith:
    return MadeWith(
        prompt=recipe.prompt,
        negative_prompt=recipe.negative_prompt,
        seed=seed,
        steps=recipe.steps,
        guidance=recipe.guidance,
        scheduler=recipe.scheduler,
        sampler=schedulers.title(recipe.scheduler),
        width=recipe.width,
        height=recipe.height,
        checkpoint=checkpoint,
    )


def _warnings(recipe: Recipe) -> list[str]:
    warnings = [
        f"params/{which} is longer than what the model reads: it did not read {cut!r}"
        for which, cut in (("prompt", recipe.prompt_cut), ("negative_prompt", recipe.negative_prompt_cut))
        if cut
    ]
    if recipe.negative_prompt and not recipe.guided:
        reason = "the checkpoint takes none" if recipe.embeds_guidance else f"guidance is {recipe.guidance:g}"
        warnings.append(f"params/negative_prompt had no effect: {reason}")
    return warnings


@dataclass(slots=True)
class _Together:
    """How far the pictures of one job are; told from the device's thread."""

    steps: Steps
    fractions: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _OfOne:
    """The `Steps` of one picture among a job's: the job is as far as its pictures are on average."""

    together: _Together
    index: int

    @property
    def ended(self) -> bool:
        return self.together.steps.ended

    def done(self, fraction: float, note: str = "") -> None:
        fractions = self.together.fractions
        # A batch that was too large is begun anew in halves.
        fractions[self.index] = max(fractions[self.index], fraction)
        self.together.steps.done(_MADE * sum(fractions) / len(fractions), note)
