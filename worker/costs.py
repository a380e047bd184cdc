"""What a job will cost: predicted seconds by type, from what the last ones took."""

from __future__ import annotations

from collections.abc import Iterable

#: No job costs less: what is around a handler takes as long.
_LEAST_S = 0.0001


class Costs:
    """A moving average of an attempt's share of the executor, in seconds, by job type."""

    def __init__(self, *, first_guess_s: float = 0.1, weight: float = 0.1) -> None:
        self._first_guess_s = first_guess_s
        self._weight = weight
        self._mean_s: dict[str, float] = {}

    def predict_s(self, type_: str) -> float:
        """Predicted seconds of one job of the type; never 0, so that claims stay bounded."""
        return max(self._mean_s.get(type_, self._first_guess_s), _LEAST_S)

    def knows(self, type_: str) -> bool:
        """Whether a job of the type has ended yet."""
        return type_ in self._mean_s

    def learn(self, type_: str, seconds: float) -> None:
        """One job of the type took so long."""
        mean = self._mean_s.get(type_, seconds)
        self._mean_s[type_] = mean + self._weight * (seconds - mean)

    def total_s(self, types: Iterable[str]) -> float:
        """Predicted seconds of all these jobs."""
        return sum(self.predict_s(type_) for type_ in types)
