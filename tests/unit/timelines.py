"""Timelines and assets for the tests of `handlers.video.timeline`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from fractions import Fraction
from typing import Any

from pydantic import ValidationError

from handlers.errors import InvalidInput
from handlers.video.timeline.layout import AssetFacts, plan, problems
from handlers.video.timeline.plan import Item, Plan
from handlers.video.timeline.schema import EditParams
from intake.explain import problems_of

ASSETS = {
    "film": AssetFacts("video", Fraction(10), 1920, 1080, Fraction(25), has_audio=True),
    "phone": AssetFacts("video", Fraction(2997, 100), 1081, 1921, Fraction(2983, 100), has_audio=True),
    "silent": AssetFacts("video", Fraction(4), 640, 480, Fraction(24000, 1001)),
    "music": AssetFacts("audio", Fraction(7), has_audio=True),
    "photo": AssetFacts("image", None, 800, 600),
    "words": AssetFacts("subtitles"),
}
FONTS = ("sans", "serif")
ITEM = "/params/timeline/tracks/0/items"


def message(*tracks: Any, subtitles: Any = (), merge: Any = None, **output: Any) -> dict[str, Any]:
    """Params as a client writes them; a list of items is a video track."""
    whole = [{"kind": "video", "items": track} if isinstance(track, list) else track for track in tracks]
    params: dict[str, Any] = {"version": 1, "timeline": {"tracks": whole}}
    if subtitles:
        params["timeline"]["subtitles"] = list(subtitles)
    if output:
        params["output"] = output
    return params if merge is None else params | {"merge": merge}


def read(params: Mapping[str, Any]) -> EditParams:
    """The params as the door reads them."""
    return EditParams.model_validate_json(json.dumps(params), strict=True)


def refusals(params: Mapping[str, Any]) -> dict[str, str]:
    """Pointer -> code of what the schema refuses."""
    try:
        read(params)
    except ValidationError as error:
        said = problems_of(error, EditParams, ("params",), params, "a parameter of video.edit")
        return {problem.pointer: str(problem.code) for problem in said}
    return {}


def at_the_door(params: Mapping[str, Any], assets: Mapping[str, AssetFacts] = ASSETS) -> dict[str, str]:
    """Pointer -> code of what is refused before the assets are known."""
    return {problem.pointer: problem.code for problem in problems(read(params), {"assets": set(assets)})}


def before_rendering(
    params: Mapping[str, Any], assets: Mapping[str, AssetFacts] = ASSETS, fonts: Collection[str] = FONTS
) -> dict[str, str]:
    """Pointer -> code of what is refused when the assets are known."""
    try:
        plan(read(params), assets, fonts)
    except InvalidInput as error:
        return {problem.pointer: problem.code for problem in error.problems}
    return {}


def planned(params: Mapping[str, Any], assets: Mapping[str, AssetFacts] = ASSETS) -> Plan:
    """The plan of params that are right, at the door too."""
    assert problems(read(params), {"assets": set(assets)}) == []
    return plan(read(params), assets, FONTS)


def items(params: Mapping[str, Any], track: int = 0) -> tuple[Item, ...]:
    """The items of a track of the plan."""
    return planned(params).tracks[track].items


def color(duration: Any = 2, **keys: Any) -> dict[str, Any]:
    """A colour."""
    return {"type": "color", "color": "#336699", "duration": duration} | keys


def film(asset: str = "film", begin: Any = 0, **keys: Any) -> dict[str, Any]:
    """A film, from `begin`."""
    return {"type": "video", "asset": asset, "in": begin} | keys


def sound(*items_: Any, **keys: Any) -> dict[str, Any]:
    """An audio track."""
    return {"kind": "audio", "items": list(items_)} | keys


def music(asset: str = "music", begin: Any = 0, **keys: Any) -> dict[str, Any]:
    """A piece of music, from `begin`."""
    return {"type": "audio", "asset": asset, "in": begin} | keys
