"""A library of media for the tests of search: each piece comes in by the statements that real jobs come in by."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from storage.claim import Pin, PinnedInput, Want, claim, pin
from storage.database import Database
from storage.settle import Artifact, Ending, NewEmbedding, NewText, Rules, Settlement, settle
from storage.spaces import Space
from storage.sql import text
from storage.submit import NewJob, submit
from storage.workers import register


def sha256(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def vector(numbers: Sequence[float]) -> str:
    return f"[{','.join(map(str, numbers))}]"


@dataclass(frozen=True)
class Said:
    """A text about a piece."""

    text: str
    language: str | None = None
    kind: str = "caption"


@dataclass(frozen=True)
class Piece:
    """One picture, and what the job that read it made of it."""

    name: str
    vector: Sequence[float] | None = None
    texts: Sequence[Said] = ()
    type: str = "image.caption"
    tenant: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    mime: str = "image/png"
    bucket: str = "media"
    spans: Sequence[tuple[float, float, Sequence[float]]] = ()
    made: str | None = None
    """The name of a content that the job made."""

    @property
    def sha256(self) -> str:
        return sha256(self.name).hex()


class Library:
    """Puts pieces into a migrated database, as a worker of its own."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.worker = uuid.uuid4()
        with database.transaction() as connection:
            register(connection, self.worker, host="here", pid=1, build="test", devices=[])

    def add(self, piece: Piece, spaces: Sequence[Space] = ()) -> uuid.UUID:
        """Runs a job over a piece, and returns its id."""
        job = NewJob(
            id=uuid.uuid4(),
            type=piece.type,
            lane="upload",
            body_sha256=b"body",
            message={"type": piece.type},
            tenant=piece.tenant,
            labels=piece.labels,
        )
        submit(self.database, [job])
        with self.database.transaction() as connection:
            (claimed,) = claim(connection, self.worker, [Want("upload", piece.type, 1)], [])
            content = sha256(piece.name)
            read = PinnedInput("image", "", piece.bucket, f"{piece.name}.png", None, f"etag-{piece.name}", 7, content)
            pin(connection, [Pin(claimed.fence, [read])])
            settlement = Settlement.of(
                claimed.fence,
                Ending.SUCCEEDED,
                result={},
                probes={content: {"mime": piece.mime}},
                texts=[NewText(content, said.kind, said.text, said.language) for said in piece.texts],
                embeddings=[e for space in spaces for e in self._embeddings(piece, space)],
                artifacts=[Artifact("image", piece.bucket, f"out/{piece.made}.png", "image/png", 9, sha256(piece.made))]
                if piece.made
                else [],
            )
            assert settle(connection, [settlement], Rules()) == {job.id: "succeeded"}
        return job.id

    def first_seen(self, piece: Piece, moment: str) -> None:
        """Moves the moment at which a piece was seen first."""
        with self.database.transaction() as connection:
            connection.execute(
                text("UPDATE contents SET first_seen = :moment WHERE sha256 = :sha256"),
                {"moment": moment, "sha256": sha256(piece.name)},
            )

    def _embeddings(self, piece: Piece, space: Space) -> list[NewEmbedding]:
        content = sha256(piece.name)
        whole = [NewEmbedding(content, space.id, vector(piece.vector))] if piece.vector else []
        return whole + [
            NewEmbedding(content, space.id, vector(numbers), "frame", t0, t1) for t0, t1, numbers in piece.spans
        ]
