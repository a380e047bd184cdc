from __future__ import annotations

import pytest

from worker.health import Check, Effect, Health, Limits, alive, ready


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def health(clock: Hand) -> Health:
    """A worker that is well and has been for a moment."""
    health = Health(clock, Limits(loop_s=10, loop_restart_s=60, claim_s=60, claim_restart_s=300))
    health.report("database", ok=True)
    health.report("executor", ok=True, why="ready")
    health.tick("loop")
    health.tick("claim")
    return health


def verdict(health: Health) -> tuple[bool, bool]:
    return alive(health.checks()), ready(health.checks())


def check(health: Health, name: str) -> Check:
    (found,) = [check for check in health.checks() if check.name == name]
    return found


def test_a_worker_that_is_well_is_alive_and_ready(health: Health) -> None:
    assert verdict(health) == (True, True)


def test_a_worker_that_has_just_started_is_alive_and_not_ready(clock: Hand) -> None:
    health = Health(clock)
    assert verdict(health) == (True, False)
    assert check(health, "database").why == "no connection yet"


def test_claiming_that_has_stalled_turns_readiness_red_although_the_loop_turns(health: Health, clock: Hand) -> None:
    for _ in range(61):
        clock.now += 1
        health.tick("loop")
    assert verdict(health) == (True, False)
    assert check(health, "claim").why == "claiming has stalled: no claim was answered for 61 s"
    health.tick("claim")
    assert verdict(health) == (True, True)


def test_claiming_that_has_stalled_for_long_asks_for_a_restart(health: Health, clock: Hand) -> None:
    clock.now += 301
    health.tick("loop")
    assert verdict(health) == (False, False)
    assert check(health, "claim").effect is Effect.RESTART


def test_a_worker_that_is_full_need_not_claim(health: Health, clock: Hand) -> None:
    health.rest("claim")
    clock.now += 10_000
    health.tick("loop")
    assert verdict(health) == (True, True)


def test_a_worker_that_has_room_again_has_its_time_to_claim(health: Health, clock: Hand) -> None:
    health.rest("claim")
    clock.now += 10_000
    health.tick("loop")
    health.expect("claim")
    assert verdict(health) == (True, True)
    clock.now += 50
    health.expect("claim")  # asking again gives no more time
    clock.now += 11
    health.tick("loop")
    assert verdict(health) == (True, False)


def test_a_loop_that_is_stuck_asks_for_a_restart_after_a_while(health: Health, clock: Hand) -> None:
    clock.now += 11
    assert verdict(health) == (True, False)
    clock.now += 50
    assert verdict(health) == (False, False)
    assert check(health, "loop").why == "the event loop has not turned for 61 s"


def test_no_restart_brings_a_database_back(health: Health, clock: Hand) -> None:
    health.report("database", ok=False, why="connection refused")
    clock.now += 3600
    health.tick("loop")
    assert verdict(health) == (True, False)
    assert check(health, "claim").effect is Effect.NOT_READY


def test_claiming_has_its_time_anew_when_the_database_is_back(health: Health, clock: Hand) -> None:
    health.report("database", ok=False, why="connection refused")
    clock.now += 3600
    health.tick("loop")
    health.report("database", ok=True)
    assert verdict(health) == (True, True)
    clock.now += 301
    health.tick("loop")
    assert verdict(health) == (False, False)


@pytest.mark.parametrize("part", ["database", "store", "executor", "lease", "draining"])
def test_a_worker_that_can_do_nothing_is_not_ready_and_is_left_running(health: Health, part: str) -> None:
    health.report(part, ok=False, why="because")  # type: ignore[arg-type]
    assert verdict(health) == (True, False)


@pytest.mark.parametrize("part", ["sandbox", "checkpoints"])
def test_a_warning_is_listed_and_turns_nothing_red(health: Health, part: str) -> None:
    health.report(part, ok=False, why="no namespaces here")  # type: ignore[arg-type]
    assert verdict(health) == (True, True)
    assert check(health, part).as_json() == {
        "name": part,
        "ok": False,
        "why": "no namespaces here",
        "since_s": 0,
        "effect": "warning",
    }


def test_a_check_says_for_how_long_its_verdict_has_stood_whatever_the_words(health: Health, clock: Hand) -> None:
    health.report("executor", ok=False, why="ended by signal 11")
    clock.now += 4
    health.report("executor", ok=False, why="backing off 8 s")
    clock.now += 2
    assert (check(health, "executor").why, check(health, "executor").since_s) == ("backing off 8 s", 6)
    health.report("executor", ok=True, why="ready")
    assert check(health, "executor").since_s == 0


def test_a_worker_that_was_stopped_and_continued_is_well_again_with_its_next_turn(health: Health, clock: Hand) -> None:
    clock.now += 100
    health.tick("loop")
    health.tick("claim")
    assert verdict(health) == (True, True)
