"""Records into topics: many at once, each answered for.

The idempotent producer of the client library is fast and keeps the order, but the first record that a broker refuses
takes all others along: they fail with the same error, and the producer is good for nothing more. So what it has not
delivered then goes once more by a second, plain one that sends each record in a batch of its own, where an error is
that of its record. A record may be there twice after that, as after any retry: readers know it by its id.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from kafka import KafkaProducer
from kafka import errors as client
from kafka.producer.future import FutureRecordMetadata

from intake.kafka import topics
from intake.kafka.clients import connected
from intake.kafka.diagnosis import asking
from intake.kafka.errors import BadTopic, KafkaTrouble, NotAllowed, plain
from intake.kafka.options import KafkaOptions

#: Bytes of one record, and of one request: the broker has its own, mostly smaller, limit for a record.
LARGEST = 32 << 20
LINGER_MS = 5


@dataclass(frozen=True)
class Outgoing:
    """A record to be. Records of one key stay in their order; without a value it must have a key."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True)
class Delivered:
    """Where a record is, in all replicas that are in sync."""

    partition: int
    offset: int
    timestamp_ms: int


@dataclass(frozen=True)
class Refusal:
    """Why the broker does not take a record: sent again as it is, it would be refused again."""

    code: str  # as Kafka calls it: MESSAGE_SIZE_TOO_LARGE, UNKNOWN_TOPIC_OR_PARTITION, ...
    message: str
    of_topic: bool = False
    """It takes no record of ours at all."""

    @property
    def too_large(self) -> bool:
        """Whether a smaller record would be taken."""
        return self.code in (client.MessageSizeTooLargeError.message, client.RecordListTooLargeError.message)


@dataclass(frozen=True)
class Unanswered:
    """Nobody knows whether the record is there: its partition did not answer in time, while others did."""

    message: str
    cause: Exception = field(repr=False, compare=False)


Answer = Delivered | Refusal | Unanswered


