"""What every object store keeps: the one in a local folder, and the one in a real S3 server."""

from __future__ import annotations

import hashlib
import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import boto3
import pytest

from storage.objects.base import Body, ObjectRef, ObjectStore
from storage.objects.errors import (
    AccessRefused,
    DigestMismatch,
    ObjectChanged,
    ObjectMissing,
    ObjectTooLarge,
    StoreUnavailable,
)
from storage.objects.local import LocalStore
from storage.objects.rules import BucketRules
from storage.objects.s3 import S3Options, S3Store
from storage.objects.uri import ObjectUri
from tests.servers.s3 import S3Bucket

MANY = 1 << 30
PART = 5 << 20
UNUSED_BUCKET = "bucket-that-was-never-made"


@dataclass(frozen=True)
class Place:
    """A bucket of some store, and how to open that store under an allow-list."""

    open: Callable[[BucketRules], ObjectStore]
    bucket: str
    folder: Path

    @property
    def store(self) -> ObjectStore:
        return self.open(BucketRules.parse([self.bucket]))

    def uri(self, key: str) -> ObjectUri:
        return ObjectUri(self.bucket, key)

    def file(self, content: bytes) -> Path:
        path = self.folder / hashlib.sha256(content).hexdigest()
        path.write_bytes(content)
        return path

    def put(self, key: str, content: bytes) -> ObjectRef:
        self.store.upload(self.file(content), self.uri(key))
        return ObjectRef(self.uri(key))


@cache
def session_of(access_key: str, secret_key: str) -> boto3.Session:
    """One session for all stores: it has read the description of S3 once."""
    return boto3.Session(aws_access_key_id=access_key, aws_secret_access_key=secret_key)


