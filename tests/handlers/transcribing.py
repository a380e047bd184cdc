"""Runs `audio.transcribe` with a Whisper that says what a test wants it to say."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from handlers.audio.transcribe import Transcribe, TranscribeResult
from handlers.declaration import InferFunction
from handlers.models.whisper import WhisperModel
from handlers.models.whisper_decode import Decoded, DecodeSample, decode
from tests.handlers.conftest import DirectContext, job

#: Says when it was said, so that a test may see where the line comes from.
Answer = Callable[[DecodeSample], Decoded]


class Told(DirectContext):
    """A context whose Whisper says what a test wants it to say."""

    answer: Answer | None = None
    samples: list[DecodeSample]

    async def infer(
        self, function: InferFunction, checkpoint: str, samples: Sequence[Any], *, key: Hashable = ()
    ) -> list[Any]:
        if function is decode:
            self.samples = [*getattr(self, "samples", []), *samples]
            if self.answer is not None:
                self.keys.append(key)
                return [self.answer(sample) for sample in samples]
        return await super().infer(function, checkpoint, samples, key=key)


async def transcribe(ctx: DirectContext, path: Path, **params: Any) -> TranscribeResult:
    return await Transcribe().run(job(Transcribe(), {"audio": path}, **params), ctx)


def says(whisper: WhisperModel, *parts: float | str, **changed: Any) -> Decoded:
    """What a Whisper says: texts, and times in seconds."""
    tokenizer = whisper.processor.tokenizer("en", "transcribe")
    tokens: list[int] = []
    for part in parts:
        tokens += tokenizer.encode(part) if isinstance(part, str) else [tokenizer.timestamp_begin + round(part * 50)]
    return replace(Decoded(tuple(tokens), -0.2, 0.01, 0.0, 1.1), **changed)
