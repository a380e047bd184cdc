"""Params of which some places are wrong, without these: so that the rest can be judged in the same pass."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from handlers.video.timeline.merge import merged
from handlers.video.timeline.schema import EditParams

Path = tuple[str | int, ...]

#: The asset of an item that stands for a broken one. Its length is not known, so that nothing follows from it.
_UNKNOWN = "?"
#: Length of the path of an item: `timeline`, `tracks`, 0, `items`, 0.
_TO_ITEM = 5


def salvaged(params: Mapping[str, Any], wrong: Iterable[Path]) -> tuple[EditParams | None, list[Path]]:
    """The params with something harmless in the place of what is wrong, and the places that say nothing any more.

    A broken item becomes one of which nothing is known; of anything else the wrong key is left out, and values to be
    merged are merged where they can be. None where that does not make the params valid.
    """
    filled = json.loads(json.dumps(merged(params)[0] | {"merge": None}))
    silent: list[Path] = []
    for path in wrong:
        if path[0] == "merge":
            continue
        place = path[:_TO_ITEM] if _is_in_item(path) else path
        if place not in silent and not _mended(filled, place):
            return None, []
        silent.append(place)
    try:
        return EditParams.model_validate_json(json.dumps(filled), strict=True), silent
    except ValidationError:
        return None, []


def _is_in_item(path: Path) -> bool:
    return len(path) >= _TO_ITEM and path[:2] == ("timeline", "tracks") and path[3] == "items"


def _mended(params: Any, place: Path) -> bool:
    if place == ("version",):
        params["version"] = 1
        return True
    *above, last = place
    kind = None
    try:
        for step in above:
            kind = params.get("kind", kind) if isinstance(params, dict) else kind
            params = params[step]
        if _is_in_item(place):
            params[last] = {"type": "audio" if kind == "audio" else "video", "asset": _UNKNOWN}
        else:
            del params[last]
    except (LookupError, TypeError):  # it is missing, or what is above it is something else than it should be
        return False
    return isinstance(params, dict) or _is_in_item(place)
