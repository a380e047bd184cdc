"""ffmpeg and ffprobe, under guards; nothing in `handlers` starts them in any other way.

For callers:

- `[*guards(ctx.limits), "-i", source(path)]` for each untrusted file: guards hold for the one input that follows them,
  so they stand before every `-i`. Filters heed no guard (`movie=`, `subtitles=`, `drawtext=textfile=` open files):
  no word of a message goes into a filter's arguments. What the job made itself needs no guards, and `-f lavfi` and
  `-f concat` do not pass them.
- `run` writes a file and returns what ffmpeg said, `stream` gives standard output (`pipe:1`) as bytes while it comes,
  `query` is ffprobe. Each holds one of the places for outside programs meanwhile: no two of them inside each other.
- `FfmpegFailed` is no error of a job: who calls knows whether the input, the arguments or the plan is to blame.
- `fps_mode` and `graph_file` are options that have had several names.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import anyio

from handlers.declaration import Context
from handlers.errors import ResourceExhausted, Retry, Timeout
from handlers.media.codecs import DECODERS, FORMATS, PROTOCOLS
from handlers.media.command import Ended, Running, missing, program
from handlers.protocol import Limits

#: Without growth of the output for so long, ffmpeg has come to a halt.
STALL_S = 60.0

#: Largest single block that ffmpeg may allocate; a frame of `max_pixels` in 16-bit RGBA takes 8 bytes a pixel.
_MAX_ALLOC_BYTES = 1 << 30

_OLDEST = (5, 1, 0)
#: First release of a branch, and the first of all branches, that has the fix of CVE-2026-8461.
_FIXED = {(7, 1): (7, 1, 5), (8, 0): (8, 0, 3)}
_FIXED_SINCE = (8, 1, 2)

#: strerror of ENOSPC, EFBIG and EDQUOT.
_NO_ROOM = ("No space left on device", "File too large", "Disk quota exceeded")

#: Bytes of standard output that are read at a time.
_CHUNK_BYTES = 1 << 16

#: Longest line of ffmpeg's progress report; a longer one is no report.
_MAX_LINE_BYTES = 1 << 16


class FfmpegFailed(Exception):
    """ffmpeg or ffprobe ended with an error."""

    def __init__(self, returncode: int, stderr: str) -> None:
        super().__init__(f"exit status {returncode}: {stderr[-2000:]}")
        self.returncode = returncode
        self.stderr = stderr


def guards(limits: Limits) -> list[str]:
    """The options that stand before every `-i` of an untrusted file, for ffmpeg and ffprobe alike."""
    return [
        "-protocol_whitelist", ",".join(PROTOCOLS),
        "-format_whitelist", ",".join(FORMATS),
        "-codec_whitelist", ",".join(DECODERS),
        "-max_pixels", str(limits.max_pixels),
        "-max_alloc", str(_MAX_ALLOC_BYTES),
        "-max_streams", str(limits.max_streams),
        "-threads", "1",
    ]  # fmt: skip


def source(path: Path) -> str:
    """How a file is named to ffmpeg: `file:` and the absolute path, so that no name is taken for an address."""
    return f"file:{path.absolute()}"


async def run(
    ctx: Context,
    arguments: Sequence[str],
    *,
    time_s: float | None = None,
    stall_s: float = STALL_S,
    progress: Callable[[float], None] | None = None,
) -> str:
    """Runs ffmpeg with `arguments` (inputs, filters, output files), and returns the end of what it said.

    `progress` is called with the seconds of output that are done. Raises FfmpegFailed; Timeout where it takes more
    than `time_s` seconds, or its output does not grow for `stall_s`; ResourceExhausted where disk or memory does not
    suffice; Retry where ffmpeg is not installed.
    """
    argv = ["ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "error", "-nostats", "-y", "-progress", "pipe:1"]
    async with program(ctx, [*argv, *arguments]) as running:
        with anyio.move_on_after(time_s):
            await _follow(running, stall_s, progress)
            return checked(await running.ended()).stderr
        raise Timeout(f"ffmpeg was ended after {time_s:g} seconds, its time limit")


@asynccontextmanager
async def stream(
    ctx: Context, arguments: Sequence[str], *, stall_s: float = STALL_S
) -> AsyncIterator[tuple[AsyncIterator[bytes], Running]]:
    """Runs ffmpeg with `arguments`, of which the last is `pipe:1`, and gives the bytes that it writes as they come.

    ffmpeg waits while nobody takes them. `await running.ended()` after the last says how it ended; no other error than
    Timeout (nothing came for `stall_s` seconds of waiting) is raised here.
    """
    argv = ["ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "error", "-nostats", *arguments]
    async with program(ctx, argv, grace_s=0, light=True) as running:
        yield _chunks(running, stall_s), running


async def query(
    ctx: Context,
    arguments: Sequence[str],
    each: Callable[[str], None],
    *,
    time_s: float = STALL_S,
    stall_s: float = STALL_S,
) -> Ended:
    """Runs ffprobe, and calls `each` with every line that it writes. Raises what `run` raises.

    `stall_s` holds for the time without a line: of a file that is made to be slow to open none ever comes.
    Where ffprobe fails after it has written something, the lines before are as good as the file is.
    """
    argv = ["ffprobe", "-hide_banner", "-loglevel", "error", *arguments]
    async with program(ctx, argv, grace_s=0, light=True) as running:
        with anyio.move_on_after(time_s):
            async for lines in _lines(_chunks(running, stall_s, "ffprobe")):
                for line in lines:
                    each(line)
            return checked(await running.ended())
        raise Timeout(f"ffprobe was ended after {time_s:g} seconds, its time limit")


def checked(ended: Ended) -> Ended:
    """Raises what the end of a program means, or returns it: FfmpegFailed, ResourceExhausted."""
    said = ended.stderr
    if ended.returncode == -signal.SIGXFSZ or any(sign in said for sign in _NO_ROOM):
        raise ResourceExhausted("there is not enough room on the disk, or allowed, for the file that ffmpeg writes")
    if ended.returncode == -signal.SIGKILL:
        raise ResourceExhausted("ffmpeg was killed: it needs more memory than there is")
    if ended.returncode != 0:
        raise FfmpegFailed(ended.returncode, said)
    return ended


async def _follow(running: Running, stall_s: float, progress: Callable[[float], None] | None) -> None:
    """Reads the report until ffmpeg closes it: `key=value` lines, each block of them ending with `progress=`."""
    done: tuple[str, ...] = ()
    block: dict[str, str] = {}
    with anyio.CancelScope(deadline=anyio.current_time() + stall_s) as stall:
        async for lines in _lines(running.stdout):
            for line in lines:
                key, _, value = line.partition("=")
                block[key] = value.strip()
                if key != "progress":
                    continue
                now = tuple(block.get(name, "") for name in ("frame", "out_time_us", "total_size"))
                if now != done:
                    done = now
                    stall.deadline = anyio.current_time() + stall_s
                    if progress is not None and block.get("out_time_us", "").isdigit():
                        progress(int(block["out_time_us"]) / 1e6)
                block = {}
    if stall.cancelled_caught:
        raise Timeout(f"ffmpeg was ended: it made no progress for {stall_s:g} seconds")


async def _lines(stdout: AsyncIterator[bytes]) -> AsyncIterator[list[str]]:
    """The lines of each chunk that comes: of a long film there are millions, and a generator step for each is slow."""
    rest = b""
    async for chunk in stdout:
        lines, newline, rest = (rest + chunk).rpartition(b"\n")
        if newline:
            yield lines.decode(errors="replace").split("\n")
        rest = rest[-_MAX_LINE_BYTES:]


async def _chunks(running: Running, stall_s: float, name: str = "ffmpeg") -> AsyncIterator[bytes]:
    while True:
        with anyio.move_on_after(stall_s) as stall:
            try:
                chunk = await running.stdout.receive(_CHUNK_BYTES)
            except anyio.EndOfStream:
                return
        if stall.cancelled_caught:
            raise Timeout(f"{name} was ended: nothing came from it for {stall_s:g} seconds")
        yield chunk


@dataclass(frozen=True, slots=True)
class Build:
    """The ffmpeg that is installed."""

    text: str
    """As it names itself: `5.1.9-0+deb12u1`."""
    #: None: not a release.
    version: tuple[int, int, int] | None


@cache
def build() -> Build:
    """The installed ffmpeg, asked once in a process (some 50 ms). Raises Retry where there is none."""
    return parse_version(_asked("-version"))


@cache
def encoders() -> frozenset[str]:
    """Names of what the installed ffmpeg encodes with, asked once in a process (some 70 ms). Raises as `build`."""
    lines = _asked("-hide_banner", "-encoders").splitlines()
    return frozenset(words[1] for line in lines if len(words := line.split()) > 1)


def _asked(*options: str) -> str:
    try:
        return subprocess.run(
            ["ffmpeg", *options], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=20
        ).stdout
    except FileNotFoundError as error:
        raise Retry(missing("ffmpeg")) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise Retry(f"ffmpeg does not run on this worker: {error}") from error


def parse_version(said: str) -> Build:
    """The build of which `ffmpeg -version` said this: `ffmpeg version 5.1.9-0+deb12u1 Copyright ...`."""
    words = said.split()
    text = words[2] if words[:2] == ["ffmpeg", "version"] and len(words) > 2 else "unknown"
    found = re.match(r"n?(\d+)\.(\d+)(?:\.(\d+))?", text)
    return Build(text, (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None)


def fps_mode(mode: Literal["passthrough", "cfr", "vfr"]) -> list[str]:
    """The output option that says how frames are dropped and doubled: `-vsync` until 5.0."""
    return ["-fps_mode" if _at_least(5, 1) else "-vsync", mode]


def graph_file(path: Path) -> list[str]:
    """The option that reads a filter graph from a file: an argument may have 128 KiB, a graph of many clips more."""
    return ["-/filter_complex" if _at_least(7, 0) else "-filter_complex_script", str(path)]


def warnings() -> list[str]:
    """What is to be known of the installed build, for whoever runs the worker."""
    version = build().version
    if version is None:
        return [f"ffmpeg {build().text} is not a release: what is known of releases may not hold"]
    said = []
    if version < _OLDEST:
        said.append(f"ffmpeg {build().text} is older than 5.1, the oldest that is tested")
    if version < _FIXED.get(version[:2], _FIXED_SINCE):
        said.append(
            f"ffmpeg {build().text} has CVE-2026-8461 unless its distributor mended it (MagicYUV, fixed in 7.1.5, 8.0.3"
            " and 8.1.2): files that jobs name cannot reach that decoder, other uses of this ffmpeg can"
        )
    return said


def _at_least(major: int, minor: int) -> bool:
    # What is not a release is built from the newest source.
    version = build().version
    return version is None or version >= (major, minor, 0)
