"""When each item is there: tracks laid out in exact seconds.

Items follow one another, each beginning as much before the end of the one before it as its transition takes; `at` says
another beginning. Before the assets are known some times are not: they are None, and what depends on them is not
judged yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from handlers.video.timeline.faults import Code, Faults
from handlers.video.timeline.items import AudioItem, GapItem, Item, VideoItem
from handlers.video.timeline.plan import Role, TrackKind
from handlers.video.timeline.times import AUTO, Time, half_up, said

#: How far two times may be from one another and still come to lie on one frame, where the rate is not known yet.
_HALF_A_SLOW_FRAME = Fraction(1, 2)


@dataclass(slots=True)
class Spot:
    """An item's place on the film's clock, in seconds; None: not known yet."""

    pointer: str
    item: Item
    start: Fraction | None = None
    end: Fraction | None = None
    #: How long it and the item before it are there together.
    overlap: Fraction | None = Fraction(0)
    #: Whether it lasts as long as the film has room for it.
    fills: bool = False

    @property
    def length(self) -> Fraction | None:
        """Seconds."""
        return None if self.start is None or self.end is None else self.end - self.start


@dataclass(slots=True)
class Lane:
    """The items of a track in the order of time."""

    kind: TrackKind
    role: Role
    spots: Sequence[Spot]

    @property
    def end(self) -> Fraction | None:
        """When its last item ends; one that fills the film begins there, and does not make it longer."""
        last = self.spots[-1]
        return last.start if last.fills and last.end is None else last.end


def fills_film(item: Item) -> bool:
    """Whether an item has no length of its own."""
    if isinstance(item, GapItem) or item.duration != AUTO:
        return False
    return not isinstance(item, VideoItem) and (not isinstance(item, AudioItem) or item.loop)


def lay(
    items: Sequence[Item],
    pointer: str,
    fps: Fraction | None,
    length_of: Callable[[Item], Fraction | None],
    faults: Faults,
) -> list[Spot]:
    """Places the items of one track; `length_of` says how long those are that do not fill the film."""
    spots: list[Spot] = []
    end: Fraction | None = Fraction(0)
    for index, item in enumerate(items):
        spot = Spot(f"{pointer}/items/{index}", item)
        spot.overlap = _overlap(spot, spots[-1] if spots else None, fps, faults)
        earliest = None if end is None or spot.overlap is None else end - spot.overlap
        at = None if isinstance(item, GapItem) else item.at
        spot.start = earliest if at is None else at.at(fps)
        if at is not None and spots:
            _check_start(spot, end, earliest, fps, faults)
        spot.fills = fills_film(item)
        if spot.fills:
            spot.end = _until_next(spot, items[index + 1 :], fps, faults)
        elif spot.start is not None and (length := length_of(item)) is not None:
            spot.end = spot.start + length
        spots.append(spot)
        end = spot.end
    return spots


def _transition(item: Item) -> Time | None:
    return None if isinstance(item, GapItem) or item.transition is None else item.transition.duration


def _overlap(spot: Spot, before: Spot | None, fps: Fraction | None, faults: Faults) -> Fraction | None:
    if (transition := _transition(spot.item)) is None:
        return Fraction(0)
    where, fix = f"{spot.pointer}/transition", "leave it out; fade_in lets an item appear by itself"
    if before is None:
        faults.say(where, "contradiction", "leads into the first item of a track", fix)
        return Fraction(0)
    if isinstance(before.item, GapItem):
        faults.say(where, "contradiction", "leads into an item that comes after a gap", fix)
        return Fraction(0)
    return transition.at(fps)


def _check_start(
    spot: Spot, end: Fraction | None, earliest: Fraction | None, fps: Fraction | None, faults: Faults
) -> None:
    if spot.start is None or earliest is None or end is None:
        return
    where, sign = f"{spot.pointer}/at", order(spot.start, earliest, fps)
    if sign < 0:
        what = f"is {said(spot.start)}, and the item before it ends at {said(end)}"
        known = f"begin at {said(earliest)} or later" if earliest > 0 else "begin later"
        faults.say(where, Code.OVERLAP, what, f"{known}, leave it out, or put one of them on another track")
    elif sign > 0 and spot.overlap:
        what = f"is {said(spot.start)}, and a transition begins at {said(earliest)}"
        faults.say(where, "contradiction", what, "leave out the transition or at")


def order(one: Fraction, other: Fraction, fps: Fraction | None) -> int:
    """Below 0 when one comes before the other on the output's frames, above 0 when after it."""
    if fps is None:
        distance = one - other
        return 0 if abs(distance) <= _HALF_A_SLOW_FRAME else (-1 if distance < 0 else 1)
    return half_up(one * fps) - half_up(other * fps)


