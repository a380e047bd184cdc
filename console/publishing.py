"""The relay's publisher over our client of Kafka: two rooms that do not know of each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from intake.kafka.errors import KafkaTrouble
from intake.kafka.options import KafkaOptions
from intake.kafka.publisher import Outgoing, Publisher, Refusal
from worker import events, relay

#: How long a broker may take for a batch; one that takes longer is away. The relay's lease covers it several times.
TIMEOUT_S = 15.0


class KafkaEvents:
    """Publishes what the relay has; a context manager that closes its connections."""

    def __init__(
        self, options: KafkaOptions, *, prepare: Callable[[], object] = lambda: None, timeout_s: float = TIMEOUT_S
    ) -> None:
        """`prepare` makes the topics that are missing, and may raise KafkaTrouble."""
        self._publisher = Publisher(options, timeout_s=timeout_s)
        self._prepare = prepare

    def cluster_id(self) -> str:
        """Which cluster it is; its topics are there then. Raises worker.relay.BrokerAway."""
        with _waiting():
            self._prepare()
            return self._publisher.cluster_id()

    def publish(self, records: Sequence[events.Outgoing]) -> list[Refusal | None]:
        """What the brokers refuse. Raises worker.relay.BrokerAway."""
        with _waiting():
            answers = self._publisher.publish([Outgoing(r.topic, r.key, r.value, r.headers) for r in records])
        return [answer if isinstance(answer, Refusal) else None for answer in answers]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._publisher.close()


@contextmanager
def _waiting() -> Iterator[None]:
    """Not being let in is waited out like a broker that is away: nothing is wrong with the events."""
    try:
        yield
    except KafkaTrouble as error:
        raise relay.BrokerAway(str(error)) from error
