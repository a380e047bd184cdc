"""The relay's publisher over our client of Kafka: two rooms that do not know of each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import structlog

from config.errors import BadSetting
from intake.kafka.errors import BadTopic, KafkaTrouble, NotAllowed
from intake.kafka.options import KafkaOptions
from intake.kafka.publisher import Answer, Delivered, Outgoing, Publisher, Unanswered
from worker import events
from worker.publisher import BrokerAway, Fault, Refusal

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

#: How long a broker may take for a batch; one that takes longer is away. The relay's lease covers it several times.
TIMEOUT_S = 15.0


class KafkaEvents:
    """Publishes what the relay has; a context manager that closes its connections."""

    def __init__(
        self, options: KafkaOptions, *, prepare: Callable[[], object] = lambda: None, timeout_s: float = TIMEOUT_S
    ) -> None:
        """`prepare` makes the topics that are missing, and may raise KafkaTrouble."""
        self._said = ""
        self._publisher = Publisher(options, timeout_s=timeout_s)
        self._prepare = prepare

    def cluster_id(self) -> str:
        """Which cluster it is; its topics are there then, where that can be had. Raises BrokerAway."""
        with _waiting():
            cluster = self._publisher.cluster_id()
            try:
                self._prepare()
            except (BadTopic, NotAllowed) as error:
                # Of one topic, mostly: it is told again by what is published to it, and the others go on.
                if str(error) != self._said:
                    log.warning("not all topics of events can be used", why=str(error))
                self._said = str(error)
            return cluster

    def publish(self, records: Sequence[events.Outgoing]) -> list[Refusal | None]:
        """What the brokers refuse. Raises BrokerAway."""
        with _waiting():
            answers = self._publisher.publish([Outgoing(r.topic, r.key, r.value, r.headers) for r in records])
        return [_as_the_relay_has_it(answer) for answer in answers]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._publisher.close()


def _as_the_relay_has_it(answer: Answer) -> Refusal | None:
    if isinstance(answer, Delivered):
        return None
    if isinstance(answer, Unanswered):
        return Refusal("NO_ANSWER", answer.message, Fault.SILENCE)
    fault = Fault.TOPIC if answer.of_topic else Fault.SIZE if answer.too_large else Fault.RECORD
    return Refusal(answer.code, answer.message, fault)


@contextmanager
def _waiting() -> Iterator[None]:
    """Not being let in is waited out like a broker that is away, and so is a certificate that is being exchanged:
    nothing is wrong with the events.
    """
    try:
        yield
    except (KafkaTrouble, BadSetting) as error:
        raise BrokerAway(str(error)) from error
