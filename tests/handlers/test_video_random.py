"""Timelines drawn at random, rendered: what the planner takes comes out with exactly its frames."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.errors import InvalidInput
from handlers.video.edit import Edit
from tests.handlers import random_timelines
from tests.handlers.conftest import DirectContext, job
from tests.handlers.films import FONT, pictures

#: Among them films that end before their sound does, pixels that are cropped, posters beyond the last picture.
SEEDS = (1, 7, 20, 32, *range(40, 48))


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The assets."""
    return random_timelines.assets(tmp_path_factory.mktemp("odd"))


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_timeline_is_refused_by_its_places_or_made_to_the_frame(
    odd: dict[str, Path], tmp_path: Path, seed: int
) -> None:
    params = random_timelines.Draw(seed).params()
    handler, context = Edit(), DirectContext({}, tmp_path, fonts={"sans": FONT})
    given = job(handler, {"assets": {name: odd[name] for name in random_timelines.named(params)}}, **params)
    refused = list(handler.problems(given.params, {"assets": set(odd)}))
    if not refused:
        try:
            result = await handler.run(given, context)
        except InvalidInput as error:
            refused = list(error.problems)
            assert refused
        else:
            if result.frames is not None:
                assert len(pictures(context.outputs["video"])) == result.frames
            assert context.fractions == sorted(context.fractions)
            assert context.fractions[0] >= 0
            assert context.fractions[-1] <= 1
    assert all(problem.pointer.startswith("/params/") and problem.fix for problem in refused)
