"""Reading through the cache: each version is fetched once, and callers do not disturb one another."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.objects.base import Body, ObjectInfo, ObjectRef, Pinned
from storage.objects.cache import ContentCache
from storage.objects.errors import (
    AccessRefused,
    DigestMismatch,
    ObjectChanged,
    ObjectMissing,
    ObjectTooLarge,
    StoreUnavailable,
)
from storage.objects.local import LocalStore
from storage.objects.reader import TRIES, HeldObject, ObjectReader
from storage.objects.rules import BucketRules
from storage.objects.uri import ObjectUri

MANY = 1 << 20
WITHIN_S = 20
URI = ObjectUri("media", "a")
REF = ObjectRef(URI)


class WatchedStore(LocalStore):
    """Counts how often an object's bytes are asked for, and does what a test wants before they come."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, BucketRules.parse(["media"]))
        self.opened = 0
        self.before: Callable[[], None] = lambda: None
        self.says: Callable[[ObjectInfo], ObjectInfo] = lambda info: info

    def put(self, content: bytes, uri: ObjectUri = URI) -> str:
        path = self._folder / "source"
        path.write_bytes(content)
        self.upload(path, uri)
        return hashlib.sha256(content).hexdigest()

    def _stat(self, ref: ObjectRef) -> ObjectInfo:
        return self.says(super()._stat(ref))

    @contextmanager
    def _open(self, ref: ObjectRef, start: int) -> Iterator[Body]:
        self.opened += 1
        self.before()
        with super()._open(ref, start) as body:
            yield Body(self.says(body.info), body.start, body.chunks)


