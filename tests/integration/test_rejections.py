"""Rejected messages are kept byte for byte, each once, within the budget; beyond it their bodies are in the store."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import boto3
import pytest

from storage.database import Database
from storage.destinations import DEAD_LETTER
from storage.objects.errors import StoreUnavailable
from storage.objects.local import LocalStore
from storage.objects.rules import BucketRules
from storage.objects.s3 import S3Options, S3Store
from storage.rejected_bodies import Sent, delete_unused
from storage.rejected_lookup import show
from storage.rejections import (
    NewRejection,
    expire_rejected,
    fold_rejected,
    reject_within,
    used_bytes,
)
from storage.settle import Rules
from storage.sql import text
from tests.fakes.clock import FakeClock
from tests.fixtures import JobTable
from tests.integration.rejecting import House, grow_old, rejection
from tests.servers.s3 import REGION, S3Bucket
from worker.maintenance import Maintenance
from worker.metrics import Metrics

ODD_HEADERS = [
    ("plain", b"text"),
    ("plain", b"the same name again"),
    ("nul", b"a\0b"),
    ("not utf-8", b"\xff\xfe\x00\x80"),
    ("surrogate", b"\xed\xa0\x80"),
    ("empty", b""),
    ("null", None),
    ("name with \0", b"x"),
    ("name \udcff not utf-8", "ü".encode()),
    ("a base64 in braces", b'{"base64": "no"}'),
]
EVERY_BYTE = bytes(range(256)) * 3


@pytest.fixture
def house(database: Database, tmp_path: Path) -> House:
    store = LocalStore(tmp_path / "store", BucketRules.parse(["media"]))
    return House(database, store, "media", tmp_path / "scratch")


@pytest.fixture(params=["folder", "s3"])
def on_both(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> Iterator[House]:
    if request.param == "folder":
        folder = LocalStore(tmp_path / "store", BucketRules.parse(["media"]))
        yield House(database, folder, "media", tmp_path / "scratch")
        return
    bucket: S3Bucket = request.getfixturevalue("s3_bucket")
    server = bucket.server
    session = boto3.Session(aws_access_key_id=server.access_key, aws_secret_access_key=server.secret_key)
    options = S3Options(endpoint_url=server.endpoint, region=REGION, addressing="path")
    store = S3Store(BucketRules.parse([bucket.name]), options, session=session)
    yield House(database, store, bucket.name, tmp_path / "scratch")
    store.close()


def sent(house: House, one: NewRejection) -> Sent:
    """What is read back of a rejection."""
    with house.database.transaction() as connection:
        row = show(connection, one.id)
    with house.bodies() as bodies:
        return bodies.of(row)


@pytest.mark.parametrize("budget", [1 << 30, 0])
def test_messages_are_kept_byte_for_byte(house: House, budget: int) -> None:
    house.budget = budget
    values = [None, b"", b"{", EVERY_BYTE, b"\0", "\N{GRINNING FACE}".encode(), b"\xed\xa0\x80"]
    kept = [rejection(value=value, key=EVERY_BYTE, headers=ODD_HEADERS) for value in values]
    assert house.reject(*kept) == len(values)
    for one, value in zip(kept, values, strict=True):
        assert sent(house, one) == Sent(EVERY_BYTE, ODD_HEADERS, value)


def test_headers_of_a_megabyte_are_kept_and_count(house: House) -> None:
    headers = [(f"h{i}", os.urandom(1 << 18)) for i in range(4)]
    first, second = rejection(headers=headers, key=b"k"), rejection(headers=headers, value=None)
    house.reject(first)
    assert house.used() > 1 << 20
    house.budget = 1 << 20
    house.reject(second)
    assert house.used() < (1 << 20) + (2 << 10)
    assert sent(house, first) == Sent(b"k", headers, b"no json")
    with house.database.transaction() as connection:
        row = show(connection, second.id)
    assert row is not None
    assert row.headers is None
    assert sent(house, second) == Sent(None, headers, None)


def test_half_a_million_headers_without_a_letter_count_too(house: House) -> None:
    one = rejection(headers=[("", None)] * 500_000)
    house.reject(one)
    assert house.used() > 500_000 * 10
    house.budget = 0
    other = rejection(headers=[("", None)] * 500_000)
    house.reject(other)
    assert house.used() < 500_000 * 20
    assert tuple(sent(house, other).headers) == other.headers


def test_where_a_message_came_from_is_noted(house: House, table: JobTable) -> None:
    one = rejection(lane="backfill", offset=2**40, timestamp_ms=0)
    odd = rejection(timestamp_ms=2**62)
    house.reject(one, odd)
    [row] = table.rows("SELECT * FROM rejected_messages WHERE id = :id", id=one.id)
    told = {name: row[name] for name in ("topic", "partition", "offset", "lane", "build", "may_be_newer", "size")}
    assert told == {
        "topic": "mediamill.jobs.backfill",
        "partition": 3,
        "offset": 2**40,
        "lane": "backfill",
        "build": "1",
        "may_be_newer": False,
        "size": 7,
    }
    assert row["sent_at"].timestamp() == 0
    assert table.rows("SELECT sent_at FROM rejected_messages WHERE id = :id", id=odd.id) == [{"sent_at": None}]


def test_a_redelivered_message_is_kept_once_and_counted_once(house: House) -> None:
    one, other = rejection(), rejection()
    assert house.reject(one) == 1
    used = house.used()
    assert house.reject(one, other, other) == 1
    assert house.used() == 2 * used


def test_a_redelivered_message_beyond_the_budget_writes_no_second_object(house: House) -> None:
    house.budget = 0
    one = rejection()
    house.reject(one)
    before = house.objects()
    assert house.reject(one) == 0
    assert house.objects() == before


def test_bodies_beyond_the_budget_share_one_object(on_both: House, table: JobTable) -> None:
    on_both.budget = 5_000
    within = [rejection(value=os.urandom(900)) for _ in range(4)]
    on_both.reject(*within)
    assert on_both.objects() == []
    beyond = [rejection(value=os.urandom(900), key=b"k", headers=[("a", b"b")]) for _ in range(50)]
    on_both.reject(*beyond)
    [key] = on_both.objects()
    assert key.startswith("derived/rejected/20")
    assert [sent(on_both, one) for one in beyond] == [Sent(b"k", [("a", b"b")], one.body) for one in beyond]
    assert [sent(on_both, one).body for one in within] == [one.body for one in within]
    assert table.rows("SELECT count(*) AS n FROM rejected_messages WHERE body IS NOT NULL") == [{"n": 4}]
    assert list(on_both.scratch.iterdir()) == []


def test_a_message_that_is_too_long_for_a_row_goes_to_the_store(house: House) -> None:
    one = rejection(value=b"x" * (9 << 20))
    house.reject(one)
    assert len(house.objects()) == 1
    assert sent(house, one).body == one.body


def test_many_long_messages_are_several_statements(house: House) -> None:
    many = [rejection(value=os.urandom(1 << 20)) for _ in range(20)]
    assert house.reject(*many) == 20
    assert house.used() > 20 << 20


def test_while_the_store_is_away_nothing_is_kept_and_the_batch_can_be_placed_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("s3://media", "is away", "wait")

    house.budget = 0
    one = rejection()
    with monkeypatch.context() as patch:
        patch.setattr(house.store, "_upload", away)
        with pytest.raises(StoreUnavailable):
            house.reject(one)
    assert house.used() == 0
    assert house.reject(one) == 1
    assert sent(house, one).body == one.body


def test_a_batch_that_is_placed_again_leaves_no_object_that_nobody_needs(
    house: House, monkeypatch: pytest.MonkeyPatch, table: JobTable
) -> None:
    monkeypatch.setattr("storage.rejected_bodies.OBJECT_BYTES", 1000)
    house.budget = 0
    many = [rejection(value=os.urandom(900)) for _ in range(4)]
    upload, uploads = house.store._upload, []

    def away_at_the_second(*given: Any, **more: Any) -> Any:
        uploads.append(given)
        if len(uploads) % 2 == 0 and len(uploads) < 7:
            raise StoreUnavailable("s3://media", "is away", "wait")
        return upload(*given, **more)

    monkeypatch.setattr(house.store, "_upload", away_at_the_second)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            house.reject(*many)
    assert house.reject(*many) == 4
    assert len(house.objects()) == 2
    assert len(table.rows("SELECT uri FROM rejected_objects")) == 2
    assert [sent(house, one).body for one in many] == [one.body for one in many]


def test_what_one_process_keeps_counts_for_the_others_before_and_after_the_fold(house: House) -> None:
    house.reject(*(rejection(value=os.urandom(1000)) for _ in range(10)))
    used = house.used()
    for _ in range(3):
        house.reject(rejection(value=b""))
    with house.database.transaction() as connection:
        before = used_bytes(connection)
        assert before > used > 10_000
        assert fold_rejected(connection)
        assert used_bytes(connection) == before
        assert connection.scalar(text("SELECT count(*) FROM rejected_counts")) == 1
    house.budget = before
    house.reject(rejection(value=b"one too many"))
    assert len(house.objects()) == 1


def test_a_flood_is_kept_within_the_budget(house: House) -> None:
    house.budget = 200_000
    for _ in range(20):
        house.reject(*(rejection(value=b"garbage " * 100) for _ in range(100)))
    with house.database.transaction() as connection:
        bodies = connection.scalar(text("SELECT sum(length(body)) FROM rejected_messages"))
        assert connection.scalar(text("SELECT count(*) FROM rejected_messages")) == 2000
    assert bodies <= 200_000
    assert len(house.objects()) <= 20


# --- the mirror ---


def mirror(table: JobTable, *, enabled: bool = True) -> None:
    table.rows(
        "INSERT INTO destinations (name, kind, target, enabled) VALUES (:name, 'topic', 'dead', :enabled)",
        name=DEAD_LETTER,
        enabled=enabled,
    )


def test_a_rejection_is_mirrored_once_where_that_is_switched_on(house: House, table: JobTable) -> None:
    mirror(table)
    one = rejection(value=EVERY_BYTE, headers=[("plain", b"text"), ("odd", b"\xff")])
    house.reject(one)
    house.reject(one)
    [row] = table.rows("SELECT * FROM outbox")
    assert (row["job_id"], row["kind"], row["destination"], row["target"]) == (
        one.id,
        "mediamill.message.rejected",
        DEAD_LETTER,
        "dead",
    )
    assert row["payload"] == {
        "id": str(one.id),
        "topic": "mediamill.jobs.upload",
        "partition": 3,
        "offset": 7,
        "lane": "upload",
        "error": one.error,
        "fingerprint": one.fingerprint,
        "size": len(EVERY_BYTE),
        "headers": [["plain", "text"], ["odd", {"base64": "/w=="}]],
        "body_base64": base64.b64encode(EVERY_BYTE).decode(),
    }


def test_the_mirror_names_the_place_of_a_body_that_is_in_the_store(house: House, table: JobTable) -> None:
    mirror(table)
    house.budget = 0
    house.reject(rejection(value=b"12345"), rejection(value=b"678"))
    payloads = [row["payload"] for row in table.rows("SELECT payload FROM outbox ORDER BY seq")]
    assert sorted((p["body_at"], p["size"]) for p in payloads) == [(0, 5), (5, 3)]
    assert {p["body_uri"] for p in payloads} == {f"s3://media/{key}" for key in house.objects()}
    assert not any("body_base64" in p for p in payloads)


def test_the_mirror_leaves_out_what_a_topic_would_not_take(house: House, table: JobTable) -> None:
    mirror(table)
    house.reject(rejection(value=b"x" * (300 << 10), headers=[("h", b"y" * (300 << 10))]))
    [row] = table.rows("SELECT payload FROM outbox")
    assert set(row["payload"]) == {"id", "topic", "partition", "offset", "lane", "error", "fingerprint", "size"}


def test_nothing_is_mirrored_where_that_is_switched_off(house: House, table: JobTable) -> None:
    house.reject(rejection())
    mirror(table, enabled=False)
    house.reject(rejection())
    assert table.rows("SELECT * FROM outbox") == []


# --- expiry ---


def expire(house: House) -> tuple[int, int]:
    """Messages forgotten, objects deleted."""
    kept = timedelta(days=90)
    with house.database.transaction() as connection:
        gone = expire_rejected(connection, kept=kept)
    return gone, delete_unused(house.database, house.store, kept=kept).objects


def test_rejected_messages_expire_with_their_objects_and_free_the_budget(on_both: House) -> None:
    old, young = rejection(), rejection(value=b"young")
    on_both.reject(old)
    on_both.budget = 0
    on_both.reject(rejection(value=b"old, in the store"))
    assert expire(on_both) == (0, 0)
    grow_old(on_both.database, 91)
    on_both.reject(young)
    assert len(on_both.objects()) == 2
    assert expire(on_both) == (2, 1)
    assert len(on_both.objects()) == 1
    assert sent(on_both, young).body == b"young"
    assert on_both.used() == young.kept - len(b"young")
    assert expire(on_both) == (0, 0)


def test_an_object_whose_batch_was_never_kept_is_deleted(house: House) -> None:
    house.budget = 0
    house.overflow.place([rejection()])  # and then the process dies
    assert len(house.objects()) == 1
    assert expire(house) == (0, 0)
    grow_old(house.database, 91)
    assert expire(house) == (0, 1)
    assert house.objects() == []


def test_an_object_stays_as_long_as_one_message_needs_it(house: House, table: JobTable) -> None:
    house.budget = 0
    first, second = rejection(value=b"first"), rejection(value=b"second")
    house.reject(first, second)
    grow_old(house.database, 91)
    table.rows("UPDATE rejected_messages SET received_at = now() WHERE id = :id", id=second.id)
    assert expire(house) == (1, 0)
    assert sent(house, second).body == b"second"


def test_an_object_that_may_not_be_deleted_keeps_no_other_from_it(house: House, tmp_path: Path) -> None:
    house.budget = 0
    house.overflow.place([rejection()])
    grow_old(house.database, 91)
    [key] = house.objects()
    forbidden = LocalStore(tmp_path / "store", BucketRules.parse({"media": "r"}))
    kept = timedelta(days=90)
    deleted = delete_unused(house.database, forbidden, kept=kept)
    assert (deleted.objects, [error.where for error in deleted.refused]) == (0, [f"s3://media/{key}"])
    assert delete_unused(house.database, forbidden, kept=kept).refused == []
    assert house.objects() == [key]
    grow_old(house.database, 2)
    assert expire(house) == (0, 1)


def test_the_chore_forgets_all_that_had_its_time(house: House) -> None:
    maintenance = Maintenance(
        house.database,
        house.store,
        output="s3://media/derived/",
        rules=Rules(),
        history_kept=timedelta(days=90),
        clock=FakeClock(),
        limiter=anyio.CapacityLimiter(1),
        metrics=Metrics(),
        rejected_kept=timedelta(days=10),
    )
    assert maintenance.forget_rejected in [chore.work for chore in maintenance.chores]
    house.budget = 2000
    house.reject(*(rejection(value=b"x" * 1000) for _ in range(12)))
    grow_old(house.database, 11)
    house.reject(rejection())
    assert len(house.objects()) == 1
    maintenance.forget_rejected()
    maintenance.fold()
    assert house.objects() == []
    with house.database.transaction() as connection:
        assert connection.scalar(text("SELECT count(*) FROM rejected_messages")) == 1
        assert connection.scalar(text("SELECT sum(messages) FROM rejected_counts")) == 1


def test_expiry_and_keeping_do_not_disturb_each_other(house: House) -> None:
    house.reject(*(rejection() for _ in range(10)))
    grow_old(house.database, 91)
    with house.database.transaction() as connection:
        assert expire_rejected(connection, kept=timedelta(days=90), most=4) == 4
        with house.database.transaction() as other:
            # What the first has locked is its own; nobody waits.
            assert expire_rejected(other, kept=timedelta(days=90)) == 6
            assert reject_within(other, [rejection()]) == 1
    with house.database.transaction() as connection:
        assert connection.scalar(text("SELECT count(*) FROM rejected_messages")) == 1
