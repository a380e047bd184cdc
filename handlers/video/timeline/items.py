"""What a track may hold: each type of item takes the keys that mean something for it, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, JsonValue, Tag, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from handlers.declaration import Params
from handlers.video.timeline.faults import wrong
from handlers.video.timeline.plan import Fit
from handlers.video.timeline.times import AUTO, Duration, Length, Moment, Part, Speed, Time, Volume

#: Names of ffmpeg's `xfade`, all those of version 5.1 that take no expression.
TransitionType = Literal[
    "fade", "fadeblack", "fadewhite", "fadegrays", "dissolve", "pixelize", "distance", "radial", "hblur", "zoomin",
    "wipeleft", "wiperight", "wipeup", "wipedown", "wipetl", "wipetr", "wipebl", "wipebr",
    "slideleft", "slideright", "slideup", "slidedown", "smoothleft", "smoothright", "smoothup", "smoothdown",
    "circleopen", "circleclose", "circlecrop", "rectcrop", "vertopen", "vertclose", "horzopen", "horzclose",
    "diagtl", "diagtr", "diagbl", "diagbr", "hlslice", "hrslice", "vuslice", "vdslice", "squeezeh", "squeezev",
]  # fmt: skip
#: Names of the curves of ffmpeg's `acrossfade`.
AudioCurve = Literal[
    "tri", "qsin", "hsin", "esin", "log", "ipar", "qua", "cub", "squ", "cbr", "par", "exp", "iqsin", "ihsin", "dese",
    "desi", "losi", "sinc", "isinc",
]  # fmt: skip
AssetName = Annotated[str, Field(min_length=1, max_length=100)]
FontId = Annotated[str, Field(min_length=1, max_length=100)]
#: With or without transparency.
Color = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}([0-9a-fA-F]{2})?$", examples=["#ff8000"])]
OpaqueColor = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$", examples=["#000000"])]

ZERO = Time(seconds=Fraction(0))
#: What stands in the JSON Schema for defaults that are no JSON values.
_NONE: dict[str, JsonValue] = {"default": 0}
_ONE: dict[str, JsonValue] = {"default": 1}
DEFAULT_FONT = "sans"
_UNTIL = "How long it is on screen; `auto`: until the next item's `at` or the end of the film."


class Keys(Params):
    """Base of what stands in a timeline: keys may be words of Python, as `in` and `from`."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_alias=True, validate_by_name=False)


class Area(Keys):
    """A rectangle within a picture, in parts of its width and height: `x` and `y` from the upper left corner."""

    x: Part = Field(description="Left side.")
    y: Part = Field(description="Upper side.")
    width: Part = Field(description="Width, greater than 0.")
    height: Part = Field(description="Height, greater than 0.")

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if not self.width or not self.height:
            raise wrong("out_of_range", "has no extent", "write a width and a height greater than 0")
        if self.x + self.width > 1 or self.y + self.height > 1:
            raise wrong("out_of_range", "reaches beyond the picture", "keep x + width and y + height at most 1")
        return self


class KenBurnsMove(Keys):
    """A slow move over a picture."""

    from_: Area = Field(alias="from", description="What is seen at the beginning.")
    to: Area = Field(description="What is seen at the end.")


class Crossfade(Keys):
    """How a sound comes in over the one before it."""

    duration: Duration = Field(description="How long both are heard.")
    audio_curve: AudioCurve = Field(
        default="tri", description="Curve of the crossfade, a name of ffmpeg's `acrossfade`."
    )


class PictureTransition(Crossfade):
    """How an item comes in over the one before it; sound is crossfaded meanwhile."""

    type: TransitionType = Field(default="fade", description="What is seen: a name of ffmpeg's `xfade`.")
    duration: Duration = Field(description="How long both are on screen; the item begins so much earlier.")


class _Placed(Keys):
    """What stands at a time."""

    at: Moment | None = Field(
        default=None,
        description="When it begins. Else when the item before it ends, less the transition; between is nothing.",
    )


class _Visible(_Placed):
    """What is seen."""

    transition: PictureTransition | None = Field(
        default=None, description="Comes in over the item before it, instead of a cut."
    )
    box: Area | None = Field(default=None, description="Where in the frame it is; else it has all of it.")
    opacity: float = Field(default=1.0, ge=0, le=1, description="0 is invisible, 1 hides what lies below.")
    fade_in: Moment = Field(
        default=ZERO, json_schema_extra=_NONE, description="How long it takes to appear, sound too; 0: at once."
    )
    fade_out: Moment = Field(
        default=ZERO, json_schema_extra=_NONE, description="How long it takes to vanish at its end, sound too."
    )


class _Picture(_Visible):
    """What is seen and comes of an asset."""

    fit: Fit = Field(
        default=Fit.CONTAIN,
        description="How it fills its box: `contain` all of it, `cover` the whole box, `stretch` both, `blur` all of it"
        " over a blurred copy, `none` as many pixels as it has.",
    )
    crop: Area | None = Field(default=None, description="The part of the picture that is used, before anything else.")
    rotate: Literal[0, 90, 180, 270] = Field(default=0, description="Degrees, clockwise.")
    flip: Literal["horizontal", "vertical", "both"] | None = Field(
        default=None, description="Mirrored left to right, upside down, or both; before it is rotated."
    )


