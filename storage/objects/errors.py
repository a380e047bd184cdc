"""What may go wrong with an object: each error says which object, what happened, and what to do."""

from __future__ import annotations

from storage.objects.uri import ObjectUri, shown


class ObjectError(Exception):
    """Base of the errors of the object store. `permanent`: the same request would fail again."""

    permanent = True

    def __init__(self, where: ObjectUri | str, what: str, fix: str) -> None:
        self.where = shown(str(where), 1100)
        self.what = what
        self.fix = fix
        super().__init__(f"{self.where}: {what}; {fix}")


class ObjectMissing(ObjectError):
    """There is no such object, version or bucket."""


class ObjectChanged(ObjectError):
    """The object is not the one that was pinned: another has been written in its place."""


class ObjectTooLarge(ObjectError):
    """The object has more bytes than may be fetched."""


class DigestMismatch(ObjectError):
    """The object's bytes do not have the SHA-256 that was asked for."""


class AccessRefused(ObjectError):
    """The allow-list, or the store itself, does not let this be done."""


class StoreUnavailable(ObjectError):
    """The store cannot be used now: it is down, too slow, overloaded, or our settings or credentials are wrong for it.

    No object and no job is to blame, so a later try may succeed. `after`: seconds to wait at least, as the store said.
    """

    permanent = False

    def __init__(self, where: ObjectUri | str, what: str, fix: str, *, after: float | None = None) -> None:
        super().__init__(where, what, fix)
        self.after = after


class BodyCut(StoreUnavailable):
    """The bytes stopped coming before the end; what was read so far is good."""


class BodyDamaged(BodyCut):
    """Bytes came that are not the object's; nothing of what was read is good."""
