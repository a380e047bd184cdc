"""What is rendered: a timeline in whole output frames and exact fractions, every default filled in.

The planner (`layout`) makes it of a valid timeline and of what the assets are; the renderer reads nothing else. A
frame is a frame of the output; a time is in seconds, a `Fraction`. Frame `n` is shown from `n / fps` on, for `1 / fps`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction


class Fit(StrEnum):
    """How a picture fills its box."""

    CONTAIN = "contain"
    """All of it, with room at two sides (transparent: what lies below is seen; on the lowest track the background)."""
    COVER = "cover"
    """The whole box, cutting off what is beyond."""
    STRETCH = "stretch"
    """The whole box, whatever becomes of its proportions."""
    BLUR = "blur"
    """As contain, over a blurred copy of itself that covers the box."""
    NONE = "none"
    """As many pixels as it has, in the middle; what is beyond the box is cut off."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of pixels of the output: `x`, `y` from the upper left corner, all even."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle as parts of a whole, each 0 to 1."""

    x: Fraction
    y: Fraction
    width: Fraction
    height: Fraction


@dataclass(frozen=True, slots=True)
class KenBurns:
    """A slow move over a picture: what is seen goes from one region of it to another, linearly in time."""

    start: Region
    end: Region


@dataclass(frozen=True, slots=True)
class Transition:
    """How an item comes in over the one before it; both are on screen for `frames`."""

    #: A name of ffmpeg's `xfade`: `fade`, `wipeleft`, `dissolve`, ...
    type: str
    frames: int
    #: A curve of ffmpeg's `acrossfade`: `tri`, `qsin`, ...
    audio_curve: str


@dataclass(frozen=True, slots=True)
class Look:
    """How a picture is placed and treated."""

    box: Box
    fit: Fit = Fit.CONTAIN
    #: Of the source as it is looked at (after its own rotation); None: all of it.
    crop: Region | None = None
    opacity: float = 1.0
    #: Clockwise, in degrees: 0, 90, 180, 270.
    rotate: int = 0
    #: Mirrored left to right, upside down.
    flip_horizontal: bool = False
    flip_vertical: bool = False
    ken_burns: KenBurns | None = None
    #: Frames from and to transparency (on the lowest track: the background).
    fade_in: int = 0
    fade_out: int = 0


@dataclass(frozen=True, slots=True)
class Envelope:
    """A gain over time: linear factors at seconds from the item's start, straight lines between; constant outside."""

    points: tuple[tuple[Fraction, float], ...] = ((Fraction(0), 1.0),)


@dataclass(frozen=True, slots=True)
class Sound:
    """How an item sounds. An item without sound (a picture, a silent film) has none, and is silence."""

    volume: Envelope = Envelope()
    #: Seconds.
    fade_in: Fraction = Fraction(0)
    fade_out: Fraction = Fraction(0)


@dataclass(frozen=True, slots=True)
class Source:
    """The part of an asset that an item shows or plays."""

    asset: str
    #: Seconds into the asset where it begins.
    start: Fraction = Fraction(0)
    #: Seconds of the asset that are used: `frames / fps * speed`, less what `freeze` holds; with `loop` those of one
    #: round, from `start`. None: a still picture.
    length: Fraction | None = None
    speed: Fraction = Fraction(1)
    reverse: bool = False
    #: Frames at the item's end that show the last picture of the source again (`pad: freeze`).
    freeze: int = 0
    #: Whether it starts anew when it has come to its end, until the item ends (sound only).
    loop: bool = False


@dataclass(frozen=True, slots=True)
class TextStyle:
    """A title: how a text is set."""

    text: str
    #: Id of a font (`Context.fonts`).
    font: str
    #: Height of the type, in pixels.
    size: int
    #: `#rrggbb` or `#rrggbbaa`.
    color: str
    align: str
    """`left`, `center`, `right`."""
    valign: str
    """`top`, `middle`, `bottom`."""
    box_color: str | None = None
    """Of a plate behind the text; None: no plate."""
    stroke_color: str | None = None
    stroke_width: int = 0
    """Pixels of an outline."""
    line_spacing: float = 1.2


class ItemKind(StrEnum):
    """What an item is."""

    VIDEO = "video"
    IMAGE = "image"
    COLOR = "color"
    TEXT = "text"
    AUDIO = "audio"
    GAP = "gap"


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a track, on the output's clock. Items of a track overlap by their transitions and in no other way."""

    #: Where it stands in the message: `/params/timeline/tracks/0/items/2`.
    pointer: str
    kind: ItemKind
    #: First frame.
    start: int
    frames: int
    source: Source | None = None
    #: None for sound.
    look: Look | None = None
    sound: Sound | None = None
    text: TextStyle | None = None
    color: str | None = None
    transition: Transition | None = None
    """Into this item, from the one before it."""

    @property
    def end(self) -> int:
        """The frame after its last."""
        return self.start + self.frames


