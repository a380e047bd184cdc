"""The autoencoder of pictures: 4 x 4 pixels become one place of the latents.

Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2022, with the differences of neighbours
in the place of an adversary: these pictures have edges and no texture.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from toyworld.train.loop import Course, train
from toyworld.train.pictures import Pool

#: Pixels a side of the pictures.
SIDE = 64
#: Pixels a side of a place of the latents, and values in it.
SCALE, CHANNELS = 4, 4
COURSE = Course(name="autoencoder", steps=1600, rate=3e-3, weight_decay=0.0, average=0.99)

#: Most steps see pieces of pictures, around a thing: most of a whole picture is background. The last see whole ones.
_PIECE, _PIECES, _WHOLE = 32, 32, 12
_STEPS_OF_WHOLE = 0.12
_SQUARES, _EDGES, _THUMBNAIL, _DIVERGENCE = 2.0, 0.5, 1.0, 1e-4


def build() -> Any:
    """AutoencoderKL, its weights at random."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    network = AutoencoderKL(
        sample_size=SIDE,
        block_out_channels=(16, 16, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=CHANNELS,
        # As many groups as channels would take all that a flat picture says: its level.
        norm_num_groups=2,
        force_upcast=False,
        scaling_factor=1.0,
    )
    # At first the latents say little: in noise as wide as they are nothing would be learnt from them.
    with torch.no_grad():
        network.quant_conv.bias[CHANNELS:] = -5
    return network.to(memory_format=torch.channels_last)  # faster on a CPU


def teach(network: Any, pool: Pool, folder: Path, course: Course = COURSE) -> float:
    """Trains it in place on a pool of clean pictures; returns the seconds that it took.

    Three of the channels are to be nearly the picture made small: of plain shapes that says almost all, it is learnt in
    no time, and such latents are easily made of noise.
    """
    import torch

    whole_from = round(course.steps * (1 - _STEPS_OF_WHOLE))

    def loss(step: int, chance: random.Random) -> dict[str, Any]:
        pixels = _pieces(pool, chance) if step < whole_from else pool.batch(chance, _WHOLE).pixels
        pixels = pixels.to(network.device)
        posterior = network.encode(pixels).latent_dist
        wrong = network.decode(posterior.sample()).sample - pixels
        edges = wrong.diff(dim=2).abs().mean() + wrong.diff(dim=3).abs().mean()
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        small = torch.nn.functional.avg_pool2d(pixels, SCALE)
        return {
            "pixels": wrong.abs().mean() + _SQUARES * wrong.square().mean(),
            "edges": _EDGES * edges,
            "thumbnail": _THUMBNAIL * (posterior.mean[:, :3] - small).square().mean(),
            "divergence": _DIVERGENCE * divergence,
        }

    return train(course, network, loss, folder)


def whiten(network: Any, pictures: Any) -> None:
    """Turns and scales the latents such that over `pictures` their channels have mean 0, deviation 1, and no relation.

    Of all that pictures differ in, most is how light they are: without this, little noise would hide their colours, and
    those would be learnt last. What is made of the latents stays the same: the last convolution before them and the
    first after them, of 1 x 1, take it. The deviation of samples of the latents stays the same on the whole only.
    """
    import torch

    values = encode(network, pictures).movedim(1, -1).flatten(0, -2).double()
    mean, covariance = values.mean(dim=0), values.T.cov()
    spread, axes = torch.linalg.eigh(covariance)
    # Back along the axes: of all such matrices the one that changes the latents least.
    white, coloured = (axes @ torch.diag(spread**power) @ axes.T for power in (-0.5, 0.5))
    before, after = network.quant_conv, network.post_quant_conv
    with torch.no_grad():
        weight, bias = before.weight[:CHANNELS, :, 0, 0].double(), before.bias[:CHANNELS].double()
        before.weight[:CHANNELS] = (white @ weight)[:, :, None, None].float()
        before.bias[:CHANNELS] = (white @ (bias - mean)).float()
        before.bias[CHANNELS:] += (white.square().sum(dim=1).log()).float()
        weight = after.weight[:, :, 0, 0].double()
        after.bias += (weight @ mean).float()
        after.weight[:] = (weight @ coloured)[:, :, None, None].float()


def encode(network: Any, pictures: Any) -> Any:
    """Means of the latents of pictures (uint8 numpy (n, side, side, 3)): float32 torch (n, channels, 16, 16)."""
    import torch

    parts = []
    with torch.no_grad():
        for part in torch.from_numpy(pictures).split(64):
            pixels = part.to(network.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            parts.append(network.encode(pixels).latent_dist.mode())
    return torch.cat(parts).contiguous()


def likeness(network: Any, pictures: Any) -> float:
    """Peak signal-to-noise ratio in dB of pictures (uint8 numpy (n, side, side, 3)) that were encoded and decoded."""
    import torch

    with torch.no_grad():
        made = torch.cat([network.decode(part).sample for part in encode(network, pictures).split(64)]).cpu()
    made = ((made.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1)
    return float(10 * torch.log10(255**2 / (made - torch.from_numpy(pictures)).square().mean()))


def _pieces(pool: Pool, chance: random.Random) -> Any:
    """Pieces of pictures with a part of a thing in them: float32 torch (n, 3, side, side), from -1 to 1."""
    import numpy as np
    import torch

    pieces = []
    for index in chance.sample(range(len(pool.scenes)), _PIECES):
        thing = chance.choice(pool.scenes[index].things)
        left, top = (
            min(SIDE - _PIECE, max(0, round(at * SIDE) - _PIECE // 2 + chance.randint(-_PIECE // 2, _PIECE // 2)))
            for at in (thing.x, thing.y)
        )
        pieces.append(pool.pictures[index, top : top + _PIECE, left : left + _PIECE])
    return torch.from_numpy(np.stack(pieces)).permute(0, 3, 1, 2).float() / 127.5 - 1
