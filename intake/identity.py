"""A job's id: a time-ordered UUID (version 7, RFC 9562), made by the client, at the door, or from a record of a log."""

from __future__ import annotations

import hashlib
import uuid

import uuid_utils

_RANDOM_BITS = 74


def new_id() -> uuid.UUID:
    """A fresh id: its first 48 bits are now, in milliseconds; ids of one process rise."""
    return uuid.UUID(int=uuid_utils.uuid7().int)


def id_from_record(
    timestamp_ms: int, cluster_id: str, topic: str, partition: int, offset: int, value: bytes
) -> uuid.UUID:
    """The id of a record that brought none: 48 bits of its timestamp and 74 bits of a digest over where and what it is.

    A redelivery of the record gets the same id. A topic that was deleted and made anew counts its offsets from 0 again:
    the value in the digest, and the timestamp, keep its records apart from the old ones. A timestamp outside of 48 bits
    (brokers store what the producer says, also -1 for none) counts as the nearest end.
    """
    digest = hashlib.sha256()
    for part in (cluster_id.encode(), topic.encode(), b"%d" % partition, b"%d" % offset, value):
        # Each part with its length, so that no two lists of parts run together into the same bytes.
        digest.update(b"%d:" % len(part))
        digest.update(part)
    noise = int.from_bytes(digest.digest()[:10], "big") >> (80 - _RANDOM_BITS)
    timestamp = min(max(timestamp_ms, 0), 2**48 - 1)
    high, low = noise >> 62, noise & (2**62 - 1)
    return uuid.UUID(int=timestamp << 80 | 7 << 76 | high << 64 | 0b10 << 62 | low)
