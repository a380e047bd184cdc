"""Whether Kafka can be used, and whether messages may expire before they are read."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from config.settings import Settings
from config.values import show_duration
from console.check import Check, Status
from console.compose import Deployment
from intake.kafka import diagnosis, topics
from intake.kafka.backlog import Backlog, backlog, unread_before
from intake.kafka.errors import KafkaTrouble, NotAllowed
from intake.kafka.options import KafkaOptions

#: An outage of the database over a weekend must not cost messages.
LEAST_RETENTION_S = 3 * 86400


def kafka(deployment: Deployment) -> Check:
    """What `mediamill doctor` says of Kafka."""
    if (options := deployment.kafka) is None:
        return Check("kafka", Status.OK, "none, jobs come by the command line: MEDIAMILL_KAFKA_BOOTSTRAP names one")
    settings = deployment.settings
    try:
        there = topics.present(options, [topic.name for topic in topics.wanted(settings)])
        places = backlog(options, settings.lane_topics, settings.kafka_group)
        about = f"cluster {topics.cluster_id(options)}, {sum(one.waiting for one in places)} messages wait"
        if missing := [topic.name for topic in topics.wanted(settings) if topic.name not in there]:
            return _missing(about, missing, made=settings.kafka_create_topics)
        warnings = tuple(_expiring(options, settings, places))
    except NotAllowed as error:
        if diagnosis.of(options) is not None:  # we are not let in at all
            return Check("kafka", Status.FAIL, str(error))
        return Check("kafka", Status.WARN, str(error), ("docs/operations.md lists the ACLs",))
    except KafkaTrouble as error:
        return Check("kafka", Status.FAIL, str(error))
    return Check("kafka", Status.WARN if warnings else Status.OK, about, warnings)


def _missing(about: str, names: Sequence[str], *, made: bool) -> Check:
    status, fix = (Status.WARN, "the first worker makes them") if made else (Status.FAIL, "make them")
    return Check("kafka", status, f"{about}; missing: {', '.join(names)}", (fix,))


def _expiring(options: KafkaOptions, settings: Settings, places: Sequence[Backlog]) -> Iterator[str]:
    """Topics whose messages may be gone before anybody has read them."""
    for topic, kept_s in topics.retention(options, list(settings.lane_topics.values())).items():
        if kept_s is None:
            continue
        half_ago_ms = round((time.time() - kept_s / 2) * 1000)
        kept = show_duration(kept_s)
        if unread_before(options, [one for one in places if one.topic == topic], half_ago_ms):
            yield f"{topic}: messages wait for longer than half of the {kept} for which it keeps them"
        elif kept_s < LEAST_RETENTION_S:
            yield f"{topic} keeps messages for {kept}: an outage of the database that is longer loses them"
