"""What a worker is put together from: made by the composition root, handed over whole."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from config.settings import Settings
from handlers.protocol import CheckpointSpec
from handlers.registry import Registry
from storage.database import Database
from storage.objects.base import ObjectStore
from storage.objects.reader import ObjectReader
from storage.settle import Rules
from worker.clock import Clock, RealClock
from worker.health import Health
from worker.metrics import Metrics
from worker.sandbox import Sandbox


@dataclass(frozen=True, slots=True)
class EmbedCheckpoint:
    """The checkpoint that fills the embedding space."""

    name: str
    revision: str
    """sha256 over its files: other weights under the same name are another space."""
    dimension: int


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that a worker works with."""

    settings: Settings
    database: Database
    store: ObjectStore
    reader: ObjectReader
    registry: Registry
    sandbox: Sandbox
    metrics: Metrics
    health: Health
    build: str
    environ: Mapping[str, str]
    #: Checkpoints that are there, by name, and the default of each role.
    checkpoints: Mapping[str, CheckpointSpec]
    roles: Mapping[str, str]
    embed: EmbedCheckpoint | None = None
    clock: Clock = field(default_factory=RealClock)
    rng: random.Random = field(default_factory=random.Random)

    @property
    def rules(self) -> Rules:
        """What counts against a job."""
        return Rules.of(self.settings)


#: How a worker ended: `drained` in peace, `at once` by a second signal.
End = Literal["drained", "at once"]
