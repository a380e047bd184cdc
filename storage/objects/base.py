"""The interface of the object store, and what all implementations share: allow-list, resuming, verifying, pinning.

All calls block: the worker makes them in threads. An implementation gives the methods that start with an underscore;
the public ones cannot be overridden, so that no implementation can forget the allow-list or a check.
"""

from __future__ import annotations

import hashlib
import random
import re
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import IO, final

from storage.objects.errors import (
    BodyCut,
    BodyDamaged,
    DigestMismatch,
    ObjectChanged,
    ObjectError,
    ObjectTooLarge,
    StoreUnavailable,
)
from storage.objects.rules import Access, BucketRules
from storage.objects.uri import ObjectUri

#: A download that has made this much progress since the connection was last cut starts counting cuts anew.
PROGRESS_BYTES = 8 << 20
#: The most that user metadata may have: S3's limit for names and values together, in bytes.
METADATA_BYTES = 2048

#: Asked between two chunks and before each request whether the transfer is still wanted. What it raises ends it, and
#: nothing is left behind; that must be no Exception, which a client would take for a failure and try again.
Check = Callable[[], object]


def always() -> None:
    """The transfer is wanted, however long it takes."""


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """What a job asks for: an object, and what is known of the bytes it means.

    A `version_id` of "" or "null" (a bucket without versions) is None; quotes around an `etag` are taken off.
    Raises ValueError where `sha256` is not 64 hexadecimal digits.
    """

    uri: ObjectUri
    version_id: str | None = None
    etag: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "version_id", normal_version(self.version_id))
        object.__setattr__(self, "etag", normal_etag(self.etag))
        if self.sha256 is not None:
            object.__setattr__(self, "sha256", self.sha256.lower())
            if not re.fullmatch(r"[0-9a-f]{64}", self.sha256.lower()):
                raise ValueError("sha256 is not 64 hexadecimal digits")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What the store says of an object. `size` in bytes; whatever the store did not say is None.

    `sha256`: of the very bytes that an upload sent, whatever the file was before and after; else None.
    """

    uri: ObjectUri
    size: int
    etag: str | None = None
    version_id: str | None = None
    last_modified: datetime | None = None
    content_type: str | None = None
    sha256: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Pinned:
    """What was really read: `size` in bytes, `sha256` of all of them."""

    uri: ObjectUri
    version_id: str | None
    etag: str | None
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of an object from `start` on.

    `chunks` raises BodyCut where they stop before the end. `sha256`: of the whole object, as the store has it.
    """

    info: ObjectInfo
    start: int
    chunks: Iterator[bytes]
    sha256: str | None = None


