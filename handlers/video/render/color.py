"""Which colours the numbers of a film stand for."""

from __future__ import annotations

from dataclasses import dataclass

from handlers.media.probe import VideoStream

#: From this height or width on, a film that does not say is taken for one in BT.709, as players do.
_HIGH_DEFINITION = (1280, 720)
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


def colors(video: VideoStream) -> Colors:
    """The colours of a film, by what its file says of them."""
    large = video.width >= _HIGH_DEFINITION[0] or video.height >= _HIGH_DEFINITION[1]
    matrix = video.color_space or ("bt709" if large else "smpte170m")
    plain = (
        video.pixel_format == "yuv420p"
        and matrix == "bt709"
        and video.color_range != "pc"
        and video.pixel_aspect == 1
        and video.rotation == 0
    )
    assumed = video.color_space is None and video.pixel_format.startswith(("yuv", "nv", "p0"))
    return Colors(matrix if assumed else None, plain, video.color_transfer in _HIGH_DYNAMIC_RANGE)
