"""Finds media by what they show and by what is said of them.

One statement: the nearest vectors of a space, the texts that match, filters on both, and the two ranked lists made one
by reciprocal rank fusion (Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion outperforms Condorcet and individual
Rank Learning Methods", SIGIR 2009; k = 60 as there).
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from storage.query import BadQuery, Wording, check_text, read_wording
from storage.search_sql import MARK_END, MARK_START, Parts, statement
from storage.sql import Connection, Row, text

VectorOf = Literal["text", "picture"]
#: What a hit was found by: its picture, a frame of its video, or a kind of text.
By = Literal["picture", "frame", "caption", "transcript", "ocr"]

#: Least cosine similarity of a hit, by what the query's vector was made of. CLIP's encoders put texts and pictures into
#: two cones far apart (Liang et al. 2022, "Mind the Gap"): with OpenAI's ViT-B/32 a picture and a fitting text are at
#: 0.25 to 0.35, LAION-5B dropped pairs below 0.28 as unrelated, and two unrelated pictures are often at 0.5. Lower than
#: those, because the ranking does the rest; without any, every search would return everything there is.
FLOORS: Mapping[VectorOf, float] = {"text": 0.2, "picture": 0.6}
MOST_HITS = 200


class NotEmbedded(LookupError):
    """The content has no vector in the space that is searched."""


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """What to look for, and among what. Filters narrow together; several values of one filter are alternatives.

    `types`, `labels` and `tenants` are of one job that read or made the media; a job that is no longer kept knows
    nothing. With `tenants`, texts, URIs and jobs of others are not shown either.
    """

    text: str = ""
    """As `storage.query` reads it."""
    vector: str | None = None
    """pgvector's text form, of the searched space's dimension; of any length but zero."""
    vector_of: VectorOf = "text"
    space: int | None = None
    """The space that the vector is of; None: the active one."""
    min_similarity: float | None = None
    """Cosine, -1 to 1; None: as FLOORS says."""
    types: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    tenants: Sequence[str] = ()
    media: Sequence[str] = ()
    """Kinds (`image`) or whole types (`image/png`)."""
    since: datetime | None = None
    """First seen at this time or later; times without a zone are refused."""
    until: datetime | None = None
    """First seen before this time."""
    exclude: Sequence[str] = ()
    """Contents (sha256, hex) that are not wanted."""
    limit: int = 20


@dataclass(frozen=True, slots=True)
class Why:
    """One reason for a hit."""

    by: By
    rank: int
    """Its place, from 1, among what was found in the same way (by vectors, or by texts)."""
    similarity: float | None = None
    """Cosine; of pictures and frames."""
    text: str | None = None
    """An excerpt around the match; of texts."""
    marks: tuple[tuple[int, int], ...] = ()
    """Where in the excerpt the query's words stand: start and end. Not markup, since texts are not trusted."""
    language: str | None = None

    def marked(self, start: str = "<b>", end: str = "</b>") -> str:
        """The excerpt with its matches between `start` and `end`. Not escaped: that is for whoever makes HTML."""
        pieces, at = list[str](), 0
        for first, last in self.marks:
            pieces += [(self.text or "")[at:first], start, (self.text or "")[first:last], end]
            at = last
        return "".join([*pieces, (self.text or "")[at:]])

    def as_json(self) -> dict[str, Any]:
        """As printed by `--json`; what does not apply is left out."""
        return {
            "by": self.by,
            "rank": self.rank,
            **({} if self.similarity is None else {"similarity": round(self.similarity, 4)}),
            **({} if self.text is None else {"text": self.text, "marks": [list(mark) for mark in self.marks]}),
            **({} if self.language is None else {"language": self.language}),
        }


