"""Embedding spaces: which vectors can be compared, and the index of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from storage.database import Database
from storage.sql import Connection, text


@dataclass(frozen=True, slots=True)
class Space:
    """One model's vectors: another checkpoint, or other weights under the same name, is another space."""

    id: int
    checkpoint: str
    revision: str
    dimension: int
    state: str


COLUMNS = "id, checkpoint, revision, dimension, state"

LIVE = text(f"SELECT {COLUMNS} FROM embedding_spaces WHERE state IN ('active', 'building') ORDER BY id")
# Recording takes the rows FOR SHARE, a cut-over FOR UPDATE: no result is recorded by what was true before.
LIVE_SHARED = text(f"{LIVE.text} FOR SHARE")


def live(connection: Connection, *, shared: bool = False) -> list[Space]:
    """The active space and those being built; `shared` holds them as they are until the transaction ends."""
    return [Space(*row) for row in connection.execute(LIVE_SHARED if shared else LIVE)]


def ensure_space(database: Database, *, checkpoint: str, revision: str, dimension: int) -> Space:
    """The space of a checkpoint, made with its index where it does not exist.

    The first space of a deployment becomes the active one; a later one is `building` until `activate`. The index is a
    partial one over an expression, because `halfvec` without a dimension cannot be indexed.
    """
    with database.transaction() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('mediamill.embedding_spaces'))"))
        row = connection.execute(
            text(f"SELECT {COLUMNS} FROM embedding_spaces WHERE checkpoint = :checkpoint AND revision = :revision"),
            {"checkpoint": checkpoint, "revision": revision},
        ).first()
        if row is not None:
            return Space(*row)
        row = connection.execute(
            text(f"""
                INSERT INTO embedding_spaces (checkpoint, revision, dimension, state)
                VALUES (:checkpoint, :revision, :dimension, CASE WHEN EXISTS (
                    SELECT FROM embedding_spaces WHERE state = 'active') THEN 'building' ELSE 'active' END)
                RETURNING {COLUMNS}
            """),
            {"checkpoint": checkpoint, "revision": revision, "dimension": dimension},
        ).one()
        space = Space(*row)
        # No vectors can be in it yet: the index is made in an instant, and grows with them.
        connection.execute(
            text(
                f"CREATE INDEX embeddings_space_{space.id} ON embeddings USING hnsw"
                f" ((vector::halfvec({space.dimension})) halfvec_cosine_ops) WHERE space = {space.id}"
            )
        )
        return space


def activate(database: Database, space: int) -> None:
    """Cuts over: `space` becomes the one that is searched, the one before is kept as `building` for a way back.

    Waits for the recordings under way, which hold the rows FOR SHARE.
    """
    with database.transaction() as connection:
        connection.execute(
            text("SELECT id FROM embedding_spaces WHERE state IN ('active', 'building') ORDER BY id FOR UPDATE")
        )
        connection.execute(
            text("UPDATE embedding_spaces SET state = 'building' WHERE state = 'active' AND id <> :id"), {"id": space}
        )
        if not connection.execute(
            text("UPDATE embedding_spaces SET state = 'active' WHERE id = :id AND state <> 'retired'"), {"id": space}
        ).rowcount:
            raise ValueError(f"there is no embedding space {space} that could be searched")


@dataclass(frozen=True, slots=True)
class MissingEmbedding:
    """A picture that has no vector in a space yet."""

    content: str
    space: Space


# embeddings' unique index
MISSING = text("""
    SELECT c.content, s.id, s.checkpoint, s.revision, s.dimension, s.state
    FROM unnest(CAST(:contents AS text[])) AS c(content) CROSS JOIN embedding_spaces s
    WHERE s.state IN ('active', 'building') AND NOT EXISTS (
        SELECT FROM embeddings e WHERE e.content = decode(c.content, 'hex') AND e.space = s.id AND e.kind = 'image')
    ORDER BY 1, 2
""")


def missing(connection: Connection, contents: Sequence[str]) -> list[MissingEmbedding]:
    """Which of the pictures (sha256, hex) lack an embedding in which live space."""
    if not contents:
        return []
    rows = connection.execute(MISSING, {"contents": sorted(set(contents))})
    return [MissingEmbedding(row[0], Space(*row[1:])) for row in rows]
