"""The checkpoints that come with mediamill are there, whole, small, and say what they are worth."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.catalogue import Catalogue
from config.checkpoints import pull, verify
from toyworld import card
from toyworld.shelf import CHECKPOINTS, replacing, seal

pytestmark = pytest.mark.unit

TOY = Catalogue.load("toy")
NAMES = sorted(TOY.entries)
MB = 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_a_toy_checkpoint_is_what_its_lock_says(name: str, tmp_path: Path) -> None:
    assert verify(TOY, TOY[name], tmp_path) == []


def test_pulling_one_that_came_with_mediamill_writes_nothing(tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [CHECKPOINTS, *CHECKPOINTS.rglob("*")]}
    said: list[str] = []
    nobody = tmp_path / "no-interpreter"
    folder = pull(TOY, TOY["embed"], tmp_path, executor=nobody, progress=said.append)
    assert folder == CHECKPOINTS / "toy-clip"
    assert said == ["toy-clip: is there and verified"]
    assert {path: path.stat().st_mtime_ns for path in [CHECKPOINTS, *CHECKPOINTS.rglob("*")]} == before


def test_all_of_them_together_are_small_enough_to_be_kept_in_the_repository() -> None:
    sizes = [path.stat().st_size for path in CHECKPOINTS.rglob("*") if path.is_file()]
    assert max(sizes) <= 12 * MB
    assert sum(sizes) <= 25 * MB


@pytest.mark.parametrize("name", [*NAMES, "judge"])
def test_a_card_states_the_scores_and_each_is_what_it_is_meant_to_be_or_the_card_says_why_not(name: str) -> None:
    folder = CHECKPOINTS / name
    scores = list(card.stated(folder).values())
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert scores
    assert card.table(scores) in text
    assert "license: cc0-1.0" in text
    short = [score.measure for score in scores if score.value < score.at_least]
    assert not short or "Not reached" in text, short


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / "checkpoint"
    with replacing(place) as fresh:
        (fresh / "old").write_text("old")
    with pytest.raises(FileNotFoundError), replacing(place) as fresh:
        (fresh / "no" / "new").write_text("new")
    assert [path.name for path in place.iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_only_what_changed_is_sealed_again(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    assert [folder.name for folder in seal(tmp_path)] == ["one", "two"]
    (tmp_path / "two" / "config.json").write_text('{"a": 1}')
    assert [folder.name for folder in seal(tmp_path)] == ["two"]
    assert seal(tmp_path) == []
