"""`mediamill worker`, but the death of a relay is noticed sooner: the seconds that a test cannot wait.

Run as a program. Everything else is as it is deployed; `make soak` runs the real command with its real times.
"""

from __future__ import annotations

from dataclasses import dataclass
from unittest.mock import patch

from console import kafka_parts
from console.cli import main
from worker.relay import Pace


@dataclass(frozen=True, slots=True)
class QuickPace(Pace):
    """What a dead relay had in hand is published by another after 8 s."""

    lease_s: float = 8


if __name__ == "__main__":
    with patch.object(kafka_parts, "Pace", QuickPace):
        main()
