"""What attempts without success have left in the object store goes when it is due, and nothing else goes ever."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from storage.claim import ClaimedJob
from storage.database import Database
from storage.objects.base import ObjectStore
from storage.objects.errors import StoreUnavailable
from storage.objects.local import LocalStore
from storage.objects.rules import BucketRules
from storage.objects.s3 import S3Options, S3Store
from storage.objects.uri import ObjectUri
from storage.settle import Ending, Rules
from tests.fakes.clock import FakeClock
from tests.fixtures import JobTable
from tests.servers.s3 import REGION, S3Bucket
from worker.maintenance import Maintenance
from worker.metrics import Metrics
from worker.store import output_prefix

SettleOne = Callable[..., str | None]


class Deployment:
    """A store with a bucket, the tables, and the sweeper of one worker."""

    def __init__(self, database: Database, store: ObjectStore, bucket: str, folder: Path) -> None:
        self.store = store
        self.bucket = bucket
        self.output = f"s3://{bucket}/derived/"
        self.metrics = Metrics()
        self._folder = folder
        self._table = JobTable(database)
        self._maintenance = Maintenance(
            database,
            store,
            output=self.output,
            rules=Rules(),
            history_kept=timedelta(days=90),
            clock=FakeClock(),
            limiter=anyio.CapacityLimiter(1),
            metrics=self.metrics,
        )

    def leave_outputs(self, job: ClaimedJob, n: int = 2) -> list[str]:
        """As `worker.store` does, for an attempt whose end is not recorded yet; the keys."""
        prefix = output_prefix(self.output, job.message.get("output"), job.fence)
        return [self.put(f"{prefix.key}/file-{i}.json") for i in range(n)]

    def put(self, key: str) -> str:
        (self._folder / "source").write_bytes(b"{}")
        self.store.upload(self._folder / "source", ObjectUri(self.bucket, key))
        return key

    def keys(self) -> list[str]:
        return [info.uri.key for info in self.store.list(self.bucket)]

    def hours_pass(self) -> None:
        self._table.rows("UPDATE sweeps SET due_at = due_at - interval '2 hours'")

    def waiting(self) -> int:
        return len(self._table.rows("SELECT * FROM sweeps"))

    def sweep(self) -> int:
        return self._maintenance.sweep()


@pytest.fixture
def local(tmp_path: Path) -> tuple[ObjectStore, str]:
    return LocalStore(tmp_path / "store", BucketRules.parse(["media"])), "media"


@pytest.fixture
def s3(s3_bucket: S3Bucket) -> Iterator[tuple[ObjectStore, str]]:
    import boto3

    server = s3_bucket.server
    session = boto3.Session(aws_access_key_id=server.access_key, aws_secret_access_key=server.secret_key)
    options = S3Options(endpoint_url=server.endpoint, region=REGION, addressing="path")
    store = S3Store(BucketRules.parse([s3_bucket.name]), options, session=session)
    yield store, s3_bucket.name
    store.close()


@pytest.fixture(params=["local", "s3"])
def deployment(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> Deployment:
    store, bucket = request.getfixturevalue(request.param)
    return Deployment(database, store, bucket, tmp_path)


@pytest.fixture
def on_folder(local: tuple[ObjectStore, str], database: Database, tmp_path: Path) -> Deployment:
    return Deployment(database, *local, tmp_path)


def attempt(table: JobTable, **more: Any) -> ClaimedJob:
    table.add(**more)
    (job,) = table.claim(table.worker())
    return job


def test_outputs_of_attempts_without_success_go_when_they_are_due_and_not_before(
    deployment: Deployment, table: JobTable, settle_one: SettleOne
) -> None:
    endings = {
        Ending.FAILED: "queued", Ending.REFUSED: "failed", Ending.LOST: "queued", Ending.INTERRUPTED: "queued",
        Ending.POSTPONED: "queued", Ending.CANCELLED: "cancelled", Ending.EXPIRED: "failed",
    }  # fmt: skip
    for ending, state in endings.items():
        job = attempt(table)
        deployment.leave_outputs(job)
        assert settle_one(job, ending, delay_s=3600) == state
        # Out of the way of the next claim.
        table.rows("UPDATE jobs SET run_after = now() + interval '1 day' WHERE state = 'queued'")
    assert deployment.sweep() == 0
    assert len(deployment.keys()) == 2 * len(endings)
    deployment.hours_pass()
    assert deployment.sweep() == 2 * len(endings)
    assert deployment.keys() == []
    assert deployment.waiting() == 0


def test_outputs_of_succeeded_and_running_attempts_are_never_touched(
    deployment: Deployment, table: JobTable, settle_one: SettleOne
) -> None:
    done, running, failed = attempt(table), attempt(table), attempt(table)
    kept = [*deployment.leave_outputs(done), *deployment.leave_outputs(running)]
    deployment.leave_outputs(failed)
    assert settle_one(done, Ending.SUCCEEDED, result={}) == "succeeded"
    assert settle_one(failed, Ending.REFUSED, error={"type": "InvalidInput", "message": "no"}) == "failed"
    deployment.hours_pass()
    assert deployment.sweep() == 2
    assert deployment.keys() == sorted(kept)


def test_of_a_job_that_succeeds_in_the_end_only_the_earlier_attempts_go(
    deployment: Deployment, table: JobTable, settle_one: SettleOne
) -> None:
    first = attempt(table)
    deployment.leave_outputs(first)
    assert settle_one(first, Ending.LOST) == "queued"
    (second,) = table.claim(table.worker())
    assert second.fence.id == first.fence.id
    kept = deployment.leave_outputs(second)
    deployment.hours_pass()
    assert deployment.sweep() == 2  # while the second runs
    assert settle_one(second, Ending.SUCCEEDED, result={}) == "succeeded"
    deployment.hours_pass()
    assert deployment.sweep() == 0
    assert deployment.keys() == kept


def test_objects_of_others_beside_and_below_the_outputs_stay(
    deployment: Deployment, table: JobTable, settle_one: SettleOne
) -> None:
    job = attempt(table)
    prefix = output_prefix(deployment.output, None, job.fence).key
    others = [deployment.put(key) for key in (f"{prefix}0/x", f"{prefix}.json", f"derived/{job.fence.id}/9-ab/x", "x")]
    deployment.leave_outputs(job)
    assert settle_one(job, Ending.REFUSED) == "failed"
    deployment.hours_pass()
    assert deployment.sweep() == 2
    assert deployment.keys() == sorted(others)


def test_outputs_under_the_message_s_own_prefix_go_too(
    deployment: Deployment, table: JobTable, settle_one: SettleOne
) -> None:
    job = attempt(table, message={"output": f"s3://{deployment.bucket}/elsewhere/"})
    keys = deployment.leave_outputs(job)
    assert all(key.startswith("elsewhere/") for key in keys)
    assert settle_one(job, Ending.REFUSED) == "failed"
    deployment.hours_pass()
    assert deployment.sweep() == 2
    assert deployment.keys() == []


def test_an_attempt_that_left_nothing_is_done_with_at_once(
    deployment: Deployment, table: JobTable, settle_one: SettleOne
) -> None:
    assert settle_one(attempt(table), Ending.REFUSED) == "failed"
    deployment.hours_pass()
    assert deployment.sweep() == 0
    assert deployment.waiting() == 0


class Faulty(LocalStore):
    """Fails at the deletes it is told to."""

    def __init__(self, folder: Path, *rules: str) -> None:
        super().__init__(folder, BucketRules.parse(list(rules)))
        self.failing: set[int] = set()
        self.deletes = 0

    def _delete(self, uri: ObjectUri) -> None:
        self.deletes += 1
        if self.deletes in self.failing:
            raise StoreUnavailable(uri, "the store is away", "wait")
        super()._delete(uri)


def test_when_the_store_is_away_in_the_midst_of_it_the_rest_goes_later(
    database: Database, table: JobTable, settle_one: SettleOne, tmp_path: Path
) -> None:
    store = Faulty(tmp_path / "store", "media")
    deployment = Deployment(database, store, "media", tmp_path)
    for job in [attempt(table) for _ in range(3)]:
        deployment.leave_outputs(job)
        assert settle_one(job, Ending.REFUSED) == "failed"
    deployment.hours_pass()
    store.failing = {4}
    with pytest.raises(StoreUnavailable):
        deployment.sweep()
    assert (len(deployment.keys()), deployment.waiting()) == (3, 2)
    assert 'store_errors_total{what="sweep"} 1.0' in deployment.metrics.text().decode()
    assert deployment.sweep() == 0  # not at once again
    deployment.hours_pass()
    assert deployment.sweep() == 3
    assert (deployment.keys(), deployment.waiting()) == ([], 0)


def test_outputs_that_the_store_refuses_to_delete_keep_no_others_waiting(
    database: Database, table: JobTable, settle_one: SettleOne, tmp_path: Path
) -> None:
    """A place that may no longer be written, since the settings have changed."""
    LocalStore(tmp_path / "store", BucketRules.parse(["media", "gone"]))
    job = attempt(table, message={"output": "s3://gone/x/"})
    assert settle_one(job, Ending.REFUSED) == "failed"
    deployment = Deployment(database, LocalStore(tmp_path / "store", BucketRules.parse(["media"])), "media", tmp_path)
    for other in [attempt(table) for _ in range(5)]:
        deployment.leave_outputs(other)
        assert settle_one(other, Ending.REFUSED) == "failed"
    deployment.hours_pass()
    assert deployment.sweep() == 10
    assert deployment.waiting() == 1


def test_a_bucket_is_never_walked_through_for_one_attempt(
    on_folder: Deployment, table: JobTable, settle_one: SettleOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [attempt(table) for _ in range(5)]
    for job in jobs:
        on_folder.leave_outputs(job)
    assert settle_one(jobs[0], Ending.REFUSED) == "failed"
    on_folder.hours_pass()
    looked_into: list[Path] = []
    scan = os.scandir

    def watched(path: Path) -> Any:
        looked_into.append(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", watched)
    assert on_folder.sweep() == 2
    assert [str(jobs[0].fence.id) in str(path) for path in looked_into] == [True]


def test_of_two_sweepers_at_once_each_takes_its_own(
    on_folder: Deployment, database: Database, table: JobTable, settle_one: SettleOne
) -> None:
    from storage.sweep import swept, take_due

    for job in [attempt(table) for _ in range(6)]:
        assert settle_one(job, Ending.REFUSED) == "failed"
    on_folder.hours_pass()
    with database.transaction() as one, database.transaction() as other:
        first, second = take_due(one, most=4), take_due(other, most=4)
    assert (len(first), len(second)) == (4, 2)
    assert not {a.job_id for a in first} & {a.job_id for a in second}
    for _ in range(2):  # reporting twice does no harm
        with database.transaction() as connection:
            for done in random.Random(1).sample([*first, *second], 6):
                swept(connection, done)
    assert on_folder.waiting() == 0
