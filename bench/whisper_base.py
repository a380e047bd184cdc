"""A Whisper of the size of whisper-base with random weights, whose text of each window has a given number of tokens.

Random weights never end a text, and scatter its times: then one side would decode other windows than the other. Two
places of the decoder's stream are taken from the layers, and used to say: after so many tokens the end; no time but the
first, which the rules demand. All else is as random as it comes, and costs what it costs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

SEED = 1
#: Start, language, task, and the time at the beginning.
_BEFORE = 4


def make(folder: Path, *, tokens: int) -> None:
    """Writes the checkpoint in transformers' layout."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration
    from whisper.tokenizer import get_tokenizer

    tokenizer = get_tokenizer(True, num_languages=99, language="en", task="transcribe")
    config = WhisperConfig(
        d_model=512,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_ffn_dim=2048,
        num_mel_bins=80,
        vocab_size=51865,
    )
    torch.manual_seed(SEED)
    model = WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        _end_after(model.model.decoder, tokenizer, tokens)
    model.save_pretrained(folder)


def _end_after(decoder: Any, tokenizer: Any, tokens: int) -> None:
    weight, end = 0, 1
    for layer in decoder.layers:
        for last in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
            last.weight[:2] = 0.0
            last.bias[:2] = 0.0
    decoder.layer_norm.weight[weight], decoder.layer_norm.bias[weight] = 0.0, 50.0
    decoder.layer_norm.weight[end] = 50.0
    decoder.embed_tokens.weight[:, :2] = 0.0
    decoder.embed_tokens.weight[tokenizer.eot, end] = 1.0
    decoder.embed_tokens.weight[tokenizer.timestamp_begin :, weight] = -1.0
    decoder.embed_positions.weight[:, weight] = 0.0
    # The token after the last one is read at the last one's place.
    last_place = _BEFORE + tokens - 1
    decoder.embed_positions.weight[:last_place, end] = -10.0
    decoder.embed_positions.weight[last_place:, end] = 10.0
