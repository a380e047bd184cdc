"""What `bench.video` asks of its contestants, and how it judges what they make."""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from bench.video import Measured, table, write
from bench.video_check import amplitude, apart, mixed
from bench.video_edit import FADE, FPS, HEIGHT, RATE, TITLE_AT_S, TITLE_S, WIDTH, Chain, Edit, Material
from bench.video_sides import Spent
from handlers.video.timeline.layout import AssetFacts, plan, problems
from handlers.video.timeline.plan import Plan
from handlers.video.timeline.schema import EditParams

_CLIP = AssetFacts("video", Fraction(40), WIDTH, HEIGHT, Fraction(FPS), has_audio=True)
_MUSIC = AssetFacts("audio", Fraction(90), has_audio=True)
_MATERIAL = Material((Path("a.mp4"), Path("b.mp4"), Path("c.mp4")), Path("music.mp3"), Path("t.png"), (128, 560, 10, 8))


def planned(params: dict[str, Any], names: set[str]) -> Plan:
    read = EditParams.model_validate_json(json.dumps(params), strict=True)
    assert list(problems(read, {"assets": names})) == []
    return plan(read, {name: _MUSIC if name == "music" else _CLIP for name in names}, ("sans",))


@pytest.mark.parametrize("seconds", [20, 21, 60])
def test_the_edit_is_a_film_of_exactly_its_seconds(seconds: int) -> None:
    edit = Edit(seconds)
    film = planned(edit.params(), set(edit.assets(_MATERIAL)))
    assert film.frames == edit.frames == seconds * FPS
    assert tuple(item.start for item in film.tracks[0].items) == edit.starts
    assert edit.starts[-1] + edit.lengths[-1] == edit.frames
    title = next(item for item in film.tracks[1].items if item.text is not None)
    assert (title.start, title.frames) == (TITLE_AT_S * FPS, TITLE_S * FPS)


def test_the_title_is_gone_before_the_first_crossfade_begins() -> None:
    assert all(Edit(seconds).starts[1] >= FPS * (TITLE_AT_S + TITLE_S) for seconds in range(20, 40))


def test_ffmpeg_by_itself_is_asked_for_the_same_frames_and_samples() -> None:
    edit = Edit(20)
    arguments = edit.raw(_MATERIAL, Path("out.mp4"))
    graph = arguments[arguments.index("-filter_complex") + 1]
    parts = [(int(first), int(last)) for first, last in re.findall(r"start_frame=(\d+):end_frame=(\d+)", graph)]
    assert sum(last - first for first, last in parts) - graph.count("xfade=") * FADE == edit.frames
    assert graph.count("concat=n=5") == 1
    assert graph.count(f"acrossfade=ns={FADE * RATE // FPS}") == 2
    assert "overlay=128:560" in graph


@pytest.mark.parametrize("clips", [1, 4, 50])
def test_a_chain_has_cuts_and_crossfades_and_the_frames_it_says(clips: int) -> None:
    chain = Chain(clips)
    film = planned(chain.params(), set(chain.assets(_MATERIAL)))
    assert film.frames == chain.frames
    assert tuple(item.start for item in film.tracks[0].items) == chain.starts
    fading = [item.transition is not None for item in film.tracks[0].items]
    assert fading == [chain.fades(n) for n in range(clips)]


def test_a_mix_of_two_pictures_lies_as_far_from_both() -> None:
    before, after = bytes([0, 100, 200]), bytes([100, 100, 0])
    mix = mixed(before, after)
    assert apart(before, mix) == apart(after, mix) == 50
    assert apart(before, after, [1]) == 0


def test_a_tone_is_measured_beside_another() -> None:
    rate = 4000
    samples = [
        round(8000 * math.sin(2 * math.pi * 330 * n / rate) + 2000 * math.sin(2 * math.pi * 110 * n / rate))
        for n in range(400)
    ]
    assert amplitude(samples, 330, rate) == pytest.approx(8000, rel=0.01)
    assert amplitude(samples, 110, rate) == pytest.approx(2000, rel=0.01)
    assert amplitude(samples, 440, rate) == pytest.approx(0, abs=20)


def test_a_side_is_compared_round_by_round() -> None:
    limit = Measured("ffmpeg", "5.1", rounds=[Spent(10, 20), Spent(20, 40), Spent(10, 20)])
    ours = Measured("mediamill", "0.1", 500_000_000, rounds=[Spent(11, 21), Spent(22, 42), Spent(30, 60)])
    assert list(ours.times(limit)) == pytest.approx([1.1, 1.05])
    rows = list(table([ours, limit], limit))
    assert rows[2] == "| mediamill 0.1 | 22.00 | 42.00 | 500 | 1.10 | 1.05 |"


def test_results_of_one_way_keep_those_of_the_other(tmp_path: Path) -> None:
    run = {
        "command": "python -m bench.video",
        "film": "20 s",
        "machine": {"cores": 2, "processor": "P", "python": "3.11", "load_before": 0.0, "load_after": 1.0},
        "rounds": 5,
        "table": ["| edit |"],
    }
    write(run, "edit", tmp_path)
    write(run | {"rounds": 1, "table": ["| many |"]}, "clips", tmp_path)
    page = (tmp_path / "video.md").read_text()
    assert page.index("| edit |") < page.index("| many |")
    assert "medians of 5 rounds" in page
    assert set(json.loads((tmp_path / "video.json").read_text())) == {"edit", "clips"}
