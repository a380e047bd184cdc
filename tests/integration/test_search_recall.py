"""Search over some thousand clustered vectors: the indexes are used, and filters lose nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence

import pytest

from storage import search_sql
from storage.database import Database, rows_json
from storage.pooled import PooledDatabase
from storage.schema import migrate
from storage.search import SearchQuery, build, search
from storage.spaces import ensure_space
from storage.sql import text
from tests.integration.library import sha256, vector
from tests.servers.postgres import PostgresServer

DIMENSION, CLUSTERS, SIZE = 32, 20, 4000

# Vectors lie in clusters, as those of real pictures do; the label names the cluster, the type and kind cut across them.
FILL = text("""
    WITH r AS (
        SELECT *, decode(sha256, 'hex') AS content, uuidv7() AS id
        FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(n integer, sha256 text, cluster text, vector text)
    ),
    c AS (INSERT INTO contents (sha256, size, mime)
          SELECT content, 1, CASE WHEN n % 10 = 0 THEN 'image/gif' ELSE 'image/png' END FROM r),
    j AS (INSERT INTO jobs (id, type, lane, state, attempt, max_attempts, body_sha256, finished_at)
          SELECT id, CASE WHEN n % 3 = 0 THEN 'image.embed' ELSE 'image.caption' END, 'upload', 'succeeded', 1, 3, 'x',
                 now() FROM r),
    d AS (INSERT INTO job_details (id, message, labels) SELECT id, '{}', jsonb_build_object('cluster', cluster) FROM r),
    i AS (INSERT INTO job_inputs (job_id, role, bucket, key, version, content)
          SELECT id, 'image', 'media', n::text, '1', content FROM r),
    t AS (INSERT INTO texts (content, job_id, kind, text, words)
          SELECT content, id, 'caption', 'number ' || n, to_tsvector('english', 'number ' || n) FROM r)
    INSERT INTO embeddings (content, space, kind, vector, job_id)
    SELECT content, :space, 'image', CAST(vector AS halfvec), id FROM r
""")

EXACT = """
    SELECT encode(e.content, 'hex') FROM embeddings e
    JOIN job_inputs i ON i.content = e.content JOIN jobs j ON j.id = i.job_id JOIN job_details d ON d.id = j.id
    JOIN contents c ON c.sha256 = e.content
    WHERE {where} ORDER BY e.vector <=> CAST(:vector AS halfvec), e.content LIMIT :limit
"""


@pytest.fixture(scope="module")
def clusters() -> list[list[float]]:
    dice = random.Random(7)
    return [[dice.gauss(0, 1) for _ in range(DIMENSION)] for _ in range(CLUSTERS)]


def near(point: Sequence[float], dice: random.Random, spread: float = 0.5) -> list[float]:
    return [x + dice.gauss(0, spread) for x in point]


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer, clusters: list[list[float]]) -> Iterator[Database]:
    dice = random.Random(8)
    with postgres_server.database() as url:
        database = PooledDatabase(url)
        migrate(database)
        space = ensure_space(database, checkpoint="c", revision="1", dimension=DIMENSION)
        rows = [
            {"n": n, "sha256": sha256(str(n)).hex(), "cluster": str(n % CLUSTERS), "vector": vector(point)}
            for n, point in ((n, near(clusters[n % CLUSTERS], dice)) for n in range(SIZE))
        ]
        with database.transaction() as connection:
            connection.execute(FILL, {"rows": rows_json(rows), "space": space.id})
            connection.execute(text("ANALYZE"))
        yield database
        database.close()


FILTERS: list[tuple[SearchQuery, str]] = [
    (SearchQuery(), "true"),
    (SearchQuery(types=["image.embed"]), "j.type = 'image.embed'"),
    (SearchQuery(labels={"cluster": "13"}), "d.labels ->> 'cluster' = '13'"),
    (
        SearchQuery(labels={"cluster": "13"}, types=["image.embed"]),
        "d.labels ->> 'cluster' = '13' AND j.type = 'image.embed'",
    ),
    (SearchQuery(media=["image/gif"]), "c.mime = 'image/gif'"),
    (SearchQuery(media=["image/gif"], types=["image.embed"]), "c.mime = 'image/gif' AND j.type = 'image.embed'"),
]


@pytest.mark.parametrize("few", [5000, 10], ids=["compared one by one", "by a walk through the index"])
@pytest.mark.parametrize(("query", "where"), FILTERS)
def test_a_filter_loses_nothing_that_an_exact_scan_finds(
    database: Database,
    clusters: list[list[float]],
    monkeypatch: pytest.MonkeyPatch,
    few: int,
    query: SearchQuery,
    where: str,
) -> None:
    # With the label, all that passes the filter lies in one cluster, and most queries are near another: the first
    # 200 rows that an index scan gives are of the wrong one.
    monkeypatch.setattr(search_sql, "FEW", few)
    dice = random.Random(9)
    found = wanted = 0
    for cluster in clusters:
        point = vector(near(cluster, dice))
        asked = SearchQuery(vector=point, min_similarity=-1, types=query.types, labels=query.labels, media=query.media)
        with database.transaction() as connection:
            hits = {hit.sha256 for hit in search(connection, asked)}
        with database.transaction() as connection:
            exact = set(connection.scalars(text(EXACT.format(where=where)), {"vector": point, "limit": asked.limit}))
        assert len(exact) == asked.limit
        found, wanted = found + len(hits & exact), wanted + len(exact)
    assert found / wanted >= 0.99


def plan(database: Database, query: SearchQuery) -> str:
    with database.transaction() as connection:
        built = build(connection, query)
        assert built is not None
        sql, values, _ = built
        lines = connection.scalar(text(f"EXPLAIN (FORMAT JSON) {sql}"), values)
    return json.dumps(lines)


@pytest.mark.parametrize("query", [query for query, _ in FILTERS])
def test_the_index_of_the_space_is_used_with_every_filter(
    database: Database, clusters: list[list[float]], query: SearchQuery
) -> None:
    asked = SearchQuery(vector=vector(clusters[0]), types=query.types, labels=query.labels, media=query.media)
    assert '"Index Name": "embeddings_space_1"' in plan(database, asked)


@pytest.mark.parametrize("query", [SearchQuery(text="number 77"), SearchQuery(text="77", types=["image.embed"])])
def test_the_index_of_words_is_used(database: Database, query: SearchQuery) -> None:
    assert '"Index Name": "texts_words"' in plan(database, query)


def test_a_filter_by_label_is_answered_by_the_index_of_labels(database: Database, clusters: list[list[float]]) -> None:
    asked = SearchQuery(vector=vector(clusters[0]), labels={"cluster": "13"})
    assert "labels_idx" in plan(database, asked)
