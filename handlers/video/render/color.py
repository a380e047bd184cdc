"""Which colours the numbers of a film stand for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from handlers.declaration import Context
from handlers.media import ffmpeg
from handlers.media.probe import VideoStream

#: From this height or width on, a film that does not say is taken for one in BT.709, as players do.
_HIGH_DEFINITION = (1280, 720)
_UNKNOWN = frozenset({"", "unknown", "unspecified", "reserved"})
_HIGH_DYNAMIC_RANGE = frozenset({"smpte2084", "arib-std-b67"})


@dataclass(frozen=True, slots=True)
class Colors:
    """How a film's pixels are to be read."""

    #: As ffmpeg names it: `bt709`, `smpte170m`; None: they are RGB, or the frames say it themselves.
    matrix: str | None
    #: Whether the frames need no conversion: 8 bits, 4:2:0, BT.709, limited range, square pixels, upright.
    plain: bool
    #: Whether it is PQ or HLG, which are shown without tone mapping.
    high_dynamic_range: bool


async def colors(ctx: Context, path: Path, video: VideoStream) -> Colors:
    """Asks the file. Raises what `ffmpeg.query` raises."""
    entries = "stream=color_space,color_range,color_transfer,sample_aspect_ratio"
    which = ["-select_streams", str(video.index), "-show_entries", entries, "-of", "json=c=1"]
    lines: list[str] = []
    await ffmpeg.query(ctx, [*ffmpeg.guards(ctx.limits), *which, "-i", ffmpeg.source(path)], lines.append)
    [found] = json.loads("\n".join(lines))["streams"] or [{}]
    matrix = found.get("color_space", "")
    silent = matrix in _UNKNOWN
    if silent:
        large = video.width >= _HIGH_DEFINITION[0] or video.height >= _HIGH_DEFINITION[1]
        matrix = "bt709" if large else "smpte170m"
    square = found.get("sample_aspect_ratio", "1:1") in ("1:1", "0:1", "N/A")
    plain = (
        video.pixel_format == "yuv420p"
        and matrix == "bt709"
        and found.get("color_range", "tv") != "pc"
        and square
        and video.rotation == 0
    )
    is_yuv = video.pixel_format.startswith(("yuv", "nv", "p0"))
    return Colors(matrix if silent and is_yuv else None, plain, found.get("color_transfer", "") in _HIGH_DYNAMIC_RANGE)
