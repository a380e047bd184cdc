"""Batches of records into a real Postgres."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from handlers.registry import Registry
from handlers.test.noop import Noop
from intake.kafka.judge import Judge
from intake.kafka.record import Arrived
from intake.kafka.signals import Outcome
from intake.kafka.store import Batch, Judged, Storage
from intake.message import Rules
from storage.database import Connection, Database, DatabaseError
from storage.objects.rules import BucketRules
from storage.pooled import PooledDatabase
from storage.sql import text
from tests.fixtures import JobTable
from tests.integration.ingesting import noop

JUDGE = Judge(
    Registry([Noop]), {"upload": Rules(1 << 20, 64, 1000, 3, BucketRules.parse([]), lane="upload")}, "1"
)  # fmt: skip


class Counting(PooledDatabase):
    """Counts transactions."""

    transactions = 0

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        self.transactions += 1
        with super().transaction() as connection:
            yield connection


@pytest.fixture
def counting(database: Database) -> Iterator[Counting]:
    counting = Counting(database.url, statement_timeout_s=0.3)
    yield counting
    counting.close()


def batch(values: list[bytes]) -> Batch:
    arrived = [Arrived("upload", "t", 0, n, 1_900_000_000_000, None, (), value) for n, value in enumerate(values)]
    return Batch("cluster", [Judged(one, JUDGE(one, "cluster")) for one in arrived])


def kept(rejections: Any) -> Any:
    return rejections


@pytest.fixture
def storage(counting: Counting) -> Storage:
    return Storage(counting, JUDGE, kept)


def test_many_long_messages_are_several_statements(storage: Storage, counting: Counting, table: JobTable) -> None:
    long = noop(labels={f"{n}": "x" * 256 for n in range(32)}, params={}) + b" " * 700_000
    assert storage.write(batch([long] * 50)) == {("upload", Outcome.JOB): 50}
    assert counting.transactions == 3
    assert len(table.rows("SELECT id FROM jobs")) == 50


def test_a_locked_table_costs_a_try_one_limit_of_time_and_the_next_one_has_fewer_rows(
    storage: Storage, counting: Counting, database: Database, table: JobTable
) -> None:
    held = batch([noop()] * 8)
    with database.transaction() as connection:
        connection.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
        for tries in (1, 2):
            began = time.monotonic()
            with pytest.raises(DatabaseError):
                storage.write(held)
            assert time.monotonic() - began < 2 * 0.3
            assert counting.transactions == tries
        assert held.at_once == 2
    storage.write(held)
    assert counting.transactions == 2 + 4
    assert len(table.rows("SELECT id FROM jobs")) == 8