def s3_store(bucket: S3Bucket, rules: BucketRules, options: S3Options | None = None) -> S3Store:
    server = bucket.server
    session = session_of(server.access_key, server.secret_key)
    options = options or S3Options(endpoint_url=server.endpoint, addressing="path", part_bytes=PART, page_size=3)
    return S3Store(rules, options, session=session)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    opened: dict[BucketRules, ObjectStore] = {}
    sources = tmp_path / "sources"
    sources.mkdir()

    def once(make: Callable[[BucketRules], ObjectStore]) -> Callable[[BucketRules], ObjectStore]:
        return lambda rules: opened.get(rules) or opened.setdefault(rules, make(rules))

    if request.param == "local":
        yield Place(once(lambda rules: LocalStore(tmp_path / "store", rules)), "media", sources)
    else:
        bucket: S3Bucket = request.getfixturevalue("s3_bucket")
        yield Place(once(lambda rules: s3_store(bucket, rules)), bucket.name, sources)
    for store in opened.values():
        store.close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A path in a folder of its own, in which nothing else may be left."""
    (tmp_path / "target").mkdir()
    return tmp_path / "target" / "file"


@pytest.mark.parametrize("size", [0, 1, 1000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, PART - 1, PART, 2 * PART + 17])
def test_an_object_comes_back_byte_for_byte_whatever_its_size(place: Place, target: Path, size: int) -> None:
    content = random.Random(size).randbytes(size)
    uri = place.uri("folder/object.bin")
    made = place.store.upload(place.file(content), uri)
    info = place.store.stat(ObjectRef(uri))
    assert (made.size, made.etag) == (info.size, info.etag) == (size, info.etag)
    pinned = place.store.download(ObjectRef(uri), target, max_bytes=MANY)
    assert target.read_bytes() == content
    assert (pinned.uri, pinned.size, pinned.etag) == (uri, size, info.etag)
    assert pinned.sha256 == hashlib.sha256(content).hexdigest()
    assert [path.name for path in target.parent.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "key",
    [
        "plain.jpg", "a/ü x.jpg", "a+b c.jpg", "100%.jpg", "a%20b", "%41", "a%2Fb", "%25", "q?x=1#y", "日本/写真.png",
        "e\u0301", "é", "quote'\"&<>.txt", "back\\slash", ".hidden/.file",
        "trailing space ", "a:b*c|d", "🦊", "%2Ex", "%=", "x%~",
    ],
)  # fmt: skip
def test_a_key_is_taken_literally(place: Place, target: Path, key: str) -> None:
    ref = place.put(key, key.encode())
    place.store.download(ref, target, max_bytes=MANY)
    assert target.read_bytes() == key.encode()
    assert [str(info.uri) for info in place.store.list(place.bucket)] == [f"s3://{place.bucket}/{key}"]


def test_stat_tells_size_time_and_kind(place: Place) -> None:
    ref = ObjectRef(place.uri("a.jpg"))
    place.store.upload(place.file(b"12345"), ref.uri, content_type="image/jpeg", metadata={"job": "7"})
    info = place.store.stat(ref)
    assert (info.uri, info.size, info.content_type, info.version_id) == (ref.uri, 5, "image/jpeg", None)
    assert info.last_modified is not None
    assert abs(info.last_modified - datetime.now(UTC)) < timedelta(minutes=1)


def test_an_object_that_is_not_there_is_missing_and_the_error_names_it(place: Place, target: Path) -> None:
    ref = ObjectRef(place.uri("no/such.jpg"))
    with pytest.raises(ObjectMissing, match=re.escape(str(ref.uri))):
        place.store.stat(ref)
    with pytest.raises(ObjectMissing, match=re.escape(str(ref.uri))):
        place.store.download(ref, target, max_bytes=MANY)
    assert list(target.parent.iterdir()) == []


def test_a_folder_of_objects_is_no_object(place: Place) -> None:
    place.put("folder/a", b"a")
    with pytest.raises(ObjectMissing):
        place.store.stat(ObjectRef(place.uri("folder")))


def test_a_version_in_a_bucket_without_versions_is_missing(place: Place, target: Path) -> None:
    ref = ObjectRef(place.put("a", b"a").uri, version_id="3HL4kqtJvjVBH40Nrjfkd")
    with pytest.raises(ObjectMissing, match="version 3HL4kqtJvjVBH40Nrjfkd"):
        place.store.stat(ref)
    with pytest.raises(ObjectMissing, match="version 3HL4kqtJvjVBH40Nrjfkd"):
        place.store.download(ref, target, max_bytes=MANY)


def test_a_bucket_without_versions_may_say_so_in_any_of_the_known_ways(place: Place) -> None:
    uri = place.put("a", b"a").uri
    for version_id in (None, "", "null"):
        assert place.store.stat(ObjectRef(uri, version_id=version_id)).size == 1


def test_an_object_that_changed_since_it_was_pinned_is_refused(place: Place, target: Path) -> None:
    ref = place.put("a", b"old")
    pinned = ObjectRef(ref.uri, etag=f'"{place.store.stat(ref).etag}"')
    assert place.store.download(pinned, target, max_bytes=MANY).size == 3
    target.unlink()
    place.put("a", b"new")
    with pytest.raises(ObjectChanged, match="pin"):
        place.store.stat(pinned)
    with pytest.raises(ObjectChanged, match="pin"):
        place.store.download(pinned, target, max_bytes=MANY)
    assert list(target.parent.iterdir()) == []


def test_bytes_with_another_digest_than_asked_for_are_refused_and_not_left_behind(place: Place, target: Path) -> None:
    uri = place.put("a", b"these").uri
    with pytest.raises(DigestMismatch, match=hashlib.sha256(b"those").hexdigest()):
        place.store.download(ObjectRef(uri, sha256=hashlib.sha256(b"those").hexdigest()), target, max_bytes=MANY)
    assert list(target.parent.iterdir()) == []
    right = ObjectRef(uri, sha256=hashlib.sha256(b"these").hexdigest().upper())
    assert place.store.download(right, target, max_bytes=MANY).size == 5


def test_an_object_that_is_too_large_is_refused_before_its_bytes_are_read(
    place: Place, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = place.put("a", bytes(1 << 20))
    store = place.store
    taken: list[int] = []
    opened = store._open

    def counted(chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            taken.append(len(chunk))
            yield chunk

    @contextmanager
    def counting(ref: ObjectRef, start: int) -> Iterator[Body]:
        with opened(ref, start) as body:
            yield Body(body.info, body.start, counted(body.chunks), body.sha256)

    monkeypatch.setattr(store, "_open", counting)
    with pytest.raises(ObjectTooLarge, match="has 1048576 bytes"):
        store.download(ref, target, max_bytes=(1 << 20) - 1)
    assert (taken, list(target.parent.iterdir())) == ([], [])
    store.download(ref, target, max_bytes=1 << 20)
    assert sum(taken) == 1 << 20


def test_an_upload_replaces_what_was_there(place: Place, target: Path) -> None:
    ref = place.put("a", b"the first, longer one")
    first = place.store.stat(ref)
    place.put("a", b"second")
    assert place.store.stat(ref).etag != first.etag
    place.store.download(ref, target, max_bytes=MANY)
    assert target.read_bytes() == b"second"


def test_a_download_replaces_the_file_that_was_there_only_when_it_succeeds(place: Place, target: Path) -> None:
    target.write_bytes(b"before")
    with pytest.raises(ObjectMissing):
        place.store.download(ObjectRef(place.uri("a")), target, max_bytes=MANY)
    assert target.read_bytes() == b"before"
    place.store.download(place.put("a", b"after"), target, max_bytes=MANY)
    assert target.read_bytes() == b"after"


def test_an_upload_of_a_file_that_is_not_there_leaves_nothing(place: Place) -> None:
    with pytest.raises(FileNotFoundError):
        place.store.upload(place.folder / "missing", place.uri("a"))
    assert list(place.store.list(place.bucket)) == []


def test_a_reader_sees_the_old_bytes_or_all_of_the_new_ones(place: Place, tmp_path: Path) -> None:
    versions = [bytes([number]) * (1_500_000 + number) for number in range(2)]
    digests = {hashlib.sha256(version).hexdigest() for version in versions}
    ref = place.put("a", versions[0])
    files = [place.file(version) for version in versions]
    store, done, seen = place.store, threading.Event(), set()

    def reading() -> None:
        while not done.is_set():
            seen.add(store.download(ref, tmp_path / "read", max_bytes=MANY).sha256)

    reader = threading.Thread(target=reading)
    reader.start()
    try:
        for number in range(20):
            store.upload(files[number % 2], ref.uri)
    finally:
        done.set()
        reader.join()
    assert seen
    assert seen <= digests


def test_deleting_is_idempotent(place: Place) -> None:
    ref = place.put("folder/a", b"a")
    place.put("folder/b", b"b")
    for _ in range(2):
        place.store.delete(ref.uri)
    with pytest.raises(ObjectMissing):
        place.store.stat(ref)
    assert [info.uri.key for info in place.store.list(place.bucket)] == ["folder/b"]


def test_a_name_is_free_again_once_the_objects_below_it_are_deleted(place: Place) -> None:
    place.store.delete(place.put("a/b/c", b"").uri)
    assert place.store.stat(place.put("a", b"now an object")).size == 13


def test_a_listing_is_complete_in_the_order_of_the_keys_and_can_be_taken_up_after_any_of_them(place: Place) -> None:
    keys = ["a-b", "a.b", "a/b", "a/c/d", "a0", "b", "ü", "b/c"[:1] + "0", "Z", "a/b0"]
    for key in keys:
        place.put(key, key.encode())
    listed = list(place.store.list(place.bucket))
    assert [info.uri.key for info in listed] == sorted(set(keys), key=str.encode)
    assert [info.size for info in listed] == [len(info.uri.key.encode()) for info in listed]
    assert [info.etag for info in listed] == [place.store.stat(ObjectRef(info.uri)).etag for info in listed]
    for number, after in enumerate(listed):
        rest = [info.uri for info in place.store.list(place.bucket, start_after=after.uri.key)]
        assert rest == [info.uri for info in listed[number + 1 :]]


def test_a_listing_holds_what_begins_with_the_prefix(place: Place) -> None:
    for key in ("a/1", "a/2", "a/20", "ab", "b/a/2"):
        place.put(key, b"")
    for prefix in ("", "a", "a/", "a/2", "a/2/", "b/a/", "c"):
        expected = [key for key in ("a/1", "a/2", "a/20", "ab", "b/a/2") if key.startswith(prefix)]
        assert [info.uri.key for info in place.store.list(place.bucket, prefix)] == expected


def test_what_the_allow_list_does_not_name_is_neither_read_nor_written(place: Place, target: Path) -> None:
    ref = place.put("a", b"a")
    store = place.open(BucketRules.parse(["another-bucket"]))
    for call in (
        lambda: store.stat(ref),
        lambda: store.download(ref, target, max_bytes=MANY),
        lambda: store.upload(place.file(b"b"), ref.uri),
        lambda: store.delete(ref.uri),
        lambda: store.list(place.bucket),
    ):
        with pytest.raises(AccessRefused, match=f"bucket {place.bucket} is not allowed; .*: another-bucket"):
            call()
    assert place.store.stat(ref).size == 1


def test_reading_and_writing_are_allowed_apart(place: Place, target: Path) -> None:
    ref = place.put("a", b"a")
    reads = place.open(BucketRules.parse({place.bucket: "r"}))
    assert reads.download(ref, target, max_bytes=MANY).size == 1
    with pytest.raises(AccessRefused, match="may not be written"):
        reads.upload(place.file(b"b"), ref.uri)
    with pytest.raises(AccessRefused, match="may not be written"):
        reads.delete(ref.uri)
    writes = place.open(BucketRules.parse({place.bucket: "w"}))
    writes.upload(place.file(b"bb"), ref.uri)
    with pytest.raises(AccessRefused, match="may not be read"):
        writes.download(ref, target, max_bytes=MANY)
    with pytest.raises(AccessRefused, match="may not be read"):
        writes.stat(ref)
    assert reads.stat(ref).size == 2


def test_a_listing_leaves_out_what_may_not_be_read(place: Place) -> None:
    for key in ("open/a", "closed/b"):
        place.put(key, b"")
    store = place.open(BucketRules.parse({place.bucket: "r", f"{place.bucket}/closed/": "w"}))
    assert [info.uri.key for info in store.list(place.bucket)] == ["open/a"]
    with pytest.raises(AccessRefused):
        store.list(place.bucket, "closed/")


@pytest.mark.parametrize("metadata", [{"Upper": "a"}, {"a": "ü"}, {"a": "b\nc"}, {"a": "x" * 3000}])
def test_metadata_that_some_store_could_not_keep_is_refused(place: Place, metadata: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="metadata"):
        place.store.upload(place.file(b"a"), place.uri("a"), metadata=metadata)


def test_a_store_that_answers_and_has_its_buckets_passes_the_check(place: Place) -> None:
    store = place.store
    store.check()
    assert list(store.list(place.bucket)) == []


def test_the_check_says_which_bucket_is_not_there(place: Place, tmp_path: Path) -> None:
    store = place.open(BucketRules.parse([UNUSED_BUCKET]))
    if (made := tmp_path / "store" / UNUSED_BUCKET).exists():
        made.rmdir()  # the local store makes the folders of its allow-list when it is opened
    with pytest.raises(StoreUnavailable, match=UNUSED_BUCKET):
        store.check()


def test_many_threads_can_use_one_store(place: Place, tmp_path: Path) -> None:
    store, failed = place.store, []
    start = threading.Barrier(8)

    def work(number: int) -> None:
        uri, content = place.uri(f"shared/{number % 4}/{number}"), bytes([number]) * 10_000
        start.wait(10)
        for turn in range(5):
            store.upload(place.file(content), uri)
            pinned = store.download(ObjectRef(uri), tmp_path / f"{number}", max_bytes=MANY)
            if pinned.sha256 != hashlib.sha256(content).hexdigest():
                failed.append((number, turn))
            store.delete(uri)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert list(store.list(place.bucket)) == []


class Unwanted(BaseException):
    """As a cancellation is."""


class Patience:
    """Wants a transfer for so many looks, and counts how often it is asked."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.asked = 0

    def __call__(self) -> None:
        self.asked += 1
        if self.asked > self.looks:
            raise Unwanted


