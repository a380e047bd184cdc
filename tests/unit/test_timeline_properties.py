"""What holds for every timeline there could be."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from handlers.errors import InvalidInput, Problem
from handlers.video.timeline import layout
from handlers.video.timeline.plan import Plan, Role, TrackKind
from handlers.video.timeline.schema import EditParams
from intake.explain import problems_of
from tests.unit.timelines import ASSETS, FONTS, at_the_door, before_rendering, planned, read

RATES = st.sampled_from([24, 25, 30, 60, 23.976, "24000/1001", "30000/1001", 12.5])
#: Long enough that two transitions of an item have room in it.
DURATIONS = (
    st.integers(10, 80).map(lambda n: n / 10)
    | st.builds("{}/{}".format, st.integers(100, 800), st.integers(50, 99))
    | st.floats(1, 4)
    | st.integers(60, 200).map(lambda n: {"f": n})
)
OVERLAPS = st.floats(0.1, 0.45) | st.sampled_from(["1/3", 0.25, {"f": 5}])
CROSSFADES = st.none() | st.fixed_dictionaries({"duration": OVERLAPS}, optional={"audio_curve": st.just("qsin")})
TRANSITIONS = st.none() | st.fixed_dictionaries(
    {"duration": OVERLAPS},
    optional={"type": st.sampled_from(["fade", "dissolve", "wipeleft"]), "audio_curve": st.just("qsin")},
)
PARTS = st.integers(0, 50).map(lambda n: n / 100)
AREAS = st.fixed_dictionaries({key: PARTS.map(lambda n: n or 0.01) for key in ("x", "y", "width", "height")})
LOOKS: dict[str, Any] = {
    "box": AREAS,
    "opacity": st.floats(0, 1),
    "fade_in": st.floats(0, 0.4),
    "fade_out": st.just(0.3),
}
VIDEO = st.fixed_dictionaries(
    {"type": st.just("video"), "asset": st.just("phone"), "duration": DURATIONS, "transition": TRANSITIONS},
    optional=LOOKS | {"in": st.floats(0, 5), "speed": st.sampled_from([0.5, 1, "4/3", 2]), "pad": st.just("freeze")},
)
IMAGE = st.fixed_dictionaries(
    {"type": st.just("image"), "asset": st.just("photo"), "duration": DURATIONS, "transition": TRANSITIONS},
    optional=LOOKS | {"crop": AREAS, "rotate": st.sampled_from([0, 90]), "fit": st.sampled_from(["cover", "blur"])},
)
COLOR = st.fixed_dictionaries(
    {"type": st.just("color"), "color": st.just("#a0b0c0"), "duration": DURATIONS, "transition": TRANSITIONS},
    optional=LOOKS,
)
GAP = st.fixed_dictionaries({"type": st.just("gap"), "duration": DURATIONS})
AUDIO = st.fixed_dictionaries(
    {"type": st.just("audio"), "asset": st.just("phone"), "duration": DURATIONS, "transition": CROSSFADES},
    optional={"volume": st.floats(0, 2), "fade_in": st.floats(0, 0.5), "in": st.floats(0, 5)},
)


def _joined(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items without transitions where there is nothing to come in over."""
    for before, item in zip([None, *items], items, strict=False):
        if before is None or before["type"] == "gap" or item.get("transition") is None:
            item.pop("transition", None)
    return items


