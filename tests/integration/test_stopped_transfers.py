"""Attempts that are ended in the middle of a long transfer: soon, and with nothing left behind."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from handlers.protocol import Order, Outcome, OutputFile
from storage.database import Database
from storage.objects.rules import BucketRules
from storage.objects.s3 import S3Options, S3Store
from tests.integration.one_worker import OneWorker, one_worker, success
from tests.integration.test_claimer import until
from tests.integration.test_objects_pinned import look
from tests.integration.test_s3_faults import session_of
from tests.servers.faulty_proxy import Fault, FaultyProxy
from tests.servers.s3 import S3Bucket
from worker.attempts import Stop

MIB = 1 << 20
LONG = 48 * MIB
#: 3 MiB/s: the whole would take a quarter of a minute.
THIN = Fault(pace_s=0.02)
SOON_S = 5.0
ATTEMPTS = 5
ENDINGS = pytest.mark.parametrize(
    ("why", "kind", "state"), [(Stop.DRAIN, "interrupted", "queued"), (Stop.CANCELLED, "cancelled", "cancelled")]
)


@dataclass(frozen=True)
class Thin:
    """A worker with a thin line to a real S3 server."""

    worker: OneWorker
    proxy: FaultyProxy
    bucket: S3Bucket
    folder: Path

    async def stop_when(self, passed: str, why: Stop) -> float:
        """Runs what is queued, ends it when 2 MiB have passed; seconds from then on."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.worker.run)
            await until(lambda: getattr(self.proxy, passed) > 2 * MIB)
            self.worker.attempts.stop_all(why)
            stopped = time.monotonic()
        return time.monotonic() - stopped


@pytest.fixture
def thin(database: Database, s3_bucket: S3Bucket, tmp_path: Path) -> Iterator[Thin]:
    session = session_of(s3_bucket.server.access_key, s3_bucket.server.secret_key)
    with FaultyProxy(s3_bucket.server.port) as proxy:
        proxy.where, proxy.always = re.compile("(GET|PUT) .*"), THIN
        options = S3Options(proxy.endpoint, "us-east-1", "path", attempts=ATTEMPTS, part_bytes=16 * MIB)
        store = S3Store(BucketRules.parse({s3_bucket.name: "rw"}), options, session=session)
        more = {"output": s3_bucket.uri("derived/"), "max_bytes": 2 * LONG}
        with one_worker(database, store, tmp_path, **more) as worker:
            yield Thin(worker, proxy, s3_bucket, tmp_path)
        store.close()


@ENDINGS
async def test_a_long_download_ends_within_a_chunk_when_its_attempt_is_ended(
    thin: Thin, why: Stop, kind: str, state: str
) -> None:
    thin.bucket.client.put_object(Bucket=thin.bucket.name, Key="in", Body=random.Random(1).randbytes(LONG))
    id_ = look(thin.worker, thin.bucket.uri("in"))
    assert await thin.stop_when("sent", why) < SOON_S
    assert thin.proxy.sent < LONG / 2
    assert thin.worker.table.row(id_)["state"] == state
    assert thin.worker.table.events(id_)[-1] == kind
    assert [path for path in thin.folder.glob("cache/**/*") if path.is_file() and path.suffix != ".lock"] == [
        thin.folder / "cache" / "process" / "lock"
    ]


@ENDINGS
async def test_a_long_upload_ends_within_a_chunk_when_its_attempt_is_ended_and_leaves_no_parts(
    thin: Thin, why: Stop, kind: str, state: str
) -> None:
    thin.proxy.where = re.compile("PUT .*")
    thin.bucket.client.put_object(Bucket=thin.bucket.name, Key="in", Body=b"picture")

    def behave(order: Order) -> Outcome:
        path = Path(order.scratch) / "film.bin"
        path.parent.mkdir()
        path.write_bytes(bytes(LONG))
        return success(order, files=(OutputFile(role="film", path=str(path), media_type="video/mp4"),))

    thin.worker.executor.behave = behave
    id_ = look(thin.worker, thin.bucket.uri("in"))
    assert await thin.stop_when("received", why) < SOON_S
    assert thin.proxy.received < LONG / 2
    assert thin.worker.table.row(id_)["state"] == state
    assert thin.worker.table.events(id_)[-1] == kind
    listed = thin.bucket.client.list_objects_v2(Bucket=thin.bucket.name)["Contents"]
    assert [entry["Key"] for entry in listed] == ["in"]
    assert thin.bucket.client.list_multipart_uploads(Bucket=thin.bucket.name).get("Uploads", []) == []
    assert list((thin.folder / "scratch").iterdir()) == []


async def test_a_cancelled_job_leaves_its_download_to_the_others_that_wait_for_it(thin: Thin) -> None:
    thin.proxy.always = Fault(pace_s=0.002)
    thin.bucket.client.put_object(Bucket=thin.bucket.name, Key="in", Body=random.Random(1).randbytes(8 * MIB))
    ids = [look(thin.worker, thin.bucket.uri("in")) for _ in range(3)]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(thin.worker.run)
        await until(lambda: thin.proxy.sent > MIB)
        for attempt in thin.worker.attempts:
            if attempt.job.fence.id == ids[0]:
                attempt.stop(Stop.CANCELLED)
    states = [thin.worker.table.row(id_)["state"] for id_ in ids]
    assert states == ["cancelled", "succeeded", "succeeded"]


async def test_a_store_that_keeps_refusing_is_not_asked_again_once_the_attempt_is_ended(thin: Thin) -> None:
    thin.proxy.where, thin.proxy.always = re.compile("HEAD .*"), Fault(status=503)
    id_ = look(thin.worker, thin.bucket.uri("in"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(thin.worker.run)
        await until(lambda: thin.proxy.seen)
        thin.worker.attempts.stop_all(Stop.DRAIN)
    assert len(thin.proxy.seen) < ATTEMPTS
    assert thin.worker.table.events(id_)[-1] == "interrupted"
