"""How much a worker takes from which lane."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from config.lanes import Lane
from handlers.protocol import Ready
from handlers.registry import Registry
from worker.backoff import Backoff
from worker.claiming import MOST_AT_ONCE, MOST_IN_HAND, Appetite, in_turn, shares
from worker.costs import Costs
from worker.life import runnable

WEIGHTS: dict[Lane, float] = {"interactive": 8.0, "upload": 4.0, "backfill": 1.0}


def test_a_worker_takes_as_much_as_fills_a_few_predicted_seconds() -> None:
    costs = Costs()
    costs.learn("image.caption", 0.5)
    wants = shares(Appetite({"upload": 1.0}, 5), ["image.caption"], costs, [])
    assert [(want.lane, want.n) for want in wants] == [("upload", 10)]
    assert shares(Appetite({"upload": 1.0}, 5), ["image.caption"], costs, ["image.caption"] * 10) == []


def test_a_job_longer_than_that_is_taken_when_nothing_is_in_hand() -> None:
    costs = Costs()
    costs.learn("video.edit", 3600)
    appetite = Appetite({"upload": 1.0}, 5)
    assert [want.n for want in shares(appetite, ["video.edit"], costs, [])] == [1]
    assert shares(appetite, ["video.edit"], costs, ["video.edit"]) == []


def test_lanes_get_their_weight_and_none_gets_nothing() -> None:
    costs = Costs()
    costs.learn("image.caption", 0.05)
    wants = {want.lane: want.n for want in shares(Appetite(WEIGHTS, 5), ["image.caption"], costs, [])}
    assert wants["interactive"] > wants["upload"] > wants["backfill"] > 0
    assert abs(wants["interactive"] / wants["upload"] - 2) < 0.2


def test_of_a_type_that_nobody_knows_the_cost_of_few_are_taken_first() -> None:
    wants = shares(Appetite(WEIGHTS, 5), ["video.edit"], Costs(), [])
    assert [want.n for want in wants] == [2, 2, 2]


def test_many_types_do_not_multiply_what_is_claimed_ahead() -> None:
    costs = Costs()
    types = [f"t{n}" for n in range(8)]
    for type_ in types:
        costs.learn(type_, 0.01)
    wants = shares(Appetite(WEIGHTS, 5), types, costs, [])
    assert sum(want.n for want in wants) * 0.01 < 6


@given(
    in_hand=st.integers(0, 600),
    cost=st.floats(0, 10_000, allow_nan=False),
    ahead=st.floats(0.1, 1000),
    types=st.integers(0, 5),
)
def test_claims_are_bounded_whatever_jobs_cost(in_hand: int, cost: float, ahead: float, types: int) -> None:
    costs = Costs()
    costs.learn("t0", cost)
    names = [f"t{n}" for n in range(types)]
    wants = shares(Appetite(WEIGHTS, ahead), names, costs, ["t0"] * in_hand)
    assert all(1 <= want.n <= MOST_AT_ONCE for want in wants)
    if in_hand >= MOST_IN_HAND:
        assert wants == []


def test_cheap_jobs_of_one_lane_do_not_keep_the_others_out() -> None:
    costs, appetite, rng = Costs(), Appetite(WEIGHTS, 5), random.Random(1)
    costs.learn("test.noop", 0.0)
    taken: Counter[str] = Counter()
    for _ in range(1300):
        left = MOST_AT_ONCE
        for want in in_turn(shares(appetite, ["test.noop"], costs, []), appetite, rng):
            taken[want.lane] += min(want.n, left)
            left -= min(want.n, left)
    parts = {lane: taken[lane] / taken.total() * 13 for lane in taken}
    assert all(abs(parts[lane] - weight) < 0.5 for lane, weight in WEIGHTS.items()), parts


def test_back_off_doubles_to_its_cap_and_jitters_there_too() -> None:
    backoff = Backoff(base_s=2, cap_s=600, rng=random.Random(1))
    delays = {n: [backoff.delay_s(n) for _ in range(500)] for n in (1, 2, 5, 50)}
    assert 1.9 < max(delays[1]) <= 2
    assert 3.8 < max(delays[2]) <= 4
    assert 30 < max(delays[5]) <= 32
    assert 590 < max(delays[50]) <= 600
    assert min(delays[50]) < 30


def test_a_type_that_only_the_executor_knows_is_left_to_workers_that_know_it_too() -> None:
    ready = Ready(version=1, device="cpu", device_name="cpu", types=("image.caption", "of.others", "bad\x00name"))
    assert runnable(ready, Registry.load(test_types=True)) == ["image.caption"]
