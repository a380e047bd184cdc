"""A job's id: rising in time, the same for a redelivery, another for a topic made anew."""

from __future__ import annotations

import time
import uuid

from hypothesis import given
from hypothesis import strategies as st

from intake.identity import id_from_record, new_id

RECORD = (1_700_000_000_123, "cluster", "mediamill.jobs.upload", 3, 42, b'{"type": "image.caption"}')


def test_new_ids_are_of_version_7_rise_and_begin_with_the_time() -> None:
    before = time.time_ns() // 1_000_000
    ids = [new_id() for _ in range(1000)]
    after = time.time_ns() // 1_000_000
    assert ids == sorted(set(ids))
    assert all(type(id_) is uuid.UUID and id_.version == 7 and id_.variant == uuid.RFC_4122 for id_ in ids)
    assert before <= ids[0].int >> 80 <= ids[-1].int >> 80 <= after


def test_a_redelivered_record_is_the_same_job() -> None:
    assert id_from_record(*RECORD) == id_from_record(*RECORD) == uuid.UUID("018bcfe5-687b-77f9-a070-5e9e95acaf65")


def test_the_id_of_a_record_is_of_version_7_and_begins_with_its_timestamp() -> None:
    id_ = id_from_record(*RECORD)
    assert (id_.version, id_.variant, id_.int >> 80) == (7, uuid.RFC_4122, RECORD[0])


def test_a_topic_made_anew_gives_other_ids_to_the_same_offsets() -> None:
    timestamp, cluster, topic, partition, offset, value = RECORD
    later = id_from_record(timestamp + 1, cluster, topic, partition, offset, value)
    other = id_from_record(timestamp, cluster, topic, partition, offset, value + b" ")
    assert len({later, other, id_from_record(*RECORD)}) == 3


def test_every_part_of_where_a_record_stands_tells_it_from_others() -> None:
    timestamp, _, _, _, _, value = RECORD
    places = [
        ("c", "t", 1, 2),
        ("d", "t", 1, 2),
        ("c", "u", 1, 2),
        ("c", "t", 2, 2),
        ("c", "t", 1, 3),
        ("ct", "", 1, 2),
    ]
    places += [("c", "t1", 0, 2), ("c", "t", 12, 0), ("c", "t", 1, 20)]
    assert len({id_from_record(timestamp, *place, value) for place in places}) == len(places)


@given(
    st.integers(-(2**63), 2**63 - 1), st.text(), st.text(), st.integers(0, 2**31), st.integers(0, 2**63), st.binary()
)
def test_any_record_has_an_id(
    timestamp: int, cluster: str, topic: str, partition: int, offset: int, value: bytes
) -> None:
    id_ = id_from_record(timestamp, cluster, topic, partition, offset, value)
    assert (id_.version, id_.variant) == (7, uuid.RFC_4122)
    assert id_.int >> 80 == min(max(timestamp, 0), 2**48 - 1)
