"""What of a worker speaks with Kafka: ingest and the relay, put together from a deployment's parts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from config.lanes import LANES
from console.door import door_of
from console.publishing import KafkaEvents
from console.signals import IngestSignals
from intake.kafka import topics
from intake.kafka.ingest import Ingest
from intake.kafka.reads import Reads
from intake.replay import Door, revalidate
from storage import destinations
from storage.destinations import DEAD_LETTER, RESULTS
from storage.rejected_bodies import Overflow
from worker.backoff import Backoff
from worker.relay import Pace, Relay

if TYPE_CHECKING:
    import random

    from console.compose import Deployment
    from intake.kafka.options import KafkaOptions
    from worker.health import Health
    from worker.metrics import Metrics

#: Of ingest: a transaction, and a look at rejections beside it. Of the relay: one, and one to spare.
CONNECTIONS = 2


class KafkaParts:
    """Of a deployment that has Kafka."""

    def __init__(self, deployment: Deployment, options: KafkaOptions) -> None:
        self._deployment = deployment
        self._options = options

    def ensure_topics(self, names: Collection[str]) -> None:
        """Makes those that are missing, or says which. Raises KafkaTrouble.

        Each part of a worker looks after its own: it may have no right to see the others.
        """
        settings = self._deployment.settings
        wanted = [topic for topic in topics.wanted(settings) if topic.name in names]
        topics.ensure(self._options, wanted, create=settings.kafka_create_topics)

    def ensure_destinations(self) -> None:
        """From now on events are written for the topics of the settings, whether or not anybody publishes them yet.

        By every process that has Kafka: jobs may end before the first relay begins. Raises DatabaseError.
        """
        with self._deployment.database.transaction() as connection:
            for name, topic in self._event_topics.items():
                destinations.ensure(connection, name, topic, None)

    @property
    def _event_topics(self) -> Mapping[str, str]:
        """Destination -> topic."""
        settings = self._deployment.settings
        dead_letter = settings.kafka_dead_letter_topic
        return {RESULTS: settings.results_topic} | ({} if dead_letter is None else {DEAD_LETTER: dead_letter})

    @cached_property
    def door(self) -> Door:
        """What messages have to pass, whether they are read or replayed."""
        return door_of(self._deployment)

    def ingest(self, signals: IngestSignals) -> Ingest:
        """To be run in a thread of its own."""
        deployment, door_ = self._deployment, self.door
        settings = deployment.settings
        database = deployment.own_database(CONNECTIONS)
        overflow = Overflow(
            database,
            deployment.store,
            output_prefix=settings.output_prefix,
            budget=settings.rejected_bytes,
            scratch=settings.scratch,
        )

        def revalidate_some() -> bool:
            # A page at a time, between two looks at Kafka.
            done = revalidate(database, deployment.store, settings.scratch, door_)
            return done.jobs + done.refused > 0

        return Ingest(
            self._options,
            Reads.of(settings),
            database,
            deployment.registry,
            {lane: door_.rules_for(lane) for lane in LANES},
            build=door_.build,
            place=overflow.place,
            signals=signals,
            prepare=lambda: self.ensure_topics(settings.lane_topics.values()),
            revalidate=revalidate_some,
        )

    def relay(self, health: Health, metrics: Metrics, rng: random.Random) -> Relay:
        """To be run in a thread of its own."""
        settings = self._deployment.settings
        names = self._event_topics.values()
        publisher = self._deployment.held(KafkaEvents(self._options, prepare=lambda: self.ensure_topics(names)))
        return Relay(
            self._deployment.own_database(CONNECTIONS),
            publisher,
            topics=self._event_topics,
            health=health,
            metrics=metrics,
            backoff=Backoff(settings.backoff_base_s, settings.backoff_cap_s, rng),
            pace=Pace(tries=settings.outbox_tries),
        )
