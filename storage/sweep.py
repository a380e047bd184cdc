"""Outputs of attempts that ended without success: which may be deleted, and when.

The settlement of such an attempt writes a row into `sweeps`. Nothing is ever found by listing a bucket: only what the
history names is deleted, and an attempt whose row is here cannot succeed any more, because its fence is gone.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from storage.sql import Connection, text

# sweeps_due. Taken by moving `due_at`, so that no transaction stays open while objects are deleted.
TAKE = text("""
    WITH due AS (
        SELECT s.job_id, s.attempt FROM sweeps s
        WHERE s.due_at <= now() ORDER BY s.due_at LIMIT :most FOR UPDATE SKIP LOCKED
    )
    UPDATE sweeps s SET due_at = now() + interval '10 minutes'
    FROM due LEFT JOIN job_details d ON d.id = due.job_id
    WHERE s.job_id = due.job_id AND s.attempt = due.attempt
    RETURNING s.job_id, s.attempt, s.worker_id, d.message ->> 'output' AS output
""")
DONE = text("DELETE FROM sweeps WHERE job_id = :job_id AND attempt = :attempt")


@dataclass(frozen=True, slots=True)
class Unsuccessful:
    """An attempt that may have left outputs."""

    job_id: uuid.UUID
    attempt: int
    worker_id: uuid.UUID
    #: The message's `output` prefix, None for the deployment's.
    output: str | None


def take_due(connection: Connection, *, most: int = 100) -> list[Unsuccessful]:
    """Attempts to sweep now; one that is not reported `swept` is taken again ten minutes later."""
    return [Unsuccessful(*row) for row in connection.execute(TAKE, {"most": most})]


def swept(connection: Connection, attempt: Unsuccessful) -> None:
    """Nothing of the attempt is left."""
    connection.execute(DONE, {"job_id": attempt.job_id, "attempt": attempt.attempt})
