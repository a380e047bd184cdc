"""Names of objects: `s3://bucket/key`, whatever store is behind them.

A key is taken literally, as S3 does: it is never percent-decoded. What could be a path in disguise is refused here,
once and for all: an `ObjectUri` that exists is one that was checked.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import unquote

MAX_KEY_BYTES = 1024  # S3's limit, in UTF-8
_SCHEME = "s3://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_IPV4 = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}")
_OTHER_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_VERSION_QUERY = re.compile(r"[?&]versionid=", re.IGNORECASE)


class BadUri(ValueError):
    """A text is not the name of an object; the message says what is wrong and what would be right."""


@dataclass(frozen=True, order=True, slots=True)
class ObjectUri:
    """The name of one object. Raises BadUri, also when made from its parts."""

    bucket: str
    key: str

    def __post_init__(self) -> None:
        check_bucket(self.bucket)
        if not self.key:
            raise BadUri(f"names the bucket {self.bucket} but no object in it; write s3://{self.bucket}/key")
        check_key(self.key)

    @classmethod
    def parse(cls, text: str) -> ObjectUri:
        """The object that `s3://bucket/key` names. Raises BadUri."""
        return cls(*_split(text))

    def __str__(self) -> str:
        return f"{_SCHEME}{self.bucket}/{self.key}"


@dataclass(frozen=True, order=True, slots=True)
class ObjectPrefix:
    """A place for objects: a bucket, and a prefix of keys that is empty or ends with a slash. Raises BadUri."""

    bucket: str
    prefix: str

    def __post_init__(self) -> None:
        check_bucket(self.bucket)
        if self.prefix and not self.prefix.endswith("/"):
            raise BadUri(f"is a prefix and must end with a slash; write {_SCHEME}{self.bucket}/{shown(self.prefix)}/")
        if self.prefix:
            check_key(self.prefix)

    @classmethod
    def parse(cls, text: str) -> ObjectPrefix:
        """The place that `s3://bucket/` or `s3://bucket/folder/` names. Raises BadUri."""
        return cls(*_split(text))

    def __str__(self) -> str:
        return f"{_SCHEME}{self.bucket}/{self.prefix}"

    def object(self, name: str) -> ObjectUri:
        """The object of that name under this prefix. Raises BadUri."""
        return ObjectUri(self.bucket, self.prefix + name)


def check_bucket(bucket: str) -> None:
    """Raises BadUri where the name is outside S3's rules for buckets."""
    if not bucket:
        raise BadUri("names no bucket; write s3://bucket/key")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket or _IPV4.fullmatch(bucket):
        raise BadUri(
            f"names the bucket {shown(bucket)!r}; a bucket has 3 to 63 lower-case letters, digits, dots and hyphens, "
            "starts and ends with a letter or digit, has no two dots in a row and is no IP address"
        )


def check_key(key: str) -> None:
    """Raises BadUri for a key that S3 cannot hold, and for one that could be taken for a path out of its place."""
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        raise BadUri("has a lone surrogate in its key, which is no text; write the key in Unicode") from None
    if length > MAX_KEY_BYTES:
        raise BadUri(f"has a key of {length} bytes; S3 permits {MAX_KEY_BYTES}")
    for character in key:
        if unicodedata.category(character) == "Cc":
            raise BadUri(f"has the control character U+{ord(character):04X} in its key; remove it")
    if _VERSION_QUERY.search(key):
        raise BadUri('has a version in its key; give it beside the URI: {"uri": "s3://...", "version_id": "..."}')
    _check_traversal(key)


def _check_traversal(key: str) -> None:
    form, note = key, ""
    while True:
        path = form.replace("\\", "/")
        if path.startswith("/"):
            raise BadUri(f"has a key that starts with a slash{note}; write s3://bucket/folder/name")
        if dots := {".", ".."}.intersection(path.split("/")):
            raise BadUri(f"has {max(dots)!r} as a part of its key{note}; write the key without it")
        if "\0" in form:
            raise BadUri(f"has a NUL in its key{note}; remove it")
        decoded = unquote(form)
        if decoded == form:
            return
        form, note = decoded, " once percent-decoded"


def shown(text: str, limit: int = 200) -> str:
    """A text from outside as it may stand in a message or a log: one line, of printable characters, not long."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: limit + 1])
    return line if len(line) <= limit else line[:limit] + "..."


def _split(text: str) -> tuple[str, str]:
    if not isinstance(text, str):  # it may come straight from JSON
        raise BadUri("is not a text; write s3://bucket/key")
    if not text.startswith(_SCHEME):
        raise BadUri(_wrong_scheme(text))
    bucket, _, key = text.removeprefix(_SCHEME).partition("/")
    return bucket, key


def _wrong_scheme(text: str) -> str:
    if not text:
        return "is empty; write s3://bucket/key"
    if text[:5].lower() == _SCHEME:
        return "has its scheme in capitals; write s3:// in lower case"
    if text[0] in "/\\~." or re.match(r"[A-Za-z]:[\\/]", text):
        return "is a path; objects are named s3://bucket/key, and a local file is uploaded first"
    if other := _OTHER_SCHEME.match(text):
        return f"has the scheme {shown(other[1], 20)}:; only s3://bucket/key is read"
    return "has no scheme; write s3://bucket/key"