@dataclass(frozen=True, slots=True)
class KnownBy:
    """A job that read or made the media."""

    id: uuid.UUID
    type: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Hit:
    """One content that was found."""

    sha256: str
    uri: str | None
    """Where it lies: its object seen last, else an output; None when it is known to be gone everywhere."""
    mime: str | None
    first_seen: datetime | None
    t0: float | None
    t1: float | None
    """The part of a video or sound that matched best, seconds; None: all of it."""
    score: float
    similarity: float | None
    """Cosine of the best vector; None when it was found by text alone."""
    text_rank: float | None
    """`ts_rank_cd` of the best text; None when it was found by its picture alone."""
    why: tuple[Why, ...]
    jobs: tuple[KnownBy, ...]
    """Newest first, 20 at most; with a filter, those that pass it."""

    def as_json(self) -> dict[str, Any]:
        """As printed by `--json`."""
        return {
            "sha256": self.sha256,
            "uri": self.uri,
            "mime": self.mime,
            "first_seen": self.first_seen.isoformat() if self.first_seen else None,
            "t0": self.t0,
            "t1": self.t1,
            "score": round(self.score, 6),
            "similarity": None if self.similarity is None else round(self.similarity, 4),
            "text_rank": None if self.text_rank is None else round(self.text_rank, 4),
            "why": [why.as_json() for why in self.why],
            "jobs": [{"id": str(job.id), "type": job.type, "labels": dict(job.labels)} for job in self.jobs],
        }


# Read first: the index of the space is an expression that names its dimension.
SPACE = text("SELECT id, dimension FROM embedding_spaces WHERE id = :space OR (:space IS NULL AND state = 'active')")

# Local to the transaction. Iterative: a filter makes the scan go on until enough has passed it, in place of coming back
# with what little of the first ef_search passed; its bounds are rows and a multiple of work_mem. No sequential scans:
# of a filter that is a subquery the planner knows nothing, guesses that little passes, and would sort the whole space.
SCAN = text("""
    SELECT set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search', :ef_search, true),
           set_config('hnsw.max_scan_tuples', '200000', true), set_config('hnsw.scan_mem_multiplier', '32', true),
           set_config('enable_seqscan', 'off', true)
""")


def search(connection: Connection, query: SearchQuery) -> list[Hit]:
    """The best hits, best first; nothing when the query's text has no word in it and there is no vector.

    Sets how Postgres plans and scans until the transaction ends, which should be this search's own. Raises BadQuery.
    """
    built = build(connection, query)
    if built is None:
        return []
    sql, values, wording = built
    return [_hit(row, wording) for row in connection.execute(text(sql), values)]


def build(connection: Connection, query: SearchQuery) -> tuple[str, dict[str, Any], Wording] | None:
    """The statement of a search and its values, with the transaction set up for it; None when nothing can be found.

    Raises BadQuery.
    """
    _check(query)
    wording = read_wording(query.text)
    space = connection.execute(SPACE, {"space": query.space}).first() if query.vector is not None else None
    if query.space is not None and query.vector is not None and space is None:
        raise BadQuery(f"there is no embedding space {query.space}")
    if space is None and not wording.words:
        if wording.unwanted:
            raise BadQuery("the query only says what is not wanted: add a word to look for")
        return None
    parts = Parts(
        space=None if space is None else (space.id, space.dimension),
        text=bool(wording.words),
        unwanted=bool(wording.unwanted),
        types=bool(query.types),
        labels=bool(query.labels),
        tenants=bool(query.tenants),
        media=bool(query.media),
        since=query.since is not None,
        until=query.until is not None,
    )
    # More than is shown: fusion needs both lists beyond their heads, and a video has many frames.
    candidates = max(200, 4 * query.limit)
    floor = FLOORS[query.vector_of] if query.min_similarity is None else query.min_similarity
    values: dict[str, Any] = {
        "vector": None if space is None else _unit(query.vector or "", space.dimension),
        "furthest": 1 - floor,
        "words": wording.words,
        "unwanted": wording.unwanted,
        "literals": list(wording.literals),
        "types": list(query.types),
        "label_keys": list(query.labels),
        "label_values": list(query.labels.values()),
        "tenants": list(query.tenants),
        "kinds": [kind for kind in query.media if "/" not in kind],
        "mimes": [mime for mime in query.media if "/" in mime],
        "since": query.since,
        "until": query.until,
        "exclude": list(query.exclude),
        "candidates": candidates,
        "limit": query.limit,
    }
    if space is not None:
        connection.execute(SCAN, {"ef_search": str(min(candidates, 1000))})
    return statement(parts), values, wording


# embeddings' unique index
VECTOR_OF = text("""
    SELECT e.vector::text FROM embeddings e JOIN embedding_spaces s ON s.id = e.space
    WHERE e.content = decode(:sha256, 'hex') AND s.state = 'active' AND e.kind = 'image' AND e.t0 IS NULL
""")


