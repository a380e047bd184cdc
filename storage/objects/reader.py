"""Reading objects through the cache: each version once, however many callers want it at that time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from storage.objects.base import Check, ObjectInfo, ObjectRef, ObjectStore, Pinned, always, mismatch, too_large
from storage.objects.cache import ContentCache, Held
from storage.objects.errors import ObjectChanged, StoreUnavailable
from storage.objects.uri import ObjectUri

#: How often an object may be replaced between asking for its version and reading it.
TRIES = 5
#: How many versions are known by their content: some 100 bytes each.
KNOWN = 100_000
#: How often somebody who waits for another's download asks whether it is still wanted, in seconds.
CHECK_S = 0.1


@dataclass(frozen=True, slots=True)
class HeldObject:
    """An object's bytes in a read-only file that stays until `release` or the end of `with`, and what they are."""

    pinned: Pinned
    held: Held
    downloaded: bool
    """Whether this caller's wish was what fetched it: False where it was at hand, or another's download was shared."""

    @property
    def path(self) -> Path:
        return self.held.path

    def release(self) -> None:
        """Lets the cache evict the file; a second call does nothing."""
        self.held.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


@dataclass(frozen=True, slots=True)
class _Version:
    """One version of an object. Without version id and ETag, size and time stand in, for fetches at one time only."""

    uri: ObjectUri
    name: str
    lasting: bool

    @classmethod
    def of(cls, info: ObjectInfo) -> _Version:
        if info.version_id is not None:
            return cls(info.uri, f"version {info.version_id}", True)
        if info.etag is not None:
            return cls(info.uri, f"etag {info.etag}", True)
        return cls(info.uri, f"{info.size} bytes of {info.last_modified}", False)


@dataclass(slots=True)
class _Flight:
    """One fetch under way, and those who wait for it: each gets a hold of its own.

    They get None where whoever fetched does not want it any more: then one of them does it.
    """

    waiting: list[Future[HeldObject | None]] = field(default_factory=list)


class ObjectReader:
    """Objects of a store as files of a cache. Thread-safe; `read` blocks."""

    def __init__(self, store: ObjectStore, cache: ContentCache) -> None:
        self._store = store
        self._cache = cache
        self._lock = threading.Lock()
        self._flights: dict[_Version, _Flight] = {}
        self._known: OrderedDict[_Version, str] = OrderedDict()

    def read(self, ref: ObjectRef, *, max_bytes: int, check: Check = always) -> HeldObject:
        """The object as a file, from the cache where this version is known to be there.

        Callers that want one version at one time share one download, or its error; each has its own hold, and one
        that stops waiting disturbs no other. The store is asked each time, so that what is gone is not read.
        Raises what `ObjectStore.stat` and `ObjectStore.download` raise, and what `check` raises.
        """
        for _ in range(TRIES):
            info = self._store.stat(ref, check=check)
            if info.size > max_bytes:
                raise too_large(info, max_bytes)
            try:
                found = self._find(info, max_bytes, check)
            except ObjectChanged:
                if ref.etag is not None or ref.version_id is not None:
                    raise
                continue
            if ref.sha256 is not None and ref.sha256 != found.pinned.sha256:
                found.release()
                raise mismatch(ref.uri, ref.sha256, found.pinned.sha256)
            return found
        raise StoreUnavailable(ref.uri, f"the object was replaced {TRIES} times while it was read", "try again later")

    def know(self, pinned: Pinned) -> None:
        """Tells which content a version has, as a row of an earlier fetch says."""
        info = ObjectInfo(pinned.uri, pinned.size, pinned.etag, pinned.version_id)
        self._remember(_Version.of(info), pinned.sha256)

    def _find(self, info: ObjectInfo, max_bytes: int, check: Check) -> HeldObject:
        version = _Version.of(info)
        while True:
            mine: Future[HeldObject | None] = Future()
            with self._lock:
                flight = self._flights.get(version)
                if flight is None:
                    self._flights[version] = _Flight()
                else:
                    flight.waiting.append(mine)
            if flight is None:
                return self._fly(version, info, max_bytes, check)
            while not wait([mine], timeout=CHECK_S).done:
                check()
            if (found := mine.result()) is not None:
                return found

    def _fly(self, version: _Version, info: ObjectInfo, max_bytes: int, check: Check) -> HeldObject:
        try:
            first = self._cached(version, info) or self._fetch(version, info, max_bytes, check)
        except Exception as error:
            for waiter in self._landed(version):
                waiter.set_exception(error)
            raise
        except BaseException:
            for waiter in self._landed(version):
                waiter.set_result(None)
            raise
        for waiter in self._landed(version):
            self._share(first, waiter)
        return first

    def _landed(self, version: _Version) -> list[Future[HeldObject | None]]:
        """Ends the flight: whoever comes now starts another. Returns those who waited."""
        with self._lock:
            return self._flights.pop(version).waiting

    def _share(self, found: HeldObject, waiter: Future[HeldObject | None]) -> None:
        try:
            held = self._cache.share(found.held)
        except OSError as error:
            waiter.set_exception(error)
        else:
            waiter.set_result(replace(found, held=held, downloaded=False))

    def _cached(self, version: _Version, info: ObjectInfo) -> HeldObject | None:
        with self._lock:
            sha256 = self._known.get(version)
        held = self._cache.hold(sha256) if sha256 is not None else None
        if held is None:
            return None
        self._remember(version, held.sha256)
        pinned = Pinned(info.uri, info.version_id, info.etag, held.size, held.sha256)
        return HeldObject(pinned, held, downloaded=False)

    def _fetch(self, version: _Version, info: ObjectInfo, max_bytes: int, check: Check) -> HeldObject:
        ref = ObjectRef(info.uri, info.version_id, info.etag)
        with self._cache.incoming() as path:
            pinned = self._store.download(ref, path, max_bytes=max_bytes, check=check)
            held = self._cache.add(path, pinned.sha256)
        self._remember(version, pinned.sha256)
        return HeldObject(pinned, held, downloaded=True)

    def _remember(self, version: _Version, sha256: str) -> None:
        if not version.lasting:
            return
        with self._lock:
            self._known[version] = sha256
            self._known.move_to_end(version)
            while len(self._known) > KNOWN:
                self._known.popitem(last=False)
