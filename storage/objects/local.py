"""The object store in a local folder: `<folder>/<bucket>/<key>`, for one machine, readable for people.

Files that somebody puts there by hand are objects too. Symbolic links are never followed. Each folder on the way is
opened relative to the one above it, so that nobody can exchange a part of a path between its check and its use.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from mimetypes import MimeTypes
from pathlib import Path
from typing import IO, TYPE_CHECKING

from storage.objects.base import Body, ObjectInfo, ObjectRef, ObjectStore
from storage.objects.errors import AccessRefused, ObjectChanged, ObjectMissing, StoreUnavailable
from storage.objects.keys import key_of, path_of
from storage.objects.rules import Access, BucketRules
from storage.objects.uri import BadUri, ObjectUri, shown

if TYPE_CHECKING:
    from structlog.stdlib import BoundLogger

CHUNK_BYTES = 1 << 20
INCOMING = ".incoming"  # no bucket has such a name
STALE_S = 86_400.0
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Non-blocking: opening a named pipe would wait for its writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_MAKE_TRIES = 20


class LocalStore(ObjectStore):
    """Content types follow from the keys' endings; metadata is not kept; there are no versions."""

    def __init__(self, folder: Path, rules: BucketRules) -> None:
        """Makes the folder, and one for each bucket of the allow-list. Raises OSError where it cannot."""
        super().__init__(rules)
        self._folder = folder
        self._types = MimeTypes()  # those built in: the same on every machine
        self._writable = any(Access.WRITE in rule.access for rule in rules.rules)
        for name in sorted(rules.buckets):
            (folder / name).mkdir(parents=True, exist_ok=True)
        if self._writable:
            (folder / INCOMING).mkdir(parents=True, exist_ok=True)
            self._clear_stale()

    def _stat(self, ref: ObjectRef) -> ObjectInfo:
        with self._opened(ref) as (_, info):
            return info

    @contextmanager
    def _open(self, ref: ObjectRef, start: int) -> Iterator[Body]:
        with self._opened(ref) as (file, info):
            if ref.etag is not None and ref.etag != info.etag:
                raise _changed(ref.uri)
            file.seek(start)
            yield Body(info, start, self._chunks(file, info))

    def _chunks(self, file: IO[bytes], info: ObjectInfo) -> Iterator[bytes]:
        with _errors(info.uri):
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
            if _etag(os.fstat(file.fileno())) != info.etag:
                raise _changed(info.uri)

    def _upload(
        self,
        source: Path,
        uri: ObjectUri,
        content_type: str | None,  # noqa: ARG002 - follows from the key
        metadata: Mapping[str, str],  # noqa: ARG002 - not kept
    ) -> ObjectInfo:
        *folders, name = path_of(uri.key)
        incoming = self._folder / INCOMING / uuid.uuid4().hex
        try:
            with source.open("rb") as file, _errors(uri):
                sha256 = self._copy(file, incoming)
            with _errors(uri):
                info = replace(self._info(uri, incoming.stat()), sha256=sha256)
                self._publish(incoming, uri, folders, name)
        finally:
            incoming.unlink(missing_ok=True)
        return info

    def _copy(self, file: IO[bytes], incoming: Path) -> str:
        digest = hashlib.sha256()
        with incoming.open("xb") as copy:
            while chunk := file.read(CHUNK_BYTES):
                self._go_on()
                copy.write(chunk)
                digest.update(chunk)
            copy.flush()
            # To the nanosecond: the file system's own clock ticks slowly, and two versions in a tick could be alike.
            os.utime(copy.fileno(), ns=(time.time_ns(), time.time_ns()))
            os.fsync(copy.fileno())
        return digest.hexdigest()

    def _publish(self, incoming: Path, uri: ObjectUri, folders: list[str], name: str) -> None:
        """Moves the file into its place. Somebody's delete may take an empty folder away between the two steps."""
        for tries_left in reversed(range(_MAKE_TRIES)):
            try:
                with self._folder_of(uri, folders, make=True) as folder:
                    with suppress(FileNotFoundError, NotADirectoryError):
                        os.rmdir(name, dir_fd=folder)  # an empty folder is no object and in nobody's way
                    os.rename(incoming, name, dst_dir_fd=folder)
                    os.fsync(folder)
                return
            except FileNotFoundError:
                if not tries_left:
                    raise

    def _delete(self, uri: ObjectUri) -> None:
        *folders, name = path_of(uri.key)
        with suppress(ObjectMissing), _errors(uri), ExitStack() as stack:
            chain = [stack.enter_context(self._folder_of(uri, []))]
            for part in folders:
                chain.append(self._descend(stack, chain[-1], part, uri))
            if stat.S_ISDIR(os.stat(name, dir_fd=chain[-1], follow_symlinks=False).st_mode):
                return
            os.unlink(name, dir_fd=chain[-1])
            os.fsync(chain[-1])
            with suppress(OSError):  # until one is not empty
                for above, part in zip(reversed(chain[:-1]), reversed(folders), strict=True):
                    os.rmdir(part, dir_fd=above)

    def _list(self, bucket: str, prefix: str, start_after: str | None) -> Iterator[ObjectInfo]:
        root = self._folder / bucket
        with _errors(f"s3://{bucket}/{prefix}"):
            if not root.is_dir() or root.is_symlink():
                raise ObjectMissing(f"s3://{bucket}", "there is no such bucket", f"make the folder {root}")
            paths = list(_walk_below(root, path_of(prefix.rpartition("/")[0]) if "/" in prefix else ()))
        keys = [key for path in paths if (key := key_of(path)) is not None and key.startswith(prefix)]
        after = "" if start_after is None else start_after
        for key in sorted(key for key in keys if key > after):  # text sorts as its UTF-8 does
            try:
                uri = ObjectUri(bucket, key)
            except BadUri as error:
                _log().warning("object.left_out", bucket=bucket, key=shown(key), reason=str(error))
                continue
            with suppress(ObjectMissing, AccessRefused), self._opened(ObjectRef(uri)) as (_, info):
                yield ObjectInfo(uri, info.size, info.etag, last_modified=info.last_modified)

    def _check(self) -> None:
        for name in sorted(self.rules.buckets):
            place = self._folder / name
            if not place.is_dir():
                raise StoreUnavailable(f"s3://{name}", f"the folder {place} is not there", "make it, or mount it")
        if self._writable and not os.access(self._folder / INCOMING, os.W_OK | os.X_OK):
            raise StoreUnavailable(str(self._folder), "the folder cannot be written", "give this user the right to")

    @contextmanager
    def _opened(self, ref: ObjectRef) -> Iterator[tuple[IO[bytes], ObjectInfo]]:
        uri = ref.uri
        if ref.version_id is not None:
            fix = "leave the version_id out; an etag or a sha256 pins an object too"
            raise ObjectMissing(uri, f"has no version {shown(ref.version_id)}: a local folder keeps no versions", fix)
        *folders, name = path_of(uri.key)
        with _errors(uri), self._folder_of(uri, folders) as folder:
            descriptor = os.open(name, _FILE, dir_fd=folder)
        with ExitStack() as stack:
            stack.callback(os.close, descriptor)
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ObjectMissing(uri, "there is no such object: a folder or a special file is there", _MISSING)
            yield stack.enter_context(open(descriptor, "rb", buffering=0, closefd=False)), self._info(uri, found)

    @contextmanager
    def _folder_of(self, uri: ObjectUri, folders: list[str], *, make: bool = False) -> Iterator[int]:
        with ExitStack() as stack:
            # The folder itself may be a link: it comes from the settings.
            current = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, current)
            for part in (uri.bucket, *folders):
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=current)
                        os.fsync(current)
                current = self._descend(stack, current, part, uri)
            yield current

    def _descend(self, stack: ExitStack, folder: int, part: str, uri: ObjectUri) -> int:
        try:
            below = os.open(part, _FOLDER, dir_fd=folder)
        except NotADirectoryError:
            if stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode):
                raise _link(uri) from None
            raise
        stack.callback(os.close, below)
        return below

    def _info(self, uri: ObjectUri, found: os.stat_result) -> ObjectInfo:
        modified = datetime.fromtimestamp(found.st_mtime, UTC)
        content_type, _ = self._types.guess_type(f"x/{uri.key}")
        return ObjectInfo(uri, found.st_size, _etag(found), None, modified, content_type)

    def _clear_stale(self) -> None:
        for left in (self._folder / INCOMING).iterdir():
            with suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > STALE_S:
                    left.unlink()


