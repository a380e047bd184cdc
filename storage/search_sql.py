"""The statement of a search, made of the parts that the query has: what is not asked for is not in the plan."""

from __future__ import annotations

from dataclasses import dataclass

#: Up to so many filtered rows are compared one by one, which misses nothing; beyond, an index walk meets enough of
#: them soon.
FEW = 5000
#: Private use characters around the matches in an excerpt; taken out of the text first.
MARK_START, MARK_END = "\ue000", "\ue001"

# ISO 639-1, as `record` chooses the dictionary of a text.
ENGLISH = "coalesce({t}.language, 'en') = 'en'"


@dataclass(frozen=True, slots=True)
class Parts:
    """Which parts a search has. `space` is id and dimension, integers that become part of the statement."""

    space: tuple[int, int] | None
    text: bool
    unwanted: bool
    types: bool
    labels: bool
    tenants: bool
    media: bool
    since: bool
    until: bool

    @property
    def by_job(self) -> bool:
        return self.types or self.labels or self.tenants

    @property
    def by_content(self) -> bool:
        return self.media or self.since or self.until


def statement(parts: Parts) -> str:
    """The SQL, with named parameters.

    Columns: sha256, score, distance, vector_kind, vector_rank, t0, t1, relevance, text_kind, text_place, language,
    excerpt, uri, mime, first_seen, jobs.
    """
    return f"""
    WITH {_few(parts)}
    pictures AS MATERIALIZED ({_pictures(parts)}),
    said AS MATERIALIZED ({_said(parts)}),
    fused AS MATERIALIZED (
        SELECT coalesce(p.content, s.content) AS content,
               coalesce(1.0 / (60 + p.rank), 0) + coalesce(1.0 / (60 + s.rank), 0) AS score,
               p.distance, p.kind AS vector_kind, p.rank AS vector_rank, p.t0, p.t1,
               s.relevance, s.seq, s.rank AS text_place
        FROM pictures p FULL JOIN said s ON s.content = p.content
        ORDER BY score DESC, p.distance, s.relevance DESC NULLS LAST, 1
        LIMIT :limit
    )
    SELECT encode(f.content, 'hex') AS sha256, f.score, f.distance, f.vector_kind, f.vector_rank, f.t0, f.t1,
           f.relevance, t.kind AS text_kind, f.text_place, t.language, {_excerpt()} AS excerpt,
           coalesce(lies.uri, made.uri) AS uri, coalesce(c.mime, made.media_type) AS mime, c.first_seen, known.jobs
    FROM fused f
    LEFT JOIN contents c ON c.sha256 = f.content
    LEFT JOIN texts t ON t.seq = f.seq
    LEFT JOIN LATERAL ({_lies(parts)}) AS lies ON true
    LEFT JOIN LATERAL ({_made(parts)}) AS made ON true
    LEFT JOIN LATERAL ({_jobs(parts)}) AS known ON true
    ORDER BY f.score DESC, f.distance, f.relevance DESC NULLS LAST, f.content
    """


def _few(parts: Parts) -> str:
    """The contents that pass the filters, given up as soon as they are many, and whether those are all."""
    if not (parts.by_job or parts.by_content):
        return ""
    if parts.by_job:
        source = f"""
            SELECT k.content FROM (
                SELECT i.content FROM jobs j {_details(parts)} JOIN job_inputs i ON i.job_id = j.id WHERE {_job(parts)}
                UNION ALL
                SELECT a.content FROM jobs j {_details(parts)} JOIN artifacts a ON a.job_id = j.id WHERE {_job(parts)}
            ) AS k"""
        if parts.by_content:
            source += f" JOIN contents c ON c.sha256 = k.content WHERE {_content(parts)}"
    else:
        source = f"SELECT c.sha256 AS content FROM contents c WHERE {_content(parts)}"
    return f"""few AS MATERIALIZED ({source} LIMIT {FEW + 1}),
    told AS MATERIALIZED (SELECT count(*) <= {FEW} AS by_few FROM few),"""


