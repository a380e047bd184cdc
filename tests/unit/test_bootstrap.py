"""The set-up: what is done again, what is not, and what it says."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deploy import bootstrap, host, locks
from deploy.bootstrap import Setup, Stamp
from deploy.host import Python, SetupError, SystemPackage
from handlers.video.text import fonts

ROOT = Path(__file__).resolve().parents[2]


def test_a_step_that_has_not_succeeded_has_an_empty_stamp(tmp_path: Path) -> None:
    stamp = Stamp(tmp_path / "folder" / "step")
    assert stamp.read() == ("", ())
    stamp.write("digest", ["courier", "dev"])
    assert stamp.read() == ("digest", ("courier", "dev"))
    stamp.clear()
    assert stamp.read() == ("", ())


def test_a_stamp_cut_short_by_a_crash_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "step").write_text("")
    assert Stamp(tmp_path / "step").read() == ("", ())


@dataclass(frozen=True)
class RecordedSetup(Setup):
    """Runs nothing: it notes each command, and makes the interpreter where an environment is asked for."""

    commands: list[list[str]] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)

    def call(self, command: Sequence[str], environ: dict[str, str] | None = None) -> None:
        self.commands.append(list(command))
        if self.failing & set(command):
            raise SetupError("the installer failed")
        if command[1] == "venv":
            interpreter = Path(command[-1]) / "bin" / "python"
            interpreter.parent.mkdir(parents=True, exist_ok=True)
            interpreter.unlink(missing_ok=True)
            interpreter.symlink_to(self.python.path)


@pytest.fixture
def setup(tmp_path: Path) -> RecordedSetup:
    (tmp_path / "requirements").mkdir()
    for layer in ("build", "courier", "dev"):
        (tmp_path / "requirements" / f"{layer}.txt").write_text(layer)
    (tmp_path / "pyproject.toml").write_text("[project]")
    return RecordedSetup(tmp_path, host.find_python(), lock=0)


def made(setup: RecordedSetup, *layers: str) -> list[str]:
    """The second words of the commands that making this environment took: venv, or pip's."""
    setup.commands.clear()
    setup.environment("env", layers, project=True, size="small")
    return [command[2] if command[1] == "pip" else command[1] for command in setup.commands]


def test_an_environment_is_made_once(setup: RecordedSetup) -> None:
    assert made(setup, "courier") == ["venv", "sync", "install"]
    assert made(setup, "courier") == []


def test_a_changed_lock_file_is_installed_into_the_environment_there_is(setup: RecordedSetup) -> None:
    made(setup, "courier")
    (setup.root / "requirements" / "courier.txt").write_text("newer")
    assert made(setup, "courier") == ["sync", "install"]


def test_an_environment_whose_making_was_interrupted_is_made_anew(setup: RecordedSetup) -> None:
    made(setup, "courier")
    (setup.root / "requirements" / "courier.txt").write_text("newer")
    setup.failing.add("sync")
    with pytest.raises(SetupError, match="the installer failed"):
        made(setup, "courier")
    setup.failing.clear()
    assert made(setup, "courier") == ["venv", "sync", "install"]


def test_the_demo_takes_nothing_from_the_tests(setup: RecordedSetup) -> None:
    made(setup, "courier", "dev")
    assert made(setup, "courier") == []
    (setup.root / "requirements" / "courier.txt").write_text("newer")
    assert made(setup, "courier") == ["sync", "install"]
    assert any(argument.endswith("dev.txt") for argument in setup.commands[0])


def test_an_environment_without_its_interpreter_is_made_anew(setup: RecordedSetup) -> None:
    made(setup, "courier")
    (setup.root / "env" / "bin" / "python").unlink()
    assert made(setup, "courier") == ["venv", "sync", "install"]


def test_a_copy_of_the_folder_elsewhere_does_not_believe_the_stamps_it_brought(setup: RecordedSetup) -> None:
    made(setup, "courier")
    moved = setup.root.rename(setup.root.with_name("moved"))
    elsewhere = RecordedSetup(moved, setup.python, lock=0)
    assert "sync" in made(elsewhere, "courier")


def test_two_set_ups_at_once_follow_each_other_and_the_second_says_so(tmp_path: Path) -> None:
    script = """if True:
        import sys
        from pathlib import Path
        from deploy import bootstrap
        with bootstrap.only_one(Path(sys.argv[1])):
            print("mine")
    """
    with bootstrap.only_one(tmp_path):
        second = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert second.stdout is not None
        assert "waiting for it" in second.stdout.readline()
    rest, _ = second.communicate(timeout=20)
    assert rest == "mine\n"


