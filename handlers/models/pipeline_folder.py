"""Reading the folder of a pipeline of diffusers, safely: local files, safetensors only, no code from the folder.

`DiffusionPipeline.from_pretrained` imports whatever library and class model_index.json names. Here the family names the
classes, each part is loaded by its own, and the index is only read for whether it is of that family.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handlers.models import schedulers
from handlers.models.diffusion import DiffusionProcessor
from handlers.protocol import CheckpointSpec

#: Class of a pipeline -> family of this house.
_FAMILIES: Mapping[str, str] = {
    "StableDiffusionPipeline": "stable_diffusion",
    "StableDiffusionXLPipeline": "stable_diffusion_xl",
}
#: Pixels a side of a latent value, where the autoencoder has the usual four blocks.
_SCALE = 8
_STEPS = 30


def read_index(spec: CheckpointSpec) -> Mapping[str, Any]:
    """model_index.json. Raises ValueError where the folder is of another family than the spec says."""
    index = _read(spec, "model_index.json")
    class_name = index.get("_class_name")
    family = _FAMILIES.get(str(class_name))
    if family == spec.family:
        return index
    if family is None:
        raise ValueError(f"it is a {class_name}; pictures are made with {' or '.join(_FAMILIES)}")
    raise ValueError(f"it is a {class_name}: correct its family in the catalogue to {family}")


def read_processor(spec: CheckpointSpec, tokenizers: tuple[str, ...], guidance: float) -> DiffusionProcessor:
    """What works on the CPU, from the folders `tokenizers`; `guidance` is what the family's checkpoints do best with.

    Raises ValueError as `read_index`, and where the scheduler is none of ours.
    """
    from transformers import CLIPTokenizer

    read_index(spec)
    unet = _read(spec, "unet/config.json")
    scheduler_config = _read(spec, "scheduler/scheduler_config.json")
    size = unet.get("sample_size") or 64
    height, width = size if isinstance(size, list) else (size, size)
    defaults = spec.generation
    named = None if defaults is None else defaults.scheduler
    return DiffusionProcessor(
        name=spec.name,
        tokenizers=tuple(
            CLIPTokenizer.from_pretrained(Path(spec.path, folder), local_files_only=True) for folder in tokenizers
        ),
        width=width * _SCALE if defaults is None else defaults.width,
        height=height * _SCALE if defaults is None else defaults.height,
        steps=_STEPS if defaults is None else defaults.steps,
        guidance=guidance if defaults is None else defaults.guidance,
        scheduler=schedulers.own_name(scheduler_config) if named is None else schedulers.known(named),
        scheduler_config=scheduler_config,
        embeds_guidance=unet.get("time_cond_proj_dim") is not None,
    )


def load_network(architecture: Any, spec: CheckpointSpec, part: str, device: str) -> Any:
    """A network of diffusers or transformers from the folder `part`, in evaluation mode, in the spec's dtype.

    Weights saved as float16 are taken where there are no others, or where the dtype is no wider. Raises what the
    library raises, and ValueError where weights are missing (the library would fill them with random numbers).
    """
    import torch
    from diffusers.models.modeling_utils import ModelMixin
    from diffusers.utils import is_accelerate_available
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    dtype = getattr(torch, spec.dtype)
    if issubclass(architecture, ModelMixin):
        options = {"torch_dtype": dtype, "low_cpu_mem_usage": is_accelerate_available()}
    else:
        options = {"dtype": dtype}
    folder = Path(spec.path, part)
    network, loading = architecture.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        variant=_variant(folder, spec.dtype),
        output_loading_info=True,
        **options,
    )
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(f"the weights of {part} lack {len(missing)} tensors, the first of them {missing[0]}")
    return network.to(device).eval().requires_grad_(False)


def _variant(folder: Path, dtype: str) -> str | None:
    names = [path.name for path in folder.glob("*.safetensors")]
    half = any(".fp16." in name for name in names)
    plain = any(".fp16." not in name and ".non_ema." not in name for name in names)
    return "fp16" if half and (dtype != "float32" or not plain) else None


def _read(spec: CheckpointSpec, name: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(spec.path, name).read_bytes())
    except FileNotFoundError:
        raise ValueError(f"there is no {name}") from None
    except ValueError as error:
        raise ValueError(f"{name} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{name} is not an object")
    return content
