"""Finished jobs, many of them: what a deployment that has captioned pictures for three months has in its tables.

One job, one picture, one caption: rows in every table that claims, inserts and records touch, of the sizes that real
ones have, over the month partitions of those three months. Made inside Postgres, a part at a time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from intake.identity import new_id
from storage.database import Database
from storage.partitions import ensure_partitions
from storage.sql import Statement, text

KEPT = timedelta(days=90)
PART = 250_000
#: What a finished job takes on disk, with its indexes: measured by this bench, to say beforehand what will be needed.
BYTES_PER_JOB = 3_300
#: Write-ahead log and files to sort by, whatever is filled.
BYTES_BESIDE = 8 << 30

# Ids as version 7 makes them: 48 bits of milliseconds, the version, the rest as good as random.
MADE = text("""
    CREATE TEMP TABLE made ON COMMIT DROP AS
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
            || '7' || substr(encode(hash, 'hex'), 1, 3) || '8' || substr(encode(hash, 'hex'), 4, 15))::uuid AS id,
           hash AS content, at, n, CAST(:worker AS uuid) AS worker, 'image/jpeg' AS mime,
           CASE WHEN n % 100 < 2 THEN 'failed' WHEN n % 100 < 3 THEN 'cancelled' ELSE 'succeeded' END AS state,
           'uploads/' || to_char(at, 'YYYY/MM/DD') || '/IMG_' || n || '.jpg' AS key,
           jsonb_build_object('album', 'a' || n % 5000,
                              'source', (ARRAY['phone', 'camera', 'scan'])[1 + n % 3]) AS labels,
           format('a %s %s and a %s %s in front of a %s',
                  (ARRAY['red', 'green', 'blue', 'old', 'small', 'wooden'])[1 + n % 6], 'thing' || n % 977,
                  (ARRAY['white', 'black', 'large', 'young'])[1 + n % 4], 'other' || n % 1979,
                  'place' || n % 211) AS said
    FROM (
        SELECT n, sha256(int8send(n)) AS hash, CAST(:oldest AS timestamptz) + n * CAST(:step AS interval) AS at
        FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
    ) AS numbers
""")
ROWS = tuple(
    map(
        text,
        (
            """
    INSERT INTO jobs (id, type, tenant, lane, state, attempt, max_attempts, worker_id, run_after, checkpoints,
                      body_sha256, derivation_key, created_at, claimed_at, finished_at)
    SELECT id, 'image.caption', 'tenant' || n % 5, 'backfill', state, 1, 3, worker, at, '{caption}', content,
           CASE WHEN state = 'succeeded' THEN content END, at, at + interval '2 s', at + interval '3 s'
    FROM made ORDER BY id""",
            """
    INSERT INTO job_details (id, message, resolved, result, error, timings, labels)
    SELECT id,
           jsonb_build_object('id', id, 'type', 'image.caption', 'labels', labels,
               'inputs', jsonb_build_object('image', jsonb_build_object('uri', 's3://media/' || key))),
           jsonb_build_object('image', jsonb_build_object('', jsonb_build_object('uri', 's3://media/' || key,
               'version_id', NULL, 'etag', md5(content), 'size', 2000000 + n, 'sha256', encode(content, 'hex')))),
           CASE WHEN state = 'succeeded' THEN jsonb_build_object('checkpoint', 'blip-base', 'captions',
               jsonb_build_array(jsonb_build_object('text', said, 'score', 0.91))) END,
           CASE WHEN state = 'failed' THEN '{"type": "InvalidInput", "message": "it is no picture"}'::jsonb END,
           '{"fetch": 0.021, "prepare": 0.013, "infer": 0.044, "store": 0.0, "record": 0.004}', labels
    FROM made ORDER BY id""",
            """
    INSERT INTO job_events (id, at, kind, state, attempt, worker_id)
    SELECT id, at + after, kind, coalesce(e.state, made.state), attempt, CASE WHEN attempt > 0 THEN worker END
    FROM made CROSS JOIN (VALUES
        ('submitted', 'queued', 0, interval '0'), ('claimed', 'running', 1, interval '2 s'),
        ('ended', NULL, 1, interval '3 s')) AS e(kind, state, attempt, after)
    ORDER BY id, after""",
            """
    INSERT INTO job_inputs (job_id, role, bucket, key, version, content)
    SELECT id, 'image', 'media', key, md5(content), content FROM made ORDER BY id""",
            """
    INSERT INTO contents (sha256, size, mime, probe, first_seen)
    SELECT content, 2000000 + n, mime, '{"width": 4032, "height": 3024}', at FROM made ORDER BY content""",
            """
    INSERT INTO objects (bucket, key, version, etag, content, first_seen, last_seen)
    SELECT 'media', key, md5(content), md5(content), content, at, at FROM made ORDER BY key""",
            """
    INSERT INTO texts (content, job_id, kind, language, text, words, created_at)
    SELECT content, id, 'caption', 'en', said, to_tsvector('english', said), at
    FROM made WHERE state = 'succeeded' ORDER BY id""",
            """
    INSERT INTO job_counts (lane, type, tenant, state, delta)
    SELECT 'backfill', 'image.caption', 'tenant' || n % 5, state, count(*) FROM made GROUP BY 3, 4""",
        ),
    )
)


def fill(database: Database, jobs: int, also: Sequence[Statement] = ()) -> float:
    """Puts so many finished jobs into the empty tables; how many seconds that took.

    `also` is run for each part when its jobs are in the temporary table `made` (those with :first <= n <= :last), and
    may change them. Statements take minutes: the database's limit should be an hour.
    """
    began = time.perf_counter()
    now = datetime.now(UTC)
    oldest, worker = now - KEPT, new_id()
    ensure_partitions(database, oldest)
    step = (KEPT / jobs).total_seconds() if jobs else 0.0
    for first in range(0, jobs, PART):
        last = min(first + PART, jobs) - 1
        with database.transaction() as connection:
            connection.execute(text("SET LOCAL synchronous_commit = off"))
            values = {"oldest": oldest, "step": f"{step} seconds", "first": first, "last": last, "worker": worker}
            for statement in (MADE, *also, *ROWS):
                connection.execute(statement, values)
        print(f"filled: {last + 1:,} of {jobs:,} jobs, {time.perf_counter() - began:.0f} s", file=sys.stderr)
    settle_down(database)
    return time.perf_counter() - began


def settle_down(database: Database) -> None:
    """As autovacuum leaves the tables once it has been by, and nothing left to be written."""
    with database.autocommit() as connection:
        connection.execute(text("VACUUM (ANALYZE)"))
        connection.execute(text("CHECKPOINT"))


def needed_bytes(jobs: int) -> int:
    """What filling takes on disk, about."""
    return jobs * BYTES_PER_JOB + BYTES_BESIDE
