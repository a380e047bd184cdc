"""What is no sound or film, by its first bytes: said in words, before any program looks at it.

This is for good messages. What keeps hostile files from being followed are the guards of `handlers.media.ffmpeg`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from handlers.errors import InvalidInput
from handlers.media.ffmpeg import source
from handlers.media.frames import count_frames
from handlers.media.sniff import READ, sniff
from handlers.protocol import Limits

SEND = "send MP4, MOV, WebM, MKV, MP3, M4A, WAV, FLAC or Ogg"

_HEAD_BYTES = 4096

_PLAYLIST = "a playlist (a list of addresses, not the media itself): send the media file that it names"
#: How text begins, in lower case -> what it is and what to do.
_TEXTS: tuple[tuple[bytes, str], ...] = (
    (b"#extm3u", _PLAYLIST),
    (b"[playlist]", _PLAYLIST),
    (b"<asx", _PLAYLIST),
    (b"ffconcat", _PLAYLIST),
    (b"v=0", "a session description (SDP), not the media itself: record the stream, and send the recording"),
    (b"webvtt", "subtitles: send the sound or film"),
    (b"[script info]", "subtitles: send the sound or film"),
)
_SUBRIP = re.compile(rb"\d+\r?\n\d\d:\d\d:\d\d[,.]\d+ -->")
_PICTURES = frozenset({*READ, "HEIC"})
#: Kinds by `sniff` that may well be sound or film.
_MEDIA = frozenset({"WAVE", "AVI film", "MP4 film", "Matroska or WebM film", "MP3", "Ogg", "FLAC"})

#: Boxes that an ISO media file may begin with; QuickTime's older files have no `ftyp`.
_BOXES = frozenset({b"ftyp", b"styp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})

#: A page of Ogg has at most 65,307 bytes.
_LAST_PAGE_BYTES = 1 << 17

#: A RIFF of at least this size is written as it comes: its size was not known.
_ENDLESS_RIFF = 0x7FFF_0000


@dataclass(frozen=True, slots=True)
class Head:
    """What the first bytes say."""

    #: Whether Matroska says that it is WebM.
    webm: bool
    #: Whether it is an ISO media file (MP4), and whether that says that it is QuickTime.
    iso: bool
    quicktime: bool
    #: Whether an MP3 states its length, so that it is not estimated from its first frames.
    stating: bool
    #: Whether a RIFF file is shorter than it says, or an Ogg ends without its last page.
    cut_off: bool


def look(path: Path, of: str) -> Head:
    """Raises InvalidInput for a file that is empty, a picture, text, a playlist or the like."""
    size = path.stat().st_size
    if size == 0:
        raise InvalidInput(f"{of} is empty (0 bytes): upload it again")
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        if (text := _text(head)) is not None:
            raise InvalidInput(f"{of} is not sound or film but {text}")
        kind = sniff(head[:64])
        moving = kind in {"GIF", "PNG"} and (count_frames(file, kind, 2) or 1) > 1
        if kind in _PICTURES and not moving:
            raise InvalidInput(f"{of} is not sound or film but a picture ({kind}): {SEND}")
        stating, unended = _states_length(file), kind == "Ogg" and _without_end(file, size)
    if kind is not None and kind not in _MEDIA and not moving:
        raise InvalidInput(f"{of} is not sound or film but {_article(kind)}: {SEND}")
    riff = int.from_bytes(head[4:8], "little") if head[:4] == b"RIFF" else 0
    return Head(
        webm=b"webm" in head[:64],
        iso=head[4:8] in _BOXES,
        quicktime=head[4:12] == b"ftypqt  " or head[4:8] in _BOXES - {b"ftyp", b"styp"},
        stating=stating,
        cut_off=unended or (size < riff + 8 and riff < _ENDLESS_RIFF),
    )


def _states_length(file: BinaryIO) -> bool:
    """Whether the first frame of an MP3, after what ID3 tells, is a Xing header (`Info` for a constant bit rate)."""
    file.seek(0)
    head = file.read(10)
    if head[:3] == b"ID3" and len(head) == 10:
        file.seek(10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)))
    else:
        file.seek(0)
    frame = file.read(200)
    return b"Xing" in frame or b"Info" in frame


def _without_end(file: BinaryIO, size: int) -> bool:
    """Whether the last page of an Ogg is not marked as its stream's last. RFC 3533."""
    file.seek(max(0, size - _LAST_PAGE_BYTES))
    tail = file.read()
    at = tail.rfind(b"OggS")
    return at < 0 or len(tail) < at + 6 or not tail[at + 5] & 4


def _text(head: bytes) -> str | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for begins, what in _TEXTS:
        if start[:32].lower().startswith(begins):
            return what
    if start.startswith(b"<") and b"<mpd" in start.lower():
        return _PLAYLIST
    return "subtitles: send the sound or film" if _SUBRIP.match(start) else None


def _article(kind: str) -> str:
    return kind if kind.startswith(("a ", "an ")) or kind in {"text", "gzip"} else f"{kind} (a document or a page)"


def explain(stderr: str, head: Head, path: Path, limits: Limits, of: str) -> str:
    """What ffprobe meant when it could not open a file."""
    if "max_streams" in stderr:
        return f"{of} has more than the limit of {limits.max_streams} streams: send a file with fewer"
    if "max pixel count" in stderr:
        return too_many_pixels(limits, of)
    if "moov atom not found" in stderr and head.iso:
        return f"{of} is an MP4 or MOV that is cut off (the index at its end is missing): upload it again"
    if "End of file" in stderr:
        return f"{of} is cut off before its first sound or picture: upload it again"
    if "Format not on whitelist" in stderr:
        return f"{of} is of a kind that is not read: {SEND}"
    if refused := re.findall(r"Codec \((\w+)\) not on whitelist", stderr):
        return not_read(refused, of)
    return f"{of} is not sound or film that can be read ({cleaned(stderr, path)}): {SEND}"


def too_many_pixels(limits: Limits, of: str) -> str:
    """Said of a film with large frames."""
    return f"{of} has more than the limit of {limits.max_pixels:,} pixels a frame: send a smaller film"


def not_read(codecs: Sequence[str], of: str) -> str:
    """Said of a film in codecs that are not read."""
    names = " and ".join(dict.fromkeys(codecs))
    return f"{of} is encoded as {names}, which is not read: {SEND} (H.264, AAC or the like)"


def cleaned(stderr: str, path: Path) -> str:
    """The last sentence of what ffmpeg said, without names of this machine and addresses in its memory."""
    lines = [line for line in stderr.splitlines() if line.strip() and "Last message repeated" not in line]
    if not lines:
        return "no reason was given"
    said = lines[-1].replace(source(path), "it").replace(str(path.absolute()), "it").replace(str(path), "it")
    said = re.sub(r"\[(\S+) @ 0x[0-9a-f]+\]", r"\1:", said)
    # What stands before a colon is what is wrong, what stands after it is what to do.
    return said.removeprefix("it: ").replace(": ", ", ").strip()[:200]
