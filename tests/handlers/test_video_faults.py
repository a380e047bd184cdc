"""Assets that are broken or hostile, and jobs that end early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from handlers.errors import InvalidInput
from tests.handlers import media_material as material
from tests.handlers.conftest import DirectContext
from tests.handlers.films import RED, edit, number, numbered


def clip(asset: str, **more: Any) -> dict[str, Any]:
    return {"type": "video", "asset": asset, "duration": {"f": 10}, **more}


async def test_a_film_that_is_cut_off_is_used_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = numbered(tmp_path / "whole.mkv", 90, "30", RED)
    cut = material.cut(whole, 0.5, tmp_path / "cut.mkv")
    made = await edit(tmp_path / "out", [clip("cut")], {"cut": cut})
    assert [number(picture) for picture in made.frames()] == list(range(10))
    assert any("inputs/assets/cut ends before it says" in warning for warning in made.result.warnings)


async def test_a_film_whose_pictures_are_rubbish_is_named(tmp_path: Path) -> None:
    path = numbered(tmp_path / "film.mkv", 30, "30", RED, beeps=None)
    good = path.read_bytes()
    begin = good.index(b"\x1f\x43\xb6\x75") + 60  # where clusters begin; what describes the stream is before
    path.write_bytes(
        good[:begin]
        + bytes(byte ^ 0xFF if index % 3 else byte for index, byte in enumerate(good[begin:-300]))
        + good[-300:]
    )
    with pytest.raises(InvalidInput) as refused:
        await edit(tmp_path / "out", [clip("film")], {"film": path})
    assert "film" in str(refused.value)


@pytest.mark.parametrize("disguise", [material.hls, material.ffconcat])
async def test_a_list_of_other_files_reads_none_of_them(tmp_path: Path, disguise: Any) -> None:
    secret = numbered(tmp_path / "secret.mp4", 30, "30", RED)
    path = disguise(tmp_path / "list.mp4", str(secret))
    with pytest.raises(InvalidInput) as refused:
        await edit(tmp_path / "out", [clip("list")], {"list": path})
    assert refused.value.problems[0].pointer == "/inputs/assets/list"


async def test_words_of_a_message_never_become_part_of_a_filter(tmp_path: Path) -> None:
    text = "%{localtime}';[in]movie=/etc/hostname,drawtext=textfile=/etc/passwd:x='\\:,]"
    title = {"type": "text", "text": text, "duration": {"f": 3}, "size": 0.05}
    name = "a';[0]movie=x[b];=:\\"
    film = numbered(tmp_path / "film.mp4", 10, "30", RED)
    made = await edit(
        tmp_path / "out", [{"type": "video", "asset": name, "duration": {"f": 3}}],
        {name: film}, tracks=[{"kind": "video", "items": [title]}],
    )  # fmt: skip
    assert made.result.frames == 3


async def test_a_title_that_does_not_fit_its_box_is_refused_with_its_place(tmp_path: Path) -> None:
    box = {"x": 0, "y": 0, "width": 0.1, "height": 0.1}
    title = {"type": "text", "text": "much too long a text " * 20, "duration": 1, "size": 0.5, "box": box}
    with pytest.raises(InvalidInput) as refused:
        await edit(tmp_path, [title])
    assert refused.value.problems[0].pointer == "/params/timeline/tracks/0/items/0/text"


async def test_a_cancelled_job_leaves_no_program_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rendering = anyio.Event()

    def progress(self: DirectContext, fraction: float, note: str = "") -> None:
        if note == "pictures":
            rendering.set()

    monkeypatch.setattr(DirectContext, "progress", progress)
    film = numbered(tmp_path / "film.mp4", 30, "30", RED)
    slow = {"format": "mp4", "width": 1280, "height": 720, "video": {"preset": "veryslow"}}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(
            lambda: edit(tmp_path / "out", [clip("film", duration=60, pad="freeze")], {"film": film}, output=slow)
        )
        await rendering.wait()
        tasks.cancel_scope.cancel()
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in _read(path)]
    assert left == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
