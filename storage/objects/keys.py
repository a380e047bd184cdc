"""How a key is written as a path below a bucket's folder: readable, and no two keys alike.

`pictures/a.jpg` stays `pictures/a.jpg`. Escaped is only what a file cannot be named, by marks that start with a
percent sign: `%2E` a leading dot (such files are left to other programs), `%=` an empty part, `%~` at the end of a
folder's name: the part goes on below, because it is longer than a file name may be; `%25` a percent sign that would
read as one of these.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_NAME_BYTES = 255  # of ext4, xfs, btrfs, tmpfs
_CONTINUED = "%~"
_EMPTY = "%="
_DOT = "%2E"
_AMBIGUOUS = re.compile(r"%(?=25|~\Z)|\A%(?=2E|=\Z)")


def path_of(key: str) -> tuple[str, ...]:
    """The names of the folders and of the file for a key that has been checked (`storage.objects.uri.check_key`)."""
    return tuple(name for part in key.split("/") for name in _names(part))


def key_of(path: Sequence[str]) -> str | None:
    """The key whose path this is; None where no key has it (a file of another program)."""
    parts, part = [], ""
    for name in path:
        continued = name.endswith(_CONTINUED)
        part += name.removesuffix(_CONTINUED)
        if not continued:
            parts.append(_decoded(part))
            part = ""
    key = "/".join(parts)
    try:
        return key if path and path_of(key) == tuple(path) else None
    except UnicodeEncodeError:  # the file's name is no text
        return None


def _names(part: str) -> list[str]:
    if not part:
        return [_EMPTY]
    name = _AMBIGUOUS.sub("%25", part)
    if name.startswith("."):
        name = _DOT + name[1:]
    names: list[str] = []
    while len(name.encode()) > MAX_NAME_BYTES:
        head = name.encode()[: MAX_NAME_BYTES - len(_CONTINUED)].decode(errors="ignore")
        names.append(head + _CONTINUED)
        name = name.removeprefix(head)
    return [*names, name]


def _decoded(name: str) -> str:
    if name == _EMPTY:
        return ""
    if name.startswith(_DOT):
        name = "." + name.removeprefix(_DOT)
    return name.replace("%25", "%")
