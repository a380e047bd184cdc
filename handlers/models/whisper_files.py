"""A Whisper checkpoint's folder: read into the names of openai-whisper, tensors only, every one in its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

#: Size of the vocabulary with 99 languages; one less is English only, one more knows Cantonese too.
MULTILINGUAL_VOCABULARY = 51865
_VOCABULARIES = range(MULTILINGUAL_VOCABULARY - 1, MULTILINGUAL_VOCABULARY + 2)

#: openai-whisper's sizes by the names of transformers' config.json.
_DIMENSIONS = {
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}
_AUDIO_CONTEXT = 1500
_MELS = (80, 128)

#: transformers' names -> openai-whisper's, each replaced wherever it stands as whole parts of the name.
_RENAMED = {
    "layers": "blocks",
    "self_attn": "attn",
    "encoder_attn": "cross_attn",
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "final_layer_norm": "mlp_ln",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "out",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "embed_tokens": "token_embedding",
}
_WHOLE = {
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "encoder.layer_norm.weight": "encoder.ln_post.weight",
    "encoder.layer_norm.bias": "encoder.ln_post.bias",
    "decoder.layer_norm.weight": "decoder.ln.weight",
    "decoder.layer_norm.bias": "decoder.ln.bias",
}
#: The output layer, which is the token embedding once more.
_TIED = "proj_out.weight"


def dimensions(folder: str) -> dict[str, int]:
    """The arguments of openai-whisper's `ModelDimensions`. Raises ValueError for what is no Whisper, OSError."""
    if (own := _own_file(folder)) is not None:
        found = dict(_own(own, "meta")["dims"])
    else:
        config = _json(folder, "config.json")
        if lacking := sorted(set(_DIMENSIONS.values()) - set(config)):
            raise ValueError(f"config.json lacks {', '.join(lacking)}: it is not that of a Whisper")
        found = {ours: config[theirs] for ours, theirs in _DIMENSIONS.items()}
        for side in ("encoder", "decoder"):
            if config.get(f"{side}_ffn_dim", 4 * config["d_model"]) != 4 * config["d_model"]:
                raise ValueError(
                    f"{side}_ffn_dim in config.json is not 4 times d_model: openai-whisper has no such model"
                )
    if bad := [name for name, size in found.items() if not isinstance(size, int) or size < 1]:
        raise ValueError(f"the size {bad[0]} is {found[bad[0]]!r}")
    if found["n_audio_ctx"] != _AUDIO_CONTEXT:
        raise ValueError(f"it takes {found['n_audio_ctx']} frames of sound where openai-whisper has {_AUDIO_CONTEXT}")
    if found["n_mels"] not in _MELS:
        raise ValueError(f"it takes {found['n_mels']} mel bands where openai-whisper has {_MELS[0]} or {_MELS[1]}")
    if found["n_vocab"] not in _VOCABULARIES:
        raise ValueError(
            f"its vocabulary has {found['n_vocab']} tokens: openai-whisper's have {_VOCABULARIES[0]} (English only),"
            f" {_VOCABULARIES[1]} or {_VOCABULARIES[2]}"
        )
    return found


def tensors(folder: str) -> dict[str, Any]:
    """The weights by openai-whisper's names. Raises what safetensors and torch raise about damaged files."""
    if (own := _own_file(folder)) is not None:
        return dict(_own(own, "cpu")["model_state_dict"])
    from safetensors.torch import load_file

    found = load_file(Path(folder) / "model.safetensors")
    return {_renamed(name): tensor for name, tensor in found.items() if name != _TIED}


def uninitialized() -> AbstractContextManager[Any]:
    """Networks made inside have whatever was in memory: random numbers for a large one take longer than reading it."""
    from torch.overrides import TorchFunctionMode

    class Uninitialized(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(func, "__module__", None) == "torch.nn.init":
                return (kwargs or {}).get("tensor", args[0] if args else None)
            return func(*args, **(kwargs or {}))

    return Uninitialized()


def fill(network: Any, weights: Mapping[str, Any]) -> None:
    """Puts the weights into a network, in float32.

    Raises ValueError where a tensor is missing, has another shape, or has no place.
    """
    places = network.state_dict()
    if missing := sorted(places.keys() - weights.keys()):
        raise ValueError(f"the weights lack {len(missing)} tensors, the first of them {missing[0]}")
    if odd := sorted(weights.keys() - places.keys()):
        raise ValueError(f"the weights have {len(odd)} tensors that are not of a Whisper, the first of them {odd[0]}")
    for name, place in places.items():
        if weights[name].shape != place.shape:
            found, expected = tuple(weights[name].shape), tuple(place.shape)
            raise ValueError(f"{name} has the shape {found}, by the sizes of the model it is {expected}")
    network.load_state_dict({name: weights[name].float() for name in places}, assign=True)


def alignment_heads(folder: str) -> tuple[tuple[int, int], ...] | None:
    """(layer, head) of the heads that follow the sound, as `generation_config.json` names them; None: it does not."""
    if not (Path(folder) / "generation_config.json").is_file():
        return None
    heads = _json(folder, "generation_config.json").get("alignment_heads")
    return None if heads is None else tuple((int(layer), int(head)) for layer, head in heads)


def _renamed(name: str) -> str:
    name = name.removeprefix("model.")
    if whole := _WHOLE.get(name):
        return whole
    return ".".join(_RENAMED.get(part, part) for part in name.split("."))


def _own_file(folder: str) -> Path | None:
    """The checkpoint in openai's own form, where there is no other."""
    if (Path(folder) / "model.safetensors").exists():
        return None
    return next(iter(sorted(Path(folder).glob("*.pt"))), None)


def _own(path: Path, device: str) -> dict[str, Any]:
    import torch

    found = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(found, dict) or not {"dims", "model_state_dict"} <= found.keys():
        raise ValueError(f"{path.name} lacks dims and model_state_dict: it is no checkpoint of openai-whisper")
    return found


def _json(folder: str, name: str) -> dict[str, Any]:
    found = json.loads((Path(folder) / name).read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{name} holds no object")
    return found
