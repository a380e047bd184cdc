"""Which buckets may be read and which written: the allow-list of a deployment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Flag, auto

from storage.objects.errors import AccessRefused
from storage.objects.uri import BadUri, ObjectPrefix, ObjectUri, shown


class Access(Flag):
    """What may be done with the objects of a place."""

    READ = auto()
    WRITE = auto()


_WORDS: Mapping[str, Access] = {
    "r": Access.READ, "read": Access.READ,
    "w": Access.WRITE, "write": Access.WRITE,
    "rw": Access.READ | Access.WRITE, "read-write": Access.READ | Access.WRITE,
}  # fmt: skip


class BadRules(ValueError):
    """An allow-list is wrong; the message is a sentence that says where, and what would be right."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What may be done under one place."""

    place: ObjectPrefix
    access: Access

    def covers(self, bucket: str, key: str) -> bool:
        return self.place.bucket == bucket and key.startswith(self.place.prefix)


@dataclass(frozen=True, slots=True)
class BucketRules:
    """The places that may be used; of several that cover a key, the one with the longest prefix decides."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def parse(cls, value: object) -> BucketRules:
        """From a setting: `{"media": "rw", "archive": "r", "shared/results/": "rw"}` or `["media"]` (read and write).

        `read`, `write`, `read-write` are understood as well. Raises BadRules.
        """
        if isinstance(value, Mapping):
            entries: Iterable[tuple[object, object]] = value.items()
        elif isinstance(value, list | tuple):
            entries = ((place, "rw") for place in value)
        else:
            raise BadRules('is not a JSON object or list; write {"media": "rw", "archive": "r"} or ["media"]')
        rules = tuple(Rule(_place(place), _access(place, access)) for place, access in entries)
        places = [rule.place for rule in rules]
        for place in places:
            if places.count(place) > 1:
                raise BadRules(f"names {_name(place)} twice; keep one")
        return cls(tuple(sorted(rules, key=lambda rule: len(rule.place.prefix), reverse=True)))

    @property
    def buckets(self) -> frozenset[str]:
        """All buckets named."""
        return frozenset(rule.place.bucket for rule in self.rules)

    def allows(self, uri: ObjectUri, access: Access) -> bool:
        """Whether that may be done with the object."""
        return access in self._granted(uri.bucket, uri.key)

    def require(self, uri: ObjectUri, access: Access) -> None:
        """Raises AccessRefused where it may not be done."""
        if not self.allows(uri, access):
            self._refuse(str(uri), uri.bucket, access)

    def require_listing(self, bucket: str, prefix: str) -> None:
        """Raises AccessRefused where the objects under a prefix may not be read."""
        if Access.READ not in self._granted(bucket, prefix):
            self._refuse(f"s3://{bucket}/{prefix}", bucket, Access.READ)

    def _granted(self, bucket: str, key: str) -> Access:
        return next((rule.access for rule in self.rules if rule.covers(bucket, key)), Access(0))

    def _refuse(self, where: str, bucket: str, access: Access) -> None:
        verb = "read" if access is Access.READ else "written"
        allowed = ", ".join(sorted(_name(rule.place) for rule in self.rules if access in rule.access)) or "nothing"
        what = f"may not be {verb} here" if bucket in self.buckets else "is not allowed"
        raise AccessRefused(where, f"bucket {bucket} {what}", f"what may be {verb}: {allowed} (setting S3_BUCKETS)")


def _name(place: ObjectPrefix) -> str:
    return f"{place.bucket}/{place.prefix}" if place.prefix else place.bucket


def _place(name: object) -> ObjectPrefix:
    if not isinstance(name, str):
        raise BadRules(f'has {shown(repr(name))} where a place belongs; write "media" or "media/folder/"')
    bucket, _, prefix = name.partition("/")
    try:
        return ObjectPrefix(bucket, prefix)
    except BadUri as error:
        raise BadRules(f"entry {shown(name)!r} {error}") from None


def _access(place: object, word: object) -> Access:
    if isinstance(word, str) and word in _WORDS:
        return _WORDS[word]
    raise BadRules(f'entry {shown(str(place))!r} says {shown(repr(word))}; write "r" (read), "w" (write) or "rw"')
