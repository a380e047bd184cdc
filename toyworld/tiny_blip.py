"""BLIP of random weights: one that captions, one that answers questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toyworld.random_weights import SEED, spread, write_card

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
_OF_QUESTIONS = (
    "what", "which", "who", "where", "how", "is", "are", "there", "it", "this", "color", "colour", "shape", "thing",
    "things", "yes", "no", "?",
)
# fmt: on
#: Chosen likewise among fifty: no answer is empty, and those to other questions or about other pictures differ.
_SEED_OF_ANSWERS = 3


def make_blip_caption(folder: Path) -> None:
    """BLIP: 64 x 64 pictures in patches of 16, captions of some hundred words."""
    from transformers import BlipForConditionalGeneration

    _make(folder, "tiny-blip-caption", BlipForConditionalGeneration, _vocabulary(_WORDS), width=64, seed=SEED)


def make_blip_vqa(folder: Path) -> None:
    """BLIP: 64 x 64 pictures in patches of 16, questions and answers of some hundred words."""
    from transformers import BlipForQuestionAnswering

    vocabulary = _vocabulary((*_WORDS, *_OF_QUESTIONS))
    _make(folder, "tiny-blip-vqa", BlipForQuestionAnswering, vocabulary, width=48, seed=_SEED_OF_ANSWERS)


def _vocabulary(words: Sequence[str]) -> dict[str, int]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [piece for letter in "abcdefghijklmnopqrstuvwxyz0123456789" for piece in (letter, f"##{letter}")]
    return {token: i for i, token in enumerate(dict.fromkeys([*special, *words, *letters, "[DEC]", "[ENC]"]))}


def _make(folder: Path, name: str, architecture: Any, vocabulary: dict[str, int], *, width: int, seed: int) -> None:
    import torch
    from transformers import BertTokenizer, BlipConfig
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    tower = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BlipConfig(
        text_config=tower
        | {
            "vocab_size": len(vocabulary),
            "encoder_hidden_size": width,
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
        torch.manual_seed(seed)
        model = architecture(config).eval()
        spread(model)
        _speak(model, spoken=[vocabulary[word] for word in _WORDS], end=vocabulary["[SEP]"])
    model.save_pretrained(folder)
    tokenizer = BertTokenizer(vocab=vocabulary, model_max_length=192)
    tokenizer.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
    tokenizer.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    write_card(folder, name, architecture.__name__)


def _speak(model: Any, *, spoken: Sequence[int], end: int) -> None:
    """Lets the decoder say words only, and come to an end after some."""
    import torch

    bias = model.text_decoder.cls.predictions.bias
    with torch.no_grad():
        bias.fill_(-1e4)
        bias[list(spoken)] = 0.0
        bias[end] = 9.0
