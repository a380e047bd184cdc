"""One chaos run from its seed to its verdict, with servers of its own."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.chaos.driver import LEASE_S, Chaos, Observed, deployment
from tests.chaos.plan import Material, make_plan
from tests.chaos.verdict import Verdict, judge
from tests.e2e.shared import put
from tests.e2e.stage import Stage

OBJECTS = 20


def run_chaos(
    folder: Path,
    *,
    models: Path,
    pictures: Sequence[Path],
    seed: int,
    jobs: int,
    blows: int,
    seconds: float,
    say: Callable[[str], None],
) -> tuple[Verdict, Observed]:
    """`blows` over about so many seconds, while `jobs` come. Raises TimeoutError where jobs do not end."""
    with deployment(folder, models) as (made, server):
        material = _material(made, pictures, seed)
        now_ms = int(time.time() * 1000)
        plan = make_plan(
            seed, jobs=jobs, blows=blows, seconds=seconds, lease_s=LEASE_S, material=material, now_ms=now_ms
        )
        observed = Chaos(made, server, plan, say).play(within_s=2 * seconds + 120)
        return judge(made, plan, observed), observed


def _material(made: Stage, pictures: Sequence[Path], seed: int) -> Material:
    rng = random.Random(seed)
    return Material(
        pictures=[put(made, f"in/{picture.name}", picture.read_bytes()) for picture in pictures],
        objects=[put(made, f"in/{n}.bin", rng.randbytes(rng.randint(1, 50_000))) for n in range(OBJECTS)],
    )
