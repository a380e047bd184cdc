"""The S3 store against a real server behind a proxy that refuses, stalls, cuts and damages what passes through it."""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import boto3
import pytest

from storage.objects.base import PROGRESS_BYTES, ObjectRef
from storage.objects.errors import (
    AccessRefused,
    DigestMismatch,
    ObjectChanged,
    ObjectMissing,
    ObjectTooLarge,
    StoreUnavailable,
)
from storage.objects.rules import BucketRules
from storage.objects.s3 import S3Options, S3Store
from storage.objects.uri import ObjectUri
from tests.servers.faulty_proxy import BOUND_S, PASS, Fault, FaultyProxy
from tests.servers.leashed import free_port
from tests.servers.s3 import S3Bucket

MIB = 1 << 20
MANY = 1 << 30
ATTEMPTS = 3


@pytest.fixture
def proxy(s3_bucket: S3Bucket) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_bucket.server.port) as proxy:
        yield proxy


@pytest.fixture
def options(proxy: FaultyProxy) -> S3Options:
    return S3Options(
        proxy.endpoint, "us-east-1", "path", connect_s=1, read_s=1.5, attempts=ATTEMPTS, part_bytes=5 * MIB
    )


@cache
def session_of(access_key: str, secret_key: str) -> boto3.Session:
    """One session for all stores: it has read the description of S3 once."""
    return boto3.Session(aws_access_key_id=access_key, aws_secret_access_key=secret_key)


def opened(bucket: S3Bucket, options: S3Options, secret: str | None = None) -> S3Store:
    session = session_of(bucket.server.access_key, secret or bucket.server.secret_key)
    return S3Store(BucketRules.parse([bucket.name]), options, session=session, sleep=lambda seconds: None, seed=1)


@pytest.fixture
def store(s3_bucket: S3Bucket, options: S3Options) -> Iterator[S3Store]:
    store = opened(s3_bucket, options)
    yield store
    store.close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target" / "file"


@dataclass(frozen=True)
class Stored:
    ref: ObjectRef
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def put(bucket: S3Bucket, size: int, seed: int = 7) -> Stored:
    content = random.Random(seed).randbytes(size)
    bucket.client.put_object(Bucket=bucket.name, Key="object", Body=content)
    return Stored(ObjectRef(ObjectUri(bucket.name, "object")), content)


def unavailable(store: S3Store, stored: Stored, target: Path) -> StoreUnavailable:
    """The error of a download that must fail within bounds and leave nothing."""
    before = time.monotonic()
    with pytest.raises(StoreUnavailable) as failed:
        store.download(stored.ref, target, max_bytes=MANY)
    assert time.monotonic() - before < BOUND_S
    assert list(target.parent.iterdir()) == []
    assert str(stored.ref.uri) in str(failed.value)
    return failed.value


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_passing_refusal_is_tried_again(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket, target: Path, status: int
) -> None:
    stored = put(s3_bucket, 1000)
    proxy.faults.extend([Fault(status=status)] * 2)
    assert store.download(stored.ref, target, max_bytes=MANY).sha256 == stored.sha256
    assert len(proxy.seen) == 3


def test_a_store_that_keeps_refusing_is_unavailable_and_says_how_long_to_wait(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket, target: Path
) -> None:
    proxy.always = Fault(status=503, headers=(("Retry-After", "7"),))
    error = unavailable(store, put(s3_bucket, 1000), target)
    assert error.after == 7
    assert "503 SlowDown: by the proxy" in str(error)
    assert len(proxy.seen) == ATTEMPTS


@pytest.mark.parametrize("cut", [0, 1, MIB, 2 * MIB + 5])
def test_a_body_that_is_cut_is_resumed_where_it_ended(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket, target: Path, cut: int
) -> None:
    stored = put(s3_bucket, 3 * MIB)
    proxy.faults.append(Fault(cut_after=cut))
    assert store.download(stored.ref, target, max_bytes=MANY).sha256 == stored.sha256
    assert target.read_bytes() == stored.content
    assert proxy.ranges == [None, f"bytes={cut}-" if cut else None]