def _pictures(parts: Parts) -> str:
    """The nearest vectors, one a content.

    embeddings_space_<id> (HNSW); for few contents embeddings' unique index, and no approximation. In the walk, filters
    are scalar subqueries: as joins they would tempt the planner to sort the whole space by distance.
    """
    if parts.space is None:
        return """SELECT NULL::bytea AS content, NULL::text AS kind, NULL::float AS t0, NULL::float AS t1,
                         NULL::float AS distance, NULL::bigint AS rank WHERE false"""
    space, dimension = parts.space
    columns = "e.content, e.kind, e.t0, e.t1"
    distance = f"(e.vector::halfvec({dimension})) <=> CAST(:vector AS halfvec({dimension}))"
    wanted = f"e.space = {space} AND {_not_excluded('e')}{_not_unwanted(parts, 'e')}"
    order = f"ORDER BY {distance} LIMIT :candidates"
    walk = f"SELECT {columns}, {distance} AS distance FROM embeddings e WHERE {wanted}"
    if parts.by_job or parts.by_content:
        nearest = f"""
            (SELECT {columns}, {distance} AS distance
             FROM (SELECT DISTINCT content FROM few) AS picked JOIN embeddings e ON e.content = picked.content
             WHERE (SELECT by_few FROM told) AND {wanted} {order})
            UNION ALL
            ({walk} AND NOT (SELECT by_few FROM told){_passes(parts, "e")} {order})"""
    else:
        nearest = f"{walk} {order}"
    # The index may give them a little out of order, and the floor must not be in the scan: it would never end.
    return f"""
        SELECT best.*, row_number() OVER (ORDER BY best.distance, best.content) AS rank FROM (
            SELECT DISTINCT ON (near.content) near.* FROM ({nearest}) AS near WHERE near.distance <= :furthest
            ORDER BY near.content, near.distance, near.t0
        ) AS best"""


def _said(parts: Parts) -> str:
    """The texts that match, one a content. texts_words (GIN)."""
    if not parts.text:
        return """SELECT NULL::bytea AS content, NULL::bigint AS seq, NULL::float4 AS relevance, NULL::bigint AS rank
                  WHERE false"""
    passes = "true"
    if parts.by_job or parts.by_content:
        passes = f"""CASE WHEN (SELECT by_few FROM told) THEN one.content IN (SELECT content FROM few)
                          ELSE true{_passes(parts, "one")} END"""
    # OFFSET 0 keeps the last filters above the sort: they are asked of the best until enough have passed, not of all.
    return f"""
        SELECT best.*, row_number() OVER (ORDER BY best.relevance DESC, best.content) AS rank FROM (
            SELECT one.* FROM (
                SELECT any_.* FROM (
                    SELECT DISTINCT ON (t.content) t.content, t.seq,
                           ts_rank_cd(t.words, {_tsquery("t", "words")}, 1) AS relevance
                    FROM texts t WHERE {_says("t", "words")} AND {_not_excluded("t")}{_shown(parts, "t")}
                    ORDER BY t.content, relevance DESC, t.seq DESC
                ) AS any_ ORDER BY any_.relevance DESC, any_.content OFFSET 0
            ) AS one WHERE {passes}{_not_unwanted(parts, "one")} LIMIT :candidates
        ) AS best"""


def _says(t: str, parameter: str) -> str:
    # Each text by the dictionary that it was indexed with: "cats" must find "cat" in English only.
    english = ENGLISH.format(t=t)
    return (
        f"(({t}.words @@ websearch_to_tsquery('english', :{parameter}) AND {english})"
        f" OR ({t}.words @@ websearch_to_tsquery('simple', :{parameter}) AND NOT {english}))"
    )


def _tsquery(t: str, parameter: str) -> str:
    return (
        f"CASE WHEN {ENGLISH.format(t=t)} THEN websearch_to_tsquery('english', :{parameter})"
        f" ELSE websearch_to_tsquery('simple', :{parameter}) END"
    )


def _not_excluded(e: str) -> str:
    return f"{e}.content <> ALL (SELECT decode(x, 'hex') FROM unnest(CAST(:exclude AS text[])) AS x)"


def _not_unwanted(parts: Parts, e: str) -> str:
    """texts_content."""
    if not parts.unwanted:
        return ""
    return (
        f" AND coalesce((SELECT false FROM texts u WHERE u.content = {e}.content AND {_says('u', 'unwanted')}"
        f"{_shown(parts, 'u')} LIMIT 1), true)"
    )


def _shown(parts: Parts, t: str) -> str:
    """What a tenant's job said of a content is for that tenant. jobs' primary key."""
    if not parts.tenants:
        return ""
    return f" AND (SELECT true FROM jobs j WHERE j.id = {t}.job_id AND j.tenant = ANY(:tenants))"


