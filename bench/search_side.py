"""What `bench.search` needs of Postgres: the tables filled, the index taken away and built again, and hidden."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from bench.history_fill import fill, settle_down
from storage import spaces
from storage.database import Database
from storage.spaces import Space
from storage.sql import Statement, text

DIMENSION = 512
COLOURS = ("red", "green", "blue", "old", "small", "wooden")

COPIED = "CREATE UNLOGGED TABLE copied (n bigint, cluster integer, vector halfvec)"
# As `bench.search_vectors.FILTERS` has them. One word of a caption names the cluster: some are in many, most in few.
DESCRIBED = text("""
    UPDATE made SET
        mime = CASE WHEN made.n % 10 = 3 THEN 'image/png' ELSE 'image/jpeg' END,
        labels = jsonb_build_object('album', 'a' || made.n % 500,
                                    'source', (ARRAY['phone', 'camera', 'scan'])[1 + made.n % 3]),
        said = format('a %s thing%s beside a thing%s in scene%s', (CAST(:colours AS text[]))[1 + made.n % 6],
                      c.cluster, made.n % 977, c.cluster % 400)
    FROM copied c WHERE c.n = made.n AND c.n BETWEEN :first AND :last
""")
EMBEDDED = """
    INSERT INTO embeddings (content, space, kind, vector, job_id)
    SELECT m.content, {space}, 'image', c.vector, m.id FROM made m JOIN copied c ON c.n = m.n
    WHERE c.n BETWEEN :first AND :last
"""
SIZES = text("""
    SELECT pg_relation_size('embeddings') AS vectors_bytes, pg_relation_size(CAST(:index AS regclass)) AS index_bytes,
           pg_indexes_size('embeddings') - pg_relation_size(CAST(:index AS regclass)) AS key_bytes,
           pg_database_size(current_database()) AS whole_bytes
""")


@dataclass(frozen=True, slots=True)
class Built:
    """The index of a space, and what it took."""

    space: Space
    fill_s: float
    build_s: float
    definition: str
    vectors_bytes: int
    """The table of the embeddings."""
    index_bytes: int
    key_bytes: int
    """The table's unique index."""
    whole_bytes: int
    """The database, with jobs, captions and all."""

    @property
    def name(self) -> str:
        return index_name(self.space)


def index_name(space: Space) -> str:
    """As `storage.spaces` names it."""
    return f"embeddings_space_{space.id}"


def load(database: Database, path: Path, n: int, memory: str, workers: int) -> Built:
    """Fills all tables, and then builds the index as the product defines it; `memory` and `workers` are the build's."""
    space = spaces.ensure_space(database, checkpoint="bench", revision="0" * 64, dimension=DIMENSION)
    index = index_name(space)
    with database.transaction() as connection:
        definition: str = connection.scalar(text("SELECT pg_get_indexdef(CAST(:index AS regclass))"), {"index": index})
        connection.execute(text(f"DROP INDEX {index}"))
    _copy(database.url, path)
    also = [Statement(DESCRIBED.text.replace(":colours", f"'{{{','.join(COLOURS)}}}'"))]
    also.append(text(EMBEDDED.format(space=space.id)))
    fill_s = fill(database, n, also)
    with database.autocommit() as connection:
        connection.execute(text("DROP TABLE copied"))
        connection.execute(text(f"SET maintenance_work_mem = '{memory}'"))
        connection.execute(text(f"SET max_parallel_maintenance_workers = {workers}"))
        began = time.perf_counter()
        connection.execute(text(definition))
        build_s = time.perf_counter() - began
        for setting in ("maintenance_work_mem", "max_parallel_maintenance_workers"):
            connection.execute(text(f"RESET {setting}"))
    settle_down(database)
    with database.transaction() as connection:
        sizes = connection.execute(SIZES, {"index": index}).one()
    return Built(space, fill_s, build_s, definition, *sizes)


def _copy(url: str, path: Path) -> None:
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor, path.open("rb") as file:
            cursor.execute(COPIED)
            cursor.copy_expert("COPY copied FROM STDIN (FORMAT binary)", file)
            cursor.execute("CREATE INDEX ON copied (n)")
        connection.commit()
    finally:
        connection.close()


@contextmanager
def hidden(database: Database, index: str) -> Iterator[None]:
    """Nothing is planned with that index meanwhile: what is left is to compare with every vector."""
    change = "UPDATE pg_index SET indisvalid = {} WHERE indexrelid = CAST(:index AS regclass)"
    with database.transaction() as connection:
        connection.execute(text(change.format("false")), {"index": index})
    try:
        yield
    finally:
        with database.transaction() as connection:
            connection.execute(text(change.format("true")), {"index": index})