def _until_next(spot: Spot, later: Sequence[Item], fps: Fraction | None, faults: Faults) -> Fraction | None:
    """The end of an item that fills: the next item says when that is. None: nothing follows, or it is not known."""
    if not later:
        return None
    at = None if isinstance(later[0], GapItem) else later[0].at
    if at is None:
        fix = "write a duration, or say when the next item begins (at)"
        faults.say(f"{spot.pointer}/duration", "contradiction", "is auto, and nothing says when it ends", fix)
        return None
    transition = _transition(later[0])
    start, overlap = at.at(fps), Fraction(0) if transition is None else transition.at(fps)
    if start is None or overlap is None:
        return None
    if spot.start is not None and start + overlap <= spot.start:
        what = f"is auto, and the next item begins at {said(start)}, before this one"
        faults.say(f"{spot.pointer}/duration", Code.OVERLAP, what, "let the next item begin later")
        return None
    return start + overlap


def film_length(lanes: Iterable[Lane]) -> Fraction | None:
    """The end of the longest main video track; without one of any length that of the longest video track, of the
    longest audio track. 0: nothing has a length of its own. None: not known yet."""
    every = list(lanes)
    visible = [lane for lane in every if lane.kind is TrackKind.VIDEO]
    for some in ([lane for lane in visible if lane.role is Role.MAIN], visible, every):
        ends = [lane.end for lane in some]
        if any(end is None for end in ends):
            return None
        if longest := max((end for end in ends if end is not None), default=Fraction(0)):
            return longest
    return Fraction(0)


def fill(lanes: Iterable[Lane], film: Fraction, faults: Faults) -> None:
    """Lets the items that fill end with the film."""
    for lane in lanes:
        spot = lane.spots[-1]
        if not spot.fills or spot.end is not None or spot.start is None:
            continue
        if spot.start < film:
            spot.end = film
        else:
            what = "is auto, and " + (f"the film ends at {said(film)}" if film else "nothing gives the film a length")
            faults.say(f"{spot.pointer}/duration", "contradiction", what, "write a duration")


def check_transitions(lane: Lane, faults: Faults) -> None:
    """An item is in one transition at a time, and each is within both of its items."""
    for before, spot, after in zip([None, *lane.spots], lane.spots, [*lane.spots[1:], None], strict=False):
        if not spot.overlap:
            continue
        where = f"{spot.pointer}/transition/duration"
        for length, which in ((before.length if before else None, "the item before it"), (spot.length, "the item")):
            if length is not None and spot.overlap > length:
                what = f"is {said(spot.overlap)}, and {which} is {said(length)} long"
                faults.say(where, Code.TRANSITION_TOO_LONG, what, f"write at most {said(length)}")
        if (
            after is not None
            and after.overlap
            and spot.length is not None
            and spot.overlap + after.overlap > spot.length
        ):
            what = f"is {said(spot.overlap)}, the next {said(after.overlap)}, the item between {said(spot.length)}"
            fix = "shorten one of them, or let the item be there for longer"
            faults.say(where, Code.TRANSITION_TOO_LONG, what, fix)


def check_fades(lane: Lane, fps: Fraction | None, faults: Faults) -> None:
    """An item is there for at least as long as it appears and vanishes."""
    for spot in lane.spots:
        if isinstance(spot.item, GapItem) or spot.length is None:
            continue
        fade_in, fade_out = spot.item.fade_in.at(fps), spot.item.fade_out.at(fps)
        if fade_in is not None and fade_out is not None and fade_in + fade_out > spot.length:
            what = f"and fade_in come to {said(fade_in + fade_out)}, and the item is {said(spot.length)} long"
            faults.say(f"{spot.pointer}/fade_out", Code.FADE_TOO_LONG, what, "shorten them")


def check_frames(lane: Lane, fps: Fraction | None, faults: Faults) -> None:
    """Everything is there for at least one frame."""
    if fps is None:
        return
    for spot in lane.spots:
        if spot.start is None or spot.end is None or isinstance(spot.item, GapItem):
            continue
        first = half_up(spot.start * fps)
        if half_up(spot.end * fps) <= first:
            what = f"ends {said(spot.end - spot.start)} after it begins, which is no whole frame"
            faults.say(f"{spot.pointer}/duration", "out_of_range", what, f"make it at least {said(1 / fps)} long")
        elif spot.overlap and half_up((spot.start + spot.overlap) * fps) <= first:
            what = f"is {said(spot.overlap)}, which is no whole frame"
            fix = f"make it at least {said(1 / fps)} long, or leave the transition out"
            faults.say(f"{spot.pointer}/transition/duration", "out_of_range", what, fix)


def check_end(lane: Lane, film: Fraction, fps: Fraction | None, faults: Faults) -> None:
    """What would begin when the film has ended is a mistake where it is to be seen, or where it says when it begins.

    Sounds that only follow others are cut away with the rest: music is often longer than the film.
    """
    for spot in lane.spots:
        if spot.start is None or isinstance(spot.item, GapItem) or faults.at(spot.pointer):
            continue
        if spot.start < film and (fps is None or order(spot.start, film, fps) < 0):
            continue
        if lane.kind is TrackKind.VIDEO or spot.item.at is not None:
            where = f"{spot.pointer}/at" if spot.item.at is not None else spot.pointer
            what = f"begins at {said(spot.start)}, and the film ends at {said(film)}"
            faults.say(where, Code.BEYOND_END, what, "let it begin earlier, or make the film longer")
