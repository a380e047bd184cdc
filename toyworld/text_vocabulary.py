"""The vocabulary of the toy text encoder: byte pairs learnt from the world's words, each of which is one token."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

from toyworld.byte_vocabulary import byte_vocabulary
from toyworld.world.descriptions import words

#: Tokens of the longest text, as in CLIP's original checkpoints.
MAX_TOKENS = 77
_START, _END, _WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"


def merges() -> list[tuple[str, str]]:
    """Pairs of tokens that are one, the first that applies first, until every word of the world is a single token.

    Sennrich et al., Neural Machine Translation of Rare Words with Subword Units, 2016.
    """
    spelt = [[*word[:-1], word[-1] + _WORD_END] for word in words()]
    learnt: list[tuple[str, str]] = []
    while pairs := Counter(pair for tokens in spelt for pair in pairwise(tokens)):
        # Of equally frequent pairs the first in the alphabet, so that the vocabulary is always the same.
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        learnt.append(best)
        spelt = [_joined(tokens, best) for tokens in spelt]
    return learnt


def tokenizer() -> Any:
    """A CLIPTokenizer: one token for a word of the world, bytes and some pieces of words for whatever else."""
    from transformers import CLIPTokenizer

    learnt = merges()
    letters = [token for token in byte_vocabulary() if token not in (_START, _END)]
    joined = dict.fromkeys(left + right for left, right in learnt)
    vocabulary = {token: i for i, token in enumerate([*letters, *joined, _START, _END])}
    return CLIPTokenizer(vocab=vocabulary, merges=learnt, model_max_length=MAX_TOKENS, pad_token=_END)


def _joined(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for token in tokens:
        if joined and (joined[-1], token) == pair:
            joined[-1] += token
        else:
            joined.append(token)
    return joined