def test_a_package_that_may_be_missing_is_one_line_that_says_what_to_install(
    setup: RecordedSetup, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(host, "root_command", lambda: None)
    package = SystemPackage(("ffmpeg",), "video and sound", lambda: False)
    setup.system([package], required=False)
    asked = [line for line in capsys.readouterr().out.splitlines() if "please install" in line]
    assert len(asked) == 1
    assert "ffmpeg (for video and sound" in asked[0]
    with pytest.raises(SetupError, match="please install: ffmpeg"):
        setup.system([package], required=True)


def test_a_font_is_found_in_whatever_folder_of_its_own_it_lies(tmp_path: Path) -> None:
    names, folders = ["DejaVuSans.ttf", "other.ttf"], [str(tmp_path / "missing"), str(tmp_path)]
    assert not host.has_font(names, folders)
    (tmp_path / "truetype" / "dejavu").mkdir(parents=True)
    (tmp_path / "truetype" / "dejavu" / "DejaVuSans.ttf").touch()
    assert host.has_font(names, folders)


def test_the_fonts_that_are_asked_of_the_system_are_those_that_titles_are_drawn_with() -> None:
    assert set(host.CJK_FILES) < set(fonts.FILES[fonts.SANS_CJK])
    assert fonts.FILES[fonts.SANS] == ("DejaVuSans.ttf",)


@pytest.mark.parametrize("package", [host.FFMPEG, host.FONTS, host.CJK_FONT, host.BUBBLEWRAP])
def test_the_image_has_what_the_set_up_installs_for_the_executor(package: SystemPackage) -> None:
    installed = re.search(r"apt-get install(?:[^&\\]|\\\n)+", (ROOT / "Dockerfile").read_text())
    assert installed is not None
    assert set(package.names) & set(installed[0].split())


def test_a_jar_that_is_not_the_one_of_the_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jar").write_bytes(b"a")
    (tmp_path / "b.jar").write_bytes(b"b")
    sums = bootstrap.jar_sums(tmp_path)
    bootstrap.check_jars(tmp_path, sums)
    (tmp_path / "b.jar").write_bytes(b"something else")
    with pytest.raises(SetupError, match=r"b\.jar"):
        bootstrap.check_jars(tmp_path, sums)


def test_uv_uses_the_index_that_pip_is_told_to_use(tmp_path: Path) -> None:
    config = "global.index-url='https://one.example/simple'\nglobal.cert='/etc/ca.pem'\n:env:.timeout='9'\n"
    environ = {"PIP_FIND_LINKS": f"{tmp_path} {tmp_path}/missing https://two.example/", "PIP_NO_INDEX": "1"}
    env, options = host.uv_settings(host.pip_settings(config, environ), environ)
    assert env == {
        "UV_DEFAULT_INDEX": "https://one.example/simple",
        "UV_FIND_LINKS": f"{tmp_path},https://two.example/",
        "SSL_CERT_FILE": "/etc/ca.pem",
    }
    assert options == ["--no-index"]


@pytest.mark.parametrize("name", ["UV_INDEX_URL", "UV_DEFAULT_INDEX"])
def test_what_is_set_for_uv_itself_stays(name: str) -> None:
    environ = {name: "https://ours.example/simple"}
    assert host.uv_settings({"index-url": "https://one.example/simple"}, environ) == ({}, [])


@pytest.mark.parametrize(
    ("banner", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "21" 2023-09-19', 21),
        ('java version "1.8.0_381"', 8),
        ("bash: no such thing", None),
    ],
)
def test_the_version_of_a_java_is_read_from_its_banner(tmp_path: Path, banner: str, major: int | None) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{banner}\nEND\n")
    java.chmod(0o755)
    assert host.java_major(str(java)) == major


def interpreter(folder: Path, name: str, answers: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{answers}\n")
    (folder / name).chmod(0o755)


def test_a_fitting_python_is_found_on_the_path_where_the_running_one_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter(tmp_path, "python3.12", "exit 127")  # a version manager's shim
    interpreter(tmp_path, "python3.11", "echo /opt/python3.11; echo 3 11")
    monkeypatch.setattr(host, "SUPPORTED", ((3, 11), (3, 12)))
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert host.find_python() == Python("/opt/python3.11", (3, 11))
    with pytest.raises(SetupError, match=r"needs Python 3\.11 or 3\.12, and this is 3\.9"):
        host.find_python(["python3.12"])


@pytest.fixture
def requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(locks, "LAYERS", ("courier", "dev"))
    (tmp_path / "courier.in").write_text("anyio\n")
    (tmp_path / "dev.in").write_text("-c courier.txt\npytest\n")
    for layer, body in (("courier", "anyio==4\n"), ("dev", "pytest==9\n")):
        (tmp_path / f"{layer}.txt").write_text(locks.header(tmp_path, layer, body) + body)
    return tmp_path


def append(path: Path) -> None:
    path.write_text(path.read_text() + "rich\n")


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        (lambda folder: None, []),
        (lambda folder: append(folder / "dev.in"), ["dev"]),
        (lambda folder: append(folder / "dev.txt"), ["dev"]),
        (lambda folder: append(folder / "courier.txt"), ["courier", "dev"]),
        (lambda folder: (folder / "dev.txt").unlink(), ["dev"]),
    ],
    ids=["nothing", "a wish", "a pin", "a constraint", "a file lost"],
)
def test_a_lock_file_is_stale_when_its_sources_or_itself_were_changed(
    requirements: Path, change: Callable[[Path], None], stale: list[str]
) -> None:
    change(requirements)
    assert locks.stale(requirements) == stale


def test_the_lock_files_name_no_index_and_pin_by_digest() -> None:
    for layer in locks.LAYERS:
        text = (ROOT / "requirements" / f"{layer}.txt").read_text()
        assert "://" not in text
        pins = [line for line in text.splitlines() if line and line[0] not in " #"]
        assert pins
        assert all(line.endswith("\\") for line in pins), "a pin without a digest"


def test_the_packages_dependencies_are_the_layers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {"courier": project["dependencies"], **project["optional-dependencies"]}
    for layer, requirements in declared.items():
        lines = (ROOT / "requirements" / f"{layer}.in").read_text().splitlines()
        assert sorted(requirements) == sorted(line for line in lines if line and line[0] not in "#-")
