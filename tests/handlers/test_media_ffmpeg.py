"""Outside programs: guarded, watched, and gone when nobody waits for them."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from handlers.errors import InvalidInput, ResourceExhausted, Retry, Timeout
from handlers.media import command, ffmpeg
from handlers.media.codecs import DECODERS, FORMATS
from handlers.media.ffmpeg import FfmpegFailed, guards, run, source, stream
from tests.handlers.conftest import LIMITS, DirectContext

pytestmark = pytest.mark.handlers

ENDLESS = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=25"]
NULL = ["-f", "null", "-"]


@pytest.fixture
def direct(tmp_path: Path) -> DirectContext:
    return DirectContext({}, tmp_path)


def running(marker: str) -> list[int]:
    """Programs with this word among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if marker.encode() in words and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


async def test_progress_is_told_in_seconds_of_output(direct: DirectContext) -> None:
    told: list[float] = []
    said = await run(direct, ["-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=3", *NULL], progress=told.append)
    assert said == ""
    assert told == sorted(told)
    assert told[-1] == pytest.approx(3, abs=0.05)
    assert direct.programs == 1


async def test_what_ffmpeg_says_at_its_end_is_returned(direct: DirectContext) -> None:
    measure = ["-f", "lavfi", "-i", "sine=d=1", "-af", "loudnorm=print_format=json", "-loglevel", "info", *NULL]
    assert '"input_i"' in await run(direct, measure)


async def test_a_command_that_fails_says_why(direct: DirectContext) -> None:
    with pytest.raises(FfmpegFailed, match="No such filter") as caught:
        await run(direct, [*ENDLESS, "-vf", "nonsense", *NULL])
    assert caught.value.returncode > 0


async def test_a_cancelled_job_leaves_no_program_behind(direct: DirectContext, tmp_path: Path) -> None:
    out = tmp_path / "cancelled.mkv"
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            begun = anyio.Event()

            async def job() -> None:
                await run(direct, ["-re", *ENDLESS, str(out)], progress=lambda _: begun.set())

            tasks.start_soon(job)
            await begun.wait()
            assert len(running(str(out))) == 1
            tasks.cancel_scope.cancel()
    assert running(str(out)) == []


async def test_a_program_that_takes_too_long_is_ended(direct: DirectContext, tmp_path: Path) -> None:
    out = tmp_path / "long.mkv"
    with pytest.raises(Timeout, match=r"after 0\.3 seconds"):
        await run(direct, ["-re", *ENDLESS, str(out)], time_s=0.3)
    assert running(str(out)) == []


async def test_a_program_whose_output_does_not_grow_is_ended(direct: DirectContext) -> None:
    with pytest.raises(Timeout, match=r"no progress for 0\.8 seconds"):
        await run(direct, [*ENDLESS, "-vf", "trim=start=100000000", *NULL], stall_s=0.8)


async def test_a_program_that_goes_on_is_not_taken_for_one_that_stands_still(direct: DirectContext) -> None:
    told: list[float] = []
    slow = ["-re", "-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=2.6"]
    await run(direct, [*slow, *NULL], stall_s=2, progress=told.append)
    assert told[-1] == pytest.approx(2.6, abs=0.05)


async def test_a_program_that_does_not_hear_sigterm_is_killed_and_its_children_with_it(
    direct: DirectContext, tmp_path: Path
) -> None:
    # Held open by each of them, so that its end is that of the last one.
    held = tmp_path / "held"
    os.mkfifo(held)
    end = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    deaf = f"exec 9>{held}; trap '' TERM; sleep 60 & echo ready; wait; sleep 60"
    try:
        with anyio.fail_after(10):
            async with command.program(direct, ["bash", "-c", deaf], grace_s=0.2) as program:
                assert await program.stdout.receive() == b"ready\n"
                with pytest.raises(BlockingIOError):
                    os.read(end, 1)
            await anyio.wait_readable(end)
        assert os.read(end, 1) == b""
    finally:
        os.close(end)


