"""Fonts by id, and which of them shows a character.

Font files are the deployment's, and trusted; a job names one by its id, never by a path. fontTools is imported inside
functions: looking for the files needs the standard library alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

SANS = "sans"
SANS_CJK = "sans-cjk"

FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))

#: Id -> the names its file has in Debian, Fedora and Arch, the best first.
FILES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        SANS: ("DejaVuSans.ttf",),
        "sans-bold": ("DejaVuSans-Bold.ttf",),
        "serif": ("DejaVuSerif.ttf",),
        "mono": ("DejaVuSansMono.ttf",),
        SANS_CJK: (
            "NotoSansCJK-Regular.ttc",
            "NotoSansCJKsc-Regular.otf",
            "wqy-microhei.ttc",
            "DroidSansFallbackFull.ttf",
            "DroidSansFallback.ttf",
        ),
    }
)


def found(folders: Sequence[Path] = FOLDERS) -> dict[str, Path]:
    """The built-in ids whose files lie anywhere in these folders. No fontconfig is asked."""
    wanted = {name for names in FILES.values() for name in names}
    files: dict[str, Path] = {}
    for folder in folders:
        for root, _, names in sorted(os.walk(folder)):
            for name in wanted.intersection(names):
                files.setdefault(name, Path(root, name))
    return {
        font: next(files[name] for name in names if name in files)
        for font, names in FILES.items()
        if not files.keys().isdisjoint(names)
    }


def chain(font: str, fonts: Mapping[str, Path]) -> tuple[Path, ...]:
    """The file asked for, and after it those that stand in for characters it lacks.

    Raises LookupError, naming the fonts there are, where there is none of that id.
    """
    if font not in fonts:
        raise LookupError(f"there is no font {font!r}: choose one of {', '.join(sorted(fonts)) or 'none'}")
    order = (font, SANS, SANS_CJK, *sorted(fonts))
    return tuple(dict.fromkeys(fonts[name] for name in order if name in fonts))


@lru_cache(maxsize=32)
def coverage(path: Path) -> frozenset[int]:
    """The code points that a font file (of a collection: its first font) has a glyph for."""
    from fontTools.ttLib import TTFont

    with TTFont(path, fontNumber=0, lazy=True) as font:
        return frozenset(font.getBestCmap() or ())


def family(path: Path) -> str:
    """The family's name inside a font file, by which subtitles (ASS) name it."""
    from fontTools.ttLib import TTFont

    with TTFont(path, fontNumber=0, lazy=True) as font:
        return str(font["name"].getDebugName(1))
