"""Trains toy-stable-diffusion: pictures of the toy world from texts.

Its text encoder is the text tower of toy-clip, which must be there. First the autoencoder learns, then the network that
makes latents; the latents of all pictures and the states of all texts are made once, in between.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from toyworld.card import Card, write
from toyworld.scores import stable_diffusion as scores
from toyworld.shelf import replacing
from toyworld.train import autoencoder, command, diffusion
from toyworld.train.pictures import Pool

NAME = "toy-stable-diffusion"
#: Scenes that the autoencoder sees, of one or two things, and those that the UNet learns to make. Those have one: with
#: some of two among them it often made two where one was asked for.
_SEEN, _MADE = 4000, 10_000
#: Pictures that the autoencoder is measured by, and that the scores on the card are of.
_MEASURED, _JUDGED = 300, 960


def text_tower(clip: Path) -> tuple[Any, Any]:
    """Tokenizer and text encoder of a CLIP's folder."""
    from transformers import CLIPTextModel, CLIPTokenizer

    encoder = CLIPTextModel.from_pretrained(clip, local_files_only=True).float().eval().requires_grad_(False)
    return CLIPTokenizer.from_pretrained(clip, local_files_only=True), encoder


def save(folder: Path, vae: Any, unet: Any, tokenizer: Any, text_encoder: Any) -> None:
    """In the layout of StableDiffusionPipeline, in half precision. Changes the networks."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=vae.cpu().half(),
        text_encoder=text_encoder.cpu().half(),
        tokenizer=tokenizer,
        unet=unet.cpu().half(),
        scheduler=diffusion.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)


def main() -> None:
    """The command line."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    out, folder = command.arguments("stable_diffusion", "the toy Stable Diffusion")
    device = command.device()

    seen = Pool(_SEEN, f"{NAME}.autoencoder", clean=True)
    vae = autoencoder.build().to(device)
    seconds = autoencoder.teach(vae, seen, folder)
    autoencoder.whiten(vae, seen.pictures[:1000])
    likeness = autoencoder.likeness(vae, Pool(_MEASURED, f"{NAME}.held-out", clean=True).pictures)

    # What was interrupted goes on with the text encoder that it began with, whatever toy-clip is by now.
    if not (folder / "toy-clip").exists():
        shutil.copytree(out / "toy-clip", folder / "toy-clip")
    tokenizer, text_encoder = text_tower(folder / "toy-clip")
    text_encoder.to(device)
    pool = Pool(_MADE, NAME, things=1, clean=True)
    texts, said = diffusion.texts_of(pool.scenes, NAME)
    material = diffusion.Material(
        latents=autoencoder.encode(vae, pool.pictures),
        states=diffusion.read(tokenizer, text_encoder, texts),
        said=said,
    )
    unet = diffusion.build().to(device)
    seconds += diffusion.teach(unet, material, folder)

    parameters = sum(command.parameters(network) for network in (vae, unet, text_encoder))
    with replacing(out / NAME) as made:
        save(made, vae, unet, tokenizer, text_encoder)
        for plot in folder.glob("*.losses.png"):
            shutil.copy(plot, made / f"losses.{plot.name.removesuffix('.losses.png')}.png")
        write(made, _card(parameters, seconds, likeness, device), scores.score(made, _JUDGED))


def _card(parameters: int, seconds: float, likeness: float, device: str) -> Card:
    return Card(
        name=NAME,
        architecture=(
            "StableDiffusionPipeline: pictures of 64 x 64 by way of latents of 16 x 16 with 4 values, 3 levels in the"
            " UNet, the text tower of toy-clip"
        ),
        knows=(
            "How to make a picture of one plain shape (circle, square, triangle, star, cross, ring) in one of eight"
            " colours (red, orange, yellow, green, cyan, blue, purple, pink) on one of four backgrounds (black, grey,"
            " white, brown), at one of five places (`a red circle on the left of a black background`). What is not said"
            " is left to chance. It makes one thing: of two (`a red star left of a blue ring`) it knows nothing."
            f" Pictures are 64 x 64; {scores.DEFAULTS.steps} steps of DDIM and a guidance of"
            f" {scores.DEFAULTS.guidance:g} are right for it. Of other words, and of photographs, it knows nothing."
        ),
        trained=(
            f"{autoencoder.COURSE.steps:,} steps of the autoencoder on {_SEEN:,} pictures, {diffusion.COURSE.steps:,}"
            f" of the UNet on {_MADE:,}, in {seconds / 60:.0f} minutes on"
            f" {'one core' if device == 'cpu' else 'a GPU'}. A picture comes back from the autoencoder with a PSNR of"
            f" {likeness:.1f} dB. The UNet predicts velocities over a schedule that ends in noise alone; its weights"
            " are a moving average. The text encoder was not trained on: it is toy-clip's as it was on that day, and"
            " stays with this checkpoint when toy-clip is trained anew."
        ),
        noise=(
            "A classifier (`judge`) that shares nothing with the text encoder says what the pictures show. By their"
            " number alone the scores are uncertain by 0.01. Trained twice with the same seed on one machine, the"
            " weights were the same byte for byte; another seed was not tried."
        ),
        parameters=parameters,
        model="stable_diffusion",
        library="diffusers",
    )


if __name__ == "__main__":
    main()
