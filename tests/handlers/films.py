"""Films whose every frame says which it is, and eyes and ears for what a render made of them.

A frame shows its number in eight upright stripes, the lowest bit at the left, light or dark in the colour of its film.
"""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handlers.protocol import Limits
from handlers.video.edit import Edit
from tests.handlers.conftest import LIMITS, DirectContext, job

if TYPE_CHECKING:
    from numpy import ndarray

SIZE = (160, 90)
BITS = 8
FFMPEG = ["ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "error", "-y"]
FONT = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")

RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def numbered(
    path: Path,
    frames: int,
    fps: str,
    color: tuple[float, float, float],
    *,
    size: tuple[int, int] = SIZE,
    beeps: Sequence[float] | None = (),
    uneven: bool = False,
    rate: int = 48_000,
    options: Sequence[str] = (),
) -> Path:
    """A film of numbered frames; `beeps` at these seconds, None: no sound. `uneven`: frames come by 0, 13
    and 26 ms too late, in turn."""
    import numpy

    width, height = size
    stripe = numpy.arange(width) * BITS // width
    pictures = io.BytesIO()
    for number in range(frames):
        bits = (number >> stripe) & 1
        line = numpy.array(color)[None, :] * numpy.where(bits, 235, 90)[:, None]
        pictures.write(numpy.broadcast_to(line.astype(numpy.uint8), (height, width, 3)).tobytes())
    seconds = float(frames / Fraction(fps))
    sound = path.with_suffix(".f32")
    sound.write_bytes(beeping(beeps or (), seconds, rate).tobytes())
    filters = ["scale=out_color_matrix=bt709:out_range=tv", "format=yuv420p"]
    if uneven:
        filters += ["settb=1/90000", f"setpts=(N/({fps})+0.013*mod(N\\,3))/TB"]
    subprocess.run(
        [
            *FFMPEG[:1], *FFMPEG[2:],
            "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", fps, "-i", "-",
            *(["-f", "f32le", "-ar", str(rate), "-ac", "1", "-i", str(sound)] if beeps is not None else []),
            "-vf", ",".join(filters), "-c:v", "libx264", "-preset", "veryfast", "-crf", "12", "-g", "15",
            "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv",
            *(["-fps_mode", "passthrough", "-enc_time_base", "1:90000"] if uneven else []), *options, str(path),
        ],
        input=pictures.getvalue(), check=True,
    )  # fmt: skip
    sound.unlink()
    return path


def beeping(times: Sequence[float], seconds: float, rate: int = 48_000, *, hz: float = 1000, level: float = 0.5) -> Any:
    """Silence with beeps of 50 ms that begin at these seconds (numpy, mono)."""
    import numpy

    samples = numpy.zeros(round(seconds * rate), numpy.float32)
    tone = level * numpy.sin(2 * numpy.pi * hz * numpy.arange(round(0.05 * rate)) / rate)
    for time in times:
        at = round(time * rate)
        part = samples[at : at + len(tone)]
        part += tone[: len(part)].astype(numpy.float32)
    return samples


def tone(path: Path, seconds: float, hz: float = 440, level: float = 0.5, rate: int = 48_000) -> Path:
    """A WAV of a sine."""
    source = f"aevalsrc={level}*sin(2*PI*{hz}*t):s={rate}:d={seconds}"
    subprocess.run([*FFMPEG, "-f", "lavfi", "-i", source, str(path)], check=True)
    return path


@dataclass(frozen=True)
class Made:
    """What a job made."""

    context: DirectContext
    result: Any

    def path(self, role: str = "video") -> Path:
        """An output."""
        return self.context.outputs[role]

    def frames(self, role: str = "video") -> ndarray:
        """All pictures: (frames, height, width, 3), RGB."""
        return pictures(self.path(role))

    def sound(self, role: str = "video", rate: int = 48_000) -> ndarray:
        """All samples, the mean of both channels."""
        return samples(self.path(role), rate)


async def edit(
    folder: Path,
    items: Sequence[Mapping[str, Any]] | None = None,
    assets: Mapping[str, Path] | None = None,
    *,
    tracks: Sequence[Mapping[str, Any]] = (),
    output: Mapping[str, Any] | None = None,
    limits: Limits = LIMITS,
    **timeline: Any,
) -> Made:
    """Runs `video.edit`; `items` are those of the first track."""
    folder.mkdir(exist_ok=True)
    context = DirectContext({}, folder, limits, fonts={"sans": FONT})
    every = [{"kind": "video", "items": list(items)}] if items is not None else []
    params: dict[str, Any] = {
        "version": 1,
        "output": quick(output or {}),
        "timeline": {"tracks": [*every, *tracks], **timeline},
    }
    handler = Edit()
    used = json.dumps(params["timeline"])
    wanted = {name: path for name, path in (assets or {}).items() if f'"asset": {json.dumps(name)}' in used}
    given = job(handler, {"assets": wanted}, **params)
    problems = list(handler.problems(given.params, {"assets": set(wanted)}))
    assert not problems, problems
    return Made(context, await handler.run(given, context))


def quick(output: Mapping[str, Any]) -> dict[str, Any]:
    """With small pictures, the quickest encoder, and fine enough to see which frame it is."""
    format = output.get("format", "mp4")
    if format in ("wav", "mp3", "m4a"):
        return dict(output)
    size = {"width": SIZE[0], "height": SIZE[1], "fps": 30}
    encoding = {} if format == "gif" else {"video": {"preset": "ultrafast", "crf": 10, **output.get("video", {})}}
    return {**size, **output, **encoding}


def pictures(path: Path, size: tuple[int, int] | None = None) -> ndarray:
    import numpy

    width, height = size or dimensions(path)
    command = [*FFMPEG, "-i", str(path), "-map", "0:v:0", "-fps_mode", "passthrough", "-f", "rawvideo"]
    done = subprocess.run([*command, "-pix_fmt", "rgb24", "-"], check=True, capture_output=True)
    return numpy.frombuffer(done.stdout, numpy.uint8).reshape(-1, height, width, 3)


def dimensions(path: Path) -> tuple[int, int]:
    stream = probed(path, "v:0")
    return stream["width"], stream["height"]


def probed(path: Path, which: str) -> dict[str, Any]:
    """What ffprobe says of a stream."""
    argv = ["ffprobe", "-v", "error", "-count_packets", "-show_streams", "-of", "json", "-select_streams", which]
    done = subprocess.run([*argv, str(path)], check=True, capture_output=True)
    return next(iter(json.loads(done.stdout)["streams"]), {})


def subtitle_times(path: Path) -> list[float]:
    """Seconds at which subtitles are shown."""
    argv = ["ffprobe", "-v", "error", "-select_streams", "s", "-show_entries", "packet=pts_time,size", "-of", "json"]
    packets = json.loads(subprocess.run([*argv, str(path)], check=True, capture_output=True).stdout)["packets"]
    # An empty one ends what is shown.
    return [float(packet["pts_time"]) for packet in packets if int(packet["size"]) > 2]


def samples(path: Path, rate: int = 48_000) -> ndarray:
    import numpy

    command = [*FFMPEG, "-i", str(path), "-map", "0:a:0", "-ar", str(rate), "-f", "f32le", "-"]
    done = subprocess.run(command, check=True, capture_output=True)
    return numpy.frombuffer(done.stdout, numpy.float32).reshape(-1, probed(path, "a:0")["channels"]).mean(axis=1)


def number(picture: Any) -> int:
    """Which frame it is, from the stripes of a picture."""
    levels = picture.astype(float).max(axis=2).mean(axis=0)
    width = len(levels) / BITS
    middles = [levels[round(width * (bit + 0.5))] for bit in range(BITS)]
    return sum((level > 160) << bit for bit, level in enumerate(middles))


def hue(picture: Any) -> int:
    """Which of red (0), green and blue a picture has most of."""
    return int(picture.reshape(-1, 3).astype(float).mean(axis=0).argmax())


def level_db(sound: Any) -> float:
    """Root mean square, in decibels of full scale."""
    import numpy

    return float(20 * numpy.log10(max(1e-9, numpy.sqrt((sound.astype(float) ** 2).mean()))))


def onsets(sound: Any, rate: int = 48_000, above: float = 0.1) -> list[float]:
    """Seconds at which beeps begin."""
    import numpy

    loud = numpy.flatnonzero(numpy.abs(sound) > above)
    starts = [loud[0], *loud[1:][numpy.diff(loud) > rate // 20]] if len(loud) else []
    return [float(start) / rate for start in starts]


def loudness_of(path: Path) -> float:
    """Integrated loudness, LUFS, by ffmpeg's `ebur128`."""
    argv = ["ffmpeg", "-nostdin", "-hide_banner", "-i", str(path), "-af", "ebur128", "-f", "null", "-"]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stderr
    return float(said[said.rindex("I:") + 2 :].split()[0])
