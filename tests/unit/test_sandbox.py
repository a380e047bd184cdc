"""`worker.sandbox`: what is found of the host, and the command lines that follow from it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from worker.sandbox import (
    Command,
    Rlimits,
    Sandbox,
    SandboxLevel,
    SandboxMode,
    SandboxReport,
    SandboxUnavailable,
    View,
    interpreter_paths,
    probe,
)


def nothing_installed(program: str) -> str | None:
    return None


def command(folder: Path, level: SandboxLevel, *, rlimits: Rlimits | None = None, **environ: str) -> Command:
    for name in ("scratch", "models", "private"):
        (folder / name).mkdir(exist_ok=True)
    view = View(
        python=Path(sys.executable),
        scratch=folder / "scratch",
        private=folder / "private",
        read_only=(folder / "models",),
        gpu=True,
    )
    return Sandbox(SandboxReport(level)).command(view, rlimits=rlimits or Rlimits(), environ=environ)


def test_a_host_without_the_programs_gets_none_and_the_report_says_why_and_what_is_missing() -> None:
    report = probe(SandboxMode.AUTO, which=nothing_installed).report
    assert report.level is SandboxLevel.NONE
    assert report.reasons == ("bubblewrap: bwrap is not installed", "unshare: unshare is not installed")
    assert report.missing() == (
        "no network",
        "sees no other process",
        "cannot write outside scratch",
        "cannot read files it does not need",
    )


def test_required_and_not_to_be_had_is_a_clear_error() -> None:
    with pytest.raises(SandboxUnavailable, match=r"bwrap is not installed.*install the package bubblewrap.*`auto`"):
        probe(SandboxMode.REQUIRED, which=nothing_installed)


def test_a_program_that_the_host_refuses_to_run_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bwrap", "setpriv", "unshare"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'setting up uid map: Permission denied' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr("os.defpath", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    report = probe(SandboxMode.AUTO).report
    assert report.level is SandboxLevel.NONE
    assert report.reasons[0] == "bubblewrap: setting up uid map: Permission denied"


def test_switched_off_it_is_none_and_says_that_it_was_asked_for() -> None:
    report = probe(SandboxMode.OFF).report
    assert report.level is SandboxLevel.NONE
    assert "switched off" in report.reasons[0]


@pytest.mark.parametrize("level", SandboxLevel)
def test_the_environment_is_an_allow_list(tmp_path: Path, level: SandboxLevel) -> None:
    made = command(
        tmp_path,
        level,
        AWS_SECRET_ACCESS_KEY="s",
        MEDIAMILL_DATABASE_URL="s",
        PYTHONSTARTUP="s",
        LD_PRELOAD="s",
        HTTPS_PROXY="s",
        CUDA_VISIBLE_DEVICES="0",
        LANG="de_DE.UTF-8",
    )
    assert set(made.env) == {
        "CUDA_VISIBLE_DEVICES", "HOME", "LANG", "LOGNAME", "PATH", "PYTHONPATH", "PYTHONUNBUFFERED", "USER",
    }  # fmt: skip
    assert made.env["LANG"] == "de_DE.UTF-8"
    assert made.cwd == tmp_path / "scratch"


def test_the_home_of_a_process_is_no_folder_of_the_next_one_s_where_the_level_allows_that(tmp_path: Path) -> None:
    homes = {level: command(tmp_path, level).env["HOME"] for level in SandboxLevel}
    scratch = str(tmp_path / "scratch")
    assert homes == {
        SandboxLevel.BUBBLEWRAP: "/tmp",
        SandboxLevel.UNSHARE: scratch,
        SandboxLevel.NONE: scratch,
    }


def test_processes_are_limited_only_where_the_user_s_others_do_not_count(tmp_path: Path) -> None:
    limited = [level for level in SandboxLevel if "--processes" in command(tmp_path, level).argv]
    assert limited == [SandboxLevel.BUBBLEWRAP, SandboxLevel.UNSHARE]


def test_bubblewrap_shows_an_allow_list_and_nothing_of_it_but_scratch_is_writable(tmp_path: Path) -> None:
    argv = command(tmp_path, SandboxLevel.BUBBLEWRAP).argv
    binds = [(argv[i], argv[i + 1]) for i, word in enumerate(argv) if word == "--bind"]
    assert binds == [("--bind", str(tmp_path / "scratch"))]
    shown = [argv[i + 1] for i, word in enumerate(argv) if word == "--ro-bind-try"]
    assert str(tmp_path / "models") in shown
    assert not {"/", "/etc", "/home", "/root", "/var", str(Path.home()), str(tmp_path)} & set(shown)
    for word in ("--unshare-net", "--unshare-pid", "--unshare-ipc", "--die-with-parent", "--new-session", "--cap-drop"):
        assert word in argv


def test_the_guard_stands_only_where_no_namespace_ends_the_processes(tmp_path: Path) -> None:
    made = {level: command(tmp_path, level) for level in SandboxLevel}
    assert [level for level, each in made.items() if "--guard" in each.argv] == [SandboxLevel.NONE]
    assert {level: each.kill for level, each in made.items()} == {
        SandboxLevel.BUBBLEWRAP: signal.SIGKILL,
        SandboxLevel.UNSHARE: signal.SIGKILL,
        SandboxLevel.NONE: signal.SIGTERM,
    }


def test_limits_are_handed_to_the_runtime(tmp_path: Path) -> None:
    argv = command(tmp_path, SandboxLevel.NONE, rlimits=Rlimits(file_bytes=5, data_bytes=7, open_files=9)).argv
    after = list(argv[argv.index("handlers.runtime") :])
    assert after == ["handlers.runtime", "--open-files", "9", "--file-bytes", "5", "--data-bytes", "7", "--guard"]


def test_the_import_folder_links_the_courier_s_packages_and_can_be_made_twice(tmp_path: Path) -> None:
    made = [command(tmp_path, SandboxLevel.NONE) for _ in range(2)][-1]
    folder = Path(made.env["PYTHONPATH"])
    assert sorted(path.name for path in folder.iterdir()) == ["config", "handlers"]
    assert (folder / "handlers" / "protocol.py").is_file()
    assert folder.stat().st_mode & 0o077 == 0


def test_an_interpreter_that_does_not_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match=f"interpreter {tmp_path}/python does not run"):
        interpreter_paths(tmp_path / "python")


def test_an_interpreter_s_folders_are_found() -> None:
    found = interpreter_paths(Path(sys.executable))
    assert Path(sys.prefix) in found
    assert Path(sys.base_prefix) in found


UNDUMPABLE = """
import os, sys
sys.path.insert(0, sys.argv[1])
from worker.sandbox import set_undumpable
set_undumpable()
print(os.stat("/proc/self/environ").st_uid, os.path.exists("/proc/self/environ"), flush=True)
import ctypes
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""


def test_an_undumpable_process_keeps_its_environment_from_others_of_its_user() -> None:
    repository = str(Path(__file__).parents[2])
    said = subprocess.run(
        [sys.executable, "-c", UNDUMPABLE, repository], capture_output=True, text=True, check=True, timeout=30
    )
    assert said.stdout.splitlines()[-1] == "0"
    assert said.stdout.split()[0] == "0"
