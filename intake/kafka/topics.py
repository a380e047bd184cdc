"""Topics: which we want, which are there, and making those that are missing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient
from kafka import errors as client
from kafka.admin import ConfigResource, ConfigResourceType

from config.kafka import KafkaSettings
from intake.kafka.clients import connected
from intake.kafka.diagnosis import asking
from intake.kafka.errors import BadTopic, KafkaTrouble, NotAllowed
from intake.kafka.options import KafkaOptions

#: How long a new topic may take until each of its partitions has a leader.
READY_S = 10.0


@dataclass(frozen=True)
class Wanted:
    """A topic that mediamill uses, and how it is made where it is missing."""

    name: str
    partitions: int
    replication: int  # -1: the broker's default
    retention_s: float


@dataclass(frozen=True)
class Topic:
    """A topic that is there. `id` is another one after it was deleted and made anew."""

    name: str
    id: uuid.UUID
    partitions: tuple[int, ...]
    may_write: bool


def wanted(settings: KafkaSettings) -> list[Wanted]:
    """The lanes' topics, the results topic, and the dead-letter topic where there is one."""
    names = [*settings.lane_topics.values(), settings.results_topic]
    if settings.kafka_dead_letter_topic is not None:
        names.append(settings.kafka_dead_letter_topic)
    return [
        Wanted(name, settings.kafka_partitions, settings.kafka_replication, settings.kafka_retention) for name in names
    ]


def ensure(options: KafkaOptions, topics: Sequence[Wanted], *, create: bool) -> list[str]:
    """Makes the topics that are missing and waits until they can be used; their names. What exists is never changed.

    Two processes may do so at once. Raises BadTopic, NotAllowed and BrokerAway.
    """
    with _admin(options, "looking for topics") as admin:
        there = _present(admin, [topic.name for topic in topics])
        missing = [topic for topic in topics if topic.name not in there]
        if missing and not create:
            names = ", ".join(topic.name for topic in missing)
            raise BadTopic(f"missing in Kafka: {names}; make them, or set MEDIAMILL_KAFKA_CREATE_TOPICS to true")
        if missing:
            made = _create(admin, missing)
            admin.wait_for_topics([topic.name for topic in missing], timeout_ms=round(READY_S * 1000))
            return made
    return []


def cluster_id(options: KafkaOptions) -> str:
    """The cluster's own id, which stays when brokers come and go. Raises NotAllowed and BrokerAway."""
    with _admin(options, "asking for the cluster's id") as admin:
        return str(admin.describe_cluster()["cluster_id"])


def present(options: KafkaOptions, names: Sequence[str]) -> dict[str, Topic]:
    """Those that are there, by name. Raises NotAllowed where one may not be seen, BadTopic for a name, BrokerAway."""
    with _admin(options, "looking for topics") as admin:
        return _present(admin, names)


def look_up(options: KafkaOptions, names: Sequence[str]) -> dict[str, Topic | BadTopic | NotAllowed | None]:
    """Each by itself: None where it is missing, the error where it is that. Raises NotAllowed and BrokerAway."""
    with _admin(options, "looking for topics") as admin:
        return _looked_up(admin, names)


def topic_ids(options: KafkaOptions, names: Sequence[str]) -> dict[str, uuid.UUID]:
    """Of those that are there. Raises as `present` does."""
    return {name: topic.id for name, topic in present(options, names).items()}


def retention(options: KafkaOptions, names: Sequence[str]) -> dict[str, float | None]:
    """How many seconds each topic keeps its messages at least, None for always; topics that are missing are left out.

    It needs the ACL DescribeConfigs: raises NotAllowed without, and BrokerAway.
    """
    with _admin(options, "reading the topics' retention") as admin:
        there = [ConfigResource(ConfigResourceType.TOPIC, name) for name in _present(admin, names)]
        found = admin.describe_configs(there, config_filter="all").get("topic", {}) if there else {}
    if hidden := sorted(name for name, configs in found.items() if "retention.ms" not in configs):
        raise NotAllowed(f"reading the topics' retention: {', '.join(hidden)} needs the ACL DescribeConfigs")
    kept = {name: float(configs["retention.ms"]["value"]) for name, configs in found.items()}
    return {name: None if milliseconds < 0 else milliseconds / 1000 for name, milliseconds in kept.items()}


@contextmanager
def _admin(options: KafkaOptions, doing: str) -> Iterator[KafkaAdminClient]:
    with asking(options, doing):
        admin = connected(KafkaAdminClient, options, "admin")
        try:
            yield admin
        finally:
            admin.close()


def _present(admin: KafkaAdminClient, names: Sequence[str]) -> dict[str, Topic]:
    found = {}
    for name, answer in _looked_up(admin, names).items():
        if isinstance(answer, KafkaTrouble):
            raise answer
        if answer is not None:
            found[name] = answer
    return found


def _looked_up(admin: KafkaAdminClient, names: Sequence[str]) -> dict[str, Topic | BadTopic | NotAllowed | None]:
    found: dict[str, Topic | BadTopic | NotAllowed | None] = {}
    for described in admin.describe_topics(list(names)):
        name, error = described["name"], client.for_code(described["error_code"])
        if error is client.NoError:
            found[name] = _topic(described)
        elif error is client.UnknownTopicOrPartitionError:
            found[name] = None
        elif error is client.TopicAuthorizationFailedError:
            found[name] = NotAllowed(f"topic {name}: it needs the ACL Describe for us (see docs/operations.md)")
        elif error is client.InvalidTopicError:
            found[name] = BadTopic(f"topic {name}: Kafka takes no such name; look at MEDIAMILL_KAFKA_PREFIX")
        else:
            raise error(name)
    return found


def _topic(described: dict[str, Any]) -> Topic:
    partitions = tuple(sorted(partition["partition_index"] for partition in described["partitions"]))
    # Brokers before 2.3 do not say what we may do.
    operations = described.get("authorized_operations") or ["WRITE"]
    return Topic(described["name"], uuid.UUID(str(described["topic_id"])), partitions, "WRITE" in operations)


def _create(admin: KafkaAdminClient, topics: Sequence[Wanted]) -> list[str]:
    """The names of those that we have made; another may have been faster. Raises BadTopic and NotAllowed."""
    request = {
        topic.name: {
            "num_partitions": topic.partitions,
            "replication_factor": topic.replication,
            "configs": {"retention.ms": str(round(topic.retention_s * 1000))},
        }
        for topic in topics
    }
    made = []
    for answer in admin.create_topics(request, raise_errors=False)["topics"]:
        name, error, said = answer["name"], client.for_code(answer["error_code"]), answer["error_message"]
        if error is client.NoError:
            made.append(name)
        elif issubclass(error, client.AuthorizationError):
            raise NotAllowed(
                f"topic {name} is missing and we may not make it: make it, or give us the ACL Create "
                "(see docs/operations.md)"
            )
        elif error is client.InvalidReplicationFactorError:
            raise BadTopic(f"topic {name} cannot be made: {said}; look at MEDIAMILL_KAFKA_REPLICATION")
        elif issubclass(error, client.RetriableError):
            raise error(said)
        elif error is not client.TopicAlreadyExistsError:
            raise BadTopic(f"topic {name} cannot be made: {error.__name__.removesuffix('Error')}: {said}")
    return made
