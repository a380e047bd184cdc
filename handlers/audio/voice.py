"""Where somebody speaks: silero-vad's probability of speech for each 32 ms of a recording.

Silero Team, Silero VAD, https://github.com/snakers4/silero-vad; the weights lie in the package, nothing is fetched.
Only the last layer remembers, so all frames of a block go through the others at once: the same numbers as the package's
own model, which takes frames one by one and keeps its memory inside, where two recordings cannot share it. The package
is not imported for it: that would set torch to one thread in the whole process.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

#: Samples a second that the model was made for.
RATE = 16_000
#: Samples of one frame.
FRAME = 512
#: Samples of the frame before that are looked at with each frame.
_CONTEXT = 64
_WEIGHTS = "silero_vad.jit"
#: Names of the weights in that file, and here.
_NAMES = {
    "_model.stft.forward_basis_buffer": "spectrum.weight",
    **{
        f"_model.encoder.{layer}.reparam_conv.{part}": f"layers.{layer}.{part}"
        for layer in range(4)
        for part in ("weight", "bias")
    },
    # A cell of one step has the same weights under other names than a layer of many.
    **{f"_model.decoder.rnn.{part}": f"memory.{part}_l0" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
    **{f"_model.decoder.decoder.2.{part}": f"last.{part}" for part in ("weight", "bias")},
}


@dataclass(frozen=True, slots=True)
class _State:
    """What is remembered between blocks: the end of the last frame, and the last layer's memory."""

    context: Any
    memory: Any


class Voice:
    """Listens to one recording, block by block, from its beginning. Works on the CPU."""

    def __init__(self) -> None:
        self._state: _State | None = None

    def probabilities(self, samples: Any) -> Any:
        """How likely somebody speaks, 0 to 1, in each frame: float32 numpy (frames,).

        `samples`: float32 numpy of shape (frames * FRAME,), mono, 16 kHz. Raises ValueError for a part of a frame.
        """
        import torch

        if len(samples) % FRAME:
            raise ValueError(f"{len(samples)} samples are no whole number of frames of {FRAME}")
        if len(samples) == 0:
            return torch.zeros(0).numpy()
        with torch.inference_mode():
            frames = torch.from_numpy(samples).reshape(-1, FRAME)
            before = torch.zeros(1, _CONTEXT) if self._state is None else self._state.context
            memory = None if self._state is None else self._state.memory
            contexts = torch.cat([before, frames[:-1, -_CONTEXT:]])
            found, memory = _network()(torch.cat([contexts, frames], dim=1), memory)
            self._state = _State(frames[-1:, -_CONTEXT:].clone(), memory)
            return found.numpy()


@cache
def _network() -> Any:
    """The network with its weights; it has no state and may be used by several threads."""
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spectrum = nn.Conv1d(1, 258, kernel_size=256, stride=128, bias=False)
            sizes, strides = (129, 128, 64, 64, 128), (1, 2, 2, 1)
            self.layers = nn.ModuleList(
                nn.Conv1d(sizes[i], sizes[i + 1], kernel_size=3, stride=strides[i], padding=1) for i in range(4)
            )
            self.memory = nn.LSTM(128, 128, batch_first=True)
            self.last = nn.Conv1d(128, 1, kernel_size=1)

        def forward(self, frames: torch.Tensor, memory: Any) -> tuple[torch.Tensor, Any]:
            x = self.spectrum(nn.functional.pad(frames[:, None], (0, 64), mode="reflect"))
            x = (x[:, :129] ** 2 + x[:, 129:] ** 2).sqrt()
            for layer in self.layers:
                x = layer(x).relu()
            hidden, memory = self.memory(x.reshape(1, -1, 128), memory)
            return self.last(hidden[0].relu()[..., None]).sigmoid()[:, 0, 0], memory

    network = Network().eval().requires_grad_(False)
    network.load_state_dict(_weights())
    return network


def _weights() -> dict[str, Any]:
    """The package's tensors by our names."""
    import torch

    found = find_spec("silero_vad")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("silero_vad is not installed", name="silero_vad")
    with warnings.catch_warnings():
        # torch would have its successor used, which cannot read this file.
        warnings.simplefilter("ignore", DeprecationWarning)
        tensors = torch.jit.load(Path(found.origin).parent / "data" / _WEIGHTS, map_location="cpu").state_dict()
    return {ours: tensors[theirs].clone() for theirs, ours in _NAMES.items()}
