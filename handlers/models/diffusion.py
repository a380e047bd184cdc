"""Pictures from text by latent diffusion: what the families stable_diffusion and stable_diffusion_xl have in common.

Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2022; Podell et al., SDXL, 2023. The loop
and the networks are diffusers'. A picture is the same in a batch and alone (up to the rounding of matrix products): its
noise comes from a generator of its own on the CPU, whatever the device.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from handlers.declaration import Steps
from handlers.errors import Cancelled, InvalidInput, Problem
from handlers.models import schedulers
from handlers.models.schedulers import SchedulerName

#: From so many pixels on, a picture's latents are decoded in overlapping tiles: at once they would take more memory
#: than all the rest.
_TILED_FROM = 1536 * 1536

#: A generator of torch's on the CPU knows no more of a seed than its lowest 32 bits.
SEEDS = 1 << 32


@dataclass(frozen=True, slots=True)
class DiffusionProcessor:
    """What works on the CPU: tokenizers, and what is right for a checkpoint where a job does not say."""

    #: The checkpoint's name in the catalogue.
    name: str
    tokenizers: tuple[Any, ...]
    width: int
    height: int
    steps: int
    guidance: float
    scheduler: SchedulerName
    #: The checkpoint's scheduler_config.json.
    scheduler_config: Mapping[str, Any]
    #: Whether the network is told the guidance (distilled checkpoints are) instead of being run twice.
    embeds_guidance: bool


class Pipeline(Protocol):
    """A pipeline of diffusers with weights, and what a family adds to it."""

    scheduler: Any
    vae: Any
    #: Tensor (n, 1, 1, 1) that stands for the guidance scale of the call; None: the call's own.
    guidance_of_each: Any

    def conditions(self, prompts: list[str], negative_prompts: list[str], guided: bool) -> dict[str, Any]:
        """The encoded texts, as arguments of the call."""

    def __call__(self, **arguments: Any) -> Any:
        """Makes pictures."""


@dataclass(frozen=True, slots=True)
class Diffusion:
    """A loaded checkpoint."""

    pipeline: Pipeline
    processor: DiffusionProcessor


@dataclass(frozen=True, slots=True)
class PictureRequest:
    """What a job says; None is for what is right for the checkpoint."""

    prompt: str
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    scheduler: SchedulerName | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides a picture but its seed."""

    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    scheduler: SchedulerName
    embeds_guidance: bool
    #: The ends of the prompts that are beyond what the model reads; empty where it reads all.
    prompt_cut: str
    negative_prompt_cut: str

    @property
    def guided(self) -> bool:
        """Whether the network runs twice a step, with the prompt and with the negative prompt."""
        return self.guidance > 1 and not self.embeds_guidance

    @property
    def batch_key(self) -> Hashable:
        """What samples of one batch must have in common."""
        told = self.guidance if self.embeds_guidance else None
        return (self.width, self.height, self.steps, self.scheduler, self.guided, told)


@dataclass(frozen=True, slots=True)
class PictureSample:
    """One picture to be made."""

    recipe: Recipe
    seed: int
    """0 to 2^32 - 1."""
    steps: Steps


@dataclass(frozen=True, slots=True)
class MadePicture:
    """One picture that was made."""

    #: uint8 numpy (height, width, 3), sRGB; black where it is flagged.
    pixels: Any
    #: Whether the checkpoint's safety checker found it to be what must not be shown.
    flagged: bool


def prepare(processor: DiffusionProcessor, request: PictureRequest) -> Recipe:
    """The request with what the checkpoint prefers in the place of what was not said.

    Raises InvalidInput where the checkpoint makes no pictures, or the scheduler cannot make so many steps.
    """
    if not isinstance(processor, DiffusionProcessor):
        raise InvalidInput(
            problems=[
                Problem(
                    pointer="/params/checkpoint",
                    code="wrong_checkpoint",
                    message="names a checkpoint that makes no pictures",
                    fix="name one of the families stable_diffusion or stable_diffusion_xl, or leave it out",
                )
            ]
        )
    scheduler = request.scheduler or processor.scheduler
    steps = processor.steps if request.steps is None else request.steps
    most = schedulers.most_steps(scheduler, processor.scheduler_config)
    if steps > most:
        raise InvalidInput(
            problems=[
                Problem(
                    pointer="/params/steps",
                    code="too_many_steps",
                    message=f"the scheduler {scheduler} makes at most {most} steps of this checkpoint, not {steps}",
                    fix=f"set steps to {most} or fewer, or choose another scheduler",
                )
            ]
        )
    return Recipe(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        width=request.width or processor.width,
        height=request.height or processor.height,
        steps=steps,
        guidance=processor.guidance if request.guidance is None else request.guidance,
        scheduler=scheduler,
        embeds_guidance=processor.embeds_guidance,
        prompt_cut=_unread(processor, request.prompt),
        negative_prompt_cut=_unread(processor, request.negative_prompt),
    )


