"""What BLIP's models have in common: how they are read, and how their decoder writes.

Li et al., BLIP: Bootstrapping Language-Image Pre-training, 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from handlers.models.pretrained import load_model, load_part, stack
from handlers.models.sampling import Sampling, choosing
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
class Phrase:
    """What the decoder wrote after the tokens that it was given."""

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


def load(architecture: Any, spec: CheckpointSpec, device: str) -> Blip:
    """A checkpoint of one of transformers' BLIP classes on a device; see `handlers.models.load`."""
    return Blip(network=load_model(architecture, spec, device), processor=load_processor(spec))


def see(model: Blip, pixels: Sequence[Any]) -> Any:
    """What the vision tower makes of prepared pictures: a tensor (pictures, patches + 1, width)."""
    return model.network.vision_model(pixel_values=stack(model.network, list(pixels)))[0]


def write(
    model: Blip,
    starts: Sequence[Sequence[int]],
    context: Any,
    sampling: Sampling,
    seeds: Sequence[tuple[int, int]],
) -> list[Phrase]:
    """What the decoder continues each row of token ids with, looking at its row of `context` (rows, length, width).

    All starts must be of one length: padding would change what is written. A row is the same in any batch, up to the
    rounding of the device's matrix products. `seeds`: of each row, without effect where nothing is sampled.
    """
    import torch

    config = model.network.config.text_config
    choose = choosing(sampling, seeds)
    device = model.network.device
    input_ids = torch.tensor(starts, device=device)
    output = model.network.text_decoder.generate(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        encoder_hidden_states=context,
        encoder_attention_mask=torch.ones(context.shape[:-1], dtype=torch.long, device=device),
        logits_processor=[choose],
        generation_config=_generation_config(config, sampling),
    )
    return _phrases(model, output[:, input_ids.shape[1] :].tolist(), choose.log_probabilities())


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


def _phrases(model: Blip, rows: list[list[int]], log_probabilities: list[list[float]]) -> list[Phrase]:
    """Token ids and their log-probabilities as phrases; a row ends with its first end token."""
    end = model.network.config.text_config.sep_token_id
    phrases = []
    for tokens, logs in zip(rows, log_probabilities, strict=True):
        length = tokens.index(end) + 1 if end in tokens else len(tokens)
        text = model.processor.tokenizer.decode(tokens[:length], skip_special_tokens=True)
        phrases.append(Phrase(text=" ".join(text.split()), score=sum(logs[:length]) / max(1, length)))
    return phrases
