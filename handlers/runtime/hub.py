"""The checkpoints of this executor: each loaded once, when it is first wanted, and kept."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import handlers.models
from handlers.models import CheckpointBroken
from handlers.protocol import CheckpointSpec

log = logging.getLogger(__name__)

#: What a checkpoint's folder has one of: of a model, of a pipeline of several, of an openai-whisper.
_INDEXES = ("config.json", "model_index.json", "*.pt")

Load = Callable[[CheckpointSpec, str], Any]
LoadProcessor = Callable[[CheckpointSpec], Any]


@dataclass(slots=True)
class _Loaded:
    model: Any
    leases: int = 0
    last_used: float = 0.0


class UnknownCheckpoint(LookupError):
    """No checkpoint of that name came with the courier's greeting."""


class Hub:
    """Models by name of their checkpoint. Called from threads: the device's for models, the pool's for processors."""

    def __init__(
        self,
        checkpoints: Iterable[CheckpointSpec],
        device: str,
        *,
        load: Load = handlers.models.load,
        load_processor: LoadProcessor = handlers.models.load_processor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._specs = {spec.name: spec for spec in checkpoints}
        self._device = device
        self._load = load
        self._load_processor = load_processor
        self._clock = clock
        self._models: dict[str, _Loaded] = {}
        self._processors: dict[str, Any] = {}
        self._lock = threading.Lock()
        # Of their own: weights may take minutes to load, and no thread of the pool should wait for them.
        self._processors_lock = threading.Lock()
        #: Checkpoint -> why it could not be loaded when it was last tried.
        self.broken: dict[str, str] = {}

    def spec(self, name: str) -> CheckpointSpec:
        """The spec of a checkpoint. Raises UnknownCheckpoint."""
        try:
            return self._specs[name]
        except KeyError:
            known = ", ".join(sorted(self._specs)) or "none"
            raise UnknownCheckpoint(f"checkpoint {name!r} is unknown to this executor; known: {known}") from None

    def missing(self, names: Iterable[str]) -> dict[str, str]:
        """Those of the checkpoints that surely cannot be loaded, with the reason, without loading any."""
        found = {}
        for name in names:
            if name not in self._specs:
                found[name] = "it is not in the catalogue"
            elif not any(file.is_file() for index in _INDEXES for file in Path(self._specs[name].path).glob(index)):
                path = self._specs[name].path
                found[name] = f"there is none of {', '.join(_INDEXES)} in {path}: get it with `mediamill models pull`"
        return found

    @contextmanager
    def lease(self, name: str) -> Iterator[Any]:
        """The model, loaded where it is not yet; it stays loaded at least until the end of the block.

        Raises UnknownCheckpoint, and what the loader raises (`handlers.models.CheckpointBroken`).
        """
        spec = self.spec(name)
        with self._lock:
            if (loaded := self._models.get(name)) is None:
                started = self._clock()
                loaded = self._models[name] = _Loaded(self._tried(name, lambda: self._load(spec, self._device)))
                log.info("loaded checkpoint %s on %s in %.2f s", name, self._device, self._clock() - started)
            loaded.leases += 1
        try:
            yield loaded.model
        finally:
            with self._lock:
                loaded.leases -= 1
                loaded.last_used = self._clock()

    def processor(self, name: str) -> Any:
        """What prepares samples for the checkpoint on the CPU. Raises as `lease`."""
        spec = self.spec(name)
        with self._processors_lock:
            if name not in self._processors:
                self._processors[name] = self._tried(name, lambda: self._load_processor(spec))
            return self._processors[name]

    def _tried(self, name: str, load: Callable[[], Any]) -> Any:
        try:
            loaded = load()
        except CheckpointBroken as error:
            self.broken = self.broken | {name: str(error)}
            raise
        return loaded
