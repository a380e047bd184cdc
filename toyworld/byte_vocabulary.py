"""The vocabulary of the small text encoders: bytes, so that nothing has to be learnt or downloaded."""

from __future__ import annotations


def byte_vocabulary() -> dict[str, int]:
    """Byte-level BPE without merges: each byte alone and at the end of a word, then start and end of text."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = sorted(bytes_to_unicode().values())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}