def vector_of(connection: Connection, sha256: str) -> str | None:
    """The vector of a picture in the active space, or None: a picture that has one needs no job to be searched by.

    Raises BadQuery when `sha256` is not 64 hexadecimal digits.
    """
    _check_sha256(sha256)
    vector: str | None = connection.scalar(VECTOR_OF, {"sha256": sha256})
    return vector


def similar(
    connection: Connection, sha256: str, query: SearchQuery | None = None, *, itself: bool = False
) -> list[Hit]:
    """What looks like a known picture; `itself` leaves that picture in. `query` has the filters and the limit.

    Raises NotEmbedded when the picture has no vector in the active space, and BadQuery.
    """
    vector = vector_of(connection, sha256)
    if vector is None:
        raise NotEmbedded(f"{sha256} has no embedding in the active space")
    query = query or SearchQuery()
    exclude = query.exclude if itself else [*query.exclude, sha256]
    return search(connection, replace(query, vector=vector, vector_of="picture", space=None, exclude=exclude))


def _check(query: SearchQuery) -> None:
    if not 1 <= query.limit <= MOST_HITS:
        raise BadQuery(f"limit is {query.limit}: from 1 to {MOST_HITS}")
    if query.min_similarity is not None and not -1 <= query.min_similarity <= 1:
        raise BadQuery(f"min_similarity is {query.min_similarity}: a cosine, from -1 to 1")
    for name, moment in (("since", query.since), ("until", query.until)):
        if moment is not None and moment.tzinfo is None:
            raise BadQuery(f"{name} has no time zone: add one, as in {moment.isoformat()}Z")
    for name, values in (
        ("types", query.types),
        ("labels", [*query.labels, *query.labels.values()]),
        ("tenants", query.tenants),
        ("media", query.media),
    ):
        for value in values:
            check_text(value, name)
    for sha256 in query.exclude:
        _check_sha256(sha256)


def _check_sha256(sha256: str) -> None:
    if not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise BadQuery("a content is named by its sha256: 64 hexadecimal digits")


def _unit(vector: str, dimension: int) -> str:
    """The vector at length 1, which changes no cosine and keeps its numbers within what a half can hold."""
    try:
        numbers = [float(number) for number in json.loads(vector)]
    except (ValueError, TypeError):
        raise BadQuery("the vector is not a list of numbers: [0.1,-0.2,...]") from None
    if len(numbers) != dimension:
        raise BadQuery(f"the vector has {len(numbers)} numbers, the space that is searched has {dimension} dimensions")
    length = math.hypot(*numbers)
    if not math.isfinite(length) or length == 0:
        raise BadQuery("the vector has no direction: it is all zeros, or a number in it is not finite")
    return f"[{','.join(repr(number / length) for number in numbers)}]"


def _hit(row: Row, wording: Wording) -> Hit:
    why = list[Why]()
    if row.distance is not None:
        by: By = "frame" if row.vector_kind == "frame" else "picture"
        why.append(Why(by, row.vector_rank, similarity=1 - row.distance))
    if row.relevance is not None:
        excerpt, marks = _excerpt(row.excerpt, wording)
        why.append(Why(row.text_kind, row.text_place, text=excerpt, marks=marks, language=row.language))
    return Hit(
        sha256=row.sha256,
        uri=row.uri,
        mime=row.mime,
        first_seen=row.first_seen,
        t0=row.t0,
        t1=row.t1,
        score=float(row.score),
        similarity=None if row.distance is None else 1 - row.distance,
        text_rank=row.relevance,
        why=tuple(sorted(why, key=lambda reason: reason.rank)),
        jobs=tuple(KnownBy(uuid.UUID(job["id"]), job["type"], job["labels"] or {}) for job in row.jobs or ()),
    )


def _excerpt(marked: str, wording: Wording) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The excerpt without its marks, and where they were; and where the literals stand, which Postgres cannot mark."""
    plain, marks, start = "", list[tuple[int, int]](), 0
    for piece in re.split(f"([{MARK_START}{MARK_END}])", marked):
        if piece == MARK_START:
            start = len(plain)
        elif piece == MARK_END:
            marks.append((start, len(plain)))
        else:
            plain += piece
    for literal in wording.literals:
        found = re.finditer(re.escape(literal), plain, re.IGNORECASE)
        marks += [match.span() for match in found if not any(a < match.end() and match.start() < b for a, b in marks)]
    return plain, tuple(sorted(marks))
