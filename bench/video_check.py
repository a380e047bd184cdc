"""Whether a film of `bench.video` is the film that was asked for: of all contestants the same is demanded."""

from __future__ import annotations

import json
import math
import subprocess
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bench.video_edit import (
    BEGIN_S,
    FADE,
    FPS,
    HEIGHT,
    MUSIC_HZ,
    TITLE_AT_S,
    TITLE_S,
    TONES,
    WIDTH,
    Chain,
    Edit,
    Material,
)

#: Pictures are compared in grey at this size, sounds at this rate.
_WIDE, _HIGH, _RATE = 160, 90, 4000
#: Mean difference of two pictures (0 to 255) that come of the same one: encoding, and other matrices of colour.
_ALIKE = 4.0
#: Two pictures that differ less than this could not be told apart from their mix.
_DISTINCT = 12.0
_SLACK_S = 0.1


class WrongFilm(Exception):
    """It is not what was asked for."""


def check_edit(edit: Edit, material: Material, film: Path) -> None:
    """Raises WrongFilm."""
    faults = [*_length(film, edit.frames), *_fades(edit, material, film), *_title(material, film)]
    faults += _sound(edit, film)
    if faults:
        raise WrongFilm(f"{film.name}: " + "; ".join(faults))


def check_chain(chain: Chain, material: Material, film: Path) -> None:
    """Raises WrongFilm."""
    faults = list(_length(film, chain.frames))
    for n, start in enumerate(chain.starts):
        middle = chain.length // 2
        found = picture(film, start + middle)
        difference = apart(found, picture(chain.source(material, n), chain.begins(n) + middle))
        if difference > _ALIKE:
            faults.append(f"clip {n} is not seen at frame {start + middle}: it differs by {difference:.1f}")
    if faults:
        raise WrongFilm(f"{film.name}: " + "; ".join(faults))


def picture(film: Path, frame: int) -> bytes:
    """A frame in grey, small."""
    # Half a frame before it, so that no rounding gives the one after.
    seek = f"{max(0.0, (frame - 0.5) / FPS):.6f}"
    how = ["-frames:v", "1", "-vf", f"scale={_WIDE}:{_HIGH}:flags=area,format=gray", "-f", "rawvideo", "pipe:1"]
    made = subprocess.run(
        ["ffmpeg", "-nostdin", "-v", "error", "-ss", seek, "-i", str(film), *how], capture_output=True, check=True
    ).stdout
    if len(made) != _WIDE * _HIGH:
        raise WrongFilm(f"{film.name} has no frame {frame}")
    return made


def apart(one: Sequence[float], other: Sequence[float], places: Iterable[int] | None = None) -> float:
    """Mean difference of two pictures, at these places or all over."""
    chosen = range(len(one)) if places is None else list(places)
    return sum(abs(one[at] - other[at]) for at in chosen) / len(chosen)


def mixed(before: Sequence[int], after: Sequence[int]) -> list[float]:
    """Two pictures at the middle of a crossfade."""
    return [(one + other) / 2 for one, other in zip(before, after, strict=True)]


def amplitude(samples: Sequence[int], hz: float, rate: int) -> float:
    """Of a tone among others (Goertzel): full scale is 32768."""
    step = 2 * math.cos(2 * math.pi * hz / rate)
    last = before = 0.0
    for sample in samples:
        last, before = sample + step * last - before, last
    return 2 * math.sqrt(max(0.0, last * last + before * before - step * last * before)) / len(samples)


def _length(film: Path, frames: int) -> Iterator[str]:
    entries = "stream=codec_type,nb_read_frames,width,height,duration:format=duration"
    probe = ["ffprobe", "-v", "error", "-count_frames", "-show_entries", entries, "-of", "json", str(film)]
    found = json.loads(subprocess.run(probe, capture_output=True, check=True).stdout)
    streams = {stream["codec_type"]: stream for stream in found["streams"]}
    video = streams["video"]
    if int(video["nb_read_frames"]) != frames:
        yield f"{video['nb_read_frames']} frames, {frames} expected"
    if (video["width"], video["height"]) != (WIDTH, HEIGHT):
        yield f"{video['width']} x {video['height']} pixels"
    for what, seconds in (("film", found["format"]["duration"]), ("sound", streams["audio"]["duration"])):
        if abs(float(seconds) - frames / FPS) > _SLACK_S:
            yield f"{what} of {seconds} s, {frames / FPS:.3f} expected"


def _fades(edit: Edit, material: Material, film: Path) -> Iterator[str]:
    for n in (1, 2):
        half = FADE // 2
        at = edit.starts[n] + half
        before = picture(material.clips[n - 1], BEGIN_S * FPS + at - edit.starts[n - 1])
        after = picture(material.clips[n], BEGIN_S * FPS + half)
        if (distinct := apart(before, after)) < _DISTINCT:
            yield f"clips {n - 1} and {n} are too much alike to tell ({distinct:.1f})"
        if (difference := apart(picture(film, at), mixed(before, after))) > _ALIKE:
            yield f"frame {at} is no mix of both clips: it differs by {difference:.1f}"


def _title(material: Material, film: Path) -> Iterator[str]:
    left, top, width, height = material.covers
    scale = WIDTH // _WIDE
    inside = [
        row * _WIDE + column
        for row in range(-(-top // scale), (top + height) // scale)
        for column in range(-(-left // scale), (left + width) // scale)
    ]
    first = TITLE_AT_S * FPS
    for frame, shown in ((first - 1, False), (first, True), (first + TITLE_S * FPS - 1, True)):
        found, bare = picture(film, frame), picture(material.clips[0], BEGIN_S * FPS + frame)
        difference = apart(found, bare, inside)
        if shown != (difference > _DISTINCT):
            yield f"the title is {'not ' if shown else ''}seen at frame {frame} ({difference:.1f})"


def _sound(edit: Edit, film: Path) -> Iterator[str]:
    decode = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(film), "-ac", "1", "-ar", str(_RATE), "-f", "s16le", "-"]
    samples = array("h", subprocess.run(decode, capture_output=True, check=True).stdout)

    def heard(hz: int, frame: int) -> float:
        middle = frame * _RATE // FPS
        return amplitude(samples[middle - _RATE // 20 : middle + _RATE // 20], hz, _RATE)

    middles = [start + length // 2 for start, length in zip(edit.starts, edit.lengths, strict=True)]
    plain = [heard(tone, middle) for tone, middle in zip(TONES, middles, strict=True)]
    music = [heard(MUSIC_HZ, middle) for middle in middles]
    if min(plain) < 500 or min(music) < 250:
        yield f"clips or music are not heard: {plain}, {music}"
        return
    for n in (1, 2):
        at = edit.starts[n] + FADE // 2
        for clip in (n - 1, n):
            part = heard(TONES[clip], at) / plain[clip]
            if not 0.4 < part < 0.6:
                yield f"clip {clip} has {part:.2f} of its loudness at frame {at}, in the middle of a crossfade"
