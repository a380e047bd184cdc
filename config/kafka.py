"""The settings of Kafka: where it is, how to be let in, and what the topics are called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from config.lanes import LANES, Lane
from config.values import AbsolutePath, Bytes, HttpUrl, Json, Seconds, Servers, TopicName


class KafkaSettings(BaseModel):
    """Everything that is about Kafka; part of `Settings`."""

    # Only `Settings` is validated, and when it is.
    model_config = ConfigDict(defer_build=True)

    kafka_bootstrap: Servers | None = Field(
        default=None, description="Kafka servers, as host:9092,other:9092; unset: no Kafka."
    )
    kafka_security: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = Field(
        default="plaintext", description="How brokers are spoken to."
    )
    kafka_ssl_ca: AbsolutePath | None = Field(
        default=None, description="PEM file of the authorities that brokers are vouched for by; unset: the system's."
    )
    kafka_ssl_cert: AbsolutePath | None = Field(default=None, description="PEM file of our certificate.")
    kafka_ssl_key: AbsolutePath | None = Field(default=None, description="PEM file of our certificate's key.")
    kafka_ssl_key_password: str | None = Field(default=None, repr=False, description="Password of that key.")
    kafka_ssl_check_hostname: bool = Field(default=True, description="Whether a certificate must name its broker.")
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = Field(
        default=None, description="How we say who we are, where security is sasl_*."
    )
    kafka_username: str | None = Field(default=None, min_length=1, description="For PLAIN and SCRAM.")
    kafka_password: str | None = Field(default=None, min_length=1, repr=False, description="For PLAIN and SCRAM.")
    kafka_oauth_token_url: HttpUrl | None = Field(
        default=None, description="For OAUTHBEARER: where tokens are given (client credentials grant)."
    )
    kafka_oauth_client_id: str | None = Field(default=None, min_length=1, description="For OAUTHBEARER.")
    kafka_oauth_client_secret: str | None = Field(
        default=None, min_length=1, repr=False, description="For OAUTHBEARER."
    )
    kafka_oauth_scope: str | None = Field(default=None, min_length=1, description="For OAUTHBEARER, where it is asked.")
    kafka_group: str = Field(default="mediamill", min_length=1, max_length=200, description="Consumer group of ingest.")
    kafka_session: Seconds = Field(
        default=10,
        gt=0,
        le=1800,
        description="Silence after which a dead reader's partitions go to others; brokers want 6s at least.",
    )
    kafka_prefix: TopicName = Field(
        default="mediamill", description="What topics' names begin with: <prefix>.jobs.interactive, <prefix>.results."
    )
    kafka_lane_topics: Annotated[dict[Lane, TopicName], Json] = Field(
        default={}, description='Other names for lanes\' topics, as JSON: {"backfill": "media-backfill"}.'
    )
    kafka_results_topic: TopicName | None = Field(default=None, description="Unset: <prefix>.results.")
    kafka_dead_letter_topic: TopicName | None = Field(
        default=None, description="Where rejected messages are mirrored to; unset: nowhere. They are kept in any case."
    )
    kafka_create_topics: bool = Field(default=True, description="Whether topics that are missing are made.")
    kafka_partitions: int = Field(default=12, ge=1, le=10_000, description="Partitions of a topic that is made.")
    kafka_replication: int = Field(
        default=-1, ge=-1, le=100, description="Replicas of a topic that is made; -1: the broker's default."
    )
    kafka_retention: Seconds = Field(
        default=7 * 86400, gt=0, description="How long a topic that is made keeps its messages."
    )
    rejected_bytes: Bytes = Field(
        default=1 << 30, description="Bodies of rejected messages in Postgres; beyond, they go to the object store."
    )
    outbox_tries: int = Field(
        default=10, ge=1, le=1000, description="Refusals of an event by its destination before it is dead."
    )

    @property
    def lane_topics(self) -> dict[Lane, str]:
        """Lane -> topic."""
        return {lane: self.kafka_lane_topics.get(lane, f"{self.kafka_prefix}.jobs.{lane}") for lane in LANES}

    @property
    def results_topic(self) -> str:
        """Where ends of jobs are published, when that is switched on for the first time."""
        return self.kafka_results_topic or f"{self.kafka_prefix}.results"


def conflicts(settings: KafkaSettings) -> Iterator[tuple[str, str]]:
    """What is wrong with settings that are each right alone: the setting, and a sentence about it."""
    sasl = settings.kafka_security.startswith("sasl")
    mechanism = settings.kafka_sasl_mechanism
    if sasl and mechanism is None:
        yield "kafka_sasl_mechanism", f"is needed when kafka_security is {settings.kafka_security}"
    if mechanism is not None and not sasl:
        yield "kafka_security", f"is {settings.kafka_security}, but there is a mechanism; write sasl_ssl"
    yield from _ignored(settings)
    needed = (
        ("kafka_oauth_token_url", "kafka_oauth_client_id", "kafka_oauth_client_secret")
        if mechanism == "OAUTHBEARER"
        else ("kafka_username", "kafka_password")
        if mechanism is not None
        else ()
    )
    for name in needed:
        if getattr(settings, name) is None:
            yield name, f"is needed for {mechanism}"
    if (settings.kafka_ssl_cert is None) != (settings.kafka_ssl_key is None):
        yield "kafka_ssl_cert", "and kafka_ssl_key belong together: set both or neither"
    for name in ("kafka_ssl_ca", "kafka_ssl_cert", "kafka_ssl_key"):
        path = getattr(settings, name)
        if path is not None and not path.is_file():
            yield name, "there is no such file"
    names = [*settings.lane_topics.values(), settings.results_topic]
    names += [settings.kafka_dead_letter_topic] if settings.kafka_dead_letter_topic else []
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield "kafka_prefix", f"two of the topics are called {name}; each has a name of its own"


def _ignored(settings: KafkaSettings) -> Iterator[tuple[str, str]]:
    """What is set and would not be used: whoever sets it takes the connection for safer than it is."""
    security = settings.kafka_security
    if not security.endswith("ssl"):
        right = "sasl_ssl" if security == "sasl_plaintext" else "ssl"
        for name in ("kafka_ssl_ca", "kafka_ssl_cert", "kafka_ssl_key"):
            if getattr(settings, name) is not None:
                yield name, f"is not used while kafka_security is {security}; write {right} there, or leave it out"
    if settings.kafka_sasl_mechanism is None and not security.startswith("sasl"):
        for name in ("kafka_username", "kafka_password", "kafka_oauth_client_id", "kafka_oauth_client_secret"):
            if getattr(settings, name) is not None:
                yield name, f"is not used while kafka_security is {security}; write sasl_ssl there, or leave it out"
