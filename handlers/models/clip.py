"""CLIP: pictures and texts as vectors of one space, where the product of two says how well they go together.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021; weights and code of
transformers' `CLIPModel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from handlers.models.pretrained import load_model, load_part, prepare_pixels, stack
from handlers.protocol import CheckpointSpec


@dataclass(frozen=True, slots=True)
class ClipProcessor:
    """What works on the CPU: transformers' image processor and tokenizer of a checkpoint."""

    #: The checkpoint's name in the catalogue.
    name: str
    images: Any
    tokenizer: Any


@dataclass(frozen=True, slots=True)
class Clip:
    """A loaded CLIP."""

    network: Any
    processor: ClipProcessor
    #: Longest text in tokens; what is longer is cut off.
    max_tokens: int


def load_processor(spec: CheckpointSpec) -> ClipProcessor:
    """Image processor and tokenizer of a checkpoint, without its weights."""
    from transformers import CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return ClipProcessor(
        name=spec.name, images=load_part(CLIPImageProcessorPil, spec), tokenizer=load_part(CLIPTokenizer, spec)
    )


def load(spec: CheckpointSpec, device: str) -> Clip:
    """The model of a checkpoint on a device; see `handlers.models.load`."""
    from transformers import CLIPModel

    network = load_model(CLIPModel, spec, device)
    return Clip(
        network=network,
        processor=load_processor(spec),
        max_tokens=network.config.text_config.max_position_embeddings,
    )


def prepare_image(processor: ClipProcessor, image: Any) -> Any:
    """A decoded picture (PIL, RGB) as a sample for `embed_images`: float32 numpy (3, height, width)."""
    return prepare_pixels(processor.images, image)


def embed_images(model: Clip, samples: Sequence[Any]) -> list[Any]:
    """Vectors of pictures: for each sample (of `prepare_image`) a float32 numpy array (dimension,), L2-normalised.

    A vector that is not finite (float16 can overflow) is a FloatingPointError in its place.
    """
    import torch

    if not samples:
        return []
    with torch.inference_mode():
        features = model.network.get_image_features(pixel_values=stack(model.network, list(samples))).pooler_output
        return _unit_vectors(features)


def embed_texts(model: Clip, samples: Sequence[str]) -> list[Any]:
    """Vectors of texts, as `embed_images`; what is beyond the model's 77 tokens is cut off."""
    import torch

    if not samples:
        return []
    tokens = model.processor.tokenizer(
        list(samples), padding=True, truncation=True, max_length=model.max_tokens, return_tensors="pt"
    ).to(model.network.device)
    with torch.inference_mode():
        features = model.network.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return _unit_vectors(features)


def _unit_vectors(features: Any) -> list[Any]:
    """Rows of a tensor (n, dimension) as normalised float32 numpy arrays."""
    import torch

    vectors = torch.nn.functional.normalize(features.float(), dim=-1).cpu()
    finite = torch.isfinite(vectors).all(dim=-1).tolist()
    return [
        vector.numpy() if sound else FloatingPointError("the model gave a vector that is not finite")
        for vector, sound in zip(vectors, finite, strict=True)
    ]
