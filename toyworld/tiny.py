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
from typing import Any

from toyworld.byte_vocabulary import byte_vocabulary
from toyworld.tiny_diffusion import make_stable_diffusion, make_stable_diffusion_xl
from toyworld.tiny_whisper import make_whisper

#: Chosen among the first eighty: with it no caption of a plain picture is empty, and hardly two are alike.
SEED = 16
MAKERS: dict[str, Callable[[Path], None]]

# fmt: off
_WORDS = (
    "a", "the", "an", "of", "on", "in", "at", "by", "with", "near", "under", "over", "beside", "red", "green",
    "blue", "yellow", "orange", "purple", "black", "white", "grey", "brown", "small", "large", "round", "square",
    "tall", "wide", "bright", "dark", "quiet", "busy", "old", "new", "circle", "triangle", "star", "box", "line",
    "tree", "house", "street", "river", "hill", "field", "sky", "sea", "boat", "bird", "dog", "cat", "horse",
    "person", "child", "hand", "face", "window", "door", "table", "chair", "cup", "book", "lamp", "clock", "road",
    "bridge", "cloud", "sun", "moon", "flower", "leaf", "stone", "picture", "photo", "painting", "drawing", "two",
    "three", "four", "many", "some", "another", "and", "while", "holding", "facing", "crossing", "behind",
    "between", "light", "shadow", "water", "wood", "glass", "metal", "paper", "morning", "evening",
)
# fmt: on

_CARD = """---
license: apache-2.0
library_name: transformers
---
# {name}

{architecture} with random weights, made by `python -m toyworld.tiny`. **It knows nothing**: it has never seen a picture
or a text. It exists so that loading, batching, storing and searching can be tried within seconds and without a
download. What it says of a picture depends on the picture, and means nothing.
"""


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
        _spread(model)
    model.save_pretrained(folder)
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}).save_pretrained(folder)
    _write_card(folder, "tiny-clip", "CLIPModel")


def make_blip_caption(folder: Path) -> None:
    """BLIP: 64 x 64 pictures in patches of 16, captions of some hundred words."""
    import torch
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [piece for letter in "abcdefghijklmnopqrstuvwxyz0123456789" for piece in (letter, f"##{letter}")]
    tokens = list(dict.fromkeys([*special, *_WORDS, *letters, "[DEC]", "[ENC]"]))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tower = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BlipConfig(
        text_config=tower
        | {
            "vocab_size": len(vocabulary),
            "encoder_hidden_size": 64,
            "max_position_embeddings": 192,
            "bos_token_id": vocabulary["[DEC]"],
            "eos_token_id": vocabulary["[SEP]"],
            "sep_token_id": vocabulary["[SEP]"],
            "pad_token_id": vocabulary["[PAD]"],
        },
        vision_config=tower | {"image_size": 64, "patch_size": 16},
        projection_dim=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = BlipForConditionalGeneration(config).eval()
        _spread(model)
        _speak(model, spoken=[vocabulary[word] for word in _WORDS], end=vocabulary["[SEP]"])
    model.save_pretrained(folder)
    tokenizer = BertTokenizer(vocab=vocabulary, model_max_length=192)
    tokenizer.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
    tokenizer.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    _write_card(folder, "tiny-blip-caption", "BlipForConditionalGeneration")


MAKERS = {
    "tiny-clip": make_clip,
    "tiny-blip-caption": make_blip_caption,
    "tiny-whisper": make_whisper,
    "tiny-stable-diffusion": make_stable_diffusion,
    "tiny-stable-diffusion-xl": make_stable_diffusion_xl,
}


def _spread(model: Any) -> None:
    """Weights wide enough that what comes out depends on what went in.

    With the usual initial 0.02 the residual stream carries the position alone, and all pictures look the same. Wide
    positions keep the decoder from saying one word again and again, wide cross attention makes it look at the picture.
    """
    import torch

    for name, weight in sorted(model.named_parameters()):
        if weight.dim() < 2:
            continue
        if "position" in name:
            std = 4.0 if "text_decoder" in name else 0.3
        elif "embedding" in name:
            std = 1.0
        else:
            std = 1.2 * weight[0].numel() ** -0.5
        torch.nn.init.normal_(weight, std=std * (3.5 if "crossattention" in name else 1.0))


def _speak(model: Any, *, spoken: list[int], end: int) -> None:
    """Lets the decoder say words only, and come to an end after some."""
    import torch

    bias = model.text_decoder.cls.predictions.bias
    with torch.no_grad():
        bias.fill_(-1e4)
        bias[spoken] = 0.0
        bias[end] = 9.0


def _write_card(folder: Path, name: str, architecture: str) -> None:
    (folder / "README.md").write_text(_CARD.format(name=name, architecture=architecture), encoding="utf-8")


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
