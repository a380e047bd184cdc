"""What the scheduler must know of the device: when its memory is full, when it is beyond use, what it is called."""

from __future__ import annotations

import gc
import platform
import sys
from typing import Any, Protocol


class Device(Protocol):
    """A device that batches run on."""

    def is_full(self, error: BaseException) -> bool:
        """Whether an exception of a batch says that its memory did not suffice."""

    def is_broken(self, error: BaseException) -> bool:
        """Whether after this exception no batch can run here, in this process."""

    def free(self) -> None:
        """Gives memory back that nothing uses."""

    def describe(self) -> tuple[str, int | None]:
        """Its name for people, and the bytes of its memory (None for a CPU). May import torch: seconds."""


class DeviceBroken(Exception):
    """The device cannot be used from this process any more: only a new process can go on."""


class TorchDevice:
    """A device by torch's name (`cpu`, `cuda:0`); torch is imported when there is something to ask of it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def is_full(self, error: BaseException) -> bool:
        if isinstance(error, MemoryError):
            return True
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(error, torch.OutOfMemoryError):
            return True
        # torch's allocator of the CPU has no class of its own.
        return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)

    def is_broken(self, error: BaseException) -> bool:
        # An illegal access or a failed assertion in a kernel ends the CUDA context: every later call fails like it.
        return (
            self.name.startswith("cuda")
            and isinstance(error, RuntimeError)
            and not self.is_full(error)
            and "CUDA error" in str(error)
        )

    def free(self) -> None:
        gc.collect()
        if self.name.startswith("cuda"):
            self._torch().cuda.empty_cache()

    def describe(self) -> tuple[str, int | None]:
        if not self.name.startswith("cuda"):
            return platform.processor() or platform.machine(), None
        properties = self._torch().cuda.get_device_properties(self.name)
        return str(properties.name), int(properties.total_memory)

    @staticmethod
    def _torch() -> Any:
        import torch

        return torch
