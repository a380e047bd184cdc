"""What the planner knows of an asset, and what an item can make of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from handlers.video.timeline.faults import Code, Faults, nearest, shown
from handlers.video.timeline.items import DEFAULT_FONT, AudioItem, ImageItem, Item, TextItem, VideoItem
from handlers.video.timeline.plan import SubtitleMode
from handlers.video.timeline.schema import EditParams, Track
from handlers.video.timeline.times import AUTO, said

TIMELINE = "/params/timeline"
MOST_REVERSED = Fraction(10)
#: Frames a second, where they are not known.
_SLOWEST = Fraction(1)

Timed = VideoItem | AudioItem


@dataclass(frozen=True, slots=True)
class AssetFacts:
    """What the bytes of an asset are, as far as a timeline depends on it. Width and height are as it is looked at."""

    kind: Literal["video", "image", "audio", "subtitles"]
    #: Seconds.
    duration: Fraction | None = None
    width: int | None = None
    height: int | None = None
    #: Average.
    fps: Fraction | None = None
    has_audio: bool = False
    has_alpha: bool = False


_WHAT = {"video": "a film", "image": "a still picture", "audio": "sound without pictures", "subtitles": "subtitles"}
#: What to do with an asset of a kind in place of what was done.
_INSTEAD = {
    "video": 'make it an item of type "video"',
    "image": 'make it an item of type "image"',
    "audio": 'make it an item of type "audio", on a track of kind "audio"',
    "subtitles": "name it in timeline.subtitles",
}


def track_pointer(index: int) -> str:
    """Where a track stands in the message."""
    return f"{TIMELINE}/tracks/{index}"


def items_of(params: EditParams) -> Iterator[tuple[str, Track, Item]]:
    """All items, each with the pointer to it and the track that it is on."""
    for number, track in enumerate(params.timeline.tracks):
        for index, item in enumerate(track.items):
            yield f"{track_pointer(number)}/items/{index}", track, item


def check_names(params: EditParams, known: Mapping[str, object] | frozenset[str], faults: Faults) -> None:
    """Every asset that is named must be among the inputs."""
    named = [(pointer, item.asset) for pointer, _, item in items_of(params) if hasattr(item, "asset")]
    named += [
        (f"{TIMELINE}/subtitles/{index}", subtitles.asset) for index, subtitles in enumerate(params.timeline.subtitles)
    ]
    for pointer, asset in named:
        if asset not in known:
            what = f"is {shown(asset)}, which is not among inputs.assets"
            faults.say(f"{pointer}/asset", Code.ASSET_MISSING, what, nearest(asset, known))


def check_fonts(params: EditParams, fonts: frozenset[str], faults: Faults) -> None:
    """Every font that is named must be one of the deployment's."""
    named = [(f"{pointer}/font", item.font) for pointer, _, item in items_of(params) if isinstance(item, TextItem)]
    named += [
        (f"{TIMELINE}/subtitles/{index}/font", subtitles.font or DEFAULT_FONT)
        for index, subtitles in enumerate(params.timeline.subtitles)
        if subtitles.mode is SubtitleMode.BURN
    ]
    for pointer, font in named:
        if font not in fonts:
            what = f"is {shown(font)}, which is no font of this deployment"
            faults.say(pointer, Code.FONT_UNKNOWN, what, nearest(font, fonts))


def check_media(params: EditParams, assets: Mapping[str, AssetFacts], fps: Fraction | None, faults: Faults) -> None:
    """What is asked of the assets must be in them. Assets that are missing are passed over."""
    for pointer, _, item in items_of(params):
        if not isinstance(item, VideoItem | ImageItem | AudioItem) or (facts := assets.get(item.asset)) is None:
            continue
        _check_kind(item, facts, pointer, faults)
        if not isinstance(item, ImageItem) and not faults.at(f"{pointer}/asset"):
            _check_part(item, facts, pointer, fps, faults)
    for index, subtitles in enumerate(params.timeline.subtitles):
        facts = assets.get(subtitles.asset)
        if facts is not None and facts.kind != "subtitles":
            what = f"is {shown(subtitles.asset)}, which is {_WHAT[facts.kind]}"
            where = f"{TIMELINE}/subtitles/{index}/asset"
            faults.say(where, Code.ASSET_UNSUPPORTED, what, "name a SubRip or WebVTT file")


def _check_kind(item: Timed | ImageItem, facts: AssetFacts, pointer: str, faults: Faults) -> None:
    where, what = f"{pointer}/asset", f"is {shown(item.asset)}, which is {_WHAT[facts.kind]}"
    if isinstance(item, AudioItem):
        if facts.kind not in ("audio", "video"):
            faults.say(where, Code.ASSET_UNSUPPORTED, what, _INSTEAD[facts.kind])
        elif not facts.has_audio:
            faults.say(
                where,
                Code.NO_STREAM,
                f"is {shown(item.asset)}, which has no sound",
                "name one that can be heard",
            )
    elif facts.kind != item.type:
        code = Code.NO_STREAM if facts.kind == "audio" else Code.ASSET_UNSUPPORTED
        faults.say(where, code, what, _INSTEAD[facts.kind])
    if item.type != "image" and facts.kind in ("audio", "video") and not facts.duration:
        faults.say(where, Code.ASSET_UNSUPPORTED, f"is {shown(item.asset)}, which has no length", "encode it anew")


def _check_part(item: Timed, facts: AssetFacts, pointer: str, fps: Fraction | None, faults: Faults) -> None:
    start, length = item.in_.at(fps), facts.duration
    if start is None or length is None:
        return
    if start >= length:
        what = f"begins at {said(start)} of an asset of {said(length)}"
        faults.say(f"{pointer}/in", Code.RANGE_OUT_OF_MEDIA, what, f"begin before {said(length)}")
        return
    available = (length - start) / item.speed
    wanted = available if item.duration == AUTO else item.duration.at(fps)
    if wanted is None:
        return
    # Containers round their times, and a stream may be a frame shorter than the file says: one frame may be wanting.
    if wanted > available + 1 / (fps or _SLOWEST) and not _stretches(item):
        what = f"is {said(wanted)}, and there are {said(available)}"
        hint = 'or pad: "freeze"' if isinstance(item, VideoItem) else "or loop: true"
        fix = f'write at most {said(available)}, or "auto", {hint}'
        faults.say(f"{pointer}/duration", Code.RANGE_OUT_OF_MEDIA, what, fix)
    check_reverse(item, min(wanted, available), pointer, faults)


def _stretches(item: Timed) -> bool:
    return item.loop if isinstance(item, AudioItem) else item.pad is not None


def check_reverse(item: Timed, shown_for: Fraction, pointer: str, faults: Faults) -> None:
    """What runs backwards is held in memory: it must be short. `shown_for` is in seconds of the film."""
    if item.reverse and shown_for * item.speed > MOST_REVERSED:
        what = f"takes {said(shown_for * item.speed)} of the asset backwards"
        faults.say(f"{pointer}/reverse", Code.LIMIT_EXCEEDED, what, f"take at most {said(MOST_REVERSED)} of it")


def check_explicit_reverse(params: EditParams, fps: Fraction | None, faults: Faults) -> None:
    """As far as it can be said before the assets are known."""
    for pointer, _, item in items_of(params):
        if isinstance(item, VideoItem | AudioItem) and item.duration != AUTO and not _stretches(item):
            duration = item.duration.at(fps)
            if duration is not None:
                check_reverse(item, duration, pointer, faults)
