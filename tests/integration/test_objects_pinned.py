"""What a job reads: pinned at the first fetch, read once however many jobs want it, and never another picture later."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from handlers.image.embed import EmbedImage
from handlers.protocol import Failure, Order, Outcome
from storage.database import Database
from storage.objects.base import ObjectInfo, ObjectRef, ObjectStore
from storage.objects.errors import StoreUnavailable
from storage.objects.local import LocalStore
from storage.objects.rules import BucketRules
from storage.objects.s3 import S3Options, S3Store
from storage.spaces import ensure_space
from tests.integration.one_worker import TYPE, OneWorker, one_worker, success
from worker.media_limits import MediaLimits
from worker.outcome import EmbedSpace

pytestmark = pytest.mark.anyio
RULES = BucketRules.parse(["media", "strict"])


class CountingStore(LocalStore):
    """Counts what is really read; may be away for a while."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, RULES)
        self.folder = folder
        self.opened: Counter[str] = Counter()
        self.away = 0
        self._counting = threading.Lock()

    def put(self, key: str, data: bytes, bucket: str = "media") -> str:
        place = self.folder / bucket / key
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        return f"s3://{bucket}/{key}"

    def _stat(self, ref: ObjectRef) -> ObjectInfo:
        with self._counting:
            if self.away:
                self.away -= 1
                raise StoreUnavailable(ref.uri, "the store is away", "wait")
        return super()._stat(ref)

    def _open(self, ref: ObjectRef, start: int) -> Any:
        with self._counting:
            self.opened[ref.uri.key] += 1
        return super()._open(ref, start)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path / "store")


@pytest.fixture
def worker(database: Database, store: CountingStore, tmp_path: Path) -> Iterator[OneWorker]:
    with one_worker(database, store, tmp_path) as made:
        yield made


def look(worker: OneWorker, *inputs: str | dict[str, str], **more: Any) -> uuid.UUID:
    [id_] = worker.table.add(type_=TYPE, message={"inputs": {"images": list(inputs)}, **more})
    return id_


def fails_first(order: Order) -> Outcome:
    """A handler that gets it right at its second attempt."""
    if order.key.endswith(":1"):
        return Outcome(key=order.key, failure=Failure(type="HandlerBug", message="not at once"))
    return success(order)


def bytes_of(order: Order) -> list[bytes]:
    paths = order.inputs["images"]
    assert isinstance(paths, list)
    return [Path(path).read_bytes() for path in paths]


# --- pins ---


async def test_what_was_read_is_pinned_on_the_row_at_the_first_fetch(worker: OneWorker, store: CountingStore) -> None:
    id_ = look(worker, store.put("a.jpg", b"one"), store.put("b.jpg", b"two"))
    assert await worker.run() == {"succeeded": 1}
    pinned = worker.table.row(id_)["resolved"]["images"]
    assert pinned.keys() == {"0", "1"}
    assert pinned["1"]["uri"] == "s3://media/b.jpg"
    assert pinned["1"]["sha256"] == hashlib.sha256(b"two").hexdigest()
    assert pinned["1"]["size"] == 3
    assert pinned["1"]["etag"]
    rows = worker.table.rows("SELECT key, encode(content, 'hex') AS content FROM objects ORDER BY key")
    assert [(row["key"], row["content"]) for row in rows] == [
        ("a.jpg", hashlib.sha256(b"one").hexdigest()),
        ("b.jpg", hashlib.sha256(b"two").hexdigest()),
    ]


async def test_without_versions_a_retry_after_the_object_was_replaced_fails_for_good_and_says_so(
    worker: OneWorker, store: CountingStore
) -> None:
    id_ = look(worker, store.put("a.jpg", b"old"))
    worker.executor.behave = fails_first
    assert await worker.run() == {"queued": 1}
    store.put("a.jpg", b"new one")
    assert await worker.run() == {"failed": 1}
    row = worker.table.row(id_)
    assert row["error"]["type"] == "InvalidInput"
    assert "s3://media/a.jpg: its etag is" in row["error"]["message"]
    assert "leave the pin out to take the object as it is now" in row["error"]["message"]
    assert len(worker.executor.orders) == 1
    assert row["resolved"]["images"]["0"]["sha256"] == hashlib.sha256(b"old").hexdigest()


