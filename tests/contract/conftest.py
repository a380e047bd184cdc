"""Both ways to the database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from storage.database import Database
from storage.direct import DirectDatabase
from storage.pooled import PooledDatabase
from tests.contract.databases import Make
from tests.servers.postgres import PostgresServer


@pytest.fixture(params=[PooledDatabase, DirectDatabase], ids=["pooled", "direct"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    made: list[Database] = []

    def one(url: str, **limits: Any) -> Database:
        made.append(request.param(url, **limits))
        return made[-1]

    yield one
    for database in made:
        database.close()


@pytest.fixture
def bare(make: Make, empty_database: str) -> Database:
    """There is nothing in it."""
    return make(empty_database)


@pytest.fixture(scope="module", params=[PooledDatabase, DirectDatabase], ids=["pooled", "direct"])
def shared(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Iterator[Database]:
    """One for all tests that leave nothing behind."""
    with postgres_server.database() as url:
        database: Database = request.param(url)
        yield database
        database.close()


@pytest.fixture
def aside(empty_database: str) -> Iterator[Database]:
    """Another process on the same database."""
    database = PooledDatabase(empty_database)
    yield database
    database.close()
