"""Three workers, 2,000 small jobs, and a blow every few seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.driver import BEAT_S, LEASE_S
from tests.chaos.plan import Blow
from tests.chaos.run import run_chaos

SEED = 42
JOBS = 2000


@pytest.mark.timeout(240)
def test_every_job_is_finished_once_whatever_dies_meanwhile(
    tmp_path: Path, tiny_models: Path, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    verdict, observed = run_chaos(
        tmp_path, models=tiny_models, pictures=pictures, seed=SEED, jobs=JOBS, blows=9, seconds=50, say=print
    )
    print("\n".join(verdict.summary()))
    assert verdict.good, "\n".join(verdict.summary())
    assert verdict.jobs == JOBS
    assert {blow for _, blow in observed.blows} == set(Blow)
    # It was no walk in the park: attempts were lost, failed and interrupted, and workers fell silent with jobs in hand.
    assert verdict.endings.keys() >= {"lost", "failed", "interrupted"}
    reclaimed = [each.back_s for each in verdict.reclaims if each.seen_throughout]
    assert reclaimed
    assert max(reclaimed) <= LEASE_S + BEAT_S + 5
