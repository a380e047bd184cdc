"""The films of `bench.video`: what they are made of, and the same edit in the words of a timeline and of ffmpeg."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
EXECUTOR_PYTHON = _ROOT / ".venv-executor" / "bin" / "python"

WIDTH, HEIGHT, FPS, RATE = 1280, 720, 30, 48_000
CRF, PRESET, BITRATE = 20, "veryfast", 192_000
#: Frames of a crossfade.
FADE = FPS
#: Seconds into a clip at which it is begun, so that seeking is part of the work.
BEGIN_S = 1
#: Seconds at which the title comes, and that it stays.
TITLE_AT_S, TITLE_S = 2, 4
#: Middle of the tone that each clip has for a sound, and the music, in hertz.
TONES, MUSIC_HZ, MUSIC_VOLUME = (330, 440, 550), 110, 0.5

TITLE: Mapping[str, Any] = {
    "text": "Three days by the sea",
    "size": 0.08,
    "color": "#ffffff",
    "box_color": "#102a43c0",
    "box": {"x": 0.1, "y": 0.7, "width": 0.8, "height": 0.2},
}

#: Without grain: an encoder has less to do than with most real films, and what else is done weighs more.
_PICTURES = (
    f"testsrc2=s={WIDTH}x{HEIGHT}:r={FPS}",
    f"mandelbrot=s={WIDTH}x{HEIGHT}:r={FPS}:maxiter=300",
    f"gradients=s={WIDTH}x{HEIGHT}:r={FPS}:speed=0.03:nb_colors=6:seed=3",
)
_COLORS = ("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv")
_ENCODERS = (
    *("-c:v", "libx264", "-preset", PRESET),
    *("-c:a", "aac", "-b:a", str(BITRATE), "-ar", str(RATE), "-ac", "2"),
)
_FAST_START = ("-movflags", "+faststart")


@dataclass(frozen=True, slots=True)
class Material:
    """Files in a folder."""

    clips: tuple[Path, ...]
    music: Path
    title: Path
    #: Pixels of the frame that the title covers: left, top, width, height.
    covers: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Edit:
    """Three clips that fade into each other, a title, and music under all."""

    seconds: int

    @property
    def frames(self) -> int:
        """Of the film."""
        return self.seconds * FPS

    @property
    def lengths(self) -> tuple[int, ...]:
        """Frames of each clip; they overlap by their crossfades."""
        whole = self.frames + (len(TONES) - 1) * FADE
        return (whole - whole // 3 * 2, whole // 3, whole // 3)

    @property
    def starts(self) -> tuple[int, ...]:
        """The frame of the film at which each clip begins."""
        return (0, *accumulate(length - FADE for length in self.lengths[:-1]))

    def params(self) -> dict[str, Any]:
        """Of a `video.edit` with the assets `clip0` to `clip2` and `music`."""
        clips = [
            {"type": "video", "asset": f"clip{n}", "in": BEGIN_S, "duration": {"f": length}}
            | ({"transition": {"type": "fade", "duration": {"f": FADE}}} if n else {})
            for n, length in enumerate(self.lengths)
        ]
        title = {"type": "text", "at": TITLE_AT_S, "duration": TITLE_S, **TITLE}
        music = {"type": "audio", "asset": "music", "duration": self.seconds, "volume": MUSIC_VOLUME}
        return _params(
            [
                {"kind": "video", "items": clips},
                {"kind": "video", "items": [title]},
                {"kind": "audio", "role": "music", "items": [music]},
            ]
        )

    def raw(self, material: Material, out: Path) -> list[str]:
        """The arguments of one run of ffmpeg that makes the film."""
        inputs: list[str] = []
        for clip, length in zip(material.clips, self.lengths, strict=True):
            inputs += ["-threads", "1", "-ss", str(BEGIN_S), "-t", f"{length / FPS:.6f}", "-i", str(clip)]
        inputs += ["-threads", "1", "-i", str(material.music), "-i", str(material.title)]
        output = ["-map", "[v]", "-map", "[a]", *_ENCODERS, *pictures(), *_FAST_START, str(out)]
        return ["-nostdin", "-v", "error", "-y", *inputs, "-filter_complex", ";".join(self._graph(material)), *output]

    def _graph(self, material: Material) -> list[str]:
        graph = self._pictures()
        graph += [f"[{n}:a]aresample={RATE},aformat=fltp:channel_layouts=stereo[a{n}]" for n in range(3)]
        fade = f"acrossfade=ns={FADE * RATE // FPS}:c1=tri:c2=tri"
        graph += [f"[a0][a1]{fade}[af]", f"[af][a2]{fade}[sound]"]
        left, top, _, _ = material.covers
        # Shown on for its time, and over then: cheaper than an overlay that is switched on and off.
        held = f"tpad=stop=-1:stop_mode=clone,trim=end_frame={TITLE_S * FPS},settb=1/{FPS},setpts=N+{TITLE_AT_S * FPS}"
        graph.append(f"[4:v]format=yuva420p,{held}[title]")
        graph.append(f"[film][title]overlay={left}:{top}:format=yuv420:eof_action=pass[v]")
        graph.append(f"[3:a]aresample={RATE},aformat=fltp:channel_layouts=stereo,volume={MUSIC_VOLUME}[music]")
        graph.append("[sound][music]amix=inputs=2:duration=first:normalize=0[a]")
        return graph

    def _pictures(self) -> list[str]:
        """The clips, cut where a crossfade begins and ends: `xfade` converts every frame that goes through it to 4:4:4,
        which those outside of a crossfade are spared."""
        graph, order = [], []
        size, restart = f"scale={WIDTH}:{HEIGHT},setsar=1,format=yuv420p", "setpts=PTS-STARTPTS"
        for n, length in enumerate(self.lengths):
            cuts = [0, *([FADE] if n else []), *([length - FADE] if n < 2 else []), length]
            names = [*(["head"] if n else []), "body", *(["tail"] if n < 2 else [])]
            whole = f"fps={FPS},trim=end_frame={length},{size},settb=1/{FPS},split={len(names)}"
            graph.append(f"[{n}:v]{whole}" + "".join(f"[s{name}{n}]" for name in names))
            for name, first, last in zip(names, cuts, cuts[1:], strict=False):
                graph.append(f"[s{name}{n}]trim=start_frame={first}:end_frame={last},{restart}[{name}{n}]")
            if n:
                fade = f"xfade=transition=fade:duration={FADE / FPS}:offset=0,format=yuv420p"
                graph.append(f"[tail{n - 1}][head{n}]{fade}[fade{n}]")
                order.append(f"[fade{n}]")
            order.append(f"[body{n}]")
        return [*graph, f"{''.join(order)}concat=n={len(order)},settb=1/{FPS},setpts=N[film]"]

    def assets(self, material: Material) -> dict[str, str]:
        """The paths of the timeline's assets."""
        return {f"clip{n}": str(path) for n, path in enumerate(material.clips)} | {"music": str(material.music)}

    def moviepy(self, material: Material, out: Path) -> dict[str, Any]:
        """The job of `bench.video_moviepy`."""
        return {
            "clips": [[str(path), length / FPS] for path, length in zip(material.clips, self.lengths, strict=True)],
            "starts": [start / FPS for start in self.starts],
            "begin_s": BEGIN_S,
            "fade_s": FADE / FPS,
            "seconds": self.seconds,
            "music": [str(material.music), MUSIC_VOLUME],
            "title": [str(material.title), TITLE_AT_S, TITLE_S, *material.covers[:2]],
            "size": [WIDTH, HEIGHT],
            "fps": FPS,
            "rate": RATE,
            "preset": PRESET,
            "bitrate": str(BITRATE),
            # Its frames are RGB, which is by default taken back to YUV by another matrix than the clips have.
            "ffmpeg_params": ["-vf", "scale=out_color_matrix=bt709:out_range=tv", *pictures(), *_FAST_START],
            "out": str(out),
        }


