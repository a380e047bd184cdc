"""Jobs of the command line by way of Kafka: to the topic of their lane, in batches, an answer for each.

The id is set before it is sent, so that a producer's retry is the same job. What becomes of a message is said when a
worker has read it; `storage.arrivals` finds out, by the id of the job and by the one that is derived from the record.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from config.lanes import Lane
from intake.identity import id_from_record, new_id
from intake.kafka.backlog import Backlog, backlog
from intake.kafka.errors import BrokerAway
from intake.kafka.options import KafkaOptions
from intake.kafka.publisher import Answer, Delivered, Outgoing, Publisher, Refusal, Unanswered
from intake.message import JobSpec, canonical
from intake.problems import Code, Problem, Refused
from intake.submit import BATCH, Rejected, batches

_HEADERS = (("content-type", b"application/json"),)


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that Kafka has."""

    line: int
    spec: JobSpec
    id: uuid.UUID
    """Of the job that it asks for."""
    record_id: uuid.UUID
    """Derived from its record: the id of its rejection, should it be rejected."""
    topic: str
    partition: int
    offset: int


def send_lines(
    publisher: Publisher,
    lines: Iterable[tuple[int, JobSpec | Refused]],
    topics: Mapping[Lane, str],
    *,
    batch: int = BATCH,
) -> Iterator[Sent | Rejected]:
    """Sends what is valid of numbered messages; an answer for each, in their order, when all replicas have its batch.

    Raises BrokerAway: then nobody knows what of the batch has arrived; sent again with its ids, it is the same jobs.
    """
    cluster = publisher.cluster_id()
    for numbered in batches(iter(lines), batch):
        asked = [(line, spec, spec.id or new_id()) for line, spec in numbered if not isinstance(spec, Refused)]
        records = [_record(spec, id_, topics[spec.lane]) for _, spec, id_ in asked]
        published = list(map(_known, publisher.publish(records)))
        answers = dict(zip((line for line, _, _ in asked), zip(asked, records, published, strict=True), strict=True))
        for line, spec in numbered:
            if isinstance(spec, Refused):
                yield Rejected(line, spec.problems)
                continue
            (_, _, id_), record, answer = answers[line]
            if isinstance(answer, Refusal):
                yield Rejected(line, [_problem(answer)])
            else:
                record_id = _record_id(cluster, record, answer)
                yield Sent(line, spec, id_, record_id, record.topic, answer.partition, answer.offset)


def _known(answer: Answer) -> Delivered | Refusal:
    if isinstance(answer, Unanswered):
        raise BrokerAway(answer.message)
    return answer


def gone_by(options: KafkaOptions, topics: Mapping[Lane, str], group: str, sent: Sequence[Sent]) -> set[uuid.UUID]:
    """Which records (by `record_id`) wait in Kafka no more: they were read, have expired, or their topic was deleted.

    Raises NotAllowed, BadTopic and BrokerAway.
    """
    there = {(one.topic, one.partition): one for one in backlog(options, topics, group)}
    return {one.record_id for one in sent if not _waits(one, there.get((one.topic, one.partition)))}


def _waits(record: Sent, there: Backlog | None) -> bool:
    return there is not None and there.next <= record.offset < there.end


def _record(spec: JobSpec, id_: uuid.UUID, topic: str) -> Outgoing:
    """The key keeps what is sent twice in one partition, and so in its order."""
    return Outgoing(topic, str(id_).encode(), canonical({**spec.message, "id": str(id_)}).encode(), _HEADERS)


def _record_id(cluster: str, record: Outgoing, there: Delivered) -> uuid.UUID:
    return id_from_record(there.timestamp_ms, cluster, record.topic, there.partition, there.offset, record.value or b"")


def _problem(refusal: Refusal) -> Problem:
    code = Code.TOO_LARGE if "TOO_LARGE" in refusal.code else Code.BAD_VALUE
    return Problem("", code, f"Kafka refuses it: {refusal.message}", "or submit it with --direct")
