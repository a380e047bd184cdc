"""Rejected messages, and the parts that keep them, for the tests about them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.lanes import Lane
from handlers.registry import Registry
from intake.identity import new_id
from intake.kafka.record import Arrived
from intake.message import Rules, parse
from intake.problems import Code, Problem, Refused
from intake.rejections import build_of, rejection_of
from intake.replay import Door
from storage.database import Database
from storage.objects.base import ObjectStore
from storage.objects.rules import BucketRules
from storage.rejected_bodies import Bodies, Overflow
from storage.rejections import Header, NewRejection, reject_within, used_bytes

BUCKETS = BucketRules.parse(["media"])


def rules_for(lane: Lane | None) -> Rules:
    return Rules(1 << 20, 64, 1000, 3, BUCKETS, lane=lane)


def noop(**params: Any) -> dict[str, Any]:
    return {"type": "test.noop", "params": params}


@dataclass
class House:
    """A database and a store, with a door of some build before them."""

    database: Database
    store: ObjectStore
    bucket: str
    scratch: Path
    budget: int = 1 << 30

    @property
    def overflow(self) -> Overflow:
        return Overflow(
            self.database,
            self.store,
            output_prefix=f"s3://{self.bucket}/derived/",
            budget=self.budget,
            scratch=self.scratch,
        )

    def door(self, *, test_types: bool = True, version: str = "2") -> Door:
        registry = Registry.load(test_types=test_types)
        return Door(registry, rules_for, build_of(version, registry, None))

    def bodies(self) -> Bodies:
        return Bodies(self.store, self.scratch)

    def reject(self, *rejections: NewRejection) -> int:
        """As ingest does."""
        placed = self.overflow.place(rejections)
        with self.database.transaction() as connection:
            return reject_within(connection, placed)

    def used(self) -> int:
        with self.database.transaction() as connection:
            return used_bytes(connection)

    def objects(self) -> list[str]:
        return [info.uri.key for info in self.store.list(self.bucket)]


def refused_by(
    door: Door, lane: Lane, value: Mapping[str, Any] | bytes, *, id_: uuid.UUID | None = None
) -> NewRejection:
    """The rejection of a message that this door does not let in."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    try:
        parse(body, door.registry, door.rules_for(lane))
    except Refused as refused:
        return rejection(lane=lane, value=body, refused=refused, build=door.build, id_=id_)
    raise AssertionError("the door lets it in")


def rejection(
    *,
    lane: Lane = "upload",
    value: bytes | None = b"no json",
    refused: Refused | None = None,
    build: str = "1",
    id_: uuid.UUID | None = None,
    key: bytes | None = None,
    headers: Sequence[Header] = (),
    offset: int = 7,
    timestamp_ms: int = 1_900_000_000_000,
    topic: str | None = None,
) -> NewRejection:
    arrived = Arrived(lane, topic or f"mediamill.jobs.{lane}", 3, offset, timestamp_ms, key, headers, value)
    refused = refused or Refused([Problem("", Code.NOT_JSON, "is not JSON", "send one JSON object")])
    return rejection_of(arrived, id_ or new_id(), refused, build)


def grow_old(database: Database, days: int) -> None:
    """As if all of it had come so long ago."""
    from storage.sql import text

    with database.transaction() as connection:
        connection.execute(text(f"UPDATE rejected_messages SET received_at = received_at - interval '{days} days'"))
        connection.execute(text(f"UPDATE rejected_objects SET made_at = made_at - interval '{days} days'"))
