"""Whisper: what is said in a recording, in windows of 30 s.

Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, 2022; code of openai-whisper, weights in the
layout of transformers (`config.json`, `model.safetensors`) or in openai's own (`<name>.pt`).
Running it: `whisper_decode` (texts), `whisper_words` (when each word is said).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from handlers.models import whisper_files
from handlers.protocol import CheckpointSpec

Task = Literal["transcribe", "translate"]

#: Seconds of a window.
WINDOW_S = 30.0
#: Frames of a window's spectrogram, and of a second of it.
WINDOW_FRAMES, FRAMES_PER_S = 3000, 100


@dataclass(frozen=True, slots=True)
class WhisperProcessor:
    """What works on the CPU: sizes, and openai-whisper's own tokenizer."""

    #: The checkpoint's name in the catalogue.
    name: str
    #: Frequency bands of the spectrogram.
    n_mels: int
    #: Codes of the languages it knows: more than one where it was trained on many.
    languages: tuple[str, ...]
    #: Longest prompt in tokens.
    max_prompt: int

    @property
    def multilingual(self) -> bool:
        """Whether it knows more than English."""
        return len(self.languages) > 1

    def tokenizer(self, language: str, task: Task) -> Any:
        """openai-whisper's `Tokenizer`; `language` is one of `languages`."""
        from whisper.tokenizer import get_tokenizer

        return get_tokenizer(self.multilingual, num_languages=_known(len(self.languages)), language=language, task=task)


@dataclass(frozen=True, slots=True)
class WhisperModel:
    """A loaded Whisper."""

    #: `whisper.model.Whisper`.
    network: Any
    processor: WhisperProcessor
    #: What it computes in (`torch.dtype`); its layer norms compute in float32 all the same.
    dtype: Any


def load_processor(spec: CheckpointSpec) -> WhisperProcessor:
    """Sizes of a checkpoint, without its weights. Raises ValueError for one that is no Whisper."""
    from whisper.tokenizer import LANGUAGES

    dims = whisper_files.dimensions(spec.path)
    multilingual = dims["n_vocab"] >= whisper_files.MULTILINGUAL_VOCABULARY
    count = dims["n_vocab"] - whisper_files.MULTILINGUAL_VOCABULARY + _known(1)
    return WhisperProcessor(
        name=spec.name,
        n_mels=dims["n_mels"],
        languages=tuple(LANGUAGES)[:count] if multilingual else ("en",),
        max_prompt=dims["n_text_ctx"] // 2 - 1,
    )


def load(spec: CheckpointSpec, device: str) -> WhisperModel:
    """The model of a checkpoint on a device; see `handlers.models.load`.

    Raises ValueError where a tensor is missing, has another shape, or has no place in the architecture.
    """
    import torch
    from whisper.model import ModelDimensions, Whisper

    dims = whisper_files.dimensions(spec.path)
    with whisper_files.uninitialized():
        network = Whisper(ModelDimensions(**dims))
    whisper_files.fill(network, whisper_files.tensors(spec.path))
    heads = spec.alignment_heads or whisper_files.alignment_heads(spec.path)
    _set_alignment_heads(network, heads)
    dtype = getattr(torch, spec.dtype)
    for module in network.modules():
        # The library needs the norms in float32, and casts these in every call where they are not of the input's type.
        if isinstance(module, torch.nn.Linear | torch.nn.Conv1d | torch.nn.Embedding):
            module.to(dtype)
    return WhisperModel(network.to(device).eval().requires_grad_(False), load_processor(spec), dtype)


def spectrogram(processor: WhisperProcessor, samples: Any) -> Any:
    """A window's log-mel spectrogram: float32 numpy (n_mels, 3000).

    `samples`: float32 numpy, mono, 16 kHz, up to 30 s; what lacks is silence, what is beyond is left out.
    """
    import torch
    from whisper.audio import log_mel_spectrogram, pad_or_trim

    with torch.inference_mode():
        return log_mel_spectrogram(pad_or_trim(torch.from_numpy(samples)), n_mels=processor.n_mels).numpy()


def stack(model: WhisperModel, mels: Sequence[Any]) -> Any:
    """Spectrograms as one tensor (n, n_mels, 3000), on the model's device and in its dtype."""
    import numpy
    import torch

    return torch.from_numpy(numpy.stack(mels)).to(device=model.network.device, dtype=model.dtype)


def prompt_tokens(processor: WhisperProcessor, prompt: str) -> tuple[int, ...]:
    """Token ids of what was said before; none for an empty prompt. It may be longer than `max_prompt`."""
    tokenizer = processor.tokenizer(processor.languages[0], "transcribe")
    return tuple(tokenizer.encode(" " + prompt.strip(), disallowed_special=())) if prompt.strip() else ()


def _known(languages: int) -> int:
    # openai-whisper counts 99 for checkpoints that know English alone, whose tokens for the others have no use.
    return languages if languages > 1 else 99


def _set_alignment_heads(network: Any, heads: Sequence[tuple[int, int]] | None) -> None:
    """Marks the heads of the decoder's cross attention that follow the sound; None: the last half of the layers."""
    import torch

    dims = network.dims
    mask = torch.zeros(dims.n_text_layer, dims.n_text_head, dtype=torch.bool)
    if heads is None:
        mask[dims.n_text_layer // 2 :] = True
    for layer, head in heads or ():
        if not (0 <= layer < dims.n_text_layer and 0 <= head < dims.n_text_head):
            raise ValueError(
                f"alignment_heads names head {head} of layer {layer}: the decoder has {dims.n_text_layer} layers of"
                f" {dims.n_text_head} heads, counted from 0"
            )
        mask[layer, head] = True
    network.register_buffer("alignment_heads", mask.to_sparse(), persistent=False)