class VideoItem(_Picture):
    """A part of a film, with its sound."""

    type: Literal["video"] = Field(description="A film.")
    asset: AssetName = Field(description="Name of the film among `inputs.assets`.")
    in_: Moment = Field(default=ZERO, json_schema_extra=_NONE, alias="in", description="Where in the asset it begins.")
    duration: Length = Field(default=AUTO, description="How long it is on screen; `auto`: to the end of the asset.")
    speed: Speed = Field(
        default=Fraction(1), json_schema_extra=_ONE, description="2 is twice as fast; the sound keeps its pitch."
    )
    reverse: bool = Field(default=False, description="Runs backwards: for at most 10 s of the asset.")
    pad: Literal["freeze"] | None = Field(
        default=None,
        description="`freeze`: where the asset is too short for `duration`, its last picture stands still.",
    )
    volume: Volume = Field(
        default=1.0, description="Factor of its sound, or points [time from its beginning, factor] with straight lines."
    )


class ImageItem(_Picture):
    """A still picture."""

    type: Literal["image"] = Field(description="A still picture.")
    asset: AssetName = Field(description="Name of the picture among `inputs.assets`.")
    duration: Length = Field(default=AUTO, description=_UNTIL)
    ken_burns: KenBurnsMove | None = Field(default=None, description="Moves over the picture, after `crop`.")


class ColorItem(_Visible):
    """A plain colour."""

    type: Literal["color"] = Field(description="A plain colour.")
    color: Color = Field(description="`#rrggbb`, or `#rrggbbaa` with opacity.")
    duration: Length = Field(default=AUTO, description=_UNTIL)


class TextItem(_Visible):
    """A title."""

    type: Literal["text"] = Field(description="A title.")
    text: Annotated[str, Field(min_length=1, max_length=2000)] = Field(
        description="What it says; lines are broken where it says so and where the box ends."
    )
    font: FontId = Field(default=DEFAULT_FONT, description="Id of a font of the deployment.")
    size: float = Field(
        default=0.06, ge=0.005, le=1, description="Height of the type, as a part of the height of the frame."
    )
    color: Color = Field(default="#ffffff", description="Of the letters.")
    align: Literal["left", "center", "right"] = Field(default="center", description="Of the lines in the box.")
    valign: Literal["top", "middle", "bottom"] = Field(default="middle", description="Of the text in the box.")
    box_color: Color | None = Field(default=None, description="Of a plate behind the text; else there is none.")
    stroke_color: Color | None = Field(default=None, description="Of an outline of the letters; else there is none.")
    stroke_width: float = Field(
        default=0.06, gt=0, le=0.5, description="Of the outline, as a part of the height of the type."
    )
    line_spacing: float = Field(default=1.2, ge=0.5, le=5, description="From line to line, in heights of the type.")
    duration: Length = Field(default=AUTO, description=_UNTIL)


class AudioItem(_Placed):
    """A part of a sound, or of the sound of a film."""

    type: Literal["audio"] = Field(description="A sound, or the sound of a film.")
    asset: AssetName = Field(description="Name of the sound or film among `inputs.assets`.")
    transition: Crossfade | None = Field(default=None, description="Crossfades with the item before it.")
    in_: Moment = Field(default=ZERO, json_schema_extra=_NONE, alias="in", description="Where in the asset it begins.")
    duration: Length = Field(
        default=AUTO,
        description="How long it is heard; `auto`: to the end of the asset, with `loop` until the next item's `at`"
        " or the end of the film.",
    )
    speed: Speed = Field(
        default=Fraction(1), json_schema_extra=_ONE, description="2 is twice as fast; it keeps its pitch."
    )
    reverse: bool = Field(default=False, description="Runs backwards: for at most 10 s of the asset.")
    loop: bool = Field(default=False, description="Begins anew, from `in`, whenever the asset has come to its end.")
    volume: Volume = Field(
        default=1.0, description="Factor, or points [time from its beginning, factor] with straight lines between."
    )
    fade_in: Moment = Field(
        default=ZERO, json_schema_extra=_NONE, description="How long it takes to be at full volume."
    )
    fade_out: Moment = Field(
        default=ZERO, json_schema_extra=_NONE, description="How long it takes to fall silent at its end."
    )


class GapItem(Keys):
    """Nothing, for a while."""

    type: Literal["gap"] = Field(description="Nothing: what lies below is seen, this track is silent.")
    duration: Duration = Field(description="How long.")


#: Type of an item -> its tag. A tag stands in the place of an error; it must not look like a key of the item.
_TAGS = {kind: f"({kind})" for kind in ("video", "image", "color", "text", "audio", "gap")}


def _tag(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)
    return _TAGS.get(kind) if isinstance(kind, str) else None


def _typed(value: Any) -> Any:
    """Refuses what says no type that there is, at the place where the type stands."""
    if _tag(value) is not None:
        return value
    if not isinstance(value, Mapping):
        error = InitErrorDetails(type="dict_type", loc=(), input=value)
    elif "type" not in value:
        error = InitErrorDetails(type="missing", loc=("type",), input=value)
    else:
        expected = ", ".join(f"'{kind}'" for kind in _TAGS)
        error = InitErrorDetails(type="enum", loc=("type",), input=value["type"], ctx={"expected": expected})
    raise ValidationError.from_exception_data("Item", [error])


Item = Annotated[
    Annotated[VideoItem, Tag("(video)")]
    | Annotated[ImageItem, Tag("(image)")]
    | Annotated[ColorItem, Tag("(color)")]
    | Annotated[TextItem, Tag("(text)")]
    | Annotated[AudioItem, Tag("(audio)")]
    | Annotated[GapItem, Tag("(gap)")],
    Discriminator(_tag),
    BeforeValidator(_typed),
]
Visible = VideoItem | ImageItem | ColorItem | TextItem
Still = ImageItem | ColorItem | TextItem
