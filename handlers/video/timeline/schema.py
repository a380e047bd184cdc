"""The params of `video.edit`: a timeline, version 1, and the file that is made of it.

Validation here looks at one value at a time; what only several show together is found by `layout.problems`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from handlers.declaration import Params
from handlers.video.timeline.faults import CONTRACT
from handlers.video.timeline.items import AssetName, FontId, Item, Keys, OpaqueColor
from handlers.video.timeline.merge import MOST_NAMES, Scalar, merged
from handlers.video.timeline.plan import Format, Role, SubtitleMode, TrackKind, VideoCodec
from handlers.video.timeline.times import Moment, Rate

MOST_TRACKS = 50
MOST_ITEMS = 2000

_EXAMPLE: dict[str, JsonValue] = {
    "tracks": [
        {
            "kind": "video",
            "items": [
                {"type": "color", "color": "#102a43", "duration": 3},
                {
                    "type": "text",
                    "text": "A summer by the sea",
                    "duration": 2.5,
                    "transition": {"type": "fade", "duration": 0.5},
                },
            ],
        }
    ]
}


class VideoOutput(Keys):
    """A video codec and its settings."""

    codec: VideoCodec | None = Field(
        default=None, description="`h264` or `hevc` in mp4, `vp9` in webm; else the first of these."
    )
    crf: int | None = Field(
        default=None,
        ge=1,
        le=63,
        description="Quality: less is better and larger; at most 51 but for vp9. Else 20 for h264, 24 for hevc, 32 for"
        " vp9.",
    )
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"] = (
        Field(default="veryfast", description="Slower ones make a smaller file of the same quality.")
    )


class AudioOutput(Keys):
    """How sound is encoded: AAC in mp4 and m4a, Opus in webm, MP3 in mp3, PCM in wav."""

    bitrate: int | None = Field(
        default=None,
        ge=16_000,
        le=512_000,
        description="Bits a second; at most 320,000 in mp3. Else 128,000 in webm, 192,000 in the others.",
    )


class LoudnessTarget(Keys):
    """EBU R 128, in two passes: measured, then set."""

    i: float = Field(default=-16.0, ge=-70, le=-5, description="Integrated loudness, LUFS.")
    tp: float = Field(default=-1.5, ge=-9, le=0, description="Highest true peak, dBTP.")
    lra: float = Field(default=11.0, ge=1, le=50, description="Loudness range, LU.")


class Range(Keys):
    """A part of the film."""

    start: Moment = Field(description="Where it begins.")
    end: Moment | None = Field(default=None, description="Where it ends; else with the film.")


class Output(Keys):
    """What is made: a file, its size, clock and encoding."""

    format: Format = Field(
        default=Format.MP4, description="Container; `mp3`, `m4a` and `wav` are sound alone, `gif` is silent."
    )
    width: int | None = Field(
        default=None,
        ge=16,
        le=4096,
        multiple_of=2,
        description="Pixels. Without it and `height` those of the first film of the main track, else 1280 x 720; one"
        " alone gives the other.",
    )
    height: int | None = Field(default=None, ge=16, le=4096, multiple_of=2, description="Pixels.")
    fps: Rate | None = Field(
        default=None, description="Frames a second. Else those of the first film of the main track, else 30."
    )
    sample_rate: Literal[16000, 22050, 24000, 32000, 44100, 48000, 96000] = Field(
        default=48_000, description="Samples a second of the sound, which is stereo."
    )
    video: VideoOutput = Field(default_factory=VideoOutput, description="How pictures are encoded.")
    audio: AudioOutput | None = Field(
        default_factory=AudioOutput, description="How sound is encoded; null: the film is silent."
    )
    loudness: LoudnessTarget | None = Field(
        default=None, description="Brings the sound to a loudness; else it is left."
    )
    range: Range | None = Field(default=None, description="Only this part of the film is made.")
    poster: Moment | None = Field(
        default=None, description="A moment of the film that becomes a picture of its own, the output `poster`."
    )


class Ducking(Keys):
    """How a track gives way to others."""

    by: Annotated[list[Role], Field(min_length=1, max_length=5)] = Field(
        description="Roles of the tracks that it gives way to, while they are heard."
    )
    db: float = Field(default=-12.0, ge=-60, lt=0, description="By how many decibels it becomes quieter.")
    attack: float = Field(default=0.2, ge=0.005, le=2, description="Seconds until it is quieter.")
    release: float = Field(default=0.8, ge=0.01, le=9, description="Seconds until it is back.")


class Track(Keys):
    """Items one after the other. Later tracks lie above earlier ones; the sounds of all are mixed."""

    kind: TrackKind = Field(description="`video` is seen, and heard too; `audio` takes only sounds and gaps.")
    role: Role | None = Field(
        default=None,
        description="What it is for. The longest `main` track gives the film its length. Else the first video track is"
        " `main` where none is, further ones are `overlay`, audio tracks are `music`.",
    )
    volume: float = Field(default=1.0, ge=0, le=10, description="Factor of all its sound.")
    duck: Ducking | None = Field(default=None, description="Becomes quieter while other tracks are heard.")
    items: Annotated[list[Item], Field(min_length=1, max_length=MOST_ITEMS)] = Field(
        description="What it shows or plays, in the order of time."
    )


class SubtitleFile(Keys):
    """Subtitles, SubRip or WebVTT, on the clock of the film."""

    asset: AssetName = Field(description="Name of the file among `inputs.assets`.")
    mode: SubtitleMode = Field(
        default=SubtitleMode.BURN,
        description="`burn` draws them into the picture, `soft` makes a stream that a player can show.",
    )
    language: Annotated[str, Field(pattern=r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,4}$")] = Field(
        default="und", description="Their language, as `en` or `zh-Hans`; `und`: not known."
    )
    font: FontId | None = Field(
        default=None, description="Id of a font, where they are drawn into the picture; else `sans`."
    )


class Timeline(Keys):
    """The film."""

    model_config = {"json_schema_extra": {"examples": [_EXAMPLE]}}

    background: OpaqueColor = Field(default="#000000", description="What is seen where no track shows anything.")
    tracks: Annotated[list[Track], Field(min_length=1, max_length=MOST_TRACKS)] = Field(
        description="From the lowest to the topmost."
    )
    subtitles: Annotated[list[SubtitleFile], Field(max_length=8)] = Field(
        default_factory=list, description="Files of subtitles."
    )


class EditParams(Params):
    """A film of assets, and how it is encoded."""

    version: Literal[1] = Field(description="Version of the timeline format.")
    output: Output = Field(default_factory=Output, description="The file that is made.")
    timeline: Timeline = Field(
        description="What is seen and heard, when. A time is a number of seconds (1.5), a fraction of them"
        ' ("1001/30000") or a number of frames of the output ({"f": 45}); all times are moved to the nearest frame.'
    )
    merge: Annotated[dict[str, Scalar], Field(max_length=MOST_NAMES)] | None = Field(
        default=None,
        json_schema_extra={"default": {}},
        description="Values by name: `{{NAME}}` in any text of `output` and `timeline` becomes the value. A text that"
        " is only this becomes the value itself, a number too. null: texts are taken as they are.",
    )

    @model_validator(mode="wrap")
    @classmethod
    def _merged(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Fills placeholders first, so that every place is checked with what will stand there."""
        if not isinstance(value, dict):
            return handler(value)
        filled, faults = merged(value)
        try:
            params = handler(filled)
        except ValidationError as error:
            if not faults:
                raise
            faults += map(_again, error.errors(include_url=False))
        else:
            if not faults:
                return params
        raise ValidationError.from_exception_data(cls.__name__, faults)


def _again(details: ErrorDetails) -> InitErrorDetails:
    """An error as it can be raised once more."""
    context = details.get("ctx", {})
    kind: str | PydanticCustomError = details["type"]
    if kind == CONTRACT:
        kind = PydanticCustomError(CONTRACT, "{what}; {fix}", context)
    return InitErrorDetails(type=kind, loc=details["loc"], input=details["input"], ctx=context)
