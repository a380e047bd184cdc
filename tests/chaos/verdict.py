"""What is wrong when all is over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What every report ends with: nothing may be in it."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing was lost, doubled or otherwise wrong."""
        return not (self.lost or self.doubled or self.wrong)

    def faults(self) -> Iterator[str]:
        """For people."""
        for name in ("lost", "doubled", "wrong"):
            these = getattr(self, name)
            yield f"{name:10} {len(these)}{': ' + '; '.join(these[:10]) if these else ''}"