VISIBLE = st.lists(VIDEO | IMAGE | COLOR | GAP, min_size=1, max_size=6).map(_joined)
HEARD = st.lists(AUDIO | GAP, min_size=1, max_size=4).map(_joined)
OVERLAY = st.fixed_dictionaries(
    {"kind": st.just("video"), "items": (VIDEO | IMAGE | COLOR).map(lambda item: _joined([item]))}
)
TIMELINES = st.builds(
    lambda main, overlay, audio, output: {
        "version": 1,
        "timeline": {"tracks": [{"kind": "video", "items": main}, *overlay, *audio]},
        "output": output,
    },
    VISIBLE,
    st.lists(OVERLAY, max_size=1),
    st.lists(HEARD.map(lambda items: {"kind": "audio", "items": items}), max_size=1),
    st.fixed_dictionaries(
        {}, optional={"fps": RATES, "width": st.integers(8, 960).map(lambda n: 2 * n), "format": st.just("webm")}
    ),
)

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
WORDS = [
    "auto",
    "video",
    "gap",
    "film",
    "{{A}}",
    "{{",
    "1/0",
    "1/3",
    "f",
    "type",
    "at",
    "transition",
    "merge",
    "freeze",
]
ODD = st.recursive(
    SCALARS | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS) | st.text("ab~/{} é", max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """All places in a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """A timeline in which up to three places hold something else, or nothing, or have moved."""
    params: dict[str, Any] = copy.deepcopy(draw(TIMELINES))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([path for path in places(params) if path]))
        holder: Any = params
        for step in path[:-1]:
            holder = holder[step]
        if draw(st.booleans()) and isinstance(holder, dict):
            del holder[path[-1]]
            holder[draw(st.sampled_from([*WORDS, path[-1]]))] = draw(ODD)
        else:
            holder[path[-1]] = draw(ODD)
        if not params:
            return params
    return params


ANY_TIME = st.sampled_from([0, 0.01, 0.5, 1, 2.5, 7, 11, 31, "1/3", {"f": 0}, {"f": 1}, {"f": 90}]) | st.floats(
    0.001, 20
)
ANY_LENGTH = ANY_TIME.filter(lambda time: time not in (0, {"f": 0}))
CHANGES: dict[str, Any] = {
    "at": ANY_TIME,
    "duration": ANY_LENGTH | st.just("auto"),
    "in": ANY_TIME,
    "asset": st.sampled_from([*ASSETS, "none"]),
    "fade_out": ANY_TIME,
    "transition": st.fixed_dictionaries({"duration": ANY_LENGTH}),
}
FLAGS = {"video": {"reverse": True, "pad": "freeze"}, "audio": {"reverse": True, "loop": True}}


@st.composite
def misjudged(draw: st.DrawFn) -> dict[str, Any]:
    """A timeline in which every value is one that may stand there, and times and assets need not fit together."""
    params: dict[str, Any] = copy.deepcopy(draw(TIMELINES))
    for track in params["timeline"]["tracks"]:
        for item in track["items"]:
            known = {key for key in CHANGES if key in item} | (
                {"duration"} if item["type"] == "gap" else {"at", "fade_out"}
            )
            if draw(st.booleans()):
                key = draw(st.sampled_from(sorted(known)))
                value = draw(CHANGES[key])
                item[key] = 1 if item["type"] == "gap" and value == "auto" else value
            if draw(st.integers(0, 3)) == 0:
                item |= FLAGS.get(item["type"], {})
    return params


def found(params: Mapping[str, Any]) -> list[Problem]:
    """Everything that is wrong with params, at the door and before rendering. Nothing but refusals is raised."""
    try:
        read_ = read(params)
    except ValidationError as error:
        said = problems_of(error, EditParams, ("params",), params, "a parameter of video.edit")
        return [Problem(one.pointer, str(one.code), one.message, one.fix) for one in said]
    problems = layout.problems(read_, {"assets": set(ASSETS)})
    try:
        layout.plan(read_, ASSETS, FONTS)
    except InvalidInput as error:
        problems += error.problems
    return problems


def resolves(pointer: str, params: Any) -> bool:
    """Whether a pointer is one into the message, or to a key that could stand there."""
    value: Any = {"params": params}
    steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
    for index, step in enumerate(steps):
        if isinstance(value, list):
            if not step.isdigit() or int(step) >= len(value):
                return False
            value = value[int(step)]
        elif isinstance(value, dict) and step in value:
            value = value[step]
        else:
            return isinstance(value, dict) and index == len(steps) - 1
    return True


def assert_tiled(plan: Plan) -> None:
    for track in plan.tracks:
        end = 0
        for item, after in zip(track.items, [*track.items[1:], None], strict=False):
            coming = item.transition.frames if item.transition else 0
            going = after.transition.frames if after is not None and after.transition else 0
            assert item.frames > 0
            assert item.start == end - coming
            assert coming + going <= item.frames
            end = item.end
        assert end <= plan.frames


@settings(max_examples=60, deadline=None)
@given(TIMELINES)
def test_the_items_of_a_track_follow_one_another_without_holes(params: dict[str, Any]) -> None:
    plan = planned(params)
    assert_tiled(plan)
    main = [track for track in plan.tracks if track.role is Role.MAIN and track.kind is TrackKind.VIDEO]
    assert max(track.items[-1].end for track in main) == plan.frames == plan.length
    lengths = [item.frames - (item.transition.frames if item.transition else 0) for item in main[0].items]
    assert sum(lengths) == main[0].items[-1].end


@settings(max_examples=60, deadline=None)
@given(TIMELINES)
def test_places_are_even_and_within_the_frame_and_sources_within_their_items(params: dict[str, Any]) -> None:
    plan = planned(params)
    canvas = plan.canvas
    assert canvas.width % 2 == canvas.height % 2 == 0
    for item in (item for track in plan.tracks for item in track.items):
        if item.look is not None:
            box = item.look.box
            assert all(side % 2 == 0 for side in (box.x, box.y, box.width, box.height))
            assert box.x >= 0 < box.width
            assert box.y >= 0 < box.height
            assert box.x + box.width <= canvas.width
            assert box.y + box.height <= canvas.height
            assert item.look.fade_in + item.look.fade_out <= item.frames
        if item.source is not None and item.source.length is not None:
            shown = canvas.seconds(item.frames - item.source.freeze)
            assert 0 < item.source.length == shown * item.source.speed


@settings(max_examples=60, deadline=None)
@given(TIMELINES)
def test_a_plan_is_the_same_each_time_and_after_the_params_were_stored(params: dict[str, Any]) -> None:
    before = read(params)
    dumped = before.model_dump(mode="json")
    assert EditParams.model_validate(dumped) == before
    assert planned(dumped) == planned(params)


@settings(max_examples=100, deadline=None)
@given(mutated())
def test_whatever_is_written_is_refused_by_places_of_the_message_or_planned(params: dict[str, Any]) -> None:
    for problem in found(params):
        assert problem.pointer.startswith("/params")
        assert resolves(problem.pointer, params)
        assert problem.code == problem.code.lower()
        assert problem.message


@settings(max_examples=150, deadline=None)
@given(misjudged())
def test_what_can_be_rendered_is_never_refused_at_the_door_and_has_no_holes(params: dict[str, Any]) -> None:
    said = before_rendering(params)
    event(", ".join(sorted(set(said.values()))) or "planned")
    assert all(resolves(pointer, params) for pointer in said)
    if said == {}:
        assert at_the_door(params) == {}
        assert_tiled(layout.plan(read(params), ASSETS, FONTS))
