"""The servers as pytest fixtures, one of each for the whole run. A test that kills one starts its own, by `with`.

The servers' modules are imported inside: this one is loaded in the executor's environment too, which has no clients.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from tests.servers.kafka import Kafka, KafkaServer
    from tests.servers.postgres import PostgresServer
    from tests.servers.s3 import S3Bucket, S3Server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    from tests.servers.postgres import PostgresServer

    with PostgresServer() as server:
        yield server


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a database with nothing in it."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    from tests.servers.s3 import S3Server

    with S3Server() as server:
        yield server


@pytest.fixture(scope="session")
def s3_client(s3_server: S3Server) -> Iterator[S3Client]:
    client = s3_server.client()
    yield client
    client.close()


@pytest.fixture
def s3_bucket(s3_server: S3Server, s3_client: S3Client) -> S3Bucket:
    """An empty bucket of this test's own."""
    from tests.servers.s3 import S3Bucket

    return S3Bucket.create(s3_server, s3_client)


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[KafkaServer]:
    from tests.servers.kafka import KafkaServer

    with KafkaServer() as server:
        yield server


@pytest.fixture
def kafka(kafka_server: KafkaServer) -> Iterator[Kafka]:
    """The shared broker under names of this test's own; its topics are deleted afterwards."""
    from tests.servers.kafka import Kafka

    kafka = Kafka(kafka_server)
    yield kafka
    if left := kafka.topics():
        kafka.admin.delete_topics(sorted(left))
    kafka.close()


@pytest.fixture
def own_kafka() -> Iterator[Kafka]:
    """A broker of this test's own, which may be killed and frozen: `own_kafka.server`. It takes three seconds."""
    from tests.servers.kafka import Kafka, KafkaServer

    with KafkaServer() as server:
        kafka = Kafka(server)
        yield kafka
        kafka.close()
