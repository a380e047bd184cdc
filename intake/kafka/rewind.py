"""Reading again what came since a time: after the database was restored to an earlier point.

Harmless by identity: what is there already is noted as a duplicate, what the restore has lost becomes a job again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from kafka import KafkaAdminClient, TopicPartition
from kafka import errors as client
from kafka.admin import OffsetSpec
from kafka.structs import OffsetAndMetadata

from config.lanes import Lane
from intake.kafka import topics
from intake.kafka.clients import connected
from intake.kafka.diagnosis import asking
from intake.kafka.errors import KafkaTrouble
from intake.kafka.options import KafkaOptions
from intake.kafka.positions import Committed, Extent, Why, begin


class GroupHasMembers(KafkaTrouble):
    """Offsets cannot be set while somebody reads: it would commit its own over them."""


@dataclass(frozen=True, slots=True)
class Rewound:
    """Where a partition is read from now."""

    lane: Lane
    topic: str
    partition: int
    before: int
    """The offset that was committed."""
    offset: int
    """The one that is committed now; never a later one, so that nothing unread is passed over."""


def rewind(
    options: KafkaOptions, lanes: Mapping[Lane, str], group: str, since: datetime, *, dry_run: bool = False
) -> list[Rewound]:
    """Sets the group back to the first messages whose timestamp is not before `since`, in all lanes' topics.

    A timestamp is what the producer said, and messages may have waited in Kafka: choose a time that is early enough.
    Partitions that nobody has read yet are left out, and those whose offset is of another topic of that name: they are
    read from their start. `dry_run`: changes nothing.

    Raises GroupHasMembers, NotAllowed, BadTopic and BrokerAway.
    """
    there = topics.present(options, list(lanes.values()))
    lane_of = {topic: lane for lane, topic in lanes.items()}
    places = [TopicPartition(name, n) for name, topic in there.items() for n in topic.partitions]
    with asking(options, "setting offsets"):
        admin = connected(KafkaAdminClient, options, "admin")
        try:
            _refuse_members(admin, group)
            ids = {name: str(topic.id) for name, topic in there.items()}
            committed = _committed(admin, group, places, ids)
            later = _first_since(admin, list(committed), since)
            rewound = [
                Rewound(lane_of[place.topic], place.topic, place.partition, before, min(before, later[place]))
                for place, before in sorted(committed.items())
            ]
            moved = [one for one in rewound if one.offset < one.before]
            if moved and not dry_run:
                _commit(admin, group, moved, ids)
        finally:
            admin.close()
    return rewound


def _refuse_members(admin: KafkaAdminClient, group: str) -> None:
    members = admin.describe_groups([group])[group]["members"]
    if members:
        hosts = ", ".join(sorted({str(member["client_host"]).lstrip("/") for member in members}))
        raise GroupHasMembers(
            f"group {group} has {len(members)} members (on {hosts}): stop every worker that reads from Kafka first"
        )


def _committed(
    admin: KafkaAdminClient, group: str, places: Sequence[TopicPartition], ids: Mapping[str, str]
) -> dict[TopicPartition, int]:
    """Where the group goes on; an offset of another topic of that name is none, and must not look like one of this."""
    if not places:
        return {}
    starts = admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.EARLIEST))
    ends = admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.LATEST))
    found = {}
    for place, at in admin.list_group_offsets({group: places})[group].items():
        extent = Extent(ids[place.topic], starts[place].offset, ends[place].offset)
        if at.offset >= 0 and begin(Committed.read(at.offset, at.metadata), extent).why is not Why.ANEW:
            found[place] = at.offset
    return found


def _first_since(
    admin: KafkaAdminClient, places: Sequence[TopicPartition], since: datetime
) -> dict[TopicPartition, int]:
    """The first offset of each partition whose record is not older; its end where all are."""
    if not places:
        return {}
    ends = admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.LATEST))
    found = admin.list_partition_offsets(dict.fromkeys(places, max(0, round(since.timestamp() * 1000))))
    return {
        place: found[place].offset if place in found and found[place].offset >= 0 else ends[place].offset
        for place in places
    }


def _commit(admin: KafkaAdminClient, group: str, rewound: Sequence[Rewound], ids: Mapping[str, str]) -> None:
    wanted = {
        TopicPartition(one.topic, one.partition): OffsetAndMetadata(one.offset, ids[one.topic], -1) for one in rewound
    }
    for place, error in admin.alter_group_offsets(group, wanted).items():
        if error is client.UnknownMemberIdError:
            # Somebody has joined since we looked; a partition before this one may be set back already.
            raise GroupHasMembers(f"somebody has joined group {group}: stop every worker that reads from Kafka first")
        if error is not client.NoError:
            raise error(f"{place.topic}/{place.partition}")