_MISSING = "check the URI, or put the object there"


def _log() -> BoundLogger:
    """Made where something is said: most commands say nothing, and its import would be a tenth of their time."""
    import structlog

    logger: BoundLogger = structlog.get_logger()
    return logger


def _etag(found: os.stat_result) -> str:
    return f"{found.st_size:x}-{found.st_mtime_ns:x}-{found.st_ino:x}"


def _changed(uri: ObjectUri) -> ObjectChanged:
    fix = "leave the pin out to take the object as it is now"
    return ObjectChanged(uri, "another object has been written in its place", fix)


def _link(where: ObjectUri | str) -> AccessRefused:
    return AccessRefused(where, "a symbolic link is on its path, and none is followed", "put the file itself there")


@contextmanager
def _errors(where: ObjectUri | str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ObjectMissing(where, "there is no such object", _MISSING) from None
    except NotADirectoryError:
        fix = "use another key: a folder of files cannot have a file and a folder of one name"
        raise ObjectMissing(where, "a part of its key is an object itself", fix) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _link(where) from None
        if error.errno in (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST):
            fix = "use another key: a folder of files cannot have a file and a folder of one name"
            raise AccessRefused(where, "there are objects below a folder of that name", fix) from None
        if isinstance(error, PermissionError):
            fix = "give the user of this process the right to it"
            raise AccessRefused(where, f"the file system refuses it ({error.strerror})", fix) from None
        fix = "see whether the disk is full, healthy and mounted"
        raise StoreUnavailable(where, f"the file system answers: {error.strerror}", fix) from error


def _walk_below(root: Path, folders: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Only what is in that folder: a listing of one job's outputs must not cost a walk through the bucket."""
    folder = root
    for name in folders:
        folder /= name
        if folder.is_symlink() or not folder.is_dir():
            return
    yield from _walk(folder, folders)


def _walk(folder: Path, above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    try:
        entries = [*os.scandir(folder)]
    except FileNotFoundError:
        return  # deleted while we walked
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder / entry.name, (*above, entry.name))
        elif entry.is_file(follow_symlinks=False):
            yield (*above, entry.name)
