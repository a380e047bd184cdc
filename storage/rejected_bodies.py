"""Bodies of rejected messages that are too many for Postgres: those of a batch share one object in the store."""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from storage.database import Database
from storage.objects.base import ObjectRef, ObjectStore
from storage.objects.errors import ObjectError
from storage.objects.uri import ObjectPrefix, ObjectUri
from storage.rejections import BodyPlace, Header, NewRejection, headers_json, headers_of, used_bytes
from storage.sql import Connection, text

#: A message that would take more of its row is not kept in Postgres, whatever the budget.
LARGEST_ROW = 8 << 20
#: Key and headers stay in the row up to here, also beyond the budget: lists and filters of people read them.
SMALL_REST = 1 << 10
#: An object gets no further body from here on: whoever reads one body fetches all of its object.
OBJECT_BYTES = 32 << 20
#: A body is at most what a record of a log may be, which has 31 bits for it.
_LARGEST_OBJECT = OBJECT_BYTES + (4 << 30)
#: Objects that are at hand while bodies are read: those of a time come together.
_AT_HAND = 4

# rejected_messages' primary key
KNOWN = text("SELECT id FROM rejected_messages WHERE id = ANY(CAST(:ids AS uuid[]))")
# rejected_objects' primary key; there already where an earlier try did not come to its end
REGISTER = text("""
    INSERT INTO rejected_objects (uri) VALUES (:uri) ON CONFLICT (uri) DO UPDATE SET made_at = excluded.made_at
""")


