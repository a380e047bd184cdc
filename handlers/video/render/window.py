"""Which part of which items is seen in a stretch of the timeline, and where a timeline may be taken apart.

A window is rendered by itself: a whole film, one segment of a long one, the range that was asked for, a poster. What
is under way where the window begins or ends (a crossfade, a fade) is rendered from its beginning to its end, and then
trimmed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from handlers.video.timeline.plan import Item, ItemKind, Plan, Track, TrackKind

#: As many pictures' sources are open in one run of ffmpeg; beyond, memory grows with the number of clips.
SOURCES = 20


@dataclass(frozen=True, slots=True)
class Window:
    """Frames of the timeline, `last` not among them."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """Frames in it."""
        return self.last - self.first


@dataclass(frozen=True, slots=True)
class Shot:
    """The part of an item that a run renders."""

    item: Item
    #: Frames of the item before it.
    skip: int
    frames: int

    @property
    def first(self) -> int:
        """Its first frame, on the timeline's clock."""
        return self.item.start + self.skip

    @property
    def end(self) -> int:
        """The frame after its last, on the timeline's clock."""
        return self.first + self.frames


@dataclass(frozen=True, slots=True)
class Strip:
    """Shots that follow or fade into each other without a hole, and what is seen of them in the window."""

    shots: tuple[Shot, ...]
    #: Frames that are rendered before the first that is seen.
    lead: int
    #: Where the first frame that is seen stands, counted from the window's beginning.
    at: int
    frames: int


def strips(track: Track, window: Window) -> list[Strip]:
    """What a track shows in a window: a strip for each run of items that transitions hold together; gaps alone are
    left out."""
    found = (_strip(run, window) for run in _runs(track.items))
    return [strip for strip in found if strip is not None]


def visual(plan: Plan) -> list[Track]:
    """The tracks that are seen, lowest first."""
    return [track for track in plan.tracks if track.kind is TrackKind.VIDEO]


def segments(plan: Plan, most: int | None = None) -> list[Window]:
    """The output's frames in windows of at most `most` (`SOURCES`) sources, cut where nothing is under way.

    The best places are those where an item begins; where there is none, the inside of an item is as good for the eye.
    Where so many fade into each other that there is none at all, it is cut inside a crossfade, which is then rendered
    twice.
    """
    most = most or SOURCES
    items = [item for track in visual(plan) for item in track.items if item.kind is not ItemKind.GAP]
    items = [item for item in items if item.end > plan.first and item.start < plan.last]
    if len(items) <= most:
        return [Window(plan.first, plan.last)]
    starts = {item.start for item in items}
    places = _places(plan, items)
    windows: list[Window] = []
    first = plan.first
    while first < plan.last:
        ahead = [*places[bisect_right(places, first) :], plan.last]
        fitting = list(_fitting(items, first, ahead, most))
        if not fitting:
            busy = sorted(start for start in starts if start > first)
            last = max(_fitting(items, first, busy, most), default=ahead[0])
        elif fitting[-1] == plan.last:
            last = plan.last
        else:
            last = max((place for place in fitting if place in starts), default=fitting[-1])
        windows.append(Window(first, last))
        first = last
    return windows


def _fitting(items: Sequence[Item], first: int, places: Iterable[int], most: int) -> Iterator[int]:
    """The places up to which a window from `first` on has no more than so many sources."""
    for place in places:
        if _sources(items, first, place) > most:
            return
        yield place


def _places(plan: Plan, items: Sequence[Item]) -> list[int]:
    """Frames before which the film may be cut, in their order."""
    busy = _busy(plan)
    found = []
    for frame in sorted({frame for item in items for frame in (item.start, item.end, *_middle(item))}):
        at = bisect_left(busy, (frame, 0)) - 1
        if plan.first < frame < plan.last and not (at >= 0 and busy[at][0] < frame < busy[at][1]):
            found.append(frame)
    return found


def _sources(items: Iterable[Item], first: int, last: int) -> int:
    return sum(item.start < last and item.end > first for item in items)


def _middle(item: Item) -> Iterator[int]:
    """A frame inside an item where it may be cut."""
    if item.frames > 2 and not (item.source is not None and (item.source.reverse or item.source.freeze)):
        yield item.start + item.frames // 2


def _busy(plan: Plan) -> list[tuple[int, int]]:
    """Stretches inside of which no cut belongs, in their order, none within another."""
    found = []
    for track in visual(plan):
        for item in track.items:
            if item.transition is not None:
                found.append((item.start, item.start + item.transition.frames))
            if item.look is not None:
                found.append((item.start, item.start + item.look.fade_in))
                found.append((item.end - item.look.fade_out, item.end))
    merged: list[tuple[int, int]] = []
    for low, high in sorted((low, high) for low, high in found if high - low > 1):
        if merged and low < merged[-1][1]:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return merged


def _runs(items: Sequence[Item]) -> Iterator[list[Item]]:
    run: list[Item] = []
    for item in items:
        if run and item.transition is None:
            yield run
            run = []
        run.append(item)
    if run:
        yield run


def _strip(run: Sequence[Item], window: Window) -> Strip | None:
    if len(run) == 1 and run[0].kind is ItemKind.GAP:
        return None
    first, last = max(run[0].start, window.first), min(run[-1].end, window.last)
    if first >= last:
        return None
    begin, end = first, last
    while True:  # what has to be rendered as well may itself lie in the middle of something
        seen = [item for item in run if item.start < end and item.end > begin]
        wider = min(_begin(item, begin) for item in seen), max(_end(item, end) for item in seen)
        if wider == (begin, end):
            break
        begin, end = wider
    shots = [Shot(item, max(0, begin - item.start), min(item.end, end) - max(item.start, begin)) for item in seen]
    return Strip(tuple(shots), first - begin, first - window.first, last - first)


def _begin(item: Item, first: int) -> int:
    """Where an item must be rendered from, for `first` to be right."""
    if first <= item.start:
        return first
    begins = [first]
    if item.transition is not None and first < item.start + item.transition.frames:
        begins.append(item.start)
    if item.look is not None and first < item.start + item.look.fade_in:
        begins.append(item.start)
    if item.look is not None and first > item.end - item.look.fade_out:
        begins.append(item.end - item.look.fade_out)
    return min(begins)


def _end(item: Item, last: int) -> int:
    """Where an item must be rendered to, for the frames before `last` to be right."""
    if item.transition is not None and item.start < last < item.start + item.transition.frames:
        return item.start + item.transition.frames
    return last
