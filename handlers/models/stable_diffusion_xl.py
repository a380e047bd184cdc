"""SDXL: two text encoders, pictures of 1024 x 1024; it brings no safety checker."""

from __future__ import annotations

from functools import cache
from typing import Any

from handlers.models.diffusion import Diffusion, DiffusionProcessor
from handlers.models.pipeline_folder import load_network, read_index, read_processor
from handlers.protocol import CheckpointSpec

_GUIDANCE = 5.0


def load_processor(spec: CheckpointSpec) -> DiffusionProcessor:
    """Tokenizers and defaults of a checkpoint, without its weights."""
    return read_processor(spec, ("tokenizer", "tokenizer_2"), _GUIDANCE)


def load(spec: CheckpointSpec, device: str) -> Diffusion:
    """The model of a checkpoint on a device; see `handlers.models.load`."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    from handlers.models import schedulers

    if spec.safety_checker == "required":
        raise ValueError("an SDXL brings no safety checker, and the setting requires one: use a stable_diffusion")
    processor = load_processor(spec)
    tokenizer, tokenizer_2 = processor.tokenizers
    pipeline = _pipeline_class()(
        vae=load_network(AutoencoderKL, spec, "vae", device),
        text_encoder=load_network(CLIPTextModel, spec, "text_encoder", device),
        text_encoder_2=load_network(CLIPTextModelWithProjection, spec, "text_encoder_2", device),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=load_network(UNet2DConditionModel, spec, "unet", device),
        scheduler=schedulers.make(processor.scheduler, processor.scheduler_config),
        force_zeros_for_empty_prompt=read_index(spec).get("force_zeros_for_empty_prompt", True),
        # What says that a picture was made stands in its metadata, which changes no pixel.
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.enable_slicing()
    return Diffusion(pipeline, processor)


@cache
def _pipeline_class() -> Any:
    import torch
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

    class Pipeline(StableDiffusionXLPipeline):
        """See `handlers.models.diffusion.Pipeline`."""

        guidance_of_each: Any = None

        @property
        def guidance_scale(self) -> Any:
            return self._guidance_scale if self.guidance_of_each is None else self.guidance_of_each

        def upcast_vae(self) -> None:
            # The call asks for it where the autoencoder would overflow in float16, and turns it back.
            self.vae.to(dtype=torch.float32)

        def conditions(self, prompts: list[str], negative_prompts: list[str], guided: bool) -> dict[str, Any]:
            # A call that ended while it decoded (a full memory) has left it in float32, and the next would not start.
            self.vae.to(dtype=self.unet.dtype)
            states, negative, pooled, negative_pooled = self.encode_prompt(
                prompts,
                device=self.device,
                do_classifier_free_guidance=guided,
                negative_prompt=negative_prompts if guided else None,
            )
            if guided and self.config.force_zeros_for_empty_prompt:
                # As the call does for one picture without a negative prompt: it was trained so.
                empty = torch.tensor([not text for text in negative_prompts], device=negative.device)
                negative[empty] = 0
                negative_pooled[empty] = 0
            return {
                "prompt_embeds": states,
                "negative_prompt_embeds": negative,
                "pooled_prompt_embeds": pooled,
                "negative_pooled_prompt_embeds": negative_pooled,
            }

    return Pipeline