class Gate:
    """Holds up whoever comes, until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.open.wait(WITHIN_S)


@pytest.fixture
def store(tmp_path: Path) -> WatchedStore:
    return WatchedStore(tmp_path / "store")


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ContentCache]:
    with ContentCache(tmp_path / "cache", 1000) as cache:
        yield cache


@pytest.fixture
def reader(store: WatchedStore, cache: ContentCache) -> ObjectReader:
    return ObjectReader(store, cache)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def waiting(reader: ObjectReader, callers: int) -> None:
    """Returns when so many callers wait for one fetch, besides the one that fetches."""
    turn = threading.Event()
    for _ in range(WITHIN_S * 1000):
        with reader._lock:
            if sum(len(flight.waiting) for flight in reader._flights.values()) == callers:
                return
        turn.wait(0.001)
    raise AssertionError("they never came to wait")


def together(
    reader: ObjectReader, store: WatchedStore, threads: ThreadPoolExecutor, refs: list[ObjectRef]
) -> list[Future[HeldObject]]:
    """Reads all of these at one time: the first fetches, the others wait for it."""
    gate = Gate()
    store.before = gate
    reads = [threads.submit(reader.read, refs[0], max_bytes=MANY)]
    assert gate.reached.wait(WITHIN_S)
    reads += [threads.submit(reader.read, ref, max_bytes=MANY) for ref in refs[1:]]
    waiting(reader, len(refs) - 1)
    gate.open.set()
    return reads


def test_an_object_is_read_and_pinned(reader: ObjectReader, store: WatchedStore) -> None:
    sha256 = store.put(b"content")
    with reader.read(REF, max_bytes=MANY) as found:
        assert found.path.read_bytes() == b"content"
        assert found.pinned == Pinned(URI, None, store.stat(REF).etag, 7, sha256)


def test_callers_that_want_one_object_at_one_time_share_one_download(
    reader: ObjectReader, store: WatchedStore, threads: ThreadPoolExecutor
) -> None:
    sha256 = store.put(b"content")
    reads = [read.result(WITHIN_S) for read in together(reader, store, threads, [REF] * 10)]
    assert store.opened == 1
    assert {read.pinned.sha256 for read in reads} == {sha256}
    for read in reads:
        assert read.path.read_bytes() == b"content"
        read.release()


def test_each_of_those_that_shared_a_download_holds_the_object_for_itself(
    reader: ObjectReader, store: WatchedStore, cache: ContentCache, threads: ThreadPoolExecutor
) -> None:
    store.put(b"c" * 900)
    first, second = (read.result(WITHIN_S) for read in together(reader, store, threads, [REF] * 2))
    first.release()
    with cache.incoming() as path:
        path.write_bytes(b"d" * 900)
        cache.add(path, hashlib.sha256(b"d" * 900).hexdigest()).release()
    assert second.path.read_bytes() == b"c" * 900


def test_different_objects_are_fetched_at_one_time(
    reader: ObjectReader, store: WatchedStore, threads: ThreadPoolExecutor
) -> None:
    refs = [ObjectRef(ObjectUri("media", f"key{number}")) for number in range(4)]
    for number, ref in enumerate(refs):
        store.put(bytes([number]), ref.uri)
    both = threading.Barrier(4, timeout=WITHIN_S)

    def meet() -> None:
        both.wait()

    store.before = meet
    reads = [threads.submit(reader.read, ref, max_bytes=MANY) for ref in refs]
    assert [read.result(WITHIN_S).path.read_bytes() for read in reads] == [bytes([number]) for number in range(4)]


def test_a_version_that_is_known_is_not_fetched_again(reader: ObjectReader, store: WatchedStore) -> None:
    store.put(b"content")
    for _ in range(3):
        with reader.read(REF, max_bytes=MANY) as found:
            assert found.path.read_bytes() == b"content"
    assert store.opened == 1


def test_a_replaced_object_is_fetched_anew(reader: ObjectReader, store: WatchedStore) -> None:
    for content in (b"first", b"second"):
        store.put(content)
        with reader.read(REF, max_bytes=MANY) as found:
            assert found.path.read_bytes() == content
    assert store.opened == 2


def test_an_object_that_is_gone_or_no_longer_allowed_is_not_read_from_the_cache(
    reader: ObjectReader, store: WatchedStore
) -> None:
    store.put(b"content")
    reader.read(REF, max_bytes=MANY).release()
    store.rules = BucketRules.parse([])
    with pytest.raises(AccessRefused):
        reader.read(REF, max_bytes=MANY)
    store.rules = BucketRules.parse(["media"])
    store.delete(URI)
    with pytest.raises(ObjectMissing):
        reader.read(REF, max_bytes=MANY)


def test_an_evicted_object_is_fetched_again(reader: ObjectReader, store: WatchedStore) -> None:
    store.put(b"c" * 900)
    store.put(b"d" * 900, ObjectUri("media", "other"))
    for _ in range(2):
        for ref in (REF, ObjectRef(ObjectUri("media", "other"))):
            with reader.read(ref, max_bytes=MANY) as found:
                assert found.path.stat().st_size == 900
    assert store.opened == 4


def test_a_version_that_an_earlier_process_read_is_taken_from_its_cache(
    reader: ObjectReader, store: WatchedStore, cache: ContentCache
) -> None:
    store.put(b"content")
    with reader.read(REF, max_bytes=MANY) as found:
        pinned = found.pinned
    later = ObjectReader(store, cache)
    later.know(pinned)
    with later.read(REF, max_bytes=MANY) as found:
        assert found.pinned == pinned
    assert store.opened == 1


def test_callers_share_the_error_of_a_failed_fetch_and_the_next_one_tries_again(
    reader: ObjectReader, store: WatchedStore, threads: ThreadPoolExecutor
) -> None:
    store.put(b"content")
    gate = Gate()

    def fail() -> None:
        gate()
        raise StoreUnavailable(URI, "the store answers 503", "try again later")

    store.before = fail
    reads = [threads.submit(reader.read, REF, max_bytes=MANY)]
    assert gate.reached.wait(WITHIN_S)
    reads += [threads.submit(reader.read, REF, max_bytes=MANY) for _ in range(3)]
    waiting(reader, 3)
    gate.open.set()
    assert [type(read.exception(WITHIN_S)) for read in reads] == [StoreUnavailable] * 4
    assert store.opened == 1
    store.before = lambda: None
    with reader.read(REF, max_bytes=MANY) as found:
        assert found.path.read_bytes() == b"content"


def test_a_caller_that_gives_up_does_not_end_the_fetch_of_the_others(
    reader: ObjectReader, store: WatchedStore, cache: ContentCache
) -> None:
    store.put(b"content")
    gate = Gate()
    store.before = gate
    found: list[bytes] = []

    def abandoned() -> None:  # as a thread that nobody waits for any more: what it returns is lost
        reader.read(REF, max_bytes=MANY)

    def staying() -> None:
        with reader.read(REF, max_bytes=MANY) as read:
            found.append(read.path.read_bytes())

    callers = [threading.Thread(target=target) for target in (abandoned, abandoned, staying)]
    callers[0].start()
    assert gate.reached.wait(WITHIN_S)
    for caller in callers[1:]:
        caller.start()
    waiting(reader, 2)
    gate.open.set()
    for caller in callers:
        caller.join(WITHIN_S)
    assert (found, store.opened) == ([b"content"], 1)
    assert list(cache._own.iterdir()) == []  # the holds of those who gave up are gone with them


def test_whoever_waits_gets_what_it_asked_for_and_not_what_the_first_one_did(
    reader: ObjectReader, store: WatchedStore, threads: ThreadPoolExecutor
) -> None:
    sha256 = store.put(b"content")
    wrong = ObjectRef(URI, sha256="0" * 64)
    reads = together(reader, store, threads, [wrong, REF, ObjectRef(URI, sha256=sha256)])
    with pytest.raises(DigestMismatch):
        reads[0].result(WITHIN_S)
    assert [read.result(WITHIN_S).pinned.sha256 for read in reads[1:]] == [sha256] * 2
    assert store.opened == 1


def test_a_known_version_with_another_digest_than_asked_for_is_refused_and_let_go(
    reader: ObjectReader, store: WatchedStore, cache: ContentCache
) -> None:
    store.put(b"content")
    reader.read(REF, max_bytes=MANY).release()
    with pytest.raises(DigestMismatch):
        reader.read(ObjectRef(URI, sha256="0" * 64), max_bytes=MANY)
    assert (store.opened, list(cache._own.iterdir())) == (1, [])


def test_what_is_too_large_is_refused_without_a_download_from_the_cache_as_well(
    reader: ObjectReader, store: WatchedStore
) -> None:
    store.put(b"content")
    with pytest.raises(ObjectTooLarge):
        reader.read(REF, max_bytes=6)
    assert store.opened == 0
    reader.read(REF, max_bytes=7).release()
    with pytest.raises(ObjectTooLarge):
        reader.read(REF, max_bytes=6)


def test_an_object_replaced_between_looking_and_reading_is_read_as_it_is_now(
    reader: ObjectReader, store: WatchedStore
) -> None:
    store.put(b"old")

    def replace_once() -> None:
        if store.opened == 1:
            store.put(b"newer")

    store.before = replace_once
    with reader.read(REF, max_bytes=MANY) as found:
        assert found.path.read_bytes() == b"newer"
        assert found.pinned.etag == store.stat(REF).etag


def test_a_pinned_object_replaced_between_looking_and_reading_is_refused(
    reader: ObjectReader, store: WatchedStore
) -> None:
    store.put(b"old")
    pinned = ObjectRef(URI, etag=store.stat(REF).etag)

    def replace() -> None:
        store.put(b"newer")

    store.before = replace
    with pytest.raises(ObjectChanged):
        reader.read(pinned, max_bytes=MANY)


def test_an_object_that_is_replaced_again_and_again_is_given_up_for_now(
    reader: ObjectReader, store: WatchedStore
) -> None:
    store.put(b"0")

    def replace() -> None:
        store.put(str(store.opened).encode())

    store.before = replace
    with pytest.raises(StoreUnavailable, match=f"replaced {TRIES} times"):
        reader.read(REF, max_bytes=MANY)
    store.before = lambda: None
    reader.read(REF, max_bytes=MANY).release()


def test_an_object_whose_store_tells_no_version_is_fetched_each_time(reader: ObjectReader, store: WatchedStore) -> None:
    def without_etag(info: ObjectInfo) -> ObjectInfo:
        return ObjectInfo(info.uri, info.size)

    store.says = without_etag
    for content in (b"one", b"two"):
        store.put(content)
        with reader.read(REF, max_bytes=MANY) as found:
            assert (found.path.read_bytes(), found.pinned.etag) == (content, None)
    assert store.opened == 2


class Unwanted(BaseException):
    """As a cancellation is."""


class Wish:
    """What somebody wants until it is taken back."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def __call__(self) -> None:
        if self.over.is_set():
            raise Unwanted


