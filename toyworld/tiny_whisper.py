"""A Whisper of random weights: the real architecture, for wiring. It writes words, with times that rise, and ends."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

SEED = 16

#: As small as it goes where the architecture allows it; openai-whisper's code fixes the rest.
_WIDTH, _LAYERS, _HEADS, _MELS, _VOCABULARY = 32, 2, 4, 80, 51865

#: A text has about so many tokens, times among them.
_TOKENS = 24

# fmt: off
_WORDS = (
    "the", "a", "an", "of", "on", "in", "at", "by", "with", "near", "under", "over", "beside", "red", "green", "blue",
    "yellow", "small", "large", "round", "tall", "wide", "bright", "dark", "quiet", "busy", "old", "new", "circle",
    "star", "box", "line", "tree", "house", "street", "river", "hill", "field", "sky", "sea", "boat", "bird", "dog",
    "cat", "horse", "person", "child", "hand", "face", "window", "door", "table", "chair", "cup", "book", "lamp",
    "clock", "road", "bridge", "cloud", "sun", "moon", "flower", "leaf", "stone", "picture",
)
# fmt: on

_CARD = """---
license: apache-2.0
library_name: transformers
---
# tiny-whisper

WhisperForConditionalGeneration with random weights, made by `python -m toyworld.tiny`. **It knows nothing**: it has
never heard a word. It exists so that loading, batching, cutting and writing down can be tried within seconds and
without a download. What it writes depends on the sound, and means nothing.
"""


def make_whisper(folder: Path) -> None:
    """Whisper: 80 mel bands, 99 languages, texts of some words in lines of a few seconds."""
    import torch
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration
    from whisper.tokenizer import LANGUAGES, get_tokenizer

    tokenizer = get_tokenizer(True, num_languages=99, language="en", task="transcribe")
    side = {"layers": _LAYERS, "attention_heads": _HEADS, "ffn_dim": 4 * _WIDTH}
    config = WhisperConfig(
        **{f"{name}_{key}": value for name in ("encoder", "decoder") for key, value in side.items()},
        d_model=_WIDTH,
        num_mel_bins=_MELS,
        vocab_size=_VOCABULARY,
        bos_token_id=tokenizer.eot,
        eos_token_id=tokenizer.eot,
        pad_token_id=tokenizer.eot,
        decoder_start_token_id=tokenizer.sot,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = WhisperForConditionalGeneration(config).eval()
        with torch.no_grad():
            _spread(model)
            _speak(model.model.decoder, tokenizer)
    languages = list(LANGUAGES)[:99]
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.eot,
        eos_token_id=tokenizer.eot,
        pad_token_id=tokenizer.eot,
        decoder_start_token_id=tokenizer.sot,
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": tokenizer.to_language_token(code) for code in languages},
        task_to_id={"transcribe": tokenizer.transcribe, "translate": tokenizer.translate},
        no_timestamps_token_id=tokenizer.no_timestamps,
        prev_sot_token_id=tokenizer.sot_prev,
        max_initial_timestamp_index=50,
        alignment_heads=[[_LAYERS - 1, head] for head in range(_HEADS)],
    )
    model.save_pretrained(folder)
    (folder / "README.md").write_text(_CARD, encoding="utf-8")


def _spread(model: Any) -> None:
    """Weights wide enough that what comes out depends on what went in; cross attention listens most."""
    import torch

    for name, weight in sorted(model.named_parameters()):
        if weight.dim() < 2 or name == "model.encoder.embed_positions.weight":
            continue
        if "embed" in name:
            std = 2.5 if "positions" in name else 1.0
        else:
            std = 1.2 * weight[0].numel() ** -0.5
        torch.nn.init.normal_(weight, std=std * (1.4 if "encoder_attn" in name else 0.7))


def _speak(decoder: Any, tokenizer: Any) -> None:
    """Lets the decoder write words, times that rise, and an end.

    Four places of the residual stream are taken from the layers: the first is a token's own weight, the next two turn
    with the position by a quarter of a circle, as a token of time does with its seconds, the last rises with it.
    """
    import torch

    weight, angle, rise = 0, slice(1, 3), 3
    for layer in decoder.layers:
        for last in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
            last.weight[:4] = 0.0
            last.bias[:4] = 0.0
    # What a token adds to the stream is small: the last norm makes it large. The random rest should not outweigh it.
    decoder.layer_norm.weight[:] = 0.4
    decoder.layer_norm.weight[:4] = torch.tensor([0.0, 40.0, 40.0, 20.0])
    decoder.layer_norm.bias[:4] = torch.tensor([20.0, 0.0, 0.0, 0.0])

    tokens, places = decoder.embed_tokens.weight, decoder.embed_positions.weight
    tokens[:, :4] = 0.0
    tokens[:, weight] = -1.0
    tokens[[tokenizer.encode(f" {word}")[0] for word in _WORDS], weight] = 0.0
    tokens[tokenizer.eot] = 0.0
    tokens[tokenizer.eot, rise] = 0.3
    turned = torch.linspace(0.0, math.pi / 2, len(tokens) - tokenizer.timestamp_begin)
    times = tokens[tokenizer.timestamp_begin :]
    times[:, 4:] *= 0.1
    times[:, weight] = -2.6
    times[:, angle] = torch.stack([turned.cos(), turned.sin()], dim=-1)

    at = (torch.arange(len(places)) / (3 + _TOKENS)).clamp(max=1.0)
    places[:, weight] = 0.0
    places[:, angle] = 6.0 * torch.stack([(at * math.pi / 2).cos(), (at * math.pi / 2).sin()], dim=-1)
    places[:, rise] = 12.0 * at - 7.0
