"""A migrated database of each test's own, and the small things that most tests of the job tables need."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from storage.claim import ClaimedJob
    from storage.database import Database
    from tests.servers.postgres import PostgresServer


@pytest.fixture(scope="session")
def migrated_template(postgres_server: PostgresServer) -> str:
    """The name of a database at the newest revision: copied for each test, which takes a tenth of migrating."""
    from storage.pooled import PooledDatabase
    from storage.schema import migrate

    database = PooledDatabase(postgres_server.create_database("migrated"))
    migrate(database)
    database.close()
    return "migrated"


@pytest.fixture
def database(postgres_server: PostgresServer, migrated_template: str) -> Iterator[Database]:
    """An empty, migrated database; `another` on it gives second connections."""
    from storage.pooled import PooledDatabase

    with postgres_server.database(template=migrated_template) as url:
        database = PooledDatabase(url)
        yield database
        database.close()


@pytest.fixture
def table(database: Database) -> JobTable:
    """The job tables, spoken to in short sentences."""
    return JobTable(database)


class JobTable:
    """Submits, claims and looks, for tests about one step of a job's way."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, n: int = 1, *, type_: str = "test.noop", lane: str = "interactive", **more: Any) -> list[uuid.UUID]:
        """Queues `n` jobs; `more` are fields of NewJob. Their ids, oldest first."""
        from intake.identity import new_id
        from storage.submit import NewJob, submit

        message = {"type": type_, **more.pop("message", {})}
        jobs = [
            NewJob(id=new_id(), type=type_, lane=lane, body_sha256=b"b" * 32, message=message, **more) for _ in range(n)
        ]
        submit(self.database, jobs)
        return [job.id for job in jobs]

    def worker(self, worker: uuid.UUID | None = None) -> uuid.UUID:
        """Registers a worker and returns its id."""
        from intake.identity import new_id
        from storage.workers import register

        worker = worker or new_id()
        with self.database.transaction() as connection:
            register(connection, worker, host="test", pid=1, build="test", devices=[])
        return worker

    def claim(
        self,
        worker: uuid.UUID,
        n: int = 1,
        *,
        type_: str = "test.noop",
        lane: str = "interactive",
        has: Sequence[str] = (),
    ) -> list[ClaimedJob]:
        """Claims up to `n` jobs for a worker."""
        from storage.claim import Want, claim

        with self.database.transaction() as connection:
            return claim(connection, worker, [Want(lane, type_, n)], has)

    def row(self, id_: uuid.UUID) -> dict[str, Any]:
        """The job's row with its details."""
        return self.rows("SELECT * FROM jobs JOIN job_details USING (id) WHERE id = :id", id=id_)[0]

    def rows(self, sql: str, **values: Any) -> list[dict[str, Any]]:
        """What a query gives."""
        from storage.sql import text

        with self.database.transaction() as connection:
            return connection.execute(text(sql), values).mappings()

    def events(self, id_: uuid.UUID) -> list[str]:
        """The job's history, as kinds."""
        return [r["kind"] for r in self.rows("SELECT kind FROM job_events WHERE id = :id ORDER BY at", id=id_)]

    def counts(self) -> dict[str, int]:
        """Jobs by state, as the view for dashboards has them."""
        rows = self.rows("SELECT state, sum(jobs)::int AS n FROM ops.job_counts GROUP BY state")
        return {row["state"]: row["n"] for row in rows}


@pytest.fixture
def settle_one(database: Database) -> Callable[..., str | None]:
    """Ends one attempt: `settle_one(job, Ending.FAILED, error=...)` gives the next state, None if fenced off."""
    from storage.settle import Ending, Rules, Settlement, settle

    def end(job: ClaimedJob, ending: Ending, rules: Rules | None = None, **more: Any) -> str | None:
        with database.transaction() as connection:
            settlement = Settlement.of(job.fence, ending, **more)
            return settle(connection, [settlement], rules or Rules()).get(job.fence.id)

    return end


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the checkpoints of random weights; made once for all processes of a run, it takes a while."""
    from tests.e2e.material import make_tiny_models

    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    models = shared / "tiny-models"
    with (shared / "tiny-models.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not models.exists():
            made = own / "tiny-models-made"
            make_tiny_models(made)
            made.rename(models)
    return models


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve small pictures that differ."""
    from tests.e2e.material import draw_pictures

    return draw_pictures(tmp_path_factory.mktemp("pictures"), 12)
