"""Sound and film to test with, good, odd and hostile; made by ffmpeg or byte by byte, tiny, in a few milliseconds.

Every maker writes the file it is given and returns its path. Pictures are `testsrc` (every frame differs), sound is a
sine of 440 Hz unless something else is said.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from handlers.media.ffmpeg import fps_mode

Fps = int | str | Fraction

_VIDEO = {
    "libx264": ["-c:v", "libx264", "-preset", "ultrafast", "-threads", "1"],
    "libx265": ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:pools=1"],
    "libvpx-vp9": ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "200k"],
}


def make(*arguments: str | Path) -> None:
    """Runs ffmpeg without any guard."""
    argv = ["ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "error", "-y", *map(str, arguments)]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


def clip(
    path: Path,
    seconds: float = 1.0,
    fps: Fps = 25,
    size: tuple[int, int] = (160, 120),
    *,
    audio: str | None = "sine=f=440:r=48000",
    codec: str = "libx264",
    video: str = "testsrc",
    pixel_format: str = "yuv420p",
    options: Sequence[str] = (),
) -> Path:
    """A film; the suffix of `path` chooses the container. `audio` and `video` are sources of lavfi; None: silent."""
    arguments = ["-f", "lavfi", "-i", f"{video}=s={size[0]}x{size[1]}:r={fps}:d={seconds}"]
    if audio is not None:
        arguments += ["-f", "lavfi", "-t", str(seconds), "-i", audio]
    encoder = _VIDEO.get(codec, ["-c:v", codec])
    make(*arguments, *encoder, "-pix_fmt", pixel_format, "-t", str(seconds), *options, path)
    return path


def sound(
    path: Path,
    seconds: float = 1.0,
    rate: int = 48_000,
    *,
    source: str = "sine=f=440",
    channels: int = 1,
    options: Sequence[str] = (),
) -> Path:
    """Sound alone; the suffix of `path` chooses container and codec."""
    arguments = ["-f", "lavfi", "-t", str(seconds), "-i", source, "-ar", str(rate), "-ac", str(channels)]
    make(*arguments, *options, path)
    return path


def surround(path: Path, seconds: float = 1.0, only: int | None = None) -> Path:
    """5.1 sound; with `only`, the other five channels are silent."""
    tones = [0 if only not in (None, number) else 0.5 for number in range(6)]
    source = "aevalsrc=" + "|".join(f"{loud}*sin(880*PI*t)" for loud in tones) + ":c=5.1:s=48000"
    make("-f", "lavfi", "-t", str(seconds), "-i", source, path)
    return path


def vfr(path: Path, frames: int = 30, size: tuple[int, int] = (160, 120), *, audio: bool = True) -> Path:
    """A film of about 25 frames a second whose frames are shown for unlike times."""
    arguments = ["-f", "lavfi", "-i", f"testsrc=s={size[0]}x{size[1]}:r=25:d={frames / 25}"]
    if audio:
        arguments += ["-f", "lavfi", "-t", str(frames / 25), "-i", "sine=f=440:r=48000"]
    uneven = "settb=1/90000,setpts='(N/25+0.013*mod(N,3))/TB'"
    make(*arguments, "-vf", uneven, *_VIDEO["libx264"], *fps_mode("passthrough"), path)
    return path


def rotated(path: Path, degrees: int, seconds: float = 0.4, size: tuple[int, int] = (160, 120)) -> Path:
    """A film as phones make them (MP4): to be turned clockwise by `degrees` to be looked at; `size` is before that."""
    clip(path, seconds, size=size)
    a, b = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    data = bytearray(path.read_bytes())
    # ISO 14496-12, track header, version 0: the matrix is 40 bytes after its name and says (a b u c d v x y w).
    at = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, -b * one, a * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def cut(path: Path, part: float, to: Path) -> Path:
    """The first `part` (0 to 1) of a file's bytes."""
    data = path.read_bytes()
    to.write_bytes(data[: int(len(data) * part)])
    return to


def wav(path: Path, samples: Sequence[float], rate: int = 16_000, channels: int = 1) -> Path:
    """A WAV of 32-bit floats, which may be NaN or infinite, or none at all."""
    data = struct.pack(f"<{len(samples)}f", *samples)
    form = struct.pack("<HHIIHH", 3, channels, rate, rate * 4 * channels & 0xFFFF_FFFF, 4 * channels, 32)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


def no_frames(path: Path) -> Path:
    """A film with a video stream and not one frame in it."""
    make("-f", "lavfi", "-i", "testsrc=s=160x120:r=25:d=0", *_VIDEO["libx264"], path)
    return path


def with_cover(path: Path, seconds: float = 1.0) -> Path:
    """Sound with a picture of its cover (MP3, M4A)."""
    make(
        "-f", "lavfi", "-t", str(seconds), "-i", "sine=f=440:r=44100", "-f", "lavfi", "-i", "testsrc=s=64x64:r=1:d=1",
        "-map", "0", "-map", "1", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-frames:v", "1",
        "-disposition:v", "attached_pic", path,
    )  # fmt: skip
    return path


def many_streams(path: Path, count: int) -> Path:
    """Matroska with `count` sound tracks."""
    tracks = [part for _ in range(count) for part in ("-map", "0:a")]
    make("-f", "lavfi", "-t", "0.05", "-i", "sine=f=440:r=8000", *tracks, "-c:a", "pcm_s16le", path)
    return path


