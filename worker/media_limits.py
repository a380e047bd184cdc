"""What decoders may take of a job's media: the general limits, or those of the buckets that they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from config.settings import Settings
from handlers.protocol import Limits


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """The general limits, and those of buckets that have limits of their own."""

    general: Limits
    by_bucket: Mapping[str, Limits]

    @classmethod
    def of(cls, settings: Settings) -> MediaLimits:
        """As the settings say."""

        def limits(bucket: str) -> Limits:
            return Limits.model_validate(settings.media_limits_of(bucket).model_dump())

        return cls(limits(""), {bucket: limits(bucket) for bucket in settings.media_limits})

    def over(self, buckets: Iterable[str]) -> Limits | None:
        """The strictest of the limits of all buckets; None where none of them has its own."""
        buckets = set(buckets)
        if not buckets & self.by_bucket.keys():
            return None
        limits = [self.by_bucket.get(bucket, self.general) for bucket in buckets]
        return Limits(**{name: min(getattr(each, name) for each in limits) for name in Limits.model_fields})
