"""How ingest is, as one verdict: what is wrong at the moment, said once in the log and at each look in the signals."""

from __future__ import annotations

from enum import Enum

import structlog

from config.lanes import Lane
from intake.kafka.signals import PauseReason, Signals

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Trouble(Enum):
    """What can be wrong, the worst first, as the beginning of a sentence."""

    KAFKA = "Kafka cannot be read"
    TOPICS = "topics are missing"
    HELD = "messages are held until they can be stored"


class State:
    """What is wrong, and which lanes are paused. Of one thread."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._troubles: dict[Trouble, str] = {}
        self._paused: dict[tuple[Lane, PauseReason], bool] = {}

    def trouble(self, what: Trouble, why: str) -> None:
        """This is wrong."""
        if what not in self._troubles:
            log.warning(what.value, why=why)
        self._troubles[what] = why
        self._tell()

    def over(self, what: Trouble) -> None:
        """This is not wrong, or no longer."""
        if self._troubles.pop(what, None) is not None:
            log.info(f"no longer: {what.value}")
        self._tell()

    def paused(self, lane: Lane, why: PauseReason, is_paused: bool) -> None:
        """Whether a lane is not read for this reason."""
        if self._paused.get((lane, why)) is not is_paused:
            if is_paused or (lane, why) in self._paused:
                log.debug("a lane is paused" if is_paused else "a lane is read again", lane=lane, why=why)
            self._paused[lane, why] = is_paused
            self._signals.paused(lane, why, is_paused)

    def _tell(self) -> None:
        for what in Trouble:
            if what in self._troubles:
                self._signals.state(False, f"{what.value}: {self._troubles[what]}")
                return
        self._signals.state(True, "")