def test_a_body_that_stalls_is_resumed(store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket, target: Path) -> None:
    stored = put(s3_bucket, 3 * MIB)
    proxy.faults.append(Fault(stall_after=2 * MIB))
    assert store.download(stored.ref, target, max_bytes=MANY).sha256 == stored.sha256
    assert target.read_bytes() == stored.content


def test_a_body_may_be_cut_more_often_than_there_are_attempts_as_long_as_it_gets_on(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket, target: Path
) -> None:
    stored = put(s3_bucket, 4 * PROGRESS_BYTES + 5)
    proxy.faults.extend([Fault(cut_after=PROGRESS_BYTES)] * 4)
    assert store.download(stored.ref, target, max_bytes=MANY).sha256 == stored.sha256
    assert len(proxy.ranges) == 5 > ATTEMPTS


@pytest.mark.parametrize("fault", [Fault(cut_after=100), Fault(stall_after=100), Fault(cut_after=0)])
def test_a_body_that_never_comes_whole_makes_the_store_unavailable_in_bounded_time(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket, target: Path, fault: Fault
) -> None:
    proxy.always = fault
    error = unavailable(store, put(s3_bucket, MIB), target)
    assert f"{ATTEMPTS} times in a row" in str(error)
    assert len(proxy.seen) == ATTEMPTS


def test_a_store_that_ignores_ranges_is_read_from_the_start(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket, target: Path
) -> None:
    stored = put(s3_bucket, 3 * MIB)
    proxy.faults.extend([Fault(cut_after=2 * MIB), Fault(without_range=True)])
    assert store.download(stored.ref, target, max_bytes=MANY).sha256 == stored.sha256
    assert target.read_bytes() == stored.content
    assert len(proxy.seen) == 2


