"""The cache by content: what is held stays, what is too much goes, what is damaged is dropped."""

from __future__ import annotations

import gc
import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from storage.objects.cache import ContentCache, Held

ROOT = Path(__file__).resolve().parents[2]
Opened = Callable[[int], ContentCache]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Opens caches over one folder, as processes of one host do, on one clock that moves with each look at it."""
    ticks = count(1_000_000_000, 1_000_000)
    caches: list[ContentCache] = []

    def open_one(max_bytes: int = 1000) -> ContentCache:
        caches.append(ContentCache(tmp_path / "cache", max_bytes, now_ns=lambda: next(ticks)))
        return caches[-1]

    yield open_one
    for cache in caches:
        cache.close()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(cache: ContentCache, content: bytes) -> Held:
    with cache.incoming() as path:
        path.write_bytes(content)
        return cache.add(path, digest(content))


def there(cache: ContentCache, *contents: bytes) -> list[bool]:
    found = []
    for content in contents:
        held = cache.hold(digest(content))
        found.append(held is not None)
        if held is not None:
            held.release()
    return found


def entry(cache: ContentCache, content: bytes) -> Path:
    return cache._path(digest(content))


def test_what_was_added_is_found_read_only(opened: Opened) -> None:
    cache = opened(1000)
    with put(cache, b"content") as added:
        assert (added.path.read_bytes(), added.size, added.sha256) == (b"content", 7, digest(b"content"))
    with cache.hold(digest(b"content")) or pytest.fail("it is not there") as held:
        assert held.path.read_bytes() == b"content"
        assert held.path.stat().st_mode & 0o777 == 0o444
    assert cache.hold(digest(b"other")) is None


def test_what_was_not_added_of_the_incoming_is_removed(opened: Opened, tmp_path: Path) -> None:
    cache = opened(1000)
    with cache.incoming() as path:
        path.write_bytes(b"half")
    assert not path.exists()


def test_the_least_recently_wanted_goes_first(opened: Opened) -> None:
    cache = opened(100)
    for content in (b"a" * 30, b"b" * 30, b"c" * 30):
        put(cache, content).release()
    assert there(cache, b"a" * 30) == [True]  # now b is the oldest
    put(cache, b"d" * 30).release()
    assert there(cache, b"a" * 30, b"b" * 30, b"c" * 30, b"d" * 30) == [True, False, True, True]


def test_what_is_held_is_not_evicted_until_the_last_holder_lets_go(opened: Opened) -> None:
    cache = opened(100)
    first = put(cache, b"a" * 60)
    second = cache.hold(first.sha256)
    third = cache.share(first)
    assert second is not None
    for holder in (first, second, third):
        put(cache, b"b" * 60).release()
        assert entry(cache, b"a" * 60).exists()
        assert holder.path.read_bytes() == b"a" * 60
        holder.release()
        holder.release()
    put(cache, b"c" * 60).release()
    assert there(cache, b"a" * 60, b"c" * 60) == [False, True]


def test_more_than_the_limit_is_kept_as_long_as_it_is_held(opened: Opened) -> None:
    cache = opened(100)
    holds = [put(cache, bytes([number]) * 80) for number in range(3)]
    assert [hold.path.stat().st_size for hold in holds] == [80, 80, 80]
    for hold in holds:
        hold.release()
    assert sum(there(cache, *(bytes([number]) * 80 for number in range(3)))) == 1


def test_one_object_larger_than_the_limit_can_be_held(opened: Opened) -> None:
    cache = opened(100)
    with put(cache, b"a" * 500) as held:
        assert held.path.stat().st_size == 500
    assert there(cache, b"a" * 500) == [False]


def test_equal_content_is_one_entry(opened: Opened, tmp_path: Path) -> None:
    cache = opened(1000)
    first, second = put(cache, b"same"), put(cache, b"same")
    assert len([path for path in (tmp_path / "cache" / "content").rglob("*") if path.is_file()]) == 1
    assert first.path.read_bytes() == second.path.read_bytes() == b"same"


def test_an_entry_of_an_earlier_process_is_found_and_verified(opened: Opened) -> None:
    earlier = opened(1000)
    put(earlier, b"good").release()
    put(earlier, b"damaged").release()
    earlier.close()
    damaged = entry(earlier, b"damaged")
    damaged.chmod(0o644)
    damaged.write_bytes(b"DAMAGED")
    later = opened(1000)
    assert there(later, b"good", b"damaged") == [True, False]
    assert not damaged.exists()
    put(later, b"damaged").release()
    assert there(later, b"damaged") == [True]


def test_an_entry_that_was_changed_since_it_was_verified_is_dropped(opened: Opened) -> None:
    cache = opened(1000)
    put(cache, b"content").release()
    path = entry(cache, b"content")
    path.chmod(0o644)
    path.write_bytes(b"cut")
    assert there(cache, b"content") == [False]


def test_a_file_that_vanished_is_a_miss(opened: Opened) -> None:
    cache = opened(1000)
    put(cache, b"content").release()
    entry(cache, b"content").unlink()
    assert there(cache, b"content") == [False]


def test_what_another_process_holds_stays(opened: Opened) -> None:
    ours, theirs = opened(100), opened(100)
    held = put(theirs, b"a" * 60)
    put(ours, b"b" * 60).release()
    put(ours, b"c" * 60).release()
    assert held.path.read_bytes() == b"a" * 60
    assert there(theirs, b"a" * 60) == [True]
    held.release()
    put(ours, b"d" * 60).release()
    assert there(theirs, b"a" * 60) == [False]


def test_what_other_processes_add_counts(opened: Opened) -> None:
    ours, theirs = opened(1000), opened(1000)
    for number in range(9):
        put(theirs, bytes([number]) * 100).release()
    for number in range(10, 16):
        put(ours, bytes([number]) * 100).release()
    left = sum(path.stat().st_size for path in ours._content.rglob("*") if path.is_file())
    assert left <= 1000 * (1 + 1 / 8)


def test_what_a_process_that_was_killed_held_can_be_evicted_once_another_one_starts(
    opened: Opened, tmp_path: Path
) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from storage.objects.cache import ContentCache
cache = ContentCache(Path(sys.argv[1]), 1000)
with cache.incoming() as path:
    path.write_bytes(b"content")
    held = cache.add(path, sys.argv[2])
with cache.incoming() as path:
    path.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "cache"), digest(b"content")]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -9
    assert len(list((tmp_path / "cache" / "process").iterdir())) == 3
    cache = opened(1000)
    assert sorted(path.name.partition(".")[0] for path in cache._processes.iterdir()) == sorted(
        [cache._id, cache._id, "lock"]
    )
    assert entry(cache, b"content").stat().st_nlink == 1
    assert there(cache, b"content") == [True]


def test_what_living_processes_hold_is_left_alone_by_one_that_starts(opened: Opened) -> None:
    ours = opened(1000)
    held = put(ours, b"content")
    opened(1000)
    assert held.path.read_bytes() == b"content"


def test_a_hold_that_is_lost_lets_go(opened: Opened) -> None:
    cache = opened(1000)
    held = put(cache, b"content")
    path = held.path
    assert path.exists()
    del held
    gc.collect()
    assert not path.exists()


@pytest.mark.parametrize("name", ["", "../" * 20, "A" * 64, "a" * 63, "a/" * 32])
def test_what_is_no_digest_is_refused(opened: Opened, name: str) -> None:
    with pytest.raises(ValueError, match="no SHA-256"):
        opened(1000).hold(name)


def test_threads_that_add_hold_and_evict_read_right_bytes(opened: Opened) -> None:
    cache = opened(500)
    contents = [bytes([number]) * 100 for number in range(12)]
    start, wrong = threading.Barrier(6), []

    def work(first: int) -> None:
        start.wait(10)
        for turn in range(60):
            content = contents[(first * 5 + turn * 7) % len(contents)]
            held = cache.hold(digest(content)) or put(cache, content)
            with held:
                if held.path.read_bytes() != content:
                    wrong.append(content)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    put(cache, b"last").release()
    left = sum(path.stat().st_size for path in cache._content.rglob("*") if path.is_file())
    assert left <= 600
    assert list(cache._own.iterdir()) == []