class Publisher:
    """For one thread at a time. It connects when first used, and anew after a broker was away."""

    def __init__(self, options: KafkaOptions, *, timeout_s: float = 30.0) -> None:
        """`timeout_s`: how long the broker may take for what one `publish` sends."""
        self._options, self._timeout_s = options, timeout_s
        self._producer: KafkaProducer | None = None
        self._known: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is lost by it: `publish` leaves nothing behind."""
        if self._producer is not None:
            _end(self._producer)
            self._producer = None

    def cluster_id(self) -> str:
        """Raises NotAllowed and BrokerAway."""
        return topics.cluster_id(self._options)

    def publish(self, records: Sequence[Outgoing]) -> list[Answer]:
        """Sends them and waits until all replicas in sync have them; an answer for each, in their order.

        Raises BrokerAway where none has arrived within `timeout_s`, and a few seconds for connecting and asking why,
        and no answer says why not; then all have to be sent again. Raises NotAllowed where we are not let in at all.
        """
        answers: dict[int, Answer] = {}
        refusals = self._refused_topics({record.topic for record in records})
        for place, record in enumerate(records):
            if record.topic in refusals:
                answers[place] = refusals[record.topic]
        for careful in (False, True):
            if places := [place for place in range(len(records)) if place not in answers]:
                try:
                    answers |= self._round(records, places, careful=careful)
                except KafkaTrouble as trouble:
                    if not _any_delivered(answers):
                        raise
                    answers |= dict.fromkeys(places, Unanswered(str(trouble), trouble))
        silent = [answer for answer in answers.values() if isinstance(answer, Unanswered)]
        if silent and not _any_delivered(answers):
            with asking(self._options, "publishing"):
                raise silent[0].cause
        return [answers[place] for place in range(len(records))]

    def _round(self, records: Sequence[Outgoing], places: Sequence[int], *, careful: bool) -> dict[int, Answer]:
        """Sends the records at `places`. What is missing in the answer has to be sent again with care."""
        producer = self._connect(careful=careful)
        usable = False
        try:
            with asking(self._options, "publishing"):
                outcomes = self._send(producer, [records[place] for place in places])
            usable = not careful and all(isinstance(outcome, Delivered) for outcome in outcomes)
        finally:
            if not usable:
                self._forget(producer)
        answers: dict[int, Answer] = {}
        late: dict[int, Exception] = {}
        for place, outcome in zip(places, outcomes, strict=True):
            if isinstance(outcome, Delivered):
                answers[place] = outcome
            elif isinstance(outcome, client.RetriableError):  # nothing was said about the record
                late[place] = outcome
            elif careful:
                answers[place] = _refusal(outcome)
        if late:
            answers |= self._explained(records, late, is_away=not answers)
        return answers

    def _send(self, producer: KafkaProducer, records: Sequence[Outgoing]) -> list[Delivered | Exception]:
        deadline = time.monotonic() + self._timeout_s + 1.0
        sent: list[FutureRecordMetadata | Exception] = []
        unknown: dict[str, client.KafkaTimeoutError] = {}
        for record in records:
            if (error := unknown.get(record.topic)) is not None:  # its partitions are waited for once
                sent.append(error)
                continue
            sent.append(one := _sent(producer, record))
            if isinstance(one, client.KafkaTimeoutError):
                unknown[record.topic] = one
        return [_outcome(one, deadline) for one in sent]

    def _explained(
        self, records: Sequence[Outgoing], late: Mapping[int, Exception], *, is_away: bool
    ) -> dict[int, Answer]:
        """A topic that was deleted looks like a broker that does not answer. Raises KafkaTrouble if it `is_away`."""
        self._known.clear()
        refusals: Mapping[str, Refusal] = {}
        try:
            refusals = self._refused_topics({records[place].topic for place in late})
        except KafkaTrouble:
            if is_away:
                raise
        return {
            place: refusals.get(records[place].topic) or Unanswered(plain(error), error)
            for place, error in late.items()
        }

    def _refused_topics(self, names: set[str]) -> dict[str, Refusal]:
        """Of topics that we have not written to before. Raises NotAllowed and BrokerAway."""
        unseen = sorted(names - self._known)
        refusals: dict[str, Refusal] = {}
        if not unseen:
            return refusals
        for name, found in topics.look_up(self._options, unseen).items():
            if found is None:
                refusals[name] = Refusal(
                    client.UnknownTopicOrPartitionError.message, f"there is no topic {name}", of_topic=True
                )
            elif isinstance(found, BadTopic):
                refusals[name] = Refusal(client.InvalidTopicError.message, str(found), of_topic=True)
            elif isinstance(found, NotAllowed):
                refusals[name] = Refusal(client.TopicAuthorizationFailedError.message, str(found), of_topic=True)
            elif not found.may_write:
                refusals[name] = Refusal(
                    client.TopicAuthorizationFailedError.message,
                    f"topic {name}: it needs the ACL Write for us",
                    of_topic=True,
                )
        self._known |= names - refusals.keys()
        return refusals

    def _connect(self, *, careful: bool) -> KafkaProducer:
        if self._producer is None:
            timeout_ms = round(self._timeout_s * 1000)
            how: dict[str, Any] = {"linger_ms": LINGER_MS, "enable_idempotence": True}
            if careful:
                how = {"batch_size": 0, "enable_idempotence": False, "max_in_flight_requests_per_connection": 1}
            keywords = {
                **how,
                "acks": "all",
                "allow_auto_create_topics": False,
                "delivery_timeout_ms": timeout_ms,
                "max_block_ms": timeout_ms,
                "max_request_size": LARGEST,
                "metrics_enabled": False,
                # Below the delivery timeout, so that a lost connection is tried again within it.
                "request_timeout_ms": min(round(self._options.request_s * 1000), timeout_ms // 2),
            }
            with asking(self._options, "connecting to publish"):
                self._producer = connected(KafkaProducer, self._options, "publisher", **keywords)
        return self._producer

    def _forget(self, producer: KafkaProducer) -> None:
        self._producer = None
        _end(producer)


def _end(producer: KafkaProducer) -> None:
    """Closes it, with whatever it holds.

    `close` waits for what was sent and gives up, with its thread running on, where a broker does not answer.
    """
    sender = producer._sender
    sender.force_close()
    sender.join(5.0)
    with suppress(client.KafkaTimeoutError):
        producer.close(timeout=1.0)


def _sent(producer: KafkaProducer, record: Outgoing) -> FutureRecordMetadata | Exception:
    try:
        return producer.send(record.topic, record.value, record.key, list(record.headers))
    except (client.MessageSizeTooLargeError, client.KafkaTimeoutError, ValueError, TypeError) as error:
        return error


def _outcome(sent: FutureRecordMetadata | Exception, deadline: float) -> Delivered | Exception:
    if not isinstance(sent, FutureRecordMetadata):
        return sent
    try:
        metadata = sent.get(timeout=max(0.0, deadline - time.monotonic()))
    except client.KafkaError as error:
        failed: Exception = error
        return failed
    return Delivered(metadata.partition, metadata.offset, metadata.timestamp)


def _refusal(error: Exception) -> Refusal:
    code = getattr(error, "message", None) or "INVALID_RECORD"
    of_topic = isinstance(error, client.AuthorizationError | client.InvalidTopicError)
    return Refusal(str(code), plain(error), of_topic)


def _any_delivered(answers: Mapping[int, Answer]) -> bool:
    return any(isinstance(answer, Delivered) for answer in answers.values())
