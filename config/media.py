"""The settings of media and models: what decoders may take, which models are used, what they draw and speak with."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from config.values import AbsolutePath, BucketName, Bytes, Json, JsonList, Seconds

FontId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
#: The roles of a catalogue (`config.catalogue.Role`, which is more to import than settings need).
ModelRole = Literal["caption", "answer", "embed", "transcribe", "generate"]


class MediaLimits(BaseModel):
    """What decoders may take of one object."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_bytes: Bytes
    max_pixels: Annotated[int, Field(gt=0)]
    max_frames: Annotated[int, Field(gt=0)]
    max_seconds: Annotated[Seconds, Field(gt=0)]
    max_streams: Annotated[int, Field(gt=0)]


class MediaLimitsOfBucket(BaseModel):
    """What differs from the general limits for the objects of one bucket."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_bytes: Bytes | None = None
    max_pixels: Annotated[int, Field(gt=0)] | None = None
    max_frames: Annotated[int, Field(gt=0)] | None = None
    max_seconds: Annotated[Seconds, Field(gt=0)] | None = None
    max_streams: Annotated[int, Field(gt=0)] | None = None


def derived(shown: str, factory: Any, description: str) -> Any:
    """A default that is made from other settings or the machine; `shown` is what the documents say it is."""
    return Field(default_factory=factory, description=description, json_schema_extra={"default": shown})


def usable_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class MediaSettings(BaseModel):
    """Everything that is about media and models; part of `Settings`."""

    # Only `Settings` is validated, and when it is.
    model_config = ConfigDict(defer_build=True)

    image_bytes: Bytes = Field(default=100 << 20, description="Largest image file.")
    image_pixels: int = Field(
        default=100_000_000, ge=1, description="Most pixels of an image, or of a film's frame, before it is decoded."
    )
    image_frames: int = Field(default=1000, ge=1, description="Most frames of an animated image.")
    media_seconds: Seconds = Field(default=12 * 3600, gt=0, description="Longest sound or film.")
    media_streams: int = Field(default=32, ge=1, le=1000, description="Most streams of a sound or film file.")
    media_limits: Annotated[dict[BucketName, MediaLimitsOfBucket], Json] = Field(
        default={}, description='Other limits by bucket, as JSON: {"uploads": {"max_pixels": 50000000}}.'
    )
    model_roles: Annotated[tuple[ModelRole, ...], JsonList] = Field(
        default=("caption", "answer", "embed", "transcribe", "generate"),
        description='Roles of the catalogue that are used, as JSON: ["caption", "embed"]; jobs that need another wait.',
    )
    preload: Annotated[tuple[ModelRole, ...], JsonList] = Field(
        default=("caption", "embed"),
        description="Roles whose checkpoint the executor loads before it takes jobs, as JSON; others at a first job.",
    )
    safety_checker: Literal["auto", "required", "off"] = Field(
        default="auto",
        description="Check of generated pictures: where the checkpoint brings one, always (else nothing is made), off.",
    )
    fonts: Annotated[dict[FontId, AbsolutePath], Json] = Field(
        default={}, description='Fonts for titles beside the built-in ones, as JSON: {"brand": "/fonts/Brand.ttf"}.'
    )
    cpu_threads: Annotated[int, Field(ge=1)] = derived(
        "the number of usable cores", usable_cores, "Threads of the executor."
    )
    programs: Annotated[int, Field(ge=1, le=1024)] = derived(
        "half the number of usable cores",
        lambda: max(1, usable_cores() // 2),
        "Outside programs (ffmpeg) that run at a time.",
    )

    def media_limits_of(self, bucket: str) -> MediaLimits:
        """The limits for the objects of a bucket."""
        general = {
            "max_bytes": self.image_bytes,
            "max_pixels": self.image_pixels,
            "max_frames": self.image_frames,
            "max_seconds": self.media_seconds,
            "max_streams": self.media_streams,
        }
        own = self.media_limits.get(bucket, MediaLimitsOfBucket()).model_dump(exclude_none=True)
        return MediaLimits(**(general | own))
