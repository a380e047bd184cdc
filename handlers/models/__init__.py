"""Model families: how a checkpoint is loaded, prepared for and run, one module each.

A family module has `load(spec, device)`, the model with its weights on a device, and `load_processor(spec)`, the part
that works on the CPU and needs no weights (tokenizer, sizes and means of pictures): the courier's batches wait for the
device only with samples that are already prepared.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

from handlers.protocol import CheckpointSpec

#: Family -> module; imported when its first checkpoint is loaded, because that imports torch and transformers.
FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "blip_caption": "handlers.models.blip_caption",
        "blip_vqa": "handlers.models.blip_vqa",
        "clip": "handlers.models.clip",
        "stable_diffusion": "handlers.models.stable_diffusion",
        "stable_diffusion_xl": "handlers.models.stable_diffusion_xl",
        "whisper": "handlers.models.whisper",
    }
)


class CheckpointBroken(Exception):
    """A checkpoint cannot be loaded: says which, why, and what mends it."""


def load(spec: CheckpointSpec, device: str) -> Any:
    """The model of a checkpoint, in evaluation mode, with its weights on `device`.

    Raises CheckpointBroken where files are missing, are damaged, or are of another architecture.
    """
    return _attempt("load", spec, device)


def load_processor(spec: CheckpointSpec) -> Any:
    """What prepares samples for a checkpoint on the CPU: the first argument of the family's `prepare...` functions.

    It may be used by several threads at once. Raises CheckpointBroken.
    """
    return _attempt("load_processor", spec)


def name_of(processor: Any) -> str:
    """Name, in the catalogue, of the checkpoint that a processor belongs to: what a role stands for."""
    name: str = processor.name
    return name


def _attempt(what: str, spec: CheckpointSpec, *args: Any) -> Any:
    if (module := FAMILIES.get(spec.family)) is None:
        raise CheckpointBroken(
            f"checkpoint {spec.name!r} is of the unknown family {spec.family!r}; known: {', '.join(sorted(FAMILIES))}"
        )
    try:
        return getattr(import_module(module), what)(spec, *args)
    # What transformers, tokenizers and safetensors raise about a damaged folder has no common base class.
    except Exception as error:
        if isinstance(error, MemoryError | ImportError) or _of_the_device(error):
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointBroken(
            f"checkpoint {spec.name!r} in {spec.path} cannot be loaded ({reason});"
            " `mediamill models check` names the damaged file, `mediamill models pull` gets it again"
        ) from error


def _of_the_device(error: Exception) -> bool:
    """Whether the device failed or was full (torch says both by RuntimeErrors): the checkpoint is sound."""
    return type(error).__name__ == "OutOfMemoryError" or "CUDA error" in str(error)