async def test_a_flood_of_complaints_neither_blocks_nor_is_kept(direct: DirectContext) -> None:
    flood = "head -c 3000000 /dev/zero | tr '\\0' x >&2; echo the end >&2"
    with anyio.fail_after(20):
        async with command.program(direct, ["bash", "-c", flood]) as program:
            assert [chunk async for chunk in program.stdout] == []
            ended = await program.ended()
    assert ended.returncode == 0
    assert ended.stderr.endswith("the end")
    assert len(ended.stderr) <= command.TAIL_BYTES


async def test_what_a_program_says_has_no_control_characters(direct: DirectContext) -> None:
    async with command.program(direct, ["printf", "a\\033[31mb\\tc\\nd"]) as program:
        assert b"".join([chunk async for chunk in program.stdout]).startswith(b"a\x1b")
    async with command.program(direct, ["bash", "-c", "printf 'a\\033[31mb\\nd' >&2"]) as program:
        assert (await program.ended()).stderr == "a [31mb\nd"


async def test_a_program_inherits_no_credentials(direct: DirectContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very secret")
    async with command.program(direct, ["env"]) as program:
        said = b"".join([chunk async for chunk in program.stdout]).decode()
    assert {line.partition("=")[0] for line in said.splitlines()} == {"PATH", "LANG"}


async def test_an_error_inside_the_block_comes_out_as_it_is(direct: DirectContext, tmp_path: Path) -> None:
    async def job() -> None:
        async with stream(direct, [*ENDLESS, "-f", "rawvideo", "pipe:1"]) as (chunks, _):
            await anext(aiter(chunks))
            raise InvalidInput("as it is") from ValueError("the cause")

    with pytest.raises(InvalidInput, match="as it is") as caught:
        await job()
    assert isinstance(caught.value.__cause__, ValueError)


async def test_a_stream_waits_for_its_reader_and_ends_with_the_block(direct: DirectContext, tmp_path: Path) -> None:
    marker = str(tmp_path)
    began = time.monotonic()
    async with stream(direct, [*ENDLESS, "-metadata", f"title={marker}", "-f", "rawvideo", "pipe:1"]) as (chunks, _):
        first = await anext(aiter(chunks))
        assert 0 < len(first) <= 1 << 16
        assert len(running(marker)) == 1
    assert running(marker) == []
    assert time.monotonic() - began < 5


async def test_a_stream_from_which_nothing_comes_is_ended(direct: DirectContext) -> None:
    silent = [*ENDLESS, "-vf", "trim=start=100000000", "-f", "rawvideo", "pipe:1"]
    with pytest.raises(Timeout, match=r"nothing came from it for 0\.4 seconds"):
        async with stream(direct, silent, stall_s=0.4) as (chunks, _):
            assert [chunk async for chunk in chunks] == []


async def test_a_look_at_a_file_that_says_nothing_is_ended(direct: DirectContext, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    os.mkfifo(slow)
    writer = os.open(slow, os.O_RDWR)
    try:
        with pytest.raises(Timeout, match=r"ffprobe was ended: nothing came from it for 0\.4 seconds"):
            await ffmpeg.query(direct, ["-show_format", "-i", source(slow)], lambda line: None, stall_s=0.4)
    finally:
        os.close(writer)
    assert running(str(slow)) == []


async def test_a_full_disk_is_no_fault_of_the_file(direct: DirectContext) -> None:
    with pytest.raises(ResourceExhausted, match="not enough room on the disk"):
        await run(direct, [*ENDLESS, "-t", "9", "-f", "rawvideo", "/dev/full"])


@pytest.fixture
def small_files() -> Iterator[None]:
    """Programs that start now may write files of 64 KiB; Python itself ignores the signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
async def test_a_file_that_grows_beyond_what_is_allowed_is_no_fault_of_the_file(
    direct: DirectContext, tmp_path: Path
) -> None:
    with pytest.raises(ResourceExhausted, match="not enough room on the disk, or allowed"):
        await run(direct, [*ENDLESS, "-t", "9", "-f", "rawvideo", str(tmp_path / "grows")])


async def test_a_worker_without_ffmpeg_names_the_package(
    direct: DirectContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Retry, match="apt-get install ffmpeg"):
        await run(direct, [*ENDLESS, *NULL])


def test_a_file_name_is_never_taken_for_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert source(Path("http:x")) == f"file:{tmp_path}/http:x"
    assert source(Path("-y")) == f"file:{tmp_path}/-y"


def test_guards_name_only_files_known_formats_and_software_decoders() -> None:
    options = guards(LIMITS)
    values = dict(zip(options[::2], options[1::2], strict=True))
    assert values["-protocol_whitelist"] == "file"
    assert set(values["-format_whitelist"].split(",")) == set(FORMATS)
    follow_others = ("hls", "dash", "concat", "sdp", "rtsp", "image2", "lavfi", "tee", "srt", "ass", "svg_pipe", "imf")
    assert not set(follow_others) & set(FORMATS)
    assert values["-codec_whitelist"] == ",".join(DECODERS)
    assert not {"magicyuv", "librsvg", "h264_cuvid", "h264_qsv", "ansi"} & set(DECODERS)
    assert values["-max_pixels"] == str(LIMITS.max_pixels)
    assert values["-max_streams"] == str(LIMITS.max_streams)


async def test_every_guard_is_known_to_the_build_that_is_installed(direct: DirectContext, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    await run(direct, ["-f", "lavfi", "-i", "sine=d=0.1", str(path)])
    await run(direct, [*guards(LIMITS), "-i", source(path), *guards(LIMITS), "-i", source(path), *NULL])
    lines: list[str] = []
    ended = await ffmpeg.query(direct, [*guards(LIMITS), "-show_format", "-i", source(path)], lines.append)
    assert ended.stderr == ""
    assert "format_name=wav" in lines


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("ffmpeg version 5.1.9-0+deb12u1 Copyright (c) 2000-2026 the FFmpeg developers", (5, 1, 9)),
        ("ffmpeg version n7.1 Copyright", (7, 1, 0)),
        ("ffmpeg version 8.1.2-static https://johnvansickle.com/ffmpeg/", (8, 1, 2)),
        ("ffmpeg version N-118999-gabcdef Copyright", None),
        ("", None),
    ],
)
def test_versions_are_read_as_builds_write_them(said: str, version: tuple[int, int, int] | None) -> None:
    assert ffmpeg.parse_version(said).version == version


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("4.4.2", ["older than 5.1", "CVE-2026-8461"]),
        ("5.1.9", ["CVE-2026-8461"]),
        ("7.1.4", ["CVE-2026-8461"]),
        ("7.1.5", []),
        ("8.0.3", []),
        ("8.1.1", ["CVE-2026-8461"]),
        ("8.1.2", []),
        ("9.0", []),
        ("N-1-g0", ["not a release"]),
    ],
)
def test_what_is_known_of_a_build_is_said(version: str, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffmpeg, "build", lambda: ffmpeg.parse_version(f"ffmpeg version {version} x"))
    warnings = ffmpeg.warnings()
    assert len(warnings) == len(said)
    assert all(part in warning for part, warning in zip(said, warnings, strict=True))


@pytest.mark.parametrize(
    ("version", "mode", "graph"),
    [
        ("4.4", "-vsync", "-filter_complex_script"),
        ("5.1.9", "-fps_mode", "-filter_complex_script"),
        ("9.0", "-fps_mode", "-/filter_complex"),
        ("N-1-g0", "-fps_mode", "-/filter_complex"),
    ],
)
def test_options_have_the_name_that_the_build_knows(
    version: str, mode: str, graph: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ffmpeg, "build", lambda: ffmpeg.parse_version(f"ffmpeg version {version} x"))
    assert ffmpeg.fps_mode("cfr") == [mode, "cfr"]
    assert ffmpeg.graph_file(Path("/g")) == [graph, "/g"]


async def test_the_installed_build_takes_both_options(direct: DirectContext, tmp_path: Path) -> None:
    graph = tmp_path / "graph"
    graph.write_text("testsrc=s=64x48:r=25:d=0.2[v]")
    told: list[float] = []
    await run(direct, [*ffmpeg.graph_file(graph), "-map", "[v]", *ffmpeg.fps_mode("cfr"), *NULL], progress=told.append)
    assert told[-1] == pytest.approx(0.2, abs=0.05)
