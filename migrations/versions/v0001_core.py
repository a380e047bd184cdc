"""The core: jobs and what is known about them, workers, contents, embeddings, texts, outbox, views for dashboards.

Kinds of table:
- by month of id (`jobs`, `job_details`, `job_events`, `job_inputs`): ids are time-ordered UUIDs, so that a range of ids
  is a month and retention is a DROP. There is no foreign key between them: it would cost a look-up per row in the
  hottest statements and stand in the way of that DROP; one statement writes all of a job, so that none can be missing.
- everything else: plain tables.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

PARTITIONED = ("jobs", "job_details", "job_events", "job_inputs")

JOBS = """
CREATE TABLE jobs (
    id               uuid PRIMARY KEY,
    type             text NOT NULL,
    tenant           text NOT NULL DEFAULT 'default',
    lane             text NOT NULL,
    priority         smallint NOT NULL DEFAULT 0,
    state            text NOT NULL,
    -- attempt only numbers: what counts against a job are the four counters below
    attempt          integer NOT NULL DEFAULT 0,
    max_attempts     smallint NOT NULL,
    failures         smallint NOT NULL DEFAULT 0,
    losses           smallint NOT NULL DEFAULT 0,
    crashes          smallint NOT NULL DEFAULT 0,
    interruptions    smallint NOT NULL DEFAULT 0,
    -- who runs it, or who ended it
    worker_id        uuid,
    -- set, durably, before a job with losses starts alone: a process that dies after that died of this job
    alone            boolean NOT NULL DEFAULT false,
    cancel_requested boolean NOT NULL DEFAULT false,
    run_after        timestamptz NOT NULL DEFAULT now(),
    deadline         timestamptz,
    timeout_s        real,
    checkpoints      text[] NOT NULL DEFAULT '{}',
    body_sha256      bytea NOT NULL,
    derivation_key   bytea,
    created_at       timestamptz NOT NULL DEFAULT now(),
    claimed_at       timestamptz,
    finished_at      timestamptz,
    CONSTRAINT state_is_known CHECK
        (state IN ('waiting', 'queued', 'running', 'succeeded', 'failed', 'cancelled', 'quarantined')),
    CONSTRAINT lane_is_known CHECK (lane IN ('interactive', 'upload', 'backfill')),
    CONSTRAINT running_has_a_worker CHECK (state <> 'running' OR (worker_id IS NOT NULL AND attempt > 0)),
    CONSTRAINT queued_has_no_worker CHECK (state NOT IN ('queued', 'waiting') OR worker_id IS NULL),
    CONSTRAINT only_a_running_job_is_alone CHECK (NOT alone OR state = 'running'),
    CONSTRAINT finished_has_its_time CHECK
        ((finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled', 'quarantined'))),
    CONSTRAINT counters_count CHECK
        (attempt >= 0 AND failures >= 0 AND losses >= 0 AND crashes >= 0 AND interruptions >= 0 AND max_attempts > 0),
    CONSTRAINT priority_in_range CHECK (priority BETWEEN -100 AND 1000)
) PARTITION BY RANGE (id);

-- claim
CREATE INDEX jobs_queued ON jobs (lane, type, priority DESC, run_after, id) WHERE state = 'queued';
-- beat, reaper: what a worker has
CREATE INDEX jobs_running ON jobs (worker_id) WHERE state = 'running';
-- expiry of deadlines
CREATE INDEX jobs_deadline ON jobs (deadline) WHERE state IN ('queued', 'waiting') AND deadline IS NOT NULL;
-- lists for people: what failed lately
CREATE INDEX jobs_unhappy ON jobs (finished_at DESC) WHERE state IN ('failed', 'quarantined');

CREATE TABLE job_details (
    id       uuid PRIMARY KEY,
    message  jsonb NOT NULL,
    resolved jsonb,
    result   jsonb,
    error    jsonb,
    timings  jsonb,
    labels   jsonb NOT NULL DEFAULT '{}',
    trace    jsonb
) PARTITION BY RANGE (id);
CREATE INDEX job_details_labels ON job_details USING gin (labels jsonb_path_ops);

CREATE TABLE job_events (
    id        uuid NOT NULL,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind      text NOT NULL,
    state     text NOT NULL,
    attempt   integer NOT NULL,
    worker_id uuid,
    data      jsonb
) PARTITION BY RANGE (id);
CREATE INDEX job_events_id ON job_events (id, attempt);

CREATE TABLE job_inputs (
    job_id  uuid NOT NULL,
    role    text NOT NULL,
    name    text NOT NULL DEFAULT '',
    bucket  text NOT NULL,
    key     text NOT NULL,
    version text NOT NULL,
    content bytea NOT NULL,
    PRIMARY KEY (job_id, role, name)
) PARTITION BY RANGE (job_id);
CREATE INDEX job_inputs_content ON job_inputs (content);
"""

AROUND_JOBS = """
CREATE TABLE job_dedupe (
    tenant text NOT NULL,
    key    text NOT NULL,
    job_id uuid NOT NULL,
    -- null while the job is live; a succeeded job holds its key until then; any other end frees it
    until  timestamptz,
    PRIMARY KEY (tenant, key)
);
CREATE INDEX job_dedupe_job ON job_dedupe (job_id);
CREATE INDEX job_dedupe_until ON job_dedupe (until) WHERE until IS NOT NULL;

-- Attempts that ended without success and may have left outputs in the object store.
CREATE TABLE sweeps (
    job_id    uuid NOT NULL,
    attempt   integer NOT NULL,
    worker_id uuid NOT NULL,
    due_at    timestamptz NOT NULL,
    PRIMARY KEY (job_id, attempt)
);
CREATE INDEX sweeps_due ON sweeps (due_at);

CREATE TABLE rejected_messages (
    id          uuid PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT now(),
    topic       text,
    partition   integer,
    "offset"    bigint,
    headers     jsonb,
    body        bytea,
    body_uri    text,
    error       jsonb NOT NULL,
    fingerprint text NOT NULL,
    build       text NOT NULL,
    replayed_at timestamptz
);

CREATE TABLE workers (
    id          uuid PRIMARY KEY,
    host        text NOT NULL,
    pid         integer NOT NULL,
    build       text NOT NULL,
    devices     jsonb NOT NULL DEFAULT '[]',
    doing       jsonb NOT NULL DEFAULT '{}',
    -- raised by its worker alone, in a transaction of its own; reapers compare it on clocks of their own
    beat        bigint NOT NULL DEFAULT 0,
    started_at  timestamptz NOT NULL DEFAULT now(),
    beat_at     timestamptz NOT NULL DEFAULT now(),
    retired_at  timestamptz,
    retired_why text,
    CONSTRAINT retired_says_why CHECK ((retired_at IS NULL) = (retired_why IS NULL))
);
CREATE INDEX workers_live ON workers (id) WHERE retired_at IS NULL;

-- Where events go is a fact of the deployment and not of a process, so that a misconfigured one cannot swallow any.
CREATE TABLE destinations (
    name    text PRIMARY KEY,
    kind    text NOT NULL CHECK (kind IN ('topic')),
    target  text NOT NULL,
    enabled boolean NOT NULL DEFAULT true
);

CREATE TABLE outbox (
    seq          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id     uuid NOT NULL UNIQUE,
    job_id       uuid NOT NULL,
    kind         text NOT NULL,
    destination  text NOT NULL,
    target       text NOT NULL,
    payload      jsonb NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    tries        integer NOT NULL DEFAULT 0,
    next_at      timestamptz NOT NULL DEFAULT now(),
    leased_by    uuid,
    leased_until timestamptz,
    last_error   text,
    dead_at      timestamptz
);
CREATE INDEX outbox_next ON outbox (next_at, seq) WHERE dead_at IS NULL;
CREATE INDEX outbox_job ON outbox (job_id);

-- Appended deltas, folded by one maintainer: counting what there is must not read what there was.
CREATE TABLE job_counts (
    seq    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lane   text NOT NULL,
    type   text NOT NULL,
    tenant text NOT NULL,
    state  text NOT NULL,
    delta  bigint NOT NULL
);
"""

# RFC 9562, version 8: a UUID named by a text. Version 5 would need SHA-1, which Postgres has only in extensions.
NAME_BASED_UUID = """
CREATE FUNCTION name_based_uuid(name text) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT encode(set_byte(set_byte(h, 6, (get_byte(h, 6) & 15) | 128), 8, (get_byte(h, 8) & 63) | 128), 'hex')::uuid
    FROM (SELECT substr(sha256(convert_to(name, 'UTF8')), 1, 16) AS h) AS digest
$$
"""

CONTENTS = """
CREATE TABLE contents (
    sha256     bytea PRIMARY KEY CHECK (length(sha256) = 32),
    size       bigint NOT NULL,
    mime       text,
    probe      jsonb,
    first_seen timestamptz NOT NULL DEFAULT now()
);
-- search: filter by time
CREATE INDEX contents_first_seen ON contents (first_seen);

CREATE TABLE objects (
    bucket     text NOT NULL,
    key        text NOT NULL,
    -- the version id where the bucket has versions, else the ETag
    version    text NOT NULL,
    version_id text,
    etag       text,
    content    bytea NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen  timestamptz NOT NULL DEFAULT now(),
    gone_at    timestamptz,
    PRIMARY KEY (bucket, key, version)
);
CREATE INDEX objects_content ON objects (content);

CREATE TABLE artifacts (
    job_id     uuid NOT NULL,
    role       text NOT NULL,
    name       text NOT NULL DEFAULT '',
    attempt    integer NOT NULL,
    bucket     text NOT NULL,
    key        text NOT NULL,
    version_id text,
    etag       text,
    media_type text NOT NULL,
    size       bigint NOT NULL,
    content    bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_id, role, name)
);
CREATE INDEX artifacts_content ON artifacts (content);

CREATE TABLE texts (
    seq        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    content    bytea NOT NULL,
    job_id     uuid NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('caption', 'transcript', 'ocr')),
    language   text,
    text       text NOT NULL,
    words      tsvector NOT NULL,
    segments   jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (job_id, content, kind)
);
CREATE INDEX texts_words ON texts USING gin (words);
CREATE INDEX texts_content ON texts (content);

