"""What ingest asks of the tables: how full a lane is, and what was lost before it was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from storage.database import rows_json
from storage.sql import Connection, text

# jobs_queued; the limit bounds what is read of it. Jobs that are scheduled for later are read past and not counted.
RUNNABLE = text("""
    SELECT count(*) FROM (
        SELECT 1 FROM jobs WHERE state = 'queued' AND lane = :lane AND run_after <= now() LIMIT :most
    ) AS counted
""")
# lost_ranges' primary key. Found again after a crash it may have grown; it is one loss, and one alarm.
LOST = text("""
    INSERT INTO lost_ranges AS l (topic, topic_id, partition, first_offset, end_offset)
    SELECT topic, topic_id, partition, first_offset, max(end_offset)
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
         AS r(topic text, topic_id text, partition integer, first_offset bigint, end_offset bigint)
    GROUP BY topic, topic_id, partition, first_offset
    ORDER BY topic, topic_id, partition, first_offset
    ON CONFLICT (topic, topic_id, partition, first_offset) DO UPDATE
        SET end_offset = greatest(l.end_offset, excluded.end_offset), acknowledged_at = NULL
        WHERE excluded.end_offset > l.end_offset
""")
# Few rows: one for each loss.
LIST = text("""
    SELECT topic, topic_id, partition, first_offset, end_offset, found_at, acknowledged_at FROM lost_ranges
    WHERE :acknowledged OR acknowledged_at IS NULL ORDER BY found_at, topic, partition, first_offset
""")
UNACKNOWLEDGED = text("SELECT count(*) FROM lost_ranges WHERE acknowledged_at IS NULL")
ACKNOWLEDGE = text("""
    UPDATE lost_ranges SET acknowledged_at = now()
    WHERE acknowledged_at IS NULL AND (CAST(:topic AS text) IS NULL OR topic = :topic)
""")


@dataclass(frozen=True, slots=True)
class LostRange:
    """Offsets [first_offset, end_offset) of a partition: they expired in Kafka before they were read."""

    topic: str
    topic_id: str
    """Kafka's id of the topic; empty where the broker tells none."""
    partition: int
    first_offset: int
    end_offset: int

    @property
    def messages(self) -> int:
        """How many there were at most: a compacted topic, or one with transactions, has offsets without messages."""
        return self.end_offset - self.first_offset


@dataclass(frozen=True, slots=True)
class FoundLoss:
    """A lost range as it is kept."""

    range: LostRange
    found_at: datetime
    acknowledged_at: datetime | None


def runnable(connection: Connection, lane: str, most: int) -> int:
    """How many jobs of the lane could be claimed now, `most` at most."""
    return int(connection.scalar(RUNNABLE, {"lane": lane, "most": most}) or 0)


def record_lost(connection: Connection, ranges: Sequence[LostRange]) -> None:
    """Stores lost ranges; one that is there already grows, and is an alarm again if it does."""
    if ranges:
        connection.execute(LOST, {"rows": rows_json([asdict(one) for one in ranges])})


def lost(connection: Connection, *, acknowledged: bool = False) -> list[FoundLoss]:
    """Lost ranges, oldest first; those that somebody has acknowledged too where asked for."""
    return [
        FoundLoss(
            LostRange(row.topic, row.topic_id, row.partition, row.first_offset, row.end_offset),
            row.found_at,
            row.acknowledged_at,
        )
        for row in connection.execute(LIST, {"acknowledged": acknowledged})
    ]


def unacknowledged(connection: Connection) -> int:
    """How many lost ranges nobody has acknowledged."""
    return int(connection.scalar(UNACKNOWLEDGED) or 0)


def acknowledge(connection: Connection, topic: str | None = None) -> int:
    """Somebody knows of the lost ranges, of one topic or of all: they are no alarm any more. How many there were."""
    return connection.execute(ACKNOWLEDGE, {"topic": topic}).rowcount
