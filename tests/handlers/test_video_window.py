"""Where a long film is taken apart."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest

from handlers.video.render.window import Window, segments, strips
from handlers.video.timeline.plan import (
    Box,
    Canvas,
    Format,
    Item,
    ItemKind,
    Look,
    Plan,
    Role,
    Track,
    TrackKind,
    Transition,
)

LOOK = Look(Box(0, 0, 160, 90))


def plan(*spans: tuple[int, int], fade: int = 0, over: tuple[tuple[int, int], ...] = ()) -> Plan:
    """Colours from one frame to another; those that overlap fade into each other."""

    def track(role: Role, spans: tuple[tuple[int, int], ...]) -> Track:
        items = []
        for index, (first, last) in enumerate(spans):
            overlap = spans[index - 1][1] - first if index else 0
            transition = Transition("fade", overlap, "tri") if overlap else None
            look = replace(LOOK, fade_in=fade, fade_out=fade)
            items.append(
                Item(f"/{index}", ItemKind.COLOR, first, last - first, look=look, color="#fff", transition=transition)
            )
        return Track("/", TrackKind.VIDEO, role, tuple(items))

    tracks = (track(Role.MAIN, spans), *(track(Role.OVERLAY, (each,)) for each in over))
    last = spans[-1][1]
    return Plan(Canvas(160, 90, Fraction(30)), Format.MP4, tracks, last, 0, last, None, None)


CHAIN = tuple((at * 40, at * 40 + 50) for at in range(50))
CUTS = tuple((at * 40, at * 40 + 40) for at in range(300))


@pytest.mark.parametrize("spans", [CHAIN, CUTS])
def test_segments_cover_the_film_with_few_sources_each_and_cut_nothing_that_is_under_way(
    spans: tuple[tuple[int, int], ...],
) -> None:
    film = plan(*spans, over=((100, 1500),))
    found = segments(film, 10)
    assert (found[0].first, found[-1].last) == (0, film.last)
    assert all(a.last == b.first for a, b in pairwise(found))
    for window in found:
        items = [item for track in film.tracks for item in track.items]
        assert sum(item.start < window.last and item.end > window.first for item in items) <= 10
        for item in items[1:-1]:
            frames = item.transition.frames if item.transition is not None else 0
            assert not item.start < window.first < item.start + frames


def test_a_short_film_is_one_segment() -> None:
    assert segments(plan((0, 40), (40, 80)), 10) == [Window(0, 80)]


def test_hard_cuts_are_preferred_to_the_inside_of_an_item() -> None:
    starts = {first for first, _ in CUTS}
    assert all(window.first in starts for window in segments(plan(*CUTS), 7))


def test_what_fades_where_a_window_begins_is_rendered_from_its_beginning() -> None:
    film = plan((0, 50), (40, 90), (80, 120))
    [strip] = strips(film.tracks[0], Window(45, 60))
    assert [(shot.first, shot.end) for shot in strip.shots] == [(40, 50), (40, 60)]
    assert (strip.lead, strip.at, strip.frames) == (5, 0, 15)
    [strip] = strips(film.tracks[0], Window(60, 85))
    assert [(shot.first, shot.end) for shot in strip.shots] == [(60, 90), (80, 90)]
    [strip] = strips(plan((0, 50), fade=20).tracks[0], Window(40, 50))
    assert [(shot.first, shot.end) for shot in strip.shots] == [(30, 50)]
    assert strip.lead == 10


def test_the_longest_timeline_is_taken_apart_in_no_time() -> None:
    import time

    began = time.process_time()
    found = segments(plan(*((at * 40, at * 40 + 50) for at in range(2000))))
    assert time.process_time() - began < 3
    assert len(found) > 90


def test_where_every_item_fades_into_the_next_all_the_time_no_run_has_more_sources_than_it_may() -> None:
    film = plan(*((at * 10, at * 10 + 20) for at in range(60)))
    upper = plan((0, 15), *((at * 10 - 5, at * 10 + 15) for at in range(1, 60))).tracks
    film = replace(film, tracks=(*film.tracks, *upper))
    found = segments(film, 10)
    assert (found[0].first, found[-1].last) == (0, film.last)
    assert all(a.last == b.first for a, b in pairwise(found))
    shots = [[len(strip.shots) for track in film.tracks for strip in strips(track, window)] for window in found]
    assert max(map(sum, shots)) <= 14
