"""The network that makes latents of noise, told by a text what to make.

Ho et al., Denoising Diffusion Probabilistic Models, 2020; it predicts the velocity of Salimans & Ho, Progressive
Distillation, 2022, over a schedule whose last step is noise alone (Lin et al., Common Diffusion Noise Schedules and
Sample Steps Are Flawed, 2023): so it makes black and white pictures, and not grey ones.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toyworld.train import autoencoder
from toyworld.train.loop import Course, train
from toyworld.world.descriptions import Level, describe
from toyworld.world.scenes import Scene

#: Width of the text encoder's states.
TEXT_WIDTH = 128
COURSE = Course(name="unet", steps=6200, rate=1.5e-3, warm_up=100, average=0.998)

_BATCH = 32
#: Share of the pictures that are made of nothing said: for classifier-free guidance (Ho & Salimans, 2022).
_UNSAID = 0.1
#: Texts for each scene, and how often they are of which level.
_TEXTS = 3
_LEVELS = {
    Level.COLOUR: 0.4,
    Level.SHAPE: 0.4,
    Level.THING: 3,
    Level.BACKGROUND: 0.2,
    Level.THING_BEFORE: 4,
    Level.PLACED: 1,
    Level.CAPTION: 3,
}


@dataclass(frozen=True, slots=True)
class Material:
    """Latents of pictures, and texts that are true of them."""

    latents: Any
    """float32 torch (n, channels, side, side)."""
    states: Any
    """float16 torch (texts, tokens, width): what the text encoder makes of each; the first is of the empty text."""
    said: Sequence[Sequence[int]]
    """Of each picture, which texts are true."""


def build() -> Any:
    """UNet2DConditionModel, its weights at random."""
    import torch
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    network = UNet2DConditionModel(
        sample_size=autoencoder.SIDE // autoencoder.SCALE,
        in_channels=autoencoder.CHANNELS,
        out_channels=autoencoder.CHANNELS,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,  # in this class the number of heads
        norm_num_groups=8,
    )
    return network.to(memory_format=torch.channels_last)  # faster on a CPU


def scheduler() -> Any:
    """How much noise there is at which of 1,000 time steps, and the way back that the checkpoint brings."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        clip_sample=False,
        steps_offset=1,  # of no effect here; diffusers takes a config without it for an old one
    )


def texts_of(scenes: Sequence[Scene], seed: str) -> tuple[list[str], list[list[int]]]:
    """The distinct texts, the empty one first, and of each scene the places of those that are said of it."""
    places, said = {"": 0}, []
    for i, scene in enumerate(scenes):
        chance = random.Random(f"{seed}/{i}")
        chosen = chance.choices(list(_LEVELS), list(_LEVELS.values()), k=_TEXTS)
        texts = [describe(scene, chance, level).text for level in chosen]
        said.append([places.setdefault(text, len(places)) for text in texts])
    return list(places), said


def read(tokenizer: Any, text_encoder: Any, texts: Sequence[str]) -> Any:
    """The text encoder's states of texts, as the pipeline has them: float16 torch (n, tokens, width)."""
    import torch

    parts = []
    with torch.no_grad():
        for at in range(0, len(texts), 64):
            tokens = tokenizer(
                list(texts[at : at + 64]),
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            parts.append(text_encoder(tokens.input_ids.to(text_encoder.device)).last_hidden_state.half())
    return torch.cat(parts)


def teach(network: Any, material: Material, folder: Path, course: Course = COURSE) -> float:
    """Trains it in place; returns the seconds that it took."""
    import torch

    noises = scheduler()
    shares = noises.alphas_cumprod.to(network.device)
    steps = noises.config.num_train_timesteps

    def loss(_step: int, chance: random.Random) -> dict[str, Any]:
        chosen = chance.sample(range(len(material.said)), _BATCH)
        texts = [0 if chance.random() < _UNSAID else chance.choice(material.said[i]) for i in chosen]
        latents = material.latents[chosen].to(network.device)
        noise = torch.randn(latents.shape).to(network.device)
        # One of each of as many equal parts: batches differ less than by chance alone.
        times = ((torch.arange(_BATCH) + torch.rand(_BATCH)) * (steps / _BATCH)).long().to(network.device)
        share = shares[times][:, None, None, None]
        noisy = share.sqrt() * latents + (1 - share).sqrt() * noise
        velocity = share.sqrt() * noise - (1 - share).sqrt() * latents
        states = material.states[texts].to(network.device, torch.float32)
        return {"velocity": (network(noisy, times, states).sample - velocity).square().mean()}

    return train(course, network, loss, folder)
