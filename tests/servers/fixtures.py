"""The servers as pytest fixtures, one of each for the whole run. A test that kills one starts its own, by `with`.

The servers' modules are imported inside: this one is loaded in the executor's environment too, which has no clients.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

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