class Overflow:
    """Puts the bodies of rejected messages beyond a budget of bytes into the object store. Thread-safe."""

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        *,
        output_prefix: str,
        budget: int,
        scratch: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`budget`: bytes in Postgres, of all processes together; `scratch`: folder of files on their way."""
        self._database = database
        self._store = store
        self._place = ObjectPrefix.parse(output_prefix)
        self._budget = budget
        self._scratch = scratch
        self._now = now

    def place(self, rejections: Sequence[NewRejection]) -> list[NewRejection]:
        """The same rejections, in their order, each with its body where it is to be kept.

        To be called before the transaction that keeps them, and once for a batch that is tried several times: what it
        has put into the store stays there. Raises DatabaseError and ObjectError, and has then lost nothing: the batch
        is to be held and placed again.
        """
        if not rejections:
            return []
        with self._database.transaction() as connection:
            # Taken anew for each batch: what other processes have kept since counts too.
            full = used_bytes(connection) + sum(one.kept for one in rejections) > self._budget
            moving = [one for one in rejections if one.place is None and _movable(one) and (full or _is_large(one))]
            known = _known(connection, moving)
        moving = [one for one in moving if one.id not in known]
        placed = {one.id: one for part in _objects(moving) for one in self._put(part)}
        return [placed.get(one.id, one) for one in rejections]

    def _put(self, rejections: Sequence[NewRejection]) -> Iterator[NewRejection]:
        uri = self._place.object(f"rejected/{self._now():%Y-%m-%d}/{_name(rejections)}")
        with self._database.transaction() as connection:
            connection.execute(REGISTER, {"uri": str(uri)})
        placed = []
        self._scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._scratch, prefix="rejected-") as file:
            for one in rejections:
                at, body = file.tell(), one.body or b""
                file.write(body)
                rest = _rest(one) if one.rest_bytes > SMALL_REST else None
                if rest is not None:
                    file.write(rest)
                place = BodyPlace(str(uri), at, len(body), None if rest is None else len(rest))
                placed.append(_moved(one, place))
            file.flush()
            self._store.upload(Path(file.name), uri, content_type="application/octet-stream")
        yield from placed


def _name(rejections: Sequence[NewRejection]) -> str:
    """The same for the same messages: a batch that is placed again writes over what it wrote before.

    An id says which record it is of, and so all that is in the object.
    """
    return hashlib.sha256(b"".join(one.id.bytes for one in rejections)).hexdigest()[:32]


def _movable(one: NewRejection) -> bool:
    return bool(one.body) or one.rest_bytes > SMALL_REST


def _is_large(one: NewRejection) -> bool:
    return one.kept > LARGEST_ROW


def _moved(one: NewRejection, place: BodyPlace) -> NewRejection:
    return replace(one, place=place)


def _known(connection: Connection, rejections: Sequence[NewRejection]) -> set[uuid.UUID]:
    """Those that are kept already, of a redelivery: their bodies need no place."""
    if not rejections:
        return set()
    return set(connection.scalars(KNOWN, {"ids": [str(one.id) for one in rejections]}))


def _objects(rejections: Sequence[NewRejection]) -> Iterator[list[NewRejection]]:
    part, size = list[NewRejection](), 0
    for one in rejections:
        part.append(one)
        size += one.kept
        if size >= OBJECT_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _rest(one: NewRejection) -> bytes:
    key = None if one.key is None else base64.b64encode(one.key).decode()
    return json.dumps({"key": key, "headers": headers_json(one.headers), "tombstone": one.body is None}).encode()


@dataclass(frozen=True, slots=True)
class Sent:
    """A rejected message as it was sent."""

    key: bytes | None
    headers: Sequence[Header]
    body: bytes | None

    @classmethod
    def of(cls, row: Any) -> Sent:
        """Of a row that has all of it."""
        key = None if row.key is None else bytes(row.key)
        return cls(key, headers_of(row.headers), None if row.body is None else bytes(row.body))


class Bodies:
    """Reads rejected messages back; a context manager that removes the objects it has fetched. Of one thread."""

    def __init__(self, store: ObjectStore, scratch: Path) -> None:
        self._store = store
        self._scratch = scratch
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files: OrderedDict[str, Path] = OrderedDict()

    def of(self, row: Any) -> Sent:
        """What a row of `rejected_messages` stands for (key, headers, body, body_uri, body_at, size, rest).

        Raises ObjectError where its object cannot be had.
        """
        if row.body_uri is None:
            return Sent.of(row)
        with self._fetched(row.body_uri).open("rb") as file:
            file.seek(row.body_at)
            body = file.read(row.size)
            if row.rest is None:
                return replace(Sent.of(row), body=body)
            rest = json.loads(file.read(row.rest))
        return Sent(
            None if rest["key"] is None else base64.b64decode(rest["key"]),
            headers_of(rest["headers"]),
            None if rest["tombstone"] else body,
        )

    def _fetched(self, uri: str) -> Path:
        if uri in self._files:
            self._files.move_to_end(uri)
            return self._files[uri]
        if self._folder is None:
            self._scratch.mkdir(parents=True, exist_ok=True)
            self._folder = tempfile.TemporaryDirectory(dir=self._scratch, prefix="rejected-")
        path = Path(self._folder.name) / uuid.uuid4().hex
        self._store.download(ObjectRef(ObjectUri.parse(uri)), path, max_bytes=_LARGEST_OBJECT)
        self._files[uri] = path
        if len(self._files) > _AT_HAND:
            self._files.popitem(last=False)[1].unlink()
        return path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


# rejected_objects_made, rejected_body_uri
UNUSED = text("""
    SELECT uri FROM rejected_objects o
    WHERE made_at < now() - CAST(:kept AS interval)
      AND NOT EXISTS (SELECT FROM rejected_messages m WHERE m.body_uri = o.uri)
    ORDER BY made_at LIMIT :most
""")
FORGET = text("DELETE FROM rejected_objects WHERE uri = :uri")
POSTPONE = text("""
    UPDATE rejected_objects SET made_at = now() - CAST(:kept AS interval) + interval '1 day' WHERE uri = :uri
""")


@dataclass(frozen=True, slots=True)
class Deleted:
    """What became of objects that nobody needs."""

    objects: int
    refused: Sequence[ObjectError]
    """Why the store did not let some be deleted; those are tried again a day later."""


def delete_unused(database: Database, store: ObjectStore, *, kept: timedelta, most: int = 100) -> Deleted:
    """Deletes objects made longer than `kept` ago whose messages are all forgotten, `most` at a time.

    An object whose batch was never kept (its process died between the two) is one of them. Raises StoreUnavailable: the
    rest goes the next time.
    """
    values = {"kept": f"{kept.total_seconds()} seconds"}
    with database.transaction() as connection:
        unused = list(connection.scalars(UNUSED, values | {"most": most}))
    refused = list[ObjectError]()
    for uri in unused:
        try:
            store.delete(ObjectUri.parse(uri))
            done = FORGET
        except ObjectError as error:
            if not error.permanent:
                raise
            refused.append(error)
            done = POSTPONE
        with database.transaction() as connection:
            connection.execute(done, {"uri": uri} | (values if done is POSTPONE else {}))
    return Deleted(len(unused) - len(refused), refused)
