"""What a decoder may take of a job's pictures: the general limits, or those of the buckets that they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from config.settings import Settings
from handlers.protocol import Limits


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The general limits, and those of buckets that have limits of their own."""

    general: Limits
    by_bucket: Mapping[str, Limits]

    @classmethod
    def of(cls, settings: Settings) -> ImageLimits:
        """As the settings say."""
        general = Limits(
            max_bytes=settings.image_bytes, max_pixels=settings.image_pixels, max_frames=settings.image_frames
        )
        own = {
            bucket: Limits.model_validate(settings.image_limits_of(bucket).model_dump())
            for bucket in settings.image_limits
        }
        return cls(general, own)

    def over(self, buckets: Iterable[str]) -> Limits | None:
        """The strictest of the limits of all buckets; None where none of them has its own."""
        buckets = set(buckets)
        if not buckets & self.by_bucket.keys():
            return None
        limits = [self.by_bucket.get(bucket, self.general) for bucket in buckets]
        return Limits(
            max_bytes=min(each.max_bytes for each in limits),
            max_pixels=min(each.max_pixels for each in limits),
            max_frames=min(each.max_frames for each in limits),
        )
