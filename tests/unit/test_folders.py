"""Scratch folders of workers that live, and of those that do not."""

from __future__ import annotations

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
