"""BLIP: captions of pictures.

Li et al., BLIP: Bootstrapping Language-Image Pre-training, 2022; weights and code of transformers'
`BlipForConditionalGeneration`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from handlers.errors import InvalidInput
from handlers.models.pretrained import load_model, load_part, prepare_pixels, stack
from handlers.models.sampling import Sampling, choosing, row_seeds
from handlers.protocol import CheckpointSpec


@dataclass(frozen=True, slots=True)
class BlipProcessor:
    """What works on the CPU: transformers' image processor and tokenizer of a checkpoint."""

    #: The checkpoint's name in the catalogue.
    name: str
    images: Any
    tokenizer: Any


@dataclass(frozen=True, slots=True)
class Blip:
    """A loaded BLIP."""

    network: Any
    processor: BlipProcessor


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


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption, without the prompt that it continues."""

    text: str
    #: Mean natural logarithm of the probability the model gives to each of its tokens, the end included: at most 0.
    score: float


def load_processor(spec: CheckpointSpec) -> BlipProcessor:
    """Image processor and tokenizer of a checkpoint, without its weights."""
    from transformers import BertTokenizer
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    return BlipProcessor(
        name=spec.name, images=load_part(BlipImageProcessorPil, spec), tokenizer=load_part(BertTokenizer, spec)
    )


def load(spec: CheckpointSpec, device: str) -> Blip:
    """The model of a checkpoint on a device; see `handlers.models.load`."""
    from transformers import BlipForConditionalGeneration

    return Blip(network=load_model(BlipForConditionalGeneration, spec, device), processor=load_processor(spec))


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


def generate(model: Blip, samples: Sequence[CaptionSample]) -> list[list[Caption] | Exception]:
    """Captions of each sample, the most probable first; `count` of them, or fewer where sampling repeated itself.

    All samples must have the same `batch_key`. The vision tower runs once per picture, the decoder once per caption;
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
    rows = [[config.bos_token_id, *sample.prompt] for sample in samples for _ in range(sample.count)]
    choose = choosing(sampling, [seed for sample in samples for seed in row_seeds(sample.seed, sample.count)])
    with torch.inference_mode():
        device = model.network.device
        seen = model.network.vision_model(pixel_values=stack(model.network, [s.pixels for s in samples]))[0]
        seen = seen.repeat_interleave(torch.tensor(counts, device=device), dim=0)
        input_ids = torch.tensor(rows, device=device)
        output = model.network.text_decoder.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.long, device=device),
            logits_processor=[choose],
            generation_config=_generation_config(config, sampling),
        )
    captions = _captions(model, output[:, input_ids.shape[1] :].tolist(), choose.log_probabilities())
    grouped: list[list[Caption] | Exception] = []
    for count in counts:
        group, captions = captions[:count], captions[count:]
        grouped.append(sorted({c.text: c for c in group}.values(), key=lambda c: -c.score))
    return grouped


def _too_long(prompt_tokens: int, max_tokens: int, config: Any) -> str:
    return (
        f"params/prompt has {prompt_tokens} tokens: with max_tokens {max_tokens} that is more than the"
        f" {config.max_position_embeddings - 1} the model can read; shorten the prompt or lower max_tokens"
    )


def _generation_config(config: Any, sampling: Sampling) -> Any:
    """Greedy over what `choosing` leaves, and none of the defaults that a checkpoint may bring along."""
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=sampling.max_tokens,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.sep_token_id,
        pad_token_id=config.pad_token_id,
    )


def _captions(model: Blip, rows: list[list[int]], log_probabilities: list[list[float]]) -> list[Caption]:
    """Token ids and their log-probabilities as captions; a row ends with its first end token."""
    end = model.network.config.text_config.sep_token_id
    captions = []
    for tokens, logs in zip(rows, log_probabilities, strict=True):
        length = tokens.index(end) + 1 if end in tokens else len(tokens)
        text = model.processor.tokenizer.decode(tokens[:length], skip_special_tokens=True)
        captions.append(Caption(text=" ".join(text.split()), score=sum(logs[:length]) / max(1, length)))
    return captions