@pytest.fixture
def versioned(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A bucket that keeps old versions; its server is in this process."""
    with mock_aws():
        session = boto3.Session(aws_access_key_id="tests", aws_secret_access_key="not-a-secret")
        client = session.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="media")
        client.put_bucket_versioning(Bucket="media", VersioningConfiguration={"Status": "Enabled"})
        store = S3Store(RULES, S3Options(region="us-east-1"), session=session)
        yield store
        store.close()
        client.close()


def write(store: ObjectStore, folder: Path, data: bytes) -> ObjectInfo:
    from storage.objects.uri import ObjectUri

    (folder / "source").write_bytes(data)
    return store.upload(folder / "source", ObjectUri("media", "a.jpg"))


async def test_with_versions_a_retry_reads_the_version_that_the_first_attempt_read(
    database: Database, versioned: ObjectStore, tmp_path: Path
) -> None:
    first = write(versioned, tmp_path, b"old")
    with one_worker(database, versioned, tmp_path) as one:
        id_ = look(one, "s3://media/a.jpg")
        one.executor.behave = fails_first
        assert await one.run() == {"queued": 1}
    assert one.table.row(id_)["resolved"]["images"]["0"]["version_id"] == first.version_id
    write(versioned, tmp_path, b"new")
    # Another worker, whose cache has nothing.
    (tmp_path / "other").mkdir()
    with one_worker(database, versioned, tmp_path / "other") as other:
        read: list[list[bytes]] = []

        def look_at(order: Order) -> Outcome:
            read.append(bytes_of(order))
            return success(order)

        other.executor.behave = look_at
        assert await other.run() == {"succeeded": 1}
    assert read == [[b"old"]]


# --- digests ---


async def test_a_reference_with_the_right_sha256_is_read_and_with_a_wrong_one_refused(
    worker: OneWorker, store: CountingStore
) -> None:
    uri = store.put("a.jpg", b"one")
    right = look(worker, {"uri": uri, "sha256": hashlib.sha256(b"one").hexdigest().upper()})
    wrong = look(worker, {"uri": uri, "sha256": "0" * 64})
    assert await worker.run() == {"succeeded": 1, "failed": 1}
    assert worker.table.row(right)["state"] == "succeeded"
    error = worker.table.row(wrong)["error"]
    assert error["type"] == "InvalidInput"
    assert f"its sha256 is {hashlib.sha256(b'one').hexdigest()}, asked for was 000000" in error["message"]
    assert "correct the sha256" in error["message"]


# --- once ---


async def test_an_object_is_read_once_however_many_jobs_want_it(worker: OneWorker, store: CountingStore) -> None:
    uri, other = store.put("a.jpg", b"wanted by all"), store.put("b.jpg", b"by one")
    for _ in range(50):
        look(worker, uri)
    look(worker, other)
    assert await worker.run() == {"succeeded": 51}
    assert store.opened == {"a.jpg": 1, "b.jpg": 1}
    # A later job finds it at hand too.
    look(worker, uri)
    assert await worker.run() == {"succeeded": 1}
    assert store.opened == {"a.jpg": 1, "b.jpg": 1}
    assert worker.measured("cache_misses_total") == 2
    assert worker.measured("cache_hits_total") == 50
    assert worker.measured("fetched_bytes_total") == len(b"wanted by all") + len(b"by one")


async def test_nothing_is_left_of_a_job_s_files_when_it_has_ended(
    worker: OneWorker, store: CountingStore, tmp_path: Path
) -> None:
    look(worker, store.put("a.jpg", b"one"))
    assert await worker.run() == {"succeeded": 1}
    assert list((tmp_path / "scratch").iterdir()) == []
    held = [path for path in (tmp_path / "cache" / "process").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert [path.name for path in held] == ["lock"]


async def test_a_store_that_is_away_costs_no_attempt_and_is_counted(worker: OneWorker, store: CountingStore) -> None:
    id_ = look(worker, store.put("a.jpg", b"one"))
    store.away = 1
    assert await worker.run() == {"queued": 1}
    assert worker.table.row(id_)["failures"] == 0
    assert worker.measured("store_errors_total") == 1
    assert await worker.run() == {"succeeded": 1}


# --- what the executor is told ---


async def test_the_strictest_limits_of_all_buckets_that_a_job_reads_from_count(
    database: Database, store: CountingStore, tmp_path: Path
) -> None:
    general = MediaLimits.of(settings()).general
    uris = [store.put("a.jpg", b"one"), store.put("b.jpg", b"two", bucket="strict")]
    with one_worker(database, store, tmp_path, media_limits=MediaLimits.of(settings())) as worker:
        for inputs in (uris[:1], uris[1:], uris):
            look(worker, *inputs)
        assert await worker.run() == {"succeeded": 3}
    by_count = sorted(worker.executor.orders, key=lambda order: (len(order.inputs["images"]), order.limits is not None))
    plain, strict, both = (order.limits for order in by_count)
    assert plain is None
    assert strict is not None
    assert both is not None
    assert (strict.max_pixels, strict.max_frames) == (5000, 2 * general.max_frames)
    assert (both.max_pixels, both.max_frames, both.max_bytes) == (5000, general.max_frames, general.max_bytes)


def settings() -> Any:
    from config.settings import Settings

    own = f'{{"strict": {{"max_pixels": 5000, "max_frames": {2 * Settings.model_fields["image_frames"].default}}}}}'
    return Settings.load(environ={"MEDIAMILL_MEDIA_LIMITS": own}, files=[]).settings


@dataclass(frozen=True)
class Case:
    """A worker that fills a space."""

    worker: OneWorker
    space: EmbedSpace


@pytest.fixture
def embedding(database: Database, store: CountingStore, tmp_path: Path) -> Iterator[Case]:
    made = ensure_space(database, checkpoint="clip", revision="1", dimension=2)
    space = EmbedSpace(made.id, "clip", 2)
    with one_worker(database, store, tmp_path, space=space, handlers=[EmbedImage]) as worker:
        yield Case(worker, space)


async def test_the_job_that_is_to_embed_a_picture_does_not_succeed_without(
    embedding: Case, store: CountingStore
) -> None:
    worker = embedding.worker
    [id_] = worker.table.add(type_="image.embed", message={"inputs": {"images": [store.put("a.jpg", b"one")]}})
    assert await worker.run("image.embed") == {"queued": 1}
    row = worker.table.row(id_)
    assert (row["failures"], row["error"]["type"]) == (1, "HandlerBug")
    assert "no embedding was made of inputs/images/0" in row["error"]["message"]
    assert worker.executor.orders[0].embed == ("inputs/images/0",)


async def test_without_embed_the_same_job_succeeds(embedding: Case, store: CountingStore) -> None:
    message = {"inputs": {"images": [store.put("a.jpg", b"one")]}, "embed": False}
    embedding.worker.table.add(type_="image.embed", message=message)
    assert await embedding.worker.run("image.embed") == {"succeeded": 1}
    assert embedding.worker.executor.orders[0].embed == ()
    assert embedding.worker.table.rows("SELECT * FROM jobs WHERE state = 'queued'") == []


async def test_a_picture_that_a_job_made_gets_a_job_for_its_embedding(
    embedding: Case, store: CountingStore, tmp_path: Path
) -> None:
    from handlers.protocol import OutputFile

    def draw(order: Order) -> Outcome:
        scratch = Path(order.scratch)
        scratch.mkdir()
        (scratch / "picture.png").write_bytes(b"a picture")
        file = OutputFile(role="picture", path=str(scratch / "picture.png"), media_type="image/png")
        return success(order, files=(file,))

    embedding.worker.executor.behave = draw
    id_ = look(embedding.worker)
    assert await embedding.worker.run() == {"succeeded": 1}
    assert embedding.worker.executor.orders[0].embed_outputs
    [queued] = embedding.worker.table.rows("SELECT * FROM jobs JOIN job_details USING (id) WHERE state = 'queued'")
    [reference] = queued["message"]["inputs"]["images"]
    assert (queued["type"], queued["checkpoints"]) == ("image.embed", [f"space:{embedding.space.id}"])
    assert f"/derived/{id_}/" in reference["uri"]
    assert reference["sha256"] == hashlib.sha256(b"a picture").hexdigest()
    assert embedding.worker.measured("stored_bytes_total") == len(b"a picture")