class ObjectStore(ABC):
    """Objects by their URI, within the allow-list. Thread-safe.

    Every method raises AccessRefused for what the allow-list or the store refuses, and StoreUnavailable where the
    store cannot be used now, after a bounded number of attempts.
    """

    def __init__(
        self,
        rules: BucketRules,
        *,
        attempts: int = 5,
        sleep: Callable[[float], None] = time.sleep,
        seed: int | None = None,
    ) -> None:
        """`attempts`: how often in a row a body may be cut; `sleep` and `seed`: of the pauses between them."""
        self.rules = rules
        self._attempts = attempts
        self._sleep = sleep
        self._random = random.Random(seed)
        self._call = threading.local()

    @final
    def stat(self, ref: ObjectRef, *, check: Check = always) -> ObjectInfo:
        """What the store says of the object. Raises ObjectMissing, or ObjectChanged where it is not the pinned one."""
        self.rules.require(ref.uri, Access.READ)
        with self._checked(check):
            info = self._stat(ref)
        _check_pin(ref, info)
        return info

    @final
    def download(self, ref: ObjectRef, target: Path, *, max_bytes: int, check: Check = always) -> Pinned:
        """Writes the object to `target`, which appears only when all of its bytes are there and verified.

        A body that is cut is resumed; an object that is replaced meanwhile is read anew, or refused if `ref` pins it.
        Raises ObjectMissing, ObjectChanged, ObjectTooLarge (before reading), DigestMismatch; OSError for `target`.
        """
        self.rules.require(ref.uri, Access.READ)
        part = target.with_name(f".{uuid.uuid4().hex}.part")
        try:
            with part.open("xb") as file, self._checked(check):
                pinned = self._receive(ref, file, max_bytes)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return pinned

    @final
    def upload(
        self,
        source: Path,
        uri: ObjectUri,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        check: Check = always,
    ) -> ObjectInfo:
        """Makes the bytes of a file the object, in one step: a reader sees the old ones or all of the new ones.

        The answer's `sha256` is of the bytes that were sent.
        `metadata` is kept where the store can: names of a-z, 0-9 and hyphens, values of printable ASCII.
        Raises ValueError for other metadata, OSError where `source` cannot be read.
        """
        self.rules.require(uri, Access.WRITE)
        metadata = dict(metadata or {})
        _check_metadata(metadata)
        with self._checked(check):
            return self._upload(source, uri, content_type, metadata)

    @final
    def delete(self, uri: ObjectUri) -> None:
        """Removes the object; nothing happens where there is none. A bucket with versions keeps the old ones."""
        self.rules.require(uri, Access.WRITE)
        self._delete(uri)

    @final
    def list(self, bucket: str, prefix: str = "", start_after: str | None = None) -> Iterator[ObjectInfo]:
        """The objects whose key begins with `prefix` and comes after `start_after`, in the order of the keys' UTF-8.

        Leaves out what may not be read and keys that no ObjectUri can name; infos have no content type and no version.
        Raises ObjectMissing where there is no such bucket.
        """
        self.rules.require_listing(bucket, prefix)
        found = self._list(bucket, prefix, start_after)
        return (info for info in found if self.rules.allows(info.uri, Access.READ))

    @final
    def check(self) -> None:
        """Returns soon if the store answers and has the buckets of the allow-list; else raises StoreUnavailable."""
        self._check()

    def close(self) -> None:  # noqa: B027 - only some have something to close
        """Gives back connections. The store is not used after."""

    @abstractmethod
    def _stat(self, ref: ObjectRef) -> ObjectInfo: ...

    @abstractmethod
    def _open(self, ref: ObjectRef, start: int) -> AbstractContextManager[Body]:
        """The object from byte `start` on, or from 0 where the store cannot do that."""

    @abstractmethod
    def _upload(
        self, source: Path, uri: ObjectUri, content_type: str | None, metadata: Mapping[str, str]
    ) -> ObjectInfo: ...

    @abstractmethod
    def _delete(self, uri: ObjectUri) -> None: ...

    @abstractmethod
    def _list(self, bucket: str, prefix: str, start_after: str | None) -> Iterator[ObjectInfo]: ...

    @abstractmethod
    def _check(self) -> None: ...

    @contextmanager
    def _checked(self, check: Check) -> Iterator[None]:
        before, self._call.check = getattr(self._call, "check", always), check
        try:
            yield
        finally:
            self._call.check = before

    def _go_on(self) -> None:
        """Asks whoever called in this thread whether it is still wanted; raises what that raises."""
        getattr(self._call, "check", always)()

    def _receive(self, ref: ObjectRef, file: IO[bytes], max_bytes: int) -> Pinned:
        transfer = _Transfer(ref, file, max_bytes, self._go_on)
        cuts, counted_from = 0, 0
        while True:
            self._go_on()
            try:
                with self._open(transfer.pin, transfer.offset) as body:
                    transfer.take(body)
                return transfer.finish()
            except (BodyCut, ObjectChanged) as error:
                if isinstance(error, ObjectChanged):
                    transfer.start_over(error)
                elif isinstance(error, BodyDamaged):
                    transfer.reset()
                if transfer.offset - counted_from >= PROGRESS_BYTES:
                    cuts, counted_from = 0, transfer.offset
                cuts += 1
                if cuts >= self._attempts:
                    fix = "see whether the store and the way to it are healthy"
                    raise StoreUnavailable(ref.uri, f"{error.what}, {cuts} times in a row", fix) from error
            self._pause(cuts)

    def _pause(self, failures: int) -> None:
        """Full jitter, up to 0.2 s doubling to 5 s."""
        self._sleep(self._random.uniform(0, min(5.0, 0.1 * 2**failures)))