class TrackKind(StrEnum):
    """Whether a track is seen (and heard) or only heard."""

    VIDEO = "video"
    AUDIO = "audio"


class Role(StrEnum):
    """What a track is for; ducking names the roles that it gives way to."""

    MAIN = "main"
    OVERLAY = "overlay"
    DIALOGUE = "dialogue"
    MUSIC = "music"
    SFX = "sfx"


@dataclass(frozen=True, slots=True)
class Duck:
    """The track grows quieter while one of the roles `by` is heard."""

    by: frozenset[Role]
    #: By how much, in decibels, below 0.
    db: float
    #: Seconds until it is so quiet, and until it is back.
    attack: float
    release: float


@dataclass(frozen=True, slots=True)
class Track:
    """A track without holes: what no item fills is a gap item. It may end before the film does."""

    pointer: str
    kind: TrackKind
    role: Role
    items: tuple[Item, ...]
    #: A linear factor of all its sound.
    volume: float = 1.0
    duck: Duck | None = None


class SubtitleMode(StrEnum):
    """How subtitles are delivered."""

    BURN = "burn"
    """Drawn into the picture."""
    SOFT = "soft"
    """A stream of their own that a player shows or hides."""


@dataclass(frozen=True, slots=True)
class Subtitles:
    """Subtitles of an asset (SRT or WebVTT), on the film's clock (before `Plan.first`)."""

    pointer: str
    asset: str
    mode: SubtitleMode
    #: BCP 47, as `en`, `zh-Hans`; `und` where it is unknown.
    language: str
    font: str


class Format(StrEnum):
    """The file that is made."""

    MP4 = "mp4"
    WEBM = "webm"
    GIF = "gif"
    MP3 = "mp3"
    M4A = "m4a"
    WAV = "wav"

    @property
    def has_video(self) -> bool:
        """Whether it shows something."""
        return self in (Format.MP4, Format.WEBM, Format.GIF)

    @property
    def has_audio(self) -> bool:
        """Whether it can be heard."""
        return self is not Format.GIF


class VideoCodec(StrEnum):
    """Video codecs: H.264 and H.265 in MP4, VP9 in WebM."""

    H264 = "h264"
    HEVC = "hevc"
    VP9 = "vp9"


@dataclass(frozen=True, slots=True)
class VideoEncoding:
    """How pictures are encoded."""

    codec: VideoCodec = VideoCodec.H264
    crf: int = 20
    preset: str = "veryfast"


@dataclass(frozen=True, slots=True)
class AudioEncoding:
    """How sound is encoded; the codec follows from the format (AAC, Opus, MP3, PCM)."""

    #: Bits a second.
    bitrate: int = 192_000


@dataclass(frozen=True, slots=True)
class Loudness:
    """EBU R 128: integrated loudness (LUFS), true peak (dBTP), loudness range (LU)."""

    i: float = -16.0
    tp: float = -1.5
    lra: float = 11.0


@dataclass(frozen=True, slots=True)
class Canvas:
    """The picture that everything is drawn on, and its clocks."""

    #: Even, in pixels.
    width: int
    height: int
    #: Frames a second.
    fps: Fraction
    #: Samples a second, stereo.
    sample_rate: int = 48_000
    #: `#rrggbb`.
    background: str = "#000000"

    def samples(self, frame: int) -> int:
        """The sample at which a frame begins: lengths are differences of these, so that nothing drifts."""
        return round(frame * self.sample_rate / self.fps)

    def seconds(self, frames: int) -> Fraction:
        """How long so many frames are."""
        return frames / self.fps


@dataclass(frozen=True, slots=True)
class Plan:
    """A film, ready to be rendered."""

    canvas: Canvas
    format: Format
    #: Lowest first. The first visual track lies on the background.
    tracks: tuple[Track, ...]
    #: Length of the whole timeline; the output has the frames `first` to `last` of it (`last` is not among them).
    frames: int
    first: int
    last: int
    #: None: no sound is asked for, or the format has none.
    audio: AudioEncoding | None
    #: None: the format shows nothing.
    video: VideoEncoding | None
    loudness: Loudness | None = None
    #: A frame of the timeline that becomes a picture of its own, `outputs/poster`.
    poster: int | None = None
    subtitles: tuple[Subtitles, ...] = field(default=())

    @property
    def length(self) -> int:
        """Frames of the output."""
        return self.last - self.first
