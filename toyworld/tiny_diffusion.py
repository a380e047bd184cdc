"""Stable Diffusion and SDXL of random weights: the real architectures at a size that makes a picture in a blink.

They know nothing: a picture depends on prompt, seed and every other parameter, and shows nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toyworld.byte_vocabulary import byte_vocabulary

#: Of the weights; any would do.
SEED = 16

_MAX_TOKENS = 77
#: Width of a text encoder; a UNet looks at the encoders' states side by side.
_TEXT_WIDTH = 32
#: Latents are so many values a side: pictures of 64 x 64.
_SAMPLE_SIZE = 8

#: Of the original checkpoints' schedulers: how much noise there is at which of 1,000 time steps.
_NOISE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
}

_CARD = """---
license: apache-2.0
library_name: diffusers
---
# {name}

{pipeline} with random weights, made by `python -m toyworld.tiny`. **It knows nothing**: it has never seen a picture or
a text. It exists so that making, batching and storing pictures can be tried within seconds and without a download.
What it makes depends on prompt and seed, and shows nothing.{more}
"""


def make_stable_diffusion(folder: Path) -> None:
    """Stable Diffusion 1.x: pictures of 64 x 64, texts in bytes; with a safety checker that finds nothing bad."""
    import torch
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from diffusers.schedulers.scheduling_pndm import PNDMScheduler
    from transformers import CLIPConfig, CLIPTextModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        text_encoder = CLIPTextModel(_text_config())
        unet = _unet(cross_attention_dim=_TEXT_WIDTH)
        vae = _vae(force_upcast=False, scaling_factor=0.18215)
        checker = StableDiffusionSafetyChecker(
            CLIPConfig(
                text_config=tower,
                vision_config=tower | {"image_size": 32, "patch_size": 16},
                projection_dim=8,
            )
        )
        for part in (text_encoder, unet, vae):
            _spread(part)
    # The cosine of two vectors is never above 1, and so nothing is near a bad concept.
    torch.nn.init.constant_(checker.concept_embeds_weights, 2.0)
    torch.nn.init.constant_(checker.special_care_embeds_weights, 2.0)
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=_tokenizer(),
        unet=unet,
        scheduler=PNDMScheduler(**_NOISE, skip_prk_steps=True, set_alpha_to_one=False),
        safety_checker=checker,
        feature_extractor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    ).save_pretrained(folder)
    _write_card(folder, "tiny-stable-diffusion", "StableDiffusionPipeline", " Its safety checker finds nothing bad.")


def make_stable_diffusion_xl(folder: Path) -> None:
    """SDXL: pictures of 64 x 64, texts in bytes read by two encoders."""
    import torch
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    time_width = 8
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        text_encoder = CLIPTextModel(_text_config())
        text_encoder_2 = CLIPTextModelWithProjection(_text_config())
        unet = _unet(
            cross_attention_dim=2 * _TEXT_WIDTH,
            use_linear_projection=True,
            transformer_layers_per_block=(1, 2),
            addition_embed_type="text_time",
            addition_time_embed_dim=time_width,
            # The pooled text, and six numbers of sizes and crop.
            projection_class_embeddings_input_dim=_TEXT_WIDTH + 6 * time_width,
        )
        vae = _vae(force_upcast=True, scaling_factor=0.13025)
        for part in (text_encoder, text_encoder_2, unet, vae):
            _spread(part)
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(pad="!"),
        unet=unet,
        scheduler=EulerDiscreteScheduler(**_NOISE, timestep_spacing="leading", interpolation_type="linear"),
        add_watermarker=False,
    ).save_pretrained(folder)
    _write_card(folder, "tiny-stable-diffusion-xl", "StableDiffusionXLPipeline", "")


def _unet(**more: Any) -> Any:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=_SAMPLE_SIZE,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=4,
        **more,
    )


def _vae(**more: Any) -> Any:
    """Four blocks: a latent value stands for 8 x 8 pixels, as in the checkpoints that people use."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return AutoencoderKL(
        sample_size=_SAMPLE_SIZE * 8,
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        **more,
    )


def _text_config() -> Any:
    from transformers import CLIPTextConfig

    vocabulary = byte_vocabulary()
    end = vocabulary["<|endoftext|>"]
    return CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=_TEXT_WIDTH,
        intermediate_size=2 * _TEXT_WIDTH,
        projection_dim=_TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=_MAX_TOKENS,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=end,
        pad_token_id=end,
    )


def _tokenizer(pad: str = "<|endoftext|>") -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer(vocab=byte_vocabulary(), merges=[], model_max_length=_MAX_TOKENS, pad_token=pad)


def _spread(model: Any) -> None:
    """Weights wide enough that what comes out depends on what went in: the usual initial ones let little through."""
    import torch

    for name, weight in sorted(model.named_parameters()):
        if weight.dim() < 2:
            continue
        std = 1.0 if "embedding" in name else 1.2 * weight[0].numel() ** -0.5
        torch.nn.init.normal_(weight, std=std)


def _write_card(folder: Path, name: str, pipeline: str, more: str) -> None:
    card = _CARD.format(name=name, pipeline=pipeline, more=more)
    (folder / "README.md").write_text(card, encoding="utf-8")
