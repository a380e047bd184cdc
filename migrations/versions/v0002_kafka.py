"""Kafka: what came in and could not become a job, what was lost before it was read, and where events go.

Expand only: the release before works on this schema.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

REJECTIONS = """
ALTER TABLE rejected_messages
    ADD COLUMN lane          text,
    ADD COLUMN key           bytea,
    -- when the producer, or the broker, says that it was sent
    ADD COLUMN sent_at       timestamptz,
    ADD COLUMN trace         jsonb,
    -- bytes of the body
    ADD COLUMN size          bigint NOT NULL DEFAULT 0,
    -- where in the object of body_uri the body begins: bodies beyond the budget share one
    ADD COLUMN body_at       bigint,
    -- bytes of the JSON behind it, with key and headers, where those are not in the row
    ADD COLUMN rest          bigint,
    -- bytes that the row takes of the budget
    ADD COLUMN kept          bigint NOT NULL DEFAULT 0,
    -- all its problems are names that a newer build may know
    ADD COLUMN may_be_newer  boolean NOT NULL DEFAULT false,
    -- what it became when it was replayed
    ADD COLUMN job_id        uuid;
-- lists, expiry
CREATE INDEX rejected_received ON rejected_messages (received_at, id);
-- groups, replay of a group; what else a list of groups asks for is in it, so that it reads no message
CREATE INDEX rejected_fingerprint ON rejected_messages (fingerprint, received_at, id)
    INCLUDE (lane, topic, replayed_at);
-- to be validated again by a newer build
CREATE INDEX rejected_newer ON rejected_messages (build, received_at, id) WHERE may_be_newer AND replayed_at IS NULL;
-- whether an object is still of use
CREATE INDEX rejected_body_uri ON rejected_messages (body_uri) WHERE body_uri IS NOT NULL;

-- Appended deltas, folded by one maintainer: knowing how many there are, and how many bytes, must not read them.
CREATE TABLE rejected_counts (
    seq         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    fingerprint text NOT NULL,
    lane        text,
    topic       text,
    messages    bigint NOT NULL,
    replayed    bigint NOT NULL,
    bytes       bigint NOT NULL
);

-- Objects with bodies: written here before they are uploaded, so that none is ever forgotten in the store.
CREATE TABLE rejected_objects (
    uri     text PRIMARY KEY,
    made_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX rejected_objects_made ON rejected_objects (made_at);

-- In which order builds came: a newer one validates again what an older one has refused, and never the other way.
CREATE TABLE builds (
    build      text PRIMARY KEY,
    first_seen timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""

INGEST = """
-- Messages that expired in Kafka before they were read: an alarm until somebody acknowledges it.
CREATE TABLE lost_ranges (
    topic           text NOT NULL,
    topic_id        text NOT NULL,
    partition       integer NOT NULL,
    first_offset    bigint NOT NULL,
    -- the first one that was still there
    end_offset      bigint NOT NULL,
    found_at        timestamptz NOT NULL DEFAULT now(),
    acknowledged_at timestamptz,
    PRIMARY KEY (topic, topic_id, partition, first_offset),
    CHECK (end_offset > first_offset)
);
"""

OUTBOX = """
-- The cluster that a topic is on: a process that is pointed at another one must not publish there.
ALTER TABLE destinations ADD COLUMN cluster_id text;
-- lease: what is due at a destination; a refused event moves back in it, a lease leaves it alone
CREATE INDEX outbox_due ON outbox (destination, next_at, seq) WHERE dead_at IS NULL;
DROP INDEX outbox_next;
CREATE INDEX outbox_dead ON outbox (destination, seq) WHERE dead_at IS NOT NULL;
-- Every row is updated once (leased) and deleted: room beside it keeps that out of the indexes.
ALTER TABLE outbox SET (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);
"""

VIEWS = """
CREATE VIEW ops.rejected AS
    SELECT c.fingerprint, c.lane, c.topic, c.messages, c.replayed, first.received_at AS first, last.received_at AS last
    FROM (
        SELECT fingerprint, lane, topic, sum(messages)::bigint AS messages, sum(replayed)::bigint AS replayed
        FROM public.rejected_counts GROUP BY fingerprint, lane, topic HAVING sum(messages) > 0
    ) AS c
    -- the ends of an index: of the fingerprint, whatever lane and topic
    LEFT JOIN LATERAL (SELECT received_at FROM public.rejected_messages m WHERE m.fingerprint = c.fingerprint
                       ORDER BY received_at LIMIT 1) AS first ON true
    LEFT JOIN LATERAL (SELECT received_at FROM public.rejected_messages m WHERE m.fingerprint = c.fingerprint
                       ORDER BY received_at DESC LIMIT 1) AS last ON true;

CREATE VIEW ops.lost_ranges AS
    SELECT topic, partition, first_offset, end_offset, end_offset - first_offset AS messages, found_at, acknowledged_at
    FROM public.lost_ranges;
"""


def upgrade() -> None:
    for part in (REJECTIONS, INGEST, OUTBOX, VIEWS):
        op.execute(part)


def downgrade() -> None:
    op.execute("DROP VIEW ops.lost_ranges")
    op.execute("DROP VIEW ops.rejected")
    op.execute("ALTER TABLE outbox RESET (fillfactor, autovacuum_vacuum_scale_factor)")
    op.execute("CREATE INDEX outbox_next ON outbox (next_at, seq) WHERE dead_at IS NULL")
    op.execute("DROP INDEX outbox_due, outbox_dead")
    op.execute("ALTER TABLE destinations DROP COLUMN cluster_id")
    op.execute("DROP TABLE lost_ranges")
    op.execute("DROP TABLE builds, rejected_objects, rejected_counts")
    op.execute("DROP INDEX rejected_body_uri, rejected_newer, rejected_fingerprint, rejected_received")
    op.execute(
        "ALTER TABLE rejected_messages DROP COLUMN lane, DROP COLUMN key, DROP COLUMN sent_at, DROP COLUMN trace,"
        " DROP COLUMN size, DROP COLUMN body_at, DROP COLUMN rest, DROP COLUMN kept, DROP COLUMN may_be_newer,"
        " DROP COLUMN job_id"
    )
