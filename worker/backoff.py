"""How long to wait before another try."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Capped exponential back-off with full jitter (M. Brooker, "Exponential Backoff And Jitter", 2015).

    The jitter stays at the cap too: jobs that failed together must not come back together.
    """

    base_s: float
    cap_s: float
    rng: random.Random

    def delay_s(self, failures: int) -> float:
        """Seconds before the try that follows `failures` failed ones (1 or more)."""
        return self.rng.uniform(0, min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 60)))
