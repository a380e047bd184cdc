"""Checkpoints of random weights: the real architectures, made in seconds, for wiring.

    python -m toyworld.tiny --out FOLDER

makes a folder in FOLDER for each of `MAKERS`, as `save_pretrained` writes it. They know nothing: two pictures get two
vectors and two captions, but no meaning. The same script gives the same bytes.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from toyworld.byte_vocabulary import byte_vocabulary
from toyworld.random_weights import SEED, spread, write_card
from toyworld.tiny_blip import make_blip_caption, make_blip_vqa
from toyworld.tiny_diffusion import make_stable_diffusion, make_stable_diffusion_xl
from toyworld.tiny_whisper import make_whisper

MAKERS: dict[str, Callable[[Path], None]]


def make(out: Path) -> list[Path]:
    """Makes what is missing in `out`; returns the checkpoints' folders.

    A folder appears whole (it is made beside its place, then renamed); two runs at the same time make it once.
    """
    out.mkdir(parents=True, exist_ok=True)
    if all((out / name).exists() for name in MAKERS):
        return [out / name for name in MAKERS]
    with (out / ".tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name, maker in MAKERS.items():
            if (out / name).exists():
                continue
            temporary = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=out))
            try:
                maker(temporary)
                # save_pretrained and mkdtemp leave what their maker alone can read; workers may be another user.
                temporary.chmod(0o755)
                for path in temporary.rglob("*"):
                    path.chmod(0o755 if path.is_dir() else 0o644)
                temporary.rename(out / name)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
    return [out / name for name in MAKERS]


def make_clip(folder: Path) -> None:
    """CLIP: 64 x 64 pictures in patches of 16, texts in bytes, a space of 64 dimensions."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    vocabulary = byte_vocabulary()
    end = vocabulary["<|endoftext|>"]
    tower = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config=tower
        | {
            "vocab_size": len(vocabulary),
            "max_position_embeddings": 77,
            "bos_token_id": vocabulary["<|startoftext|>"],
            "eos_token_id": end,
            "pad_token_id": end,
        },
        vision_config=tower | {"image_size": 64, "patch_size": 16},
        projection_dim=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = CLIPModel(config).eval()
        spread(model)
    model.save_pretrained(folder)
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}).save_pretrained(folder)
    write_card(folder, "tiny-clip", "CLIPModel")


MAKERS = {
    "tiny-clip": make_clip,
    "tiny-blip-caption": make_blip_caption,
    "tiny-blip-vqa": make_blip_vqa,
    "tiny-whisper": make_whisper,
    "tiny-stable-diffusion": make_stable_diffusion,
    "tiny-stable-diffusion-xl": make_stable_diffusion_xl,
}


def main() -> None:
    """The command line."""
    # One thread: the same sums in the same order everywhere, and faster for matrices this small.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    parser = argparse.ArgumentParser(prog="toyworld.tiny", description="Makes checkpoints of random weights.")
    parser.add_argument("--out", type=Path, required=True, help="the folder in which the checkpoints' folders are made")
    out: Path = parser.parse_args().out
    for folder in make(out):
        sys.stdout.write(f"{folder}\n")


if __name__ == "__main__":
    main()
