"""`worker.executor_settings`: what an executor is told and shown, from the settings."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from config.settings import Settings
from worker.executor import ExecutorSettings
from worker.executor_settings import executor_settings
from worker.parts import Parts
from worker.sandbox import Sandbox, SandboxLevel, SandboxReport


def made(folder: Path, **settings: str) -> ExecutorSettings:
    environ = {f"MEDIAMILL_{name.upper()}": value for name, value in settings.items()}
    loaded = Settings.load({"MEDIAMILL_HOME": str(folder / "home"), **environ}, files=[]).settings
    loaded = loaded.model_copy(update={"device": "cpu", "executor_python": Path(sys.executable)})
    sandbox = Sandbox(SandboxReport(SandboxLevel.BUBBLEWRAP))
    roles = {"caption": "blip", "generate": "painter"}
    parts = SimpleNamespace(settings=loaded, checkpoints={}, roles=roles, sandbox=sandbox, environ={})
    return executor_settings(cast(Parts, parts), folder / "scratch")


def test_of_a_font_s_folder_only_the_font_is_shown(tmp_path: Path) -> None:
    # A home folder, say, with a font in it beside the embedded database.
    font = tmp_path / "home" / "Brand.ttf"
    settings = made(tmp_path, fonts=f'{{"brand": "{font}"}}')
    assert settings.hello.fonts["brand"] == str(font)
    argv = settings.command.argv
    shown = {argv[at + 1] for at, word in enumerate(argv) if word in ("--ro-bind-try", "--ro-bind", "--bind")}
    assert str(font) in shown
    assert not {str(parent) for parent in font.parents} & shown


def test_programs_have_threads_enough_on_a_large_machine(tmp_path: Path) -> None:
    argv = made(tmp_path, programs="64").command.argv
    assert int(argv[argv.index("--processes") + 1]) >= 64 * 300


@pytest.mark.parametrize(
    ("preload", "loaded"), [('["caption", "embed"]', ("blip",)), ("[]", ()), ('["transcribe"]', ())]
)
def test_roles_that_the_worker_has_not_are_not_preloaded(tmp_path: Path, preload: str, loaded: tuple[str, ...]) -> None:
    assert made(tmp_path, preload=preload).hello.preload == loaded