def _unread(processor: DiffusionProcessor, text: str) -> str:
    """The end of a text that is beyond the text encoders' tokens (CLIP: 77 with a start and an end)."""
    read = len(text)
    for tokenizer in processor.tokenizers:
        room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
        places = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
        if len(places) > room:
            read = min(read, places[room][0])
    return text[read:]


class _AllEnded(Exception):
    """Nobody waits for a picture of the batch any more."""


def generate(model: Diffusion, samples: Sequence[PictureSample]) -> list[MadePicture | Exception]:
    """One picture for each sample.

    All samples must have recipes of the same `batch_key`. Each step tells all samples' `steps`; those that have ended
    before the first are left out, and the batch stops between two steps when the last has: a Cancelled stands in their
    place. A picture that is not finite (float16 can overflow) is a FloatingPointError. Raises ValueError where the keys
    differ.
    """
    if len({sample.recipe.batch_key for sample in samples}) > 1:
        raise ValueError("samples of one batch must have the same batch_key")
    ended = [sample.steps.ended for sample in samples]
    live = [sample for sample, gone in zip(samples, ended, strict=True) if not gone]
    try:
        made = iter(_make(model, live) if live else [])
    except _AllEnded:
        return [_cancelled() for _ in samples]
    return [_cancelled() if gone else next(made) for gone in ended]


def _cancelled() -> Cancelled:
    return Cancelled("the job ended before its picture was done")


def _make(model: Diffusion, samples: Sequence[PictureSample]) -> list[MadePicture | Exception]:
    import torch

    pipeline, recipe = model.pipeline, samples[0].recipe

    def told(pipe: Any, step: int, _timestep: Any, _tensors: Any) -> dict[str, Any]:
        for sample in samples:
            sample.steps.done((step + 1) / pipe.num_timesteps)
        if all(sample.steps.ended for sample in samples):
            # Not the pipeline's own flag: with that it would decode and check what is still noise.
            raise _AllEnded
        return {}

    pipeline.scheduler = schedulers.make(recipe.scheduler, model.processor.scheduler_config)
    pipeline.vae.use_tiling = recipe.width * recipe.height > _TILED_FROM
    with torch.no_grad():
        conditions = pipeline.conditions(
            [sample.recipe.prompt for sample in samples],
            [sample.recipe.negative_prompt for sample in samples],
            recipe.guided,
        )
        states = conditions["prompt_embeds"]
        pipeline.guidance_of_each = None
        if recipe.guided:
            guidance = [sample.recipe.guidance for sample in samples]
            pipeline.guidance_of_each = torch.tensor(guidance, dtype=states.dtype, device=states.device).view(
                -1, 1, 1, 1
            )
        output = pipeline(
            **conditions,
            width=recipe.width,
            height=recipe.height,
            num_inference_steps=recipe.steps,
            guidance_scale=recipe.guidance,
            generator=[torch.Generator("cpu").manual_seed(sample.seed) for sample in samples],
            output_type="np",
            callback_on_step_end=told,
        )
    flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(samples)
    return [_picture(values, bad) for values, bad in zip(output.images, flagged, strict=True)]


def _picture(values: Any, flagged: bool) -> MadePicture | Exception:
    """`values`: float32 numpy (height, width, 3) in 0 .. 1."""
    import numpy

    if not numpy.isfinite(values).all():
        return FloatingPointError("the model gave a picture with values that are not finite: try dtype float32")
    return MadePicture(pixels=(values * 255).round().astype(numpy.uint8), flagged=flagged)
