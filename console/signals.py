"""What ingest says of itself, told to health and metrics."""

from __future__ import annotations

from config.lanes import Lane
from intake.kafka.signals import Culprit, Outcome, PauseReason, RebuildReason
from worker.health import Health
from worker.metrics import Metrics


class IngestSignals:
    """An `intake.kafka.signals.Signals` over this process's health and metrics."""

    def __init__(self, health: Health, metrics: Metrics) -> None:
        self._health = health
        self._metrics = metrics

    def pulse(self) -> None:
        """The thread has turned."""
        self._health.tick("ingest")

    def ended(self) -> None:
        """No sign is due any more."""
        self._health.rest("ingest")

    def state(self, ok: bool, why: str) -> None:
        """Whether messages come in."""
        self._health.report("kafka", ok=ok, why=why)

    def received(self, lane: Lane, outcome: Outcome, messages: int) -> None:
        """Messages that are stored."""
        self._metrics.count("ingest_messages_total", messages, lane=lane, outcome=outcome.value)

    def failed(self, culprit: Culprit) -> None:
        """A turn failed."""
        self._metrics.count("ingest_errors_total", what=culprit)

    def rebuilt(self, reason: RebuildReason) -> None:
        """The consumer is made anew."""
        self._metrics.count("ingest_rebuilds_total", reason=reason)

    def lag(self, lane: Lane, messages: int) -> None:
        """What is not stored yet."""
        self._metrics.set("ingest_lag_messages", messages, lane=lane)

    def paused(self, lane: Lane, why: PauseReason, is_paused: bool) -> None:
        """Whether a lane is read."""
        self._metrics.set("ingest_paused", int(is_paused), lane=lane, why=why)

    def lost(self, lane: Lane, messages: int) -> None:
        """Messages that expired before they were read."""
        self._metrics.count("ingest_lost_messages_total", messages, lane=lane)

    def lost_ranges(self, unacknowledged: int) -> None:
        """What waits for somebody to acknowledge it."""
        self._metrics.set("ingest_lost_ranges", unacknowledged)
