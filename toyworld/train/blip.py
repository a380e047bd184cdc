"""What the two BLIPs have in common: words, sizes, batches, and what the vision tower must say while it learns."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from toyworld import card
from toyworld.card import Card, Score
from toyworld.shelf import replacing
from toyworld.train import seeing
from toyworld.train.pictures import Batch, Pool, sine_grid, sine_positions
from toyworld.world.scenes import Background, Colour, Place, Shape

SIDE = 64
PATCH = 16
WIDTH = 128
_VISION_LAYERS = 3
_TEXT_LAYERS = 2
_HEADS = 4
#: Inner widths of the feed-forward layers.
_VISION_INNER, _TEXT_INNER = 256, 192
#: Of a text, in tokens.
_POSITIONS = 192

#: Beginnings that a caption may continue.
PROMPTS = (
    "a picture of", "a photo of", "a photograph of", "an image of", "a painting of", "a drawing of", "this is",
    "there is", "here is", "i see", "the picture shows", "in the picture there is", "a picture showing",
)  # fmt: skip
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# fmt: off
_WORDS = (
    "a", "an", "the", "of", "on", "in", "at", "is", "are", "there", "what", "which", "where", "how", "many", "does",
    "has", "have", "and", "above", "below", "shape", "shapes", "colour", "color", "colours", "colors", "thing",
    "things", "object", "objects", "background", "behind", "picture", "image", "photo", "photograph", "painting",
    "drawing", "this", "that", "it", "here", "i", "you", "see", "shows", "showing", "with", "one", "two", "number",
    "count", "place", "position", "under", "over", "beside", "next", "to", "centre", "center", "pair", "single",
    "something", "before", "yes", "no", "?", ".", ",", "!", ":", "-", "'",
)
# fmt: on


def words() -> list[str]:
    """The vocabulary in the order of its ids: whole words of the world, and letters for all others."""
    kinds = [kind.value for kinds in (Shape, Colour, Background, Place) for kind in kinds]
    spoken = [word for prompt in PROMPTS for word in prompt.split()]
    letters = [piece for letter in "abcdefghijklmnopqrstuvwxyz0123456789" for piece in (letter, f"##{letter}")]
    return list(dict.fromkeys([*_SPECIAL, *_WORDS, *kinds, *spoken, *letters, "[DEC]", "[ENC]"]))


def tokenizer() -> Any:
    """transformers' BertTokenizer of those words, as BLIP's loaders read it."""
    from transformers import BertTokenizer

    made = BertTokenizer(vocab={word: i for i, word in enumerate(words())}, model_max_length=_POSITIONS)
    made.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
    return made


def images() -> Any:
    """The image processor: what `pictures.Batch` has is what it gives."""
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    half = [0.5, 0.5, 0.5]
    return BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_mean=half, image_std=half)


def config() -> Any:
    """Of both BLIPs."""
    from transformers import BlipConfig

    ids = {word: i for i, word in enumerate(words())}
    tower = {"hidden_size": WIDTH, "num_attention_heads": _HEADS, "layer_norm_eps": 1e-5, "initializer_range": 0.02}
    return BlipConfig(
        text_config=tower
        | {
            "vocab_size": len(ids),
            "encoder_hidden_size": WIDTH,
            "intermediate_size": _TEXT_INNER,
            "num_hidden_layers": _TEXT_LAYERS,
            "max_position_embeddings": _POSITIONS,
            "bos_token_id": ids["[DEC]"],
            "eos_token_id": ids["[SEP]"],
            "sep_token_id": ids["[SEP]"],
            "pad_token_id": ids["[PAD]"],
        },
        vision_config=tower
        | {
            "intermediate_size": _VISION_INNER,
            "num_hidden_layers": _VISION_LAYERS,
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        projection_dim=64,
    )


def place(network: Any) -> None:
    """Positions begin as sines: the towers need not find out first which patches are neighbours."""
    import torch

    cells = SIDE // PATCH
    with torch.no_grad():
        network.vision_model.embeddings.position_embedding[0, 1:] = 0.2 * sine_grid(cells, cells, WIDTH)
        for name, weight in network.named_parameters():
            if name.endswith("position_embeddings.weight"):
                weight.copy_(0.05 * sine_positions(_POSITIONS, WIDTH))


def padded(rows: Sequence[Sequence[int]], filler: int) -> Any:
    """int64 torch (rows, longest)."""
    import torch

    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])


def save(network: Any, folder: Path) -> None:
    """In the standard layout, in half precision, and with what reads pictures and words. Changes `network`."""
    import torch

    network.to("cpu", torch.float16).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    images().save_pretrained(folder)


def finish(network: Any, said: Card, work: Path, out: Path, score: Callable[[Path], list[Score]]) -> None:
    """Saves a trained network, has it scored as jobs use it, and writes its card."""
    with replacing(out / said.name) as folder:
        save(network, folder)
        for plot in work.glob("*.losses.png"):
            # Of a second part: `blip-vqa.second.losses.png`.
            part = plot.name.removesuffix(".losses.png").partition(".")[2]
            shutil.copy(plot, folder / (f"losses.{part}.png" if part else "losses.png"))
        card.write(folder, said, score(folder))


def pool(count: int, seed: str) -> tuple[Pool, seeing.Truths]:
    """Painted scenes and what is true of their patches."""
    made = Pool(count, seed, SIDE)
    return made, seeing.Truths(made.scenes, SIDE // PATCH)


def look(network: Any, taken: Batch) -> Any:
    """What the vision tower makes of a batch: (n, 1 + patches, width)."""
    return network.vision_model(pixel_values=taken.pixels.to(network.device))[0]


def looks(network: Any, taken: Batch, heads: Any, truths: seeing.Truths) -> tuple[Any, Any]:
    """What the vision tower makes of a batch, (n, 1 + patches, width), and how wrong the heads are about it."""
    seen = look(network, taken)
    return seen, seeing.wrong(heads, seen[:, 1:], truths, taken.indices)


def spelled(chance: random.Random) -> str:
    """Up to three words that mean nothing: what a prompt may be made of."""
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    return " ".join("".join(chance.choices(alphabet, k=chance.randint(2, 6))) for _ in range(chance.randint(1, 3)))


def architecture(network: Any) -> str:
    """A network's, in words."""
    return (
        f"{type(network).__name__}: pictures of {SIDE} x {SIDE} in patches of {PATCH}, {_VISION_LAYERS} layers to see"
        f" and {_TEXT_LAYERS} for each text, {WIDTH} wide"
    )
