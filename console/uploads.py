"""Local files as inputs: each becomes an object whose key holds its content's digest, and is uploaded once."""

from __future__ import annotations

import hashlib
import mimetypes
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from console.failures import refused

if TYPE_CHECKING:
    from config.settings import Settings
    from storage.objects.base import ObjectStore
    from storage.objects.rules import BucketRules
    from storage.objects.uri import ObjectPrefix, ObjectUri

UPLOADS = "uploads"
QUERIES = "queries"


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file that is an input, and the object that it becomes."""

    path: Path
    sha256: str
    uri: ObjectUri

    @property
    def reference(self) -> Mapping[str, str]:
        """As it stands in a message."""
        return {"uri": str(self.uri), "sha256": self.sha256}


def local_file(path: Path, place: ObjectPrefix) -> LocalFile:
    """Reads the file once for its digest; uploads nothing. Raises CommandFailed for what is no readable file."""
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise refused(f"{path}: {error.strerror or error}; name a file, or an object as s3://bucket/key") from None
    # The name is for people, who see it in lists and hits.
    name = re.sub(r"[^\w.-]", "_", path.name)[-100:].lstrip(".") or "file"
    return LocalFile(path, sha256, place.object(f"{sha256[:16]}/{name}"))


def upload_place(settings: Settings, rules: BucketRules, folder: str) -> ObjectPrefix:
    """Where local files go: under a place that may be both read and written, best in the bucket of the outputs."""
    from storage.objects.rules import Access
    from storage.objects.uri import ObjectPrefix

    outputs = settings.output_prefix.removeprefix("s3://").partition("/")[0]
    both = Access.READ | Access.WRITE
    places = [ObjectPrefix(rule.place.bucket, f"{rule.place.prefix}{folder}/") for rule in rules.rules]
    allowed = [place for place in places if rules.allows(place.object("any"), both)]
    if not allowed:
        raise refused(
            "a local file cannot be uploaded: nothing in MEDIAMILL_S3_BUCKETS may be both read and written;"
            " upload it yourself and name it as s3://bucket/key"
        )
    return min(allowed, key=lambda place: (place.bucket != outputs, len(place.prefix), place))


def upload(store: ObjectStore, file: LocalFile) -> bool:
    """Makes sure that the object is there. False where it was there already."""
    from storage.objects.base import ObjectRef
    from storage.objects.errors import ObjectMissing

    try:
        if store.stat(ObjectRef(file.uri)).size == file.path.stat().st_size:
            return False
    except ObjectMissing:
        pass
    store.upload(file.path, file.uri, content_type=mimetypes.guess_type(file.path.name)[0])
    return True
