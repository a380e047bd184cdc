"""Scratch folders of workers that live, and of those that do not."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

from worker import folders


def test_a_scratch_folder_is_gone_when_its_life_ends(tmp_path: Path) -> None:
    with folders.scratch(tmp_path, uuid.uuid4()) as mine:
        (mine / "job").mkdir()
        assert mine.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_folders_of_the_dead_are_removed_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    dead = f"""
import os, uuid
from pathlib import Path
from worker import folders
held = folders.scratch(Path({str(tmp_path)!r}), uuid.UUID(int=1))
(held.__enter__() / "left").write_text("x")
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", dead], check=False)
    assert (tmp_path / str(uuid.UUID(int=1)) / "left").exists()
    with folders.scratch(tmp_path, uuid.UUID(int=2)) as living:
        assert not (tmp_path / str(uuid.UUID(int=1))).exists()
        with folders.scratch(tmp_path, uuid.UUID(int=3)):
            assert living.exists()


def deep(folder: Path, levels: int) -> None:
    """A folder in a folder and so on, each with a file: deeper than a path can say."""
    at = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=at))
        os.mkdir("folder", dir_fd=at)
        below = os.open("folder", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def test_a_folder_thousands_of_levels_deep_ends_neither_this_life_nor_the_next(tmp_path: Path) -> None:
    with folders.scratch(tmp_path, uuid.uuid4()) as mine:
        deep(mine, 3000)
    assert list(tmp_path.iterdir()) == []
    dead = tmp_path / str(uuid.uuid4())
    dead.mkdir()
    dead.with_suffix(".lock").touch()
    deep(dead, 3000)
    with folders.scratch(tmp_path, uuid.uuid4()):
        assert not dead.exists()


def test_what_links_point_to_is_not_removed(tmp_path: Path) -> None:
    precious, folder = tmp_path / "precious", tmp_path / "folder"
    for each in (precious, folder, folder / "below"):
        each.mkdir()
    (precious / "file").write_text("x")
    (folder / "link").symlink_to(precious)
    (folder / "below" / "link").symlink_to(precious)
    os.mkfifo(folder / "below" / "fifo")
    assert folders.remove(folder)
    (tmp_path / "instead").symlink_to(precious)
    assert folders.remove(tmp_path / "instead")
    assert [path.name for path in tmp_path.rglob("*")] == ["precious", "file"]


def test_a_folder_that_is_filled_while_it_is_emptied_is_left_when_the_time_is_up(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()

    def clock() -> float:
        (folder / uuid.uuid4().hex).touch()
        return len(list(folder.iterdir()))

    (folder / "first").touch()
    assert not folders.remove(folder, within_s=-1, clock=clock)
    assert folders.remove(folder)