@dataclass(frozen=True, slots=True)
class Chain:
    """Many short clips: two of three fade into the one before, the third follows it by a cut."""

    clips: int
    #: Frames of a clip, and of a crossfade between two.
    length: int = 2 * FPS
    fade: int = FPS // 2

    def fades(self, n: int) -> bool:
        """Whether clip `n` comes in by a crossfade."""
        return n % 3 != 0

    @property
    def starts(self) -> tuple[int, ...]:
        """The frame of the film at which each clip begins."""
        steps = (self.length - (self.fade if self.fades(n) else 0) for n in range(1, self.clips))
        return tuple(accumulate(steps, initial=0))

    @property
    def frames(self) -> int:
        """Of the film."""
        return self.starts[-1] + self.length

    def begins(self, n: int) -> int:
        """The frame of its source at which clip `n` begins."""
        return n // 3 % 3 * FPS

    def params(self) -> dict[str, Any]:
        """Of a `video.edit` with the assets `clip0`, `clip1` and so on."""
        items = [
            {"type": "video", "asset": f"clip{n}", "in": {"f": self.begins(n)}, "duration": {"f": self.length}}
            | ({"transition": {"type": "fade", "duration": {"f": self.fade}}} if self.fades(n) else {})
            for n in range(self.clips)
        ]
        return _params([{"kind": "video", "items": items}])

    def source(self, material: Material, n: int) -> Path:
        """The file of which clip `n` is a part."""
        return material.clips[n % len(material.clips)]

    def assets(self, material: Material) -> dict[str, str]:
        """The paths of the timeline's assets."""
        return {f"clip{n}": str(self.source(material, n)) for n in range(self.clips)}


