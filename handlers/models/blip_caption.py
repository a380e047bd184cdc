"""BLIP: captions of pictures.

Li et al., BLIP: Bootstrapping Language-Image Pre-training, 2022; weights and code of transformers'
`BlipForConditionalGeneration`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from handlers.errors import InvalidInput
from handlers.models import blip
from handlers.models.blip import Blip, BlipProcessor, Phrase
from handlers.models.pretrained import prepare_pixels
from handlers.models.sampling import Sampling, row_seeds
from handlers.protocol import CheckpointSpec


@dataclass(frozen=True, slots=True)
class CaptionRequest:
    """What is wanted of a picture."""

    prompt: str
    """What the captions continue; empty for none."""
    count: int
    """How many captions; more than one only where `sampling` samples."""
    seed: int
    """0 to 2^64 - 1; of no effect where nothing is sampled."""
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class CaptionSample:
    """One picture to be captioned."""

    pixels: Any
    """float32 numpy (3, height, width)."""
    prompt: tuple[int, ...]
    """Token ids without special tokens."""
    count: int
    seed: int
    sampling: Sampling

    @property
    def batch_key(self) -> Hashable:
        """What samples of one batch must have in common: padding a prompt would change the caption."""
        return (len(self.prompt), self.sampling)


def load_processor(spec: CheckpointSpec) -> BlipProcessor:
    """Image processor and tokenizer of a checkpoint, without its weights."""
    return blip.load_processor(spec)


def load(spec: CheckpointSpec, device: str) -> Blip:
    """The model of a checkpoint on a device; see `handlers.models.load`."""
    from transformers import BlipForConditionalGeneration

    return blip.load(BlipForConditionalGeneration, spec, device)


def prepare(processor: BlipProcessor, image: Any, request: CaptionRequest) -> CaptionSample:
    """A decoded picture (PIL, RGB) and what is wanted of it, as a sample for `generate`."""
    prompt = processor.tokenizer(request.prompt, add_special_tokens=False)["input_ids"] if request.prompt else []
    return CaptionSample(
        pixels=prepare_pixels(processor.images, image),
        prompt=tuple(prompt),
        count=request.count,
        seed=request.seed,
        sampling=request.sampling,
    )


def generate(model: Blip, samples: Sequence[CaptionSample]) -> list[list[Phrase] | Exception]:
    """Captions of each sample, without the prompt that they continue, the most probable first.

    There are `count` of them, or fewer where sampling repeated itself. All samples must have the same `batch_key`. The
    vision tower runs once per picture, the decoder once per caption;
    a sample's captions are the same in any batch (up to the rounding of the device's matrix products). An InvalidInput
    stands in the place of a sample whose prompt and captions together are longer than the model can read.
    Raises ValueError where the keys differ.
    """
    import torch

    if not samples:
        return []
    if len({sample.batch_key for sample in samples}) > 1:
        raise ValueError("samples of one batch must have the same batch_key")
    config = model.network.config.text_config
    sampling, prompt_tokens = samples[0].sampling, len(samples[0].prompt)
    if 1 + prompt_tokens + sampling.max_tokens > config.max_position_embeddings:
        return [InvalidInput(_too_long(prompt_tokens, sampling.max_tokens, config)) for _ in samples]

    counts = [sample.count for sample in samples]
    starts = [[config.bos_token_id, *sample.prompt] for sample in samples for _ in range(sample.count)]
    seeds = [seed for sample in samples for seed in row_seeds(sample.seed, sample.count)]
    with torch.inference_mode():
        seen = blip.see(model, [sample.pixels for sample in samples])
        seen = seen.repeat_interleave(torch.tensor(counts, device=seen.device), dim=0)
        captions = blip.write(model, starts, seen, sampling, seeds)
    grouped: list[list[Phrase] | Exception] = []
    for count in counts:
        group, captions = captions[:count], captions[count:]
        grouped.append(sorted({c.text: c for c in group}.values(), key=lambda c: -c.score))
    return grouped


def _too_long(prompt_tokens: int, max_tokens: int, config: Any) -> str:
    return (
        f"params/prompt has {prompt_tokens} tokens: with max_tokens {max_tokens} that is more than the"
        f" {config.max_position_embeddings - 1} the model can read; shorten the prompt or lower max_tokens"
    )