@pytest.mark.parametrize("looks", [0, 1, 4])
def test_a_download_that_is_not_wanted_any_more_ends_within_a_chunk_and_leaves_nothing(
    place: Place, target: Path, looks: int
) -> None:
    ref = place.put("object", bytes(3 * PART))
    patience = Patience(looks)
    with pytest.raises(Unwanted):
        place.store.download(ref, target, max_bytes=MANY, check=patience)
    assert patience.asked == looks + 1
    assert list(target.parent.iterdir()) == []
    assert place.store.download(ref, target, max_bytes=MANY).size == 3 * PART


@pytest.mark.parametrize("looks", [0, 1, 100])
@pytest.mark.parametrize("size", [PART - 1, 3 * PART])
def test_an_upload_that_is_not_wanted_any_more_ends_within_a_chunk_and_leaves_nothing(
    place: Place, tmp_path: Path, looks: int, size: int
) -> None:
    piece = 1 << 20 if isinstance(place.store, LocalStore) else 1 << 17
    patience = Patience(min(looks, size // piece - 1))
    source = place.file(bytes(size))
    with pytest.raises(Unwanted):
        place.store.upload(source, place.uri("object"), check=patience)
    assert patience.asked == patience.looks + 1
    assert list(place.store.list(place.bucket)) == []
    assert list((tmp_path / "store").glob(".incoming/*")) == []


def test_nobody_asks_on_behalf_of_a_transfer_that_has_ended(place: Place, target: Path) -> None:
    ref = place.put("object", b"content")
    patience = Patience(1000)
    place.store.download(ref, target, max_bytes=MANY, check=patience)
    place.store.upload(target, ref.uri, check=patience)
    asked = patience.asked
    place.put("object", bytes(2 * PART))
    place.store.stat(ref)
    assert patience.asked == asked > 0