def pictures() -> list[str]:
    """ffmpeg's options for encoded pictures, without those that moviepy has names for."""
    return ["-crf", str(CRF), "-r", str(FPS), "-pix_fmt", "yuv420p", *_COLORS]


def make(folder: Path, seconds: int) -> Material:
    """Clips and music for films of up to so many seconds, and the title. Raises CalledProcessError."""
    clips = []
    for n, (pictures, tone) in enumerate(zip(_PICTURES, TONES, strict=True)):
        clips.append(folder / f"clip{n}.mp4")
        sources = ["-f", "lavfi", "-i", pictures, "-f", "lavfi", "-i", f"sine=f={tone}:r={RATE}"]
        how = ["-c:v", "libx264", "-preset", PRESET, "-crf", "16", "-pix_fmt", "yuv420p", *_COLORS, "-c:a", "aac"]
        _ffmpeg([*sources, "-t", str(seconds // 3 + BEGIN_S + 3), *how, "-ac", "2", str(clips[-1])])
    music = folder / "music.mp3"
    _ffmpeg(["-f", "lavfi", "-i", f"sine=f={MUSIC_HZ}:r={RATE}", "-t", str(seconds + 2), "-ac", "2", str(music)])
    title = folder / "title.png"
    box = [round(TITLE["box"][key] * side) for key, side in _SIDES]
    drawn = subprocess.run(
        [str(EXECUTOR_PYTHON), "-m", "bench.video_title", json.dumps([dict(TITLE), HEIGHT, box]), str(title)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    left, top, width, height = json.loads(drawn.stdout)
    return Material(tuple(clips), music, title, (left, top, width, height))


_SIDES = (("x", WIDTH), ("y", HEIGHT), ("width", WIDTH), ("height", HEIGHT))


def _ffmpeg(arguments: Sequence[str]) -> None:
    subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-y", *arguments], check=True)


def _params(tracks: list[dict[str, Any]]) -> dict[str, Any]:
    output = {
        "format": "mp4",
        "width": WIDTH,
        "height": HEIGHT,
        "fps": FPS,
        "sample_rate": RATE,
        "video": {"codec": "h264", "crf": CRF, "preset": PRESET},
        "audio": {"bitrate": BITRATE},
    }
    return {"version": 1, "output": output, "timeline": {"tracks": tracks}}
