"""What an executor says that it made, checked: it touched untrusted media, so none of its words is taken on trust."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handlers.errors import HandlerBug
from handlers.protocol import Embedding, Outcome
from storage.settle import NewEmbedding, NewText

_MAX_TEXT = 1_000_000


@dataclass(frozen=True, slots=True)
class EmbedSpace:
    """The space that the executor's embedding checkpoint fills."""

    id: int
    checkpoint: str
    dimension: int


@dataclass(frozen=True, slots=True)
class Made:
    """What a successful attempt made beside its files and its result."""

    texts: Sequence[NewText]
    embeddings: Sequence[NewEmbedding]
    probes: Mapping[bytes, Mapping[str, Any]]


def read_outcome(outcome: Outcome, contents: Mapping[str, bytes], space: EmbedSpace | None) -> Made:
    """Resolves pointers by `contents` (`inputs/image` -> sha256) and checks every value. Raises HandlerBug."""
    texts = []
    for text in outcome.texts:
        if (sha256 := contents.get(text.of)) is None:
            raise HandlerBug(f"a text is about {text.of!r}, which is neither an input nor an output of the job")
        if len(text.text) > _MAX_TEXT:
            raise HandlerBug(f"a text has {len(text.text)} characters, the limit is {_MAX_TEXT}")
        texts.append(NewText(sha256, text.kind, text.text, text.language, text.segments))
    embeddings = {}
    for embedding in outcome.embeddings:
        sha256 = contents.get(embedding.of)
        if sha256 is None or space is None or embedding.checkpoint != space.checkpoint:
            continue  # a picture without its embedding gets a job that makes it
        embeddings[sha256, embedding.t0, embedding.t1] = NewEmbedding(
            sha256, space.id, _vector(embedding, space.dimension), t0=embedding.t0, t1=embedding.t1
        )
    probes = {sha256: probe for of, probe in outcome.probes.items() if (sha256 := contents.get(of)) is not None}
    return Made(texts, list(embeddings.values()), probes)


def _vector(embedding: Embedding, dimension: int) -> str:
    """The vector in pgvector's text form. Raises HandlerBug unless it is `dimension` finite numbers, not all zero."""
    try:
        raw = base64.b64decode(embedding.vector, validate=True)
        values = struct.unpack(f"<{dimension}f", raw)
    except (binascii.Error, struct.error) as error:
        raise HandlerBug(f"the embedding of {embedding.of!r} is not {dimension} float32: {error}") from None
    if not all(map(math.isfinite, values)) or not any(values):
        raise HandlerBug(f"the embedding of {embedding.of!r} is not finite, or is all zero")
    return "[" + ",".join(f"{value:.7g}" for value in values) + "]"
