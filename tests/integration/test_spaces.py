"""Embedding spaces: how they are made, cut over, and what of them is missing."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from storage.database import Database
from storage.pooled import PooledDatabase
from storage.schema import migrate
from storage.spaces import MissingEmbedding, Space, activate, ensure_space, live, missing
from storage.sql import Connection, text
from tests.integration.library import Library, Piece, sha256
from tests.servers.postgres import PostgresServer


@pytest.fixture(scope="module")
def migrated(postgres_server: PostgresServer) -> Iterator[str]:
    with postgres_server.database() as url:
        database = PooledDatabase(url)
        migrate(database)
        database.close()
        yield url.rsplit("/", 1)[1]


@pytest.fixture
def database(postgres_server: PostgresServer, migrated: str) -> Iterator[Database]:
    with postgres_server.database(template=migrated) as url:
        database = PooledDatabase(url)
        yield database
        database.close()


def spaces(database: Database) -> list[Space]:
    with database.transaction() as connection:
        return live(connection)


def indexes(database: Database) -> dict[str, str]:
    with database.transaction() as connection:
        rows = connection.execute(
            text("SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'embeddings' AND indexdef LIKE '%hnsw%'")
        )
        return {row.indexname: row.indexdef for row in rows}


def test_the_first_space_is_active_and_a_later_one_is_building(database: Database) -> None:
    first = ensure_space(database, checkpoint="clip", revision="1", dimension=4)
    second = ensure_space(database, checkpoint="clip", revision="2", dimension=8)
    assert (first.state, second.state) == ("active", "building")
    assert spaces(database) == [first, second]


def test_a_space_is_made_once(database: Database) -> None:
    first = ensure_space(database, checkpoint="clip", revision="1", dimension=4)
    assert ensure_space(database, checkpoint="clip", revision="1", dimension=4) == first
    assert spaces(database) == [first]


def test_two_workers_that_start_at_once_make_one_space(database: Database) -> None:
    made: list[Space] = []
    start = threading.Barrier(4)

    def ensure() -> None:
        start.wait()
        made.append(ensure_space(database, checkpoint="clip", revision="1", dimension=4))

    threads = [threading.Thread(target=ensure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert set(made) == set(spaces(database))


def test_each_space_has_one_index_of_its_own_dimension(database: Database) -> None:
    first = ensure_space(database, checkpoint="clip", revision="1", dimension=4)
    second = ensure_space(database, checkpoint="clip", revision="2", dimension=8)
    found = indexes(database)
    assert set(found) == {f"embeddings_space_{first.id}", f"embeddings_space_{second.id}"}
    assert "halfvec(4)" in found[f"embeddings_space_{first.id}"]
    assert f"WHERE (space = {second.id})" in found[f"embeddings_space_{second.id}"]


def test_a_cut_over_makes_the_new_space_active_and_keeps_the_old_for_a_way_back(database: Database) -> None:
    first = ensure_space(database, checkpoint="clip", revision="1", dimension=4)
    second = ensure_space(database, checkpoint="clip", revision="2", dimension=4)
    activate(database, second.id)
    assert [space.state for space in spaces(database)] == ["building", "active"]
    activate(database, second.id)
    activate(database, first.id)
    assert [space.state for space in spaces(database)] == ["active", "building"]


def test_a_space_that_is_not_there_or_retired_cannot_become_active(database: Database) -> None:
    first = ensure_space(database, checkpoint="clip", revision="1", dimension=4)
    second = ensure_space(database, checkpoint="clip", revision="2", dimension=4)
    with database.transaction() as connection:
        connection.execute(text("UPDATE embedding_spaces SET state = 'retired' WHERE id = :id"), {"id": second.id})
    for absent in (second.id, 99):
        with pytest.raises(ValueError, match=str(absent)):
            activate(database, absent)
    assert spaces(database) == [first]


def waits_for_a_lock(connection: Connection) -> bool:
    waiting = text("SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database OR l.database IS NULL"
                   " WHERE NOT l.granted AND d.datname = current_database()")  # fmt: skip
    return bool(connection.scalar(waiting))


def test_a_cut_over_waits_for_a_recording_that_is_under_way(database: Database) -> None:
    ensure_space(database, checkpoint="clip", revision="1", dimension=4)
    second = ensure_space(database, checkpoint="clip", revision="2", dimension=4)
    done = threading.Event()

    def cut_over() -> None:
        activate(database, second.id)
        done.set()

    thread = threading.Thread(target=cut_over)
    with database.transaction() as recording:
        assert [space.state for space in live(recording, shared=True)] == ["active", "building"]
        thread.start()
        with database.autocommit() as watching:
            while not waits_for_a_lock(watching):
                assert not done.is_set()
        # What the recording saw is still so.
        assert [space.state for space in live(recording)] == ["active", "building"]
    thread.join()
    assert done.is_set()
    assert [space.state for space in spaces(database)] == ["building", "active"]


def test_two_recordings_do_not_wait_for_each_other(database: Database) -> None:
    ensure_space(database, checkpoint="clip", revision="1", dimension=4)
    with database.transaction() as one, database.transaction() as other:
        assert live(one, shared=True) == live(other, shared=True)


def test_an_embedding_without_a_time_range_is_stored_once(database: Database) -> None:
    space = ensure_space(database, checkpoint="clip", revision="1", dimension=2)
    library = Library(database)
    library.add(Piece("dog", (1, 0)), [space])
    library.add(Piece("dog", (0, 1)), [space])
    with database.transaction() as connection:
        assert connection.scalars(text("SELECT vector::text FROM embeddings")) == ["[1,0]"]


def test_frames_of_a_film_are_stored_once_each(database: Database) -> None:
    space = ensure_space(database, checkpoint="clip", revision="1", dimension=2)
    library = Library(database)
    film = Piece("film", None, spans=[(0, 1, (1, 0)), (1, 2, (1, 1))])
    library.add(film, [space])
    library.add(film, [space])
    with database.transaction() as connection:
        assert connection.execute(text("SELECT t0, t1 FROM embeddings ORDER BY t0")).all() == [(0, 1), (1, 2)]


def test_what_lacks_an_embedding_is_found_for_every_live_space(database: Database) -> None:
    first = ensure_space(database, checkpoint="clip", revision="1", dimension=2)
    library = Library(database)
    library.add(Piece("dog", (1, 0)), [first])
    library.add(Piece("cat"))
    second = ensure_space(database, checkpoint="clip", revision="2", dimension=2)
    dog, cat = sha256("dog").hex(), sha256("cat").hex()
    with database.transaction() as connection:
        found = missing(connection, [dog, cat, cat])
        assert sorted(found, key=repr) == sorted(
            [MissingEmbedding(dog, second), MissingEmbedding(cat, first), MissingEmbedding(cat, second)], key=repr
        )
        assert missing(connection, []) == []
        connection.execute(text("UPDATE embedding_spaces SET state = 'retired' WHERE id = :id"), {"id": second.id})
        assert missing(connection, [dog, cat]) == [MissingEmbedding(cat, first)]