def test_when_whoever_fetches_wants_it_no_more_another_of_those_who_wait_fetches(
    reader: ObjectReader, store: WatchedStore, threads: ThreadPoolExecutor
) -> None:
    sha256 = store.put(b"content")
    wish, gate = Wish(), Gate()
    store.before = gate
    first = threads.submit(reader.read, REF, max_bytes=MANY, check=wish)
    assert gate.reached.wait(WITHIN_S)
    others = [threads.submit(reader.read, REF, max_bytes=MANY) for _ in range(5)]
    waiting(reader, 5)
    wish.over.set()
    gate.open.set()
    assert isinstance(first.exception(WITHIN_S), Unwanted)
    assert {other.result(WITHIN_S).pinned.sha256 for other in others} == {sha256}
    assert store.opened == 2


def test_who_waits_for_another_s_download_and_wants_it_no_more_is_let_go_at_once(
    reader: ObjectReader, store: WatchedStore, cache: ContentCache, threads: ThreadPoolExecutor
) -> None:
    store.put(b"content")
    wish, gate = Wish(), Gate()
    store.before = gate
    first = threads.submit(reader.read, REF, max_bytes=MANY)
    assert gate.reached.wait(WITHIN_S)
    second = threads.submit(reader.read, REF, max_bytes=MANY, check=wish)
    waiting(reader, 1)
    wish.over.set()
    assert isinstance(second.exception(WITHIN_S), Unwanted)
    gate.open.set()
    with first.result(WITHIN_S) as found:
        assert found.path.read_bytes() == b"content"