def claiming(path: Path, seconds: float, real: float = 1.0) -> Path:
    """Matroska of `real` seconds whose header claims `seconds`."""
    clip(path, real)
    data = bytearray(path.read_bytes())
    at = data.index(b"\x44\x89\x88") + 3  # Duration, a double of 8 bytes, in milliseconds
    data[at : at + 8] = struct.pack(">d", seconds * 1000)
    path.write_bytes(data)
    return path


def encrypted(path: Path) -> Path:
    """MP4 under Common Encryption."""
    key = ["-encryption_scheme", "cenc-aes-ctr", "-encryption_key", "76a6c65c5ea762046bd749a2e632ccbb"]
    return clip(path, 0.4, options=[*key, "-encryption_kid", "a7e61c373e219033c21091fa607bf3b8"])


def frame_bomb(path: Path, side: int = 9000) -> Path:
    """Matroska that claims frames of 64 x 64 pixels and has a PNG of `side` x `side` in it; some 100 KB."""
    make("-f", "lavfi", "-i", f"color=s={side}x{side}:r=1:d=1", "-pix_fmt", "monob", "-c:v", "png", path)
    data = bytearray(path.read_bytes())
    for name in (b"\xb0\x82", b"\xba\x82"):  # PixelWidth, PixelHeight, of two bytes
        at = data.index(name + side.to_bytes(2, "big")) + 2
        data[at : at + 2] = (64).to_bytes(2, "big")
    path.write_bytes(data)
    return path


def late(path: Path, jump: float) -> Path:
    """A film of ten frames, of which the last five come `jump` seconds later."""
    shifted = f"settb=1/1000,setpts='N*40+gt(N,4)*{jump}*1000'"
    make("-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=0.4", "-vf", shifted, "-c:v", "mjpeg", *fps_mode("vfr"), path)
    return path


def with_holes(path: Path, hole_s: float, count: int = 1) -> Path:
    """Sound in parts of half a second with `hole_s` seconds of nothing between them."""
    shifted = f"asetpts='PTS+floor(T/0.5)*{hole_s}/TB'"
    source = f"sine=f=440:r=48000:d={(count + 1) / 2}"
    make("-f", "lavfi", "-i", source, "-af", shifted, "-c:a", "pcm_s16le", path)
    return path


def one_behind_the_other(path: Path, parts: Sequence[tuple[int, int]], seconds: float = 2.0) -> Path:
    """Files of one container, named by the suffix of `path`, as one: (rate, channels) of each."""
    data = []
    for number, (rate, channels) in enumerate(parts):
        part = path.with_name(f"part-{number}{path.suffix}")
        at = ["-output_ts_offset", str(number * seconds)] if path.suffix == ".ts" else []
        codec = ["-c:a", "mp2"] if path.suffix == ".ts" else []
        data.append(sound(part, seconds, rate, channels=channels, options=[*codec, *at]).read_bytes())
    path.write_bytes(b"".join(data))
    return path


# --- files that are lists of other files ----------------------------------------------------------------------------


def hls(path: Path, address: str) -> Path:
    """An HLS playlist of one segment."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:10", "#EXTINF:10,", address, "#EXT-X-ENDLIST", ""]
    path.write_text("\n".join(lines))
    return path


def elsewhere(path: Path, target: Path) -> Path:
    """QuickTime whose samples lie in another file: its data reference is an alias of it."""
    sound(path, 0.2, 16_000, options=["-f", "mov", "-c:a", "pcm_s16le"])
    data = bytearray(path.read_bytes())
    name = str(target).encode()
    alias = bytes(10) + b"\x04" + b"disk".ljust(27, b"\0") + bytes(12) + b"\x01" + b"x".ljust(63, b"\0") + bytes(16)
    alias += struct.pack(">hh", -1, -1) + bytes(16) + struct.pack(">HH", 2, len(name)) + name + bytes(len(name) % 2)
    alias += struct.pack(">hH", -1, 0)
    box = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    index = data.rindex(b"moov")
    # The first reference is that of the sound; what ffmpeg writes is 12 bytes long.
    start = data.index(b"dref", index) + 12
    longer = len(box) - int.from_bytes(data[start : start + 4], "big")
    data[start : start + len(box) - longer] = box
    for outer in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = data.index(outer, index) - 4
        data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") + longer).to_bytes(4, "big")
    path.write_bytes(data)
    return path


def ffconcat(path: Path, address: str) -> Path:
    """A script of ffmpeg's concat demuxer."""
    path.write_text(f"ffconcat version 1.0\nfile '{address}'\n")
    return path


def dash(path: Path, address: str) -> Path:
    """A DASH manifest of one segment."""
    path.write_text(
        f"""<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"
 profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4">
<Representation id="1" bandwidth="1"><BaseURL>{address}</BaseURL><SegmentBase/></Representation>
</AdaptationSet></Period></MPD>
"""
    )
    return path


def sdp(path: Path, address: str = "127.0.0.1") -> Path:
    """A session description: ffmpeg would listen on a port."""
    path.write_text(f"v=0\no=- 0 0 IN IP4 {address}\ns=x\nc=IN IP4 {address}\nt=0 0\nm=audio 40000 RTP/AVP 0\n")
    return path


def pls(path: Path, address: str) -> Path:
    """A playlist as radio stations hand them out."""
    path.write_text(f"[playlist]\nFile1={address}\nLength1=10\nNumberOfEntries=1\nVersion=2\n")
    return path


def svg(path: Path, address: str) -> Path:
    """A drawing that shows another file."""
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="{address}"/></svg>')
    return path