class _Transfer:
    """One object on its way into a file, over as many bodies as it takes."""

    def __init__(self, ref: ObjectRef, file: IO[bytes], max_bytes: int, go_on: Check) -> None:
        self.ref = ref
        self.pin = ref
        self.offset = 0
        self._file = file
        self._max_bytes = max_bytes
        self._go_on = go_on
        self._digest = hashlib.sha256()
        self._info: ObjectInfo | None = None
        self._told: str | None = None

    def take(self, body: Body) -> None:
        """Writes what comes, pins the object. Raises BodyCut where it is not all there is."""
        info = body.info
        _check_pin(self.pin, info)
        if info.size > self._max_bytes:
            raise too_large(info, self._max_bytes)
        if body.start != self.offset:
            self.reset()
        self._info, self._told = info, body.sha256 or self._told
        self.pin = replace(self.ref, version_id=info.version_id, etag=info.etag)
        for chunk in body.chunks:
            self._go_on()
            if self.offset + len(chunk) > info.size:
                raise BodyDamaged(info.uri, f"more bytes came than the {info.size} that the store told", "try again")
            self._file.write(chunk)
            self._digest.update(chunk)
            self.offset += len(chunk)
        if self.offset < info.size:
            raise BodyCut(info.uri, f"the body ended after {self.offset} of {info.size} bytes", "try again")

    def start_over(self, error: ObjectError) -> None:
        """From the first byte, if it was our own pin that no longer fits; else raises `error`."""
        if self.pin == self.ref:
            raise error
        self.pin = self.ref
        self.reset()

    def finish(self) -> Pinned:
        """What was read. Raises DigestMismatch for other bytes than asked for, BodyDamaged for other than were sent."""
        info, sha256 = self._info, self._digest.hexdigest()
        assert info is not None
        if self._told is not None and self._told != sha256:
            what = "the bytes that came do not have the checksum that the store told"
            raise BodyDamaged(info.uri, what, "try again")
        if self.ref.sha256 is not None and self.ref.sha256 != sha256:
            raise mismatch(info.uri, self.ref.sha256, sha256)
        return Pinned(info.uri, info.version_id, info.etag, info.size, sha256)

    def reset(self) -> None:
        """Forgets every byte that came."""
        self._file.seek(0)
        self._file.truncate()
        self._digest = hashlib.sha256()
        self.offset = 0
        self._told = None


def normal_version(version_id: str | None) -> str | None:
    """A version id, or None where the bucket keeps no versions ("", "null": servers differ in how they say it)."""
    return None if version_id in (None, "", "null") else version_id


def normal_etag(etag: str | None) -> str | None:
    """An ETag without its quotes."""
    return etag.strip('"') or None if etag else None


def too_large(info: ObjectInfo, max_bytes: int) -> ObjectTooLarge:
    """The error for an object that is larger than may be fetched."""
    fix = f"at most {max_bytes} are fetched (setting OBJECT_BYTES, or the limit of this kind of media)"
    return ObjectTooLarge(info.uri, f"has {info.size} bytes", fix)


def mismatch(uri: ObjectUri, asked: str, found: str) -> DigestMismatch:
    """The error for bytes that are not those that were asked for."""
    return DigestMismatch(
        uri, f"its sha256 is {found}, asked for was {asked}", "correct the sha256, or put the right bytes there"
    )


def _check_pin(ref: ObjectRef, info: ObjectInfo) -> None:
    for name in ("version_id", "etag"):
        asked, found = getattr(ref, name), getattr(info, name)
        if asked is not None and asked != found:
            fix = "leave the pin out to take the object as it is now, or restore that version"
            raise ObjectChanged(ref.uri, f"its {name} is {found}, asked for was {asked}", fix)


def _check_metadata(metadata: Mapping[str, str]) -> None:
    for name, value in metadata.items():
        if not re.fullmatch(r"[a-z0-9-]+", name) or not re.fullmatch(r"[ -~]*", value):
            raise ValueError(f"metadata {name!r}: use names of a-z, 0-9 and hyphens, and values of printable ASCII")
    if sum(len(name) + len(value) for name, value in metadata.items()) > METADATA_BYTES:
        raise ValueError(f"metadata: {METADATA_BYTES} bytes at most, names and values together")