def _passes(parts: Parts, e: str) -> str:
    """Whether a row's content passes the filters. contents' primary key; job_inputs_content, artifacts_content."""
    clauses = ""
    if parts.by_content:
        clauses += f" AND (SELECT true FROM contents c WHERE c.sha256 = {e}.content AND {_content(parts)})"
    if parts.by_job:
        clauses += f" AND (SELECT true FROM ({_knowing(parts, f'{e}.content')}) AS k LIMIT 1)"
    return clauses


def _knowing(parts: Parts, content: str) -> str:
    """The jobs that read or made a content and pass the filters."""
    return " UNION ALL ".join(
        f"SELECT j.id, j.type FROM {table} x JOIN jobs j ON j.id = x.job_id {_details(parts)}"
        f" WHERE x.content = {content} AND {_job(parts)}"
        for table in ("job_inputs", "artifacts")
    )


def _details(parts: Parts) -> str:
    return "JOIN job_details d ON d.id = j.id" if parts.labels else ""


def _job(parts: Parts) -> str:
    clauses = ["true"]
    if parts.types:
        clauses.append("j.type = ANY(:types)")
    if parts.tenants:
        clauses.append("j.tenant = ANY(:tenants)")
    if parts.labels:
        clauses.append("d.labels @> jsonb_object(CAST(:label_keys AS text[]), CAST(:label_values AS text[]))")
    return " AND ".join(clauses)


def _content(parts: Parts) -> str:
    clauses = ["true"]
    if parts.media:
        clauses.append("(c.mime = ANY(:mimes) OR split_part(c.mime, '/', 1) = ANY(:kinds))")
    if parts.since:
        clauses.append("c.first_seen >= :since")
    if parts.until:
        clauses.append("c.first_seen < :until")
    return " AND ".join(clauses)


def _excerpt() -> str:
    """Around the match: Postgres finds words, and a Chinese or Japanese one is looked up as it stands."""
    plain = f"translate(left(t.text, 200000), '{MARK_START}{MARK_END}', '')"
    options = f"StartSel={MARK_START}, StopSel={MARK_END}, MaxWords=35, MinWords=15"
    return f"""(
        SELECT CASE WHEN min(at) > 0 THEN substr(plain, greatest(min(at) - 60, 1), 240)
                    ELSE ts_headline(CASE WHEN {ENGLISH.format(t="t")} THEN 'english' ELSE 'simple' END::regconfig,
                                     plain, {_tsquery("t", "words")}, '{options}') END
        FROM (SELECT {plain} AS plain) AS p
        LEFT JOIN LATERAL (
            SELECT nullif(strpos(lower(plain), l), 0) AS at FROM unnest(CAST(:literals AS text[])) AS l
        ) AS places ON true
        WHERE t.seq IS NOT NULL GROUP BY plain)"""


def _lies(parts: Parts) -> str:
    """objects_content."""
    seen = ""
    if parts.tenants:
        seen = """ AND EXISTS (
            SELECT FROM job_inputs i JOIN jobs j ON j.id = i.job_id
            WHERE i.content = o.content AND (i.bucket, i.key, i.version) = (o.bucket, o.key, o.version)
              AND j.tenant = ANY(:tenants))"""
    return f"""
        SELECT 's3://' || o.bucket || '/' || o.key AS uri FROM objects o
        WHERE o.content = f.content AND o.gone_at IS NULL{seen}
        ORDER BY o.last_seen DESC, o.bucket, o.key LIMIT 1"""


def _made(parts: Parts) -> str:
    """artifacts_content."""
    mine = _shown(parts, "a")
    return f"""
        SELECT 's3://' || a.bucket || '/' || a.key AS uri, a.media_type FROM artifacts a
        WHERE a.content = f.content{mine} ORDER BY a.created_at DESC, a.key LIMIT 1"""


def _jobs(parts: Parts) -> str:
    """job_inputs_content, artifacts_content."""
    return f"""
        SELECT jsonb_agg(jsonb_build_object('id', k.id, 'type', k.type, 'labels', d.labels) ORDER BY k.id DESC) AS jobs
        FROM (SELECT DISTINCT id, type FROM ({_knowing(parts, "f.content")}) AS any_ ORDER BY id DESC LIMIT 20) AS k
        LEFT JOIN job_details d ON d.id = k.id"""