@pytest.mark.parametrize("size", [1000, 3 * MIB])
def test_bytes_damaged_on_the_way_are_noticed_by_the_checksum_and_read_anew(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket, target: Path, tmp_path: Path, size: int
) -> None:
    stored = put(s3_bucket, size)
    (tmp_path / "source").write_bytes(stored.content)
    store.upload(tmp_path / "source", stored.ref.uri)  # with its SHA-256, which the server gives back
    proxy.faults.append(Fault(damage_at=size // 2))
    assert store.download(stored.ref, target, max_bytes=MANY).sha256 == stored.sha256
    assert target.read_bytes() == stored.content


def test_bytes_damaged_before_a_cut_are_noticed_as_well(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket, target: Path, tmp_path: Path
) -> None:
    stored = put(s3_bucket, 3 * MIB)
    (tmp_path / "source").write_bytes(stored.content)
    store.upload(tmp_path / "source", stored.ref.uri)
    proxy.faults.append(Fault(damage_at=100, cut_after=2 * MIB))
    assert store.download(stored.ref, target, max_bytes=MANY).sha256 == stored.sha256
    assert proxy.ranges == [None, f"bytes={2 * MIB}-", None]


def test_an_object_replaced_between_two_parts_of_its_body_is_read_anew(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket, target: Path
) -> None:
    old = put(s3_bucket, 3 * MIB, seed=1)
    proxy.faults.append(Fault(cut_after=2 * MIB))
    store._sleep = lambda seconds: new.append(put(s3_bucket, 2 * MIB + 7, seed=2))
    new: list[Stored] = []
    pinned = store.download(old.ref, target, max_bytes=MANY)
    assert target.read_bytes() == new[0].content
    assert pinned.sha256 == new[0].sha256 != old.sha256
    assert proxy.conditions == [None, f'"{hashlib.md5(old.content, usedforsecurity=False).hexdigest()}"', None]


def test_a_pinned_object_replaced_between_two_parts_of_its_body_is_refused(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket, target: Path
) -> None:
    old = put(s3_bucket, 3 * MIB, seed=1)
    pinned = replace(old.ref, etag=store.stat(old.ref).etag)
    proxy.faults.append(Fault(cut_after=2 * MIB))
    store._sleep = lambda seconds: replaced.append(put(s3_bucket, 3 * MIB, seed=2))
    replaced: list[Stored] = []
    with pytest.raises(ObjectChanged):
        store.download(pinned, target, max_bytes=MANY)
    assert list(target.parent.iterdir()) == []


def test_an_object_deleted_between_two_parts_of_its_body_is_missing(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket, target: Path
) -> None:
    stored = put(s3_bucket, 3 * MIB)
    proxy.faults.append(Fault(cut_after=2 * MIB))
    deleted: list[object] = []
    store._sleep = lambda seconds: deleted.append(s3_bucket.client.delete_object(Bucket=s3_bucket.name, Key="object"))
    with pytest.raises(ObjectMissing):
        store.download(stored.ref, target, max_bytes=MANY)
    assert list(target.parent.iterdir()) == []


def test_an_object_that_is_too_large_is_not_read_over_the_network(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket, target: Path
) -> None:
    stored = put(s3_bucket, 24 * MIB)
    proxy.always = Fault(stall_after=64 * 1024)  # it would wait here, if more were read
    with pytest.raises(ObjectTooLarge):
        store.download(stored.ref, target, max_bytes=MIB)
    assert proxy.sent <= 64 * 1024
    assert list(target.parent.iterdir()) == []


def test_another_digest_than_asked_for_is_no_reason_to_try_again(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket, target: Path
) -> None:
    stored = put(s3_bucket, 1000)
    with pytest.raises(DigestMismatch):
        store.download(replace(stored.ref, sha256="0" * 64), target, max_bytes=MANY)
    assert len(proxy.seen) == 1


@pytest.mark.parametrize("fault", [Fault(status=503), Fault(cut_after=0), Fault(stall_after=0)])
@pytest.mark.parametrize("size", [1000, 11 * MIB])
def test_an_upload_is_tried_again_and_is_whole(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket, tmp_path: Path, fault: Fault, size: int
) -> None:
    content = random.Random(size).randbytes(size)
    (tmp_path / "source").write_bytes(content)
    proxy.where = re.compile("PUT .*object")
    proxy.faults.extend([PASS, fault] if size > MIB else [fault])
    made = store.upload(tmp_path / "source", ObjectUri(s3_bucket.name, "object"))
    got = s3_bucket.client.get_object(Bucket=s3_bucket.name, Key="object")
    assert got["Body"].read() == content
    assert (made.size, made.etag) == (size, got["ETag"].strip('"'))


def test_an_upload_damaged_on_the_way_is_refused_by_the_server(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").write_bytes(b"content")
    monkeypatch.setattr("storage.objects.s3_upload._sum", lambda chunk: {"ChecksumSHA256": "A" * 43 + "="})
    with pytest.raises(StoreUnavailable, match="BadDigest"):
        store.upload(tmp_path / "source", ObjectUri(s3_bucket.name, "object"))
    assert list(store.list(s3_bucket.name)) == []


def test_an_upload_in_parts_that_fails_leaves_neither_an_object_nor_parts(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(bytes(11 * MIB))
    proxy.where = re.compile("PUT .*object.*partNumber=2")
    proxy.always = Fault(status=503)
    before = time.monotonic()
    with pytest.raises(StoreUnavailable):
        store.upload(tmp_path / "source", ObjectUri(s3_bucket.name, "object"))
    assert time.monotonic() - before < BOUND_S
    assert list(store.list(s3_bucket.name)) == []
    assert s3_bucket.client.list_multipart_uploads(Bucket=s3_bucket.name).get("Uploads", []) == []


@pytest.mark.parametrize("size", [1000, 11 * MIB])
def test_a_server_without_checksums_is_written_without_them(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket, tmp_path: Path, size: int
) -> None:
    (tmp_path / "source").write_bytes(bytes(size))
    proxy.where = re.compile("(PUT|POST) .*object")
    proxy.faults.append(Fault(status=501, code="NotImplemented"))
    uri = ObjectUri(s3_bucket.name, "object")
    assert store.upload(tmp_path / "source", uri).size == size
    assert store.stat(ObjectRef(uri)).size == size
    asked = len(proxy.seen)
    store.upload(tmp_path / "source", uri)
    assert len(proxy.seen) - asked == (1 if size == 1000 else 5)  # it is not asked for again


def test_stat_delete_and_listing_are_tried_again(store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket) -> None:
    stored = put(s3_bucket, 10)
    proxy.where = re.compile("")
    for call in (
        lambda: store.stat(stored.ref).size,
        lambda: [info.size for info in store.list(s3_bucket.name)],
        lambda: store.delete(stored.ref.uri),
    ):
        proxy.faults.extend([Fault(status=503), Fault(cut_after=0, status=None)])
        call()
        assert not proxy.faults
    assert list(store.list(s3_bucket.name)) == []


def test_a_server_that_is_not_there_is_unavailable_in_bounded_time(
    s3_bucket: S3Bucket, options: S3Options, target: Path
) -> None:
    store = opened(s3_bucket, replace(options, endpoint_url=f"http://127.0.0.1:{free_port()}"))
    stored = put(s3_bucket, 10)
    assert "see whether the store is up" in str(unavailable(store, stored, target))
    with pytest.raises(StoreUnavailable):
        store.stat(stored.ref)
    with pytest.raises(StoreUnavailable):
        store.check()
    store.close()


def test_a_server_that_accepts_and_says_nothing_is_unavailable_in_bounded_time(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket
) -> None:
    proxy.where = re.compile("")
    proxy.always = Fault(stall_after=0)
    stored = put(s3_bucket, 10)
    before = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"did not answer in time|connection"):
        list(store.list(s3_bucket.name))
    with pytest.raises(StoreUnavailable):
        store.check()
    assert time.monotonic() - before < BOUND_S
    assert stored.ref.uri.key == "object"


def test_the_check_asks_once_and_answers_soon(store: S3Store, proxy: FaultyProxy) -> None:
    proxy.where = re.compile("")
    proxy.faults.append(Fault(status=503))
    with pytest.raises(StoreUnavailable):
        store.check()
    assert len(proxy.seen) == 1
    store.check()


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied")])
def test_the_check_passes_where_the_bucket_may_not_be_listed(
    store: S3Store, proxy: FaultyProxy, status: int, code: str
) -> None:
    proxy.where = re.compile("")
    proxy.faults.append(Fault(status=status, code=code))
    store.check()
    assert len(proxy.seen) == 1


def test_wrong_credentials_are_no_fault_of_the_object(s3_bucket: S3Bucket, options: S3Options, target: Path) -> None:
    store = opened(s3_bucket, options, secret="wrong")
    stored = put(s3_bucket, 10)
    for call in (
        lambda: store.stat(stored.ref),
        lambda: store.download(stored.ref, target, max_bytes=MANY),
        lambda: store.check(),
    ):
        with pytest.raises(StoreUnavailable, match="does not accept our credentials"):
            call()
    store.close()


def test_an_object_that_our_credentials_may_not_read_is_refused(
    store: S3Store, proxy: FaultyProxy, s3_bucket: S3Bucket, target: Path
) -> None:
    stored = put(s3_bucket, 10)
    proxy.where = re.compile("(GET|HEAD) .*object")
    proxy.always = Fault(status=403, code="AccessDenied")
    for call in (lambda: store.stat(stored.ref), lambda: store.download(stored.ref, target, max_bytes=MANY)):
        with pytest.raises(AccessRefused, match="the store refuses it to our credentials"):
            call()


def test_a_server_that_was_killed_and_is_back_has_what_it_had(tmp_path: Path, target: Path) -> None:
    from tests.servers.s3 import S3Server

    with S3Server() as server:
        client = server.client()
        bucket = S3Bucket.create(server, client)
        stored = put(bucket, 3 * MIB)
        store = opened(bucket, S3Options(server.endpoint, "us-east-1", "path", connect_s=1, read_s=2, attempts=2))
        server.kill()
        unavailable(store, stored, target)
        server.start()
        assert store.download(stored.ref, target, max_bytes=MANY).sha256 == stored.sha256
        store.close()
        client.close()