CREATE TABLE embedding_spaces (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- catalogue name of the checkpoint and sha256 over its files: other weights are another space
    checkpoint text NOT NULL,
    revision   text NOT NULL,
    dimension  integer NOT NULL CHECK (dimension BETWEEN 1 AND 4000),
    state      text NOT NULL CHECK (state IN ('building', 'active', 'retired')),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (checkpoint, revision)
);
CREATE UNIQUE INDEX one_active_space ON embedding_spaces ((true)) WHERE state = 'active';

CREATE TABLE embeddings (
    content    bytea NOT NULL,
    space      integer NOT NULL REFERENCES embedding_spaces (id),
    kind       text NOT NULL CHECK (kind IN ('image', 'frame')),
    t0         double precision,
    t1         double precision,
    vector     halfvec NOT NULL,
    job_id     uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (content, space, kind, t0, t1)
);
"""

VIEWS = """
CREATE SCHEMA ops;

CREATE VIEW ops.job_counts AS
    SELECT lane, type, tenant, state, sum(delta)::bigint AS jobs
    FROM public.job_counts GROUP BY lane, type, tenant, state HAVING sum(delta) <> 0;

CREATE VIEW ops.queue AS
    SELECT lane, type, count(*) AS runnable, min(run_after) AS oldest
    FROM public.jobs WHERE state = 'queued' AND run_after <= now() GROUP BY lane, type;

