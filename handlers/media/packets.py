"""A file looked over by one run of ffprobe: its streams, and how long they really are, by all their packets.

Containers state lengths that are estimated, missing, or lies; what was cut off after its header states a length that
it no longer has. Nothing is decoded but the first frames. Costs the reading of the file and some 6 seconds of CPU per
million packets (an hour of film has 0.3 million); memory is flat.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from handlers.declaration import Context
from handlers.media.ffmpeg import guards, query, source

#: Frames that may be stored out of order: more than any codec's reordering.
_REORDERED = 32

#: What demuxers say of a file that ends too early (mov; matroska; and others).
_CUT_OFF = ("partial file", "File ended prematurely", "Packet corrupt", "Truncating packet")

#: The whole of a file must be read within this time: some 100 GB.
_TIME_S = 600.0

_ENTRIES = (
    "packet=stream_index,pts,dts,duration,flags:packet_side_data=side_data_type"
    ":format=format_name,duration,start_time"
    ":stream=index,codec_type,codec_name,width,height,sample_aspect_ratio,pix_fmt,avg_frame_rate,time_base,"
    "color_space,color_range,color_transfer,color_primaries,sample_rate,channels,channel_layout,start_time,duration"
    ":stream_disposition=attached_pic,timed_thumbnails:stream_tags=alpha_mode:stream_side_data=rotation"
)
_INTEGER = r"(-?\d+|N/A)"
_PACKET = re.compile(rf"packet\|stream_index=(\d+)\|pts={_INTEGER}\|dts={_INTEGER}\|duration={_INTEGER}\|flags=([^|]*)")


@dataclass(slots=True)
class Track:
    """What the packets of one stream say; times in ticks of the stream's time base."""

    packets: int = 0
    first: int | None = None
    end: int | None = None
    encrypted: bool = False
    shortest: int | None = None
    longest: int | None = None
    #: Of sound, whose packets are stored in their order: what lies between them together.
    missing: int = 0
    #: Of sound: the end of the last packet, where a clock that begins anew (an Ogg behind another) counts on.
    ran_to: int = 0
    _waiting: list[int] = field(default_factory=list)
    _last: int | None = None
    _timed: bool = False
    _before: int | None = None
    _again: int = 0

    def add(self, at: int | None, duration: int) -> None:
        """One packet that is shown from `at` on."""
        self.packets += 1
        if at is None:
            at = self.end or 0
        if self.first is None or at < self.first:
            self.first = at
        if self._timed and self.end is not None and at > self.end:
            self.missing += at - self.end
        if self._before is not None and at < self._before:
            self._again = self.ran_to - at
        self._before, self.ran_to = at, self._again + at + duration
        # Of a packet that does not say how long it is, nobody knows whether a hole follows.
        self._timed = duration > 0
        if self.end is None or at + duration > self.end:
            self.end = at + duration
        if len(self._waiting) < _REORDERED:
            heapq.heappush(self._waiting, at)
        else:
            self._step(heapq.heappushpop(self._waiting, at))

    def close(self) -> None:
        """After the last packet."""
        while self._waiting:
            self._step(heapq.heappop(self._waiting))

    def _step(self, at: int) -> None:
        if self._last is not None:
            delta = at - self._last
            if self.shortest is None or delta < self.shortest:
                self.shortest = delta
            if self.longest is None or delta > self.longest:
                self.longest = delta
        self._last = at

    def varies(self, time_base: Fraction) -> bool:
        """Whether the time between frames varies by more than the rounding of times to milliseconds explains."""
        if self.shortest is None or self.longest is None:
            return False
        spread = self.longest - self.shortest
        return spread > 2 and spread * time_base > Fraction(2, 1000) and spread * 20 > self.longest


@dataclass(frozen=True, slots=True)
class Survey:
    """What ffprobe says of a file, by its own names."""

    form: Mapping[str, str]
    #: By index. Without what it does not know, which it calls `N/A` or `unknown`.
    streams: Mapping[int, Mapping[str, str]]
    #: By index; a stream without packets has none.
    tracks: Mapping[int, Track]
    #: What it complained about.
    said: str

    @property
    def cut_off(self) -> bool:
        """Whether the file ends where more was expected."""
        return any(sign in self.said for sign in _CUT_OFF)


async def survey(ctx: Context, path: Path) -> Survey:
    """Looks a file over under guards. Raises what `ffmpeg.query` raises, FfmpegFailed for what it cannot open."""
    form: dict[str, str] = {}
    streams: dict[int, dict[str, str]] = {}
    tracks: dict[int, Track] = {}

    def each(line: str) -> None:
        section, _, rest = line.partition("|")
        if section == "packet":
            _count(line, tracks)
        elif section == "stream" and (stream := _values(rest)).get("index", "").isdigit():
            streams[int(stream["index"])] = stream
        elif section == "format":
            form.update(_values(rest))

    arguments = [*guards(ctx.limits), "-show_entries", _ENTRIES, "-of", "compact", "-i", source(path)]
    said = (await query(ctx, arguments, each, time_s=_TIME_S)).stderr
    for track in tracks.values():
        track.close()
    return Survey(form, dict(sorted(streams.items())), tracks, said)


def _count(line: str, tracks: dict[int, Track]) -> None:
    found = _PACKET.match(line)
    if found is None:
        return
    index, shown, decoded, duration, flags = found.groups()
    track = tracks.get(int(index)) or tracks.setdefault(int(index), Track())
    if "Encryption info" in line:
        track.encrypted = True
    if "D" not in flags:  # else not to be shown: what a decoder needs before the first frame
        at = decoded if shown == "N/A" else shown
        track.add(None if at == "N/A" else int(at), 0 if duration == "N/A" else int(duration))


def _values(line: str) -> dict[str, str]:
    """`a=1|b=N/A|tag:c=3` without what is not known."""
    pairs = (part.partition("=") for part in line.split("|"))
    return {name: value for name, equals, value in pairs if equals and value not in {"N/A", "unknown"}}
