"""How far a render is, where it goes through several passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from handlers.declaration import Context


@dataclass(frozen=True, slots=True)
class Stage:
    """A pass that takes the job from one fraction of the whole to another."""

    ctx: Context
    begin: float = 0.0
    end: float = 1.0
    note: str = ""

    def part(self, begin: float, end: float, note: str = "") -> Stage:
        """A stage within this one."""
        length = self.end - self.begin
        return Stage(self.ctx, self.begin + length * begin, self.begin + length * end, note or self.note)

    def tell(self, fraction: float) -> None:
        """Says how far this stage is, 0 to 1."""
        self.ctx.progress(self.begin + (self.end - self.begin) * min(1.0, max(0.0, fraction)), self.note)

    def of(self, seconds: Fraction) -> Callable[[float], None]:
        """For a run of ffmpeg that makes so many seconds."""
        return lambda done: self.tell(done / float(seconds) if seconds else 1.0)