CREATE VIEW ops.jobs AS
    SELECT j.id, j.type, j.tenant, j.lane, j.priority, j.state, j.attempt, j.failures, j.losses, j.crashes,
           j.interruptions, j.worker_id, j.run_after, j.deadline, j.created_at, j.claimed_at, j.finished_at,
           d.labels, d.error, d.timings
    FROM public.jobs j LEFT JOIN public.job_details d ON d.id = j.id;

CREATE VIEW ops.workers AS
    SELECT id, host, pid, build, devices, doing, beat, started_at, beat_at, retired_at, retired_why
    FROM public.workers;

CREATE VIEW ops.outbox AS
    SELECT destination, kind, count(*) AS events, min(created_at) AS oldest, count(dead_at) AS dead
    FROM public.outbox GROUP BY destination, kind;
"""


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    for part in (JOBS, AROUND_JOBS, NAME_BASED_UUID, CONTENTS, VIEWS):
        op.execute(part)
    for table in PARTITIONED:
        # Ids that are not of our making (any UUID is allowed) may lie in no month that we keep.
        op.execute(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT")


def downgrade() -> None:
    op.execute("DROP SCHEMA ops CASCADE")
    op.execute(
        "DROP TABLE jobs, job_details, job_events, job_inputs, job_dedupe, sweeps, rejected_messages, workers,"
        " destinations, outbox, job_counts, objects, artifacts, texts, embeddings, embedding_spaces, contents"
    )
    op.execute("DROP FUNCTION name_based_uuid(text)")
    # The extension stays: other schemas of the database may use it.
