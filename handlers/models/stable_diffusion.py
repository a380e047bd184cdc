"""Stable Diffusion 1.x and 2.x, with the safety checker where a checkpoint brings one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from handlers.models.diffusion import Diffusion, DiffusionProcessor
from handlers.models.pipeline_folder import load_network, read_index, read_processor
from handlers.protocol import CheckpointSpec

_GUIDANCE = 7.5


def load_processor(spec: CheckpointSpec) -> DiffusionProcessor:
    """Tokenizer and defaults of a checkpoint, without its weights."""
    return read_processor(spec, ("tokenizer",), _GUIDANCE)


def load(spec: CheckpointSpec, device: str) -> Diffusion:
    """The model of a checkpoint on a device; see `handlers.models.load`."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel

    from handlers.models import schedulers

    processor = load_processor(spec)
    checker, extractor = _safety_checker(spec, device)
    pipeline = _pipeline_class()(
        vae=load_network(AutoencoderKL, spec, "vae", device),
        text_encoder=load_network(CLIPTextModel, spec, "text_encoder", device),
        tokenizer=processor.tokenizers[0],
        unet=load_network(UNet2DConditionModel, spec, "unet", device),
        scheduler=schedulers.make(processor.scheduler, processor.scheduler_config),
        safety_checker=checker,
        feature_extractor=extractor,
        requires_safety_checker=checker is not None,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.enable_slicing()
    return Diffusion(pipeline, processor)


def _safety_checker(spec: CheckpointSpec, device: str) -> tuple[Any, Any]:
    """The checker and what prepares pictures for it, or nothing where it is off or there is none."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    brings_one = (read_index(spec).get("safety_checker") or [None, None])[1] is not None
    if spec.safety_checker == "off":
        return None, None
    if not brings_one:
        if spec.safety_checker == "required":
            raise ValueError("it brings no safety checker, and the setting requires one: choose another checkpoint")
        return None, None
    checker = load_network(StableDiffusionSafetyChecker, spec, "safety_checker", device)
    return checker, CLIPImageProcessorPil.from_pretrained(Path(spec.path, "feature_extractor"), local_files_only=True)


@cache
def _pipeline_class() -> Any:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    class Pipeline(StableDiffusionPipeline):
        """See `handlers.models.diffusion.Pipeline`."""

        guidance_of_each: Any = None

        @property
        def guidance_scale(self) -> Any:
            return self._guidance_scale if self.guidance_of_each is None else self.guidance_of_each

        def conditions(self, prompts: list[str], negative_prompts: list[str], guided: bool) -> dict[str, Any]:
            states, negative = self.encode_prompt(prompts, self.device, 1, guided, negative_prompts if guided else None)
            return {"prompt_embeds": states, "negative_prompt_embeds": negative}

    return Pipeline
