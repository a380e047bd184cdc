"""The messages of chaos are what they are said to be: else its accounts would prove nothing."""

from __future__ import annotations

import random

import pytest

from config.lanes import LANES
from config.settings import Settings
from handlers.registry import Registry
from intake.kafka.judge import Judge
from intake.kafka.record import Arrived
from intake.message import Rules
from storage.rejections import NewRejection
from storage.submit import NewJob
from tests.chaos.messages import BAD_KINDS, MESSAGE_BYTES, Author, Draft, Fate

PICTURES = [f"s3://media/{n}.jpg" for n in range(12)]


def drafts(seed: int, n: int) -> list[Draft]:
    return Author(random.Random(seed), PICTURES).write(n)


@pytest.fixture(scope="module")
def judge() -> Judge:
    environ = {"MEDIAMILL_MESSAGE_BYTES": str(MESSAGE_BYTES), "MEDIAMILL_S3_BUCKETS": '{"media": "rw"}'}
    settings = Settings.load(environ=environ, files=[]).settings
    rules = {lane: Rules.of(settings, lane=lane, checkpoints={}) for lane in LANES}
    return Judge(Registry.load(test_types=True), rules, "test")


def judged(judge: Judge, draft: Draft) -> NewJob | NewRejection:
    arrived = Arrived(draft.lane, "topic", 0, 0, 1, draft.key, draft.headers, draft.value)
    return judge(arrived, "cluster")


def test_a_seed_writes_the_same_messages_again() -> None:
    assert drafts(7, 500) == drafts(7, 500)
    assert drafts(7, 500) != drafts(8, 500)


def test_what_is_good_passes_and_every_bad_kind_is_refused(judge: Judge) -> None:
    seen = set()
    for draft in drafts(1, 5000):
        # Conflicts are for the tables to find.
        refused = draft.fate is Fate.REJECTED and draft.kind != "conflict"
        assert isinstance(judged(judge, draft), NewRejection if refused else NewJob), draft
        seen.add(draft.kind)
    assert seen > BAD_KINDS.keys() | {"conflict", "duplicate", "held", "noop", "caption"}


def test_a_duplicate_has_the_body_of_the_one_before_and_a_conflict_has_not(judge: Judge) -> None:
    first: dict[str, bytes] = {}
    for draft in drafts(2, 2000):
        job = judged(judge, draft)
        if draft.id is None or not isinstance(job, NewJob):
            continue
        if draft.kind in ("duplicate", "conflict"):
            assert (first[draft.id] == job.body_sha256) is (draft.kind == "duplicate")
        first.setdefault(draft.id, job.body_sha256)
    assert first
