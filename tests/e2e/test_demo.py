"""The demo, run for real with few pictures."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from console import demo_jobs
from tests.e2e.material import executor_python
from tests.readme import ROOT
from tests.servers.leashed import wait_until

pytestmark = pytest.mark.timeout(240)


class Shown(NamedTuple):
    """A run of the demo."""

    home: Path
    said: str
    seconds: float


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's folder: each run goes on where the one before has ended."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def shown(home: Path) -> Shown:
    """The first run, which installs nothing but makes everything else."""
    began = time.monotonic()
    # Settings of another deployment, which it must leave alone.
    environ = {**os.environ, "MEDIAMILL_STORE": "s3", "MEDIAMILL_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    done = subprocess.run(_command(home), env=environ, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return Shown(home, done.stdout, time.monotonic() - began)


@pytest.fixture
def running(shown: Shown) -> Iterator[subprocess.Popen[str]]:
    """Another run in the same folder, which has its worker by now."""
    process = subprocess.Popen(_command(shown.home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


def _command(home: Path) -> list[str]:
    return [sys.executable, "-m", "console.demo", "--home", str(home), "--pictures", "3"]


def _worker_of(process: subprocess.Popen[str]) -> int:
    """Reads what a run says until it names its worker; the worker's process id."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.match(r"  worker +process (\d+), ready", line):
            return int(found[1])
    raise AssertionError(process.stderr.read() if process.stderr else "")


def _left(home: Path) -> dict[int, str]:
    """Processes that work in the folder, and their command lines."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(home) in words and file.parent.name != str(os.getpid()):
            found[int(file.parent.name)] = words
    return found


def test_every_job_is_in_the_table_with_its_end_and_what_came_out(shown: Shown) -> None:
    rows = re.findall(r"^[0-9a-f]{8}  (\w+\.\w+) +(.*?)  +(\w+) +([0-9.]+)  (.+)$", shown.said, re.MULTILINE)
    types = [row[0] for row in rows]
    assert types == [
        *["image.caption"] * 5, *["image.answer"] * 2, "image.embed", "image.generate", "audio.transcribe", "video.edit"
    ]  # fmt: skip
    assert {row[2] for row in rows} == {"succeeded"}
    assert [row[1] for row in rows[:3]] == ["red-circle", "blue-square", "green-triangle"]
    assert [row[4] for row in rows[:3]] == [
        "a red circle in the middle of a white background",
        "a blue square on the left of a black background",
        "a green triangle at the top of a grey background",
    ]
    # Three were asked for, and all are the same: it is sure.
    assert "a red circle in the middle of a white background" in rows[3][4]
    assert rows[5][4] == "how many shapes are there? one; what colour is the background? white"
    generated, transcribed, edited = (row[4] for row in rows[8:])
    assert re.match(r"\d\.\d of \d\.\d s are speech; en: .*red circle.*blue square", transcribed), transcribed
    assert re.fullmatch(r"4 pictures of 64 x 64 in \d+ steps", generated)
    assert edited == "144 frames, 6.00 s, 640 x 360"
    assert "11 succeeded" in shown.said


def test_without_ffmpeg_there_are_no_films_and_no_jobs_that_need_it(tmp_path: Path) -> None:
    command = [str(executor_python()), "-m", "console.demo_media", str(tmp_path)]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, cwd=ROOT, capture_output=True, text=True, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["music.wav", "speech.wav"]
    assert "circle.mp4: not made (ffmpeg is not installed)" in done.stdout
    types = {message["type"] for message in demo_jobs.messages(["a", "b"], "run", films=False)}
    assert types == {"image.caption", "image.answer", "image.embed", "image.generate"}


def test_words_and_a_picture_that_is_new_find_the_red_circle_first(shown: Shown) -> None:
    by_text, by_picture = shown.said.split("`mediamill search ")[1:3]
    for section in (by_text, by_picture):
        first = next(line for line in section.splitlines() if "s3://media/" in line)
        assert "s3://media/pictures/red-circle.png" in first


def test_it_says_what_the_checkpoints_are_worth_and_how_long_it_took(shown: Shown) -> None:
    assert "These checkpoints are toys" in shown.said
    assert "MEDIAMILL_CATALOGUE=small" in shown.said
    said = re.search(r"all of it +([0-9.]+) s", shown.said)
    assert said is not None
    assert float(said[1]) <= shown.seconds


def test_a_page_shows_inputs_beside_outputs(shown: Shown) -> None:
    page = (shown.home / "contact-sheet.html").read_text()
    assert page.count("data:image/png;base64,") >= 3 + 4
    assert page.count("data:video/mp4;base64,") == 3
    assert "a blue square on the left of a black background" in page
    assert "Generated: a purple ring on a white background" in page
    # It holds all that it shows.
    assert "http" not in page
    assert 'src="/' not in page


def test_plain_output_has_no_control_characters(shown: Shown) -> None:
    assert "\x1b" not in shown.said
    assert "\r" not in shown.said


def test_a_second_run_goes_on_and_a_job_that_fails_shows_in_the_table_and_in_the_exit_code(shown: Shown) -> None:
    picture = shown.home / "store" / "media" / "pictures" / "green-triangle.png"
    drawn = picture.read_bytes()
    picture.write_text("no picture")
    try:
        done = subprocess.run(_command(shown.home), capture_output=True, text=True, check=False, timeout=100)
    finally:
        picture.write_bytes(drawn)
    assert done.returncode == 1
    assert re.search(r"image\.caption +green-triangle +failed .*InvalidInput: ", done.stdout)
    assert "they come with mediamill" in done.stdout
    assert "0 embeddings, 2 pictures had theirs" in done.stdout
    assert "1 of 11 jobs did not succeed; see `MEDIAMILL_HOME=" in done.stderr


def test_an_interruption_leaves_no_process(shown: Shown, running: subprocess.Popen[str]) -> None:
    _worker_of(running)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    assert running.returncode == 130
    assert said.startswith("interrupted")
    wait_until(lambda: not _left(shown.home), 60, f"no process to be left: {_left(shown.home)}")


def test_a_worker_that_dies_ends_the_demo_with_the_end_of_its_log(running: subprocess.Popen[str]) -> None:
    os.kill(_worker_of(running), signal.SIGKILL)
    _, said = running.communicate(timeout=30)
    assert running.returncode == 3
    first, *log = said.splitlines()
    assert "the worker ended with -9" in first
    assert any(json.loads(line)["event"] == "worker started" for line in log)


def test_the_lines_to_go_on_with_work_as_they_are_printed(shown: Shown) -> None:
    section = shown.said.partition("go on with a picture of your own")[2].partition("\n\n")[0]
    lines = [line.strip() for line in section.splitlines()[1:]]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MEDIAMILL_")}
    done = subprocess.run(
        ["bash", "-c", "set -euo pipefail\n" + "\n".join(lines) + "\nwait"],
        env={**environ, "MEDIAMILL_HTTP_BIND": "off"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "image.caption succeeded" in done.stdout
    assert "1.000" in done.stdout
    # Commands leave the server running for a minute, for the next one: here none comes.
    for process in _left(shown.home):
        os.kill(process, signal.SIGKILL)
