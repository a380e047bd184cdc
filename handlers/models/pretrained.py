"""Reading a checkpoint's folder with transformers, safely: local files, tensors only, no code from the folder."""

from __future__ import annotations

from typing import Any

from handlers.protocol import CheckpointSpec


def load_model(architecture: Any, spec: CheckpointSpec, device: str) -> Any:
    """`architecture.from_pretrained` of the spec's folder, in evaluation mode, in the spec's dtype, on `device`.

    safetensors are preferred; a `.bin` is read with `weights_only=True`, so that no pickle runs code. `architecture` is
    a class of transformers, never an `Auto...` class: nothing in the folder chooses what is executed.
    Raises what transformers raises, and ValueError where weights of the architecture are missing from the folder
    (transformers would fill them with random numbers and go on).
    """
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()  # it would be lines of the courier's log
    model, loading = architecture.from_pretrained(
        spec.path,
        local_files_only=True,
        weights_only=True,
        dtype=getattr(torch, spec.dtype),
        output_loading_info=True,
    )
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(f"the weights lack {len(missing)} tensors, the first of them {missing[0]}")
    return model.to(device).eval().requires_grad_(False)


def load_part(part: Any, spec: CheckpointSpec) -> Any:
    """`part.from_pretrained` of a tokenizer's or image processor's class."""
    return part.from_pretrained(spec.path, local_files_only=True)


def prepare_pixels(processor: Any, image: Any) -> Any:
    """An RGB picture (PIL) as the model wants it: float32 numpy of shape (3, height, width).

    `processor` is one of transformers' `...ImageProcessorPil` classes: resized, cropped, scaled and normalised as the
    checkpoint's preprocessor_config.json says, without torchvision.
    """
    import numpy

    return numpy.ascontiguousarray(processor(images=image, return_tensors="np")["pixel_values"][0], dtype=numpy.float32)


def stack(model: Any, pixels: list[Any]) -> Any:
    """Prepared pictures as one tensor of shape (n, 3, height, width), on the model's device and in its dtype."""
    import numpy
    import torch

    return torch.from_numpy(numpy.stack(pixels)).to(device=model.device, dtype=model.dtype)
