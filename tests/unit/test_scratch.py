"""Folders that attempts write to."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pytest

from worker.scratch import Scratch

pytestmark = pytest.mark.anyio


def _key() -> str:
    return f"{uuid.uuid4()}:1"


@pytest.mark.parametrize("others", [0, 2100])
async def test_a_folder_goes_with_its_attempt_whatever_else_is_there(tmp_path: Path, others: int) -> None:
    scratch = Scratch(tmp_path)
    for n in range(others):
        (tmp_path / str(n)).touch()
    mine, another = _key(), _key()
    for key in (mine, another):
        Path(scratch.of(key)).mkdir()
        Path(scratch.of(key), "file").touch()
    await scratch.remove(mine, time.monotonic())
    assert (Path(scratch.of(mine)).exists(), Path(scratch.of(another)).exists()) == (False, True)


async def test_a_folder_that_was_made_after_the_last_look_is_found(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    await scratch.remove(_key(), time.monotonic())
    late = _key()
    Path(scratch.of(late)).mkdir()
    await scratch.remove(late, time.monotonic())
    assert not Path(scratch.of(late)).exists()


async def test_one_look_is_for_all_that_had_ended_by_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = Scratch(tmp_path)
    keys = [_key() for _ in range(3)]
    for key in keys:
        Path(scratch.of(key)).mkdir()
    looks = 0
    look = scratch._look

    def counted() -> frozenset[str] | None:
        nonlocal looks
        looks += 1
        return look()

    monkeypatch.setattr(scratch, "_look", counted)
    ended = time.monotonic()
    for key in keys:
        await scratch.remove(key, ended)
    assert looks == 1
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_that_cannot_be_read_is_no_trouble_of_the_worker(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path / "gone")
    await scratch.remove(_key(), time.monotonic())
    assert not (tmp_path / "gone").exists()
