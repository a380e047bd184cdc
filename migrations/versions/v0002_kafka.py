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
    ADD COLUMN size          bigint NOT NULL DEFAULT 0,
    -- where in the object of body_uri the body begins: bodies beyond the budget share one
    ADD COLUMN body_at       bigint,
    -- all its problems are names that a newer build may know
    ADD COLUMN may_be_newer  boolean NOT NULL DEFAULT false,
    -- what it became when it was replayed
    ADD COLUMN job_id        uuid;
CREATE INDEX rejected_received ON rejected_messages (received_at DESC);
CREATE INDEX rejected_fingerprint ON rejected_messages (fingerprint, received_at);
-- to be validated again by a newer build
CREATE INDEX rejected_newer ON rejected_messages (build) WHERE may_be_newer AND replayed_at IS NULL;
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
"""

VIEWS = """
CREATE VIEW ops.rejected AS
    SELECT fingerprint, lane, topic, count(*) AS messages, count(replayed_at) AS replayed,
           min(received_at) AS first, max(received_at) AS last
    FROM public.rejected_messages GROUP BY fingerprint, lane, topic;

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
    op.execute("ALTER TABLE destinations DROP COLUMN cluster_id")
    op.execute("DROP TABLE lost_ranges")
    op.execute("DROP INDEX rejected_newer, rejected_fingerprint, rejected_received")
    op.execute(
        "ALTER TABLE rejected_messages DROP COLUMN lane, DROP COLUMN key, DROP COLUMN sent_at, DROP COLUMN trace,"
        " DROP COLUMN size, DROP COLUMN body_at, DROP COLUMN may_be_newer, DROP COLUMN job_id"
    )
