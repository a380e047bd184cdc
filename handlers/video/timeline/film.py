"""The tracks of a plan: items cut at the film's end, in whole frames, holes filled with gaps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from handlers.video.timeline import plan
from handlers.video.timeline.assets import AssetFacts, Timed, track_pointer
from handlers.video.timeline.canvas import box_of, region_of
from handlers.video.timeline.items import (
    AudioItem,
    ColorItem,
    GapItem,
    ImageItem,
    Item,
    PictureTransition,
    TextItem,
    VideoItem,
    Visible,
)
from handlers.video.timeline.plan import (
    Canvas,
    Envelope,
    Fit,
    ItemKind,
    KenBurns,
    Look,
    Region,
    Sound,
    Source,
    TextStyle,
)
from handlers.video.timeline.schema import EditParams, Track
from handlers.video.timeline.times import Curve, Time, Volume, half_up
from handlers.video.timeline.timing import Lane, Spot

#: Where a title stands that says no box: some way from the sides.
_TITLE = Region(Fraction(1, 20), Fraction(1, 20), Fraction(9, 10), Fraction(9, 10))
_SILENCE = 0.0


@dataclass(frozen=True, slots=True)
class Film:
    """What the items of a film share."""

    params: EditParams
    canvas: Canvas
    assets: Mapping[str, AssetFacts]
    #: Its length.
    frames: int

    def seconds(self, time: Time) -> Fraction:
        """A time of the timeline, in seconds."""
        seconds = time.at(self.canvas.fps)
        assert seconds is not None
        return seconds

    def frame(self, time: Time) -> int:
        """The frame that a time of the timeline comes to lie on."""
        return half_up(self.seconds(time) * self.canvas.fps)

    def snap(self, seconds: Fraction | None) -> int:
        """The frame that a moment comes to lie on: not one beyond the film's end."""
        assert seconds is not None
        return min(half_up(seconds * self.canvas.fps), self.frames)


def tracks_of(film: Film, lanes: list[Lane]) -> tuple[plan.Track, ...]:
    """The tracks, lowest first; one of which nothing is left is left out."""
    tracks = []
    for index, (track, lane) in enumerate(zip(film.params.timeline.tracks, lanes, strict=True)):
        if items := tuple(_items(film, lane)):
            tracks.append(_track(track, lane, items, index))
    return tuple(tracks)


def _track(track: Track, lane: Lane, items: tuple[plan.Item, ...], index: int) -> plan.Track:
    duck = track.duck
    return plan.Track(
        pointer=track_pointer(index),
        kind=lane.kind,
        role=lane.role,
        items=items,
        volume=track.volume,
        duck=None if duck is None else plan.Duck(frozenset(duck.by), duck.db, duck.attack, duck.release),
    )


def _items(film: Film, lane: Lane) -> Iterator[plan.Item]:
    """The items of a track, one beginning where the other ends, less its transition."""
    end = 0
    for spot in lane.spots:
        first, last = film.snap(spot.start), film.snap(spot.end)
        if first >= last:
            continue  # beyond the film's end, or a gap of less than half a frame
        if first > end:
            yield plan.Item(spot.pointer, ItemKind.GAP, end, first - end)
        yield _item(film, spot, first, last - first, max(end - first, 0))
        end = last


def _item(film: Film, spot: Spot, start: int, frames: int, overlap: int) -> plan.Item:
    item = spot.item
    return plan.Item(
        pointer=spot.pointer,
        kind=ItemKind(item.type),
        start=start,
        frames=frames,
        source=_source(film, item, frames),
        look=None if isinstance(item, AudioItem | GapItem) else _look(film, item, frames),
        sound=_sound(film, item, frames),
        text=_text(film, item) if isinstance(item, TextItem) else None,
        color=item.color if isinstance(item, ColorItem) else None,
        transition=_transition(item, overlap) if overlap else None,
    )


def _transition(item: Item, frames: int) -> plan.Transition:
    assert not isinstance(item, GapItem)
    assert item.transition is not None
    type_ = item.transition.type if isinstance(item.transition, PictureTransition) else "fade"
    return plan.Transition(type_, frames, item.transition.audio_curve)


def _source(film: Film, item: Item, frames: int) -> Source | None:
    if isinstance(item, ImageItem):
        return Source(item.asset)
    if not isinstance(item, Timed):
        return None
    start, fps = film.seconds(item.in_), film.canvas.fps
    duration = film.assets[item.asset].duration
    assert duration is not None
    available = (duration - start) / item.speed
    freeze = 0
    if isinstance(item, VideoItem) and item.pad is not None:
        freeze = max(frames - max(half_up(available * fps), 1), 0)
    loop = isinstance(item, AudioItem) and item.loop
    shown = (frames - freeze) / fps
    return Source(
        asset=item.asset,
        start=start,
        length=(min(shown, available) if loop else shown) * item.speed,
        speed=item.speed,
        reverse=item.reverse,
        freeze=freeze,
        loop=loop and available < shown,
    )


def _look(film: Film, item: Visible, frames: int) -> Look:
    fade_in = min(film.frame(item.fade_in), frames)
    fade_out = min(film.frame(item.fade_out), frames - fade_in)
    area = _TITLE if item.box is None and isinstance(item, TextItem) else item.box
    box = box_of(area, film.canvas)
    if isinstance(item, ColorItem):
        return Look(box, Fit.STRETCH, opacity=item.opacity, fade_in=fade_in, fade_out=fade_out)
    if isinstance(item, TextItem):
        return Look(box, Fit.NONE, opacity=item.opacity, fade_in=fade_in, fade_out=fade_out)
    move = item.ken_burns if isinstance(item, ImageItem) else None
    return Look(
        box=box,
        fit=item.fit,
        crop=None if item.crop is None else region_of(item.crop),
        opacity=item.opacity,
        rotate=item.rotate,
        flip_horizontal=item.flip in ("horizontal", "both"),
        flip_vertical=item.flip in ("vertical", "both"),
        ken_burns=None if move is None else KenBurns(region_of(move.from_), region_of(move.to)),
        fade_in=fade_in,
        fade_out=fade_out,
    )


def _sound(film: Film, item: Item, frames: int) -> Sound | None:
    if not isinstance(item, Timed) or not film.assets[item.asset].has_audio or item.volume == _SILENCE:
        return None
    length = film.canvas.seconds(frames)
    fade_in = min(film.seconds(item.fade_in), length)
    return Sound(
        volume=_envelope(film, item.volume),
        fade_in=fade_in,
        fade_out=min(film.seconds(item.fade_out), length - fade_in),
    )


def _envelope(film: Film, volume: Volume) -> Envelope:
    if isinstance(volume, Curve):
        return Envelope(tuple((film.seconds(time), factor) for time, factor in volume.points))
    return Envelope(((Fraction(0), volume),))


def _text(film: Film, item: TextItem) -> TextStyle:
    size = max(half_up(Fraction(item.size) * film.canvas.height), 1)
    outlined = item.stroke_color is not None
    return TextStyle(
        text=item.text,
        font=item.font,
        size=size,
        color=item.color,
        align=item.align,
        valign=item.valign,
        box_color=item.box_color,
        stroke_color=item.stroke_color,
        stroke_width=max(half_up(Fraction(item.stroke_width) * size), 1) if outlined else 0,
        line_spacing=item.line_spacing,
    )
