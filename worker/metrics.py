"""What a worker counts and measures, for Prometheus: every name, what it means and its labels, in one place.

A name is a Literal, so that a misspelt one fails the type check and not a dashboard. Values of labels come from small
closed sets (types, lanes, states, reasons), never from messages: each combination is a series of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics import MetricWrapperBase

CounterName = Literal[
    "jobs_finished_total",
    "attempts_total",
    "claims_total",
    "claimed_jobs_total",
    "executor_restarts_total",
    "leases_reclaimed_total",
    "record_retries_total",
    "fetched_bytes_total",
    "stored_bytes_total",
    "cache_hits_total",
    "cache_misses_total",
    "database_errors_total",
    "store_errors_total",
    "ingest_messages_total",
    "ingest_lost_messages_total",
    "ingest_errors_total",
    "ingest_rebuilds_total",
    "outbox_events_total",
]
HistogramName = Literal["queue_seconds", "stage_seconds", "record_batch_size"]
GaugeName = Literal[
    "build_info",
    "jobs_in_hand",
    "beat_age_seconds",
    "ingest_lag_messages",
    "ingest_paused",
    "ingest_lost_ranges",
    "outbox_waiting",
    "outbox_dead",
    "outbox_oldest_seconds",
]


@dataclass(frozen=True, slots=True)
class Declared:
    """What a metric means, and how its series are told apart."""

    help: str
    labels: Sequence[str] = ()
    buckets: Sequence[float] = ()


# From a cache hit to an hour's transcode.
_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600)
# A backfill may wait for days.
_QUEUE_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600, 4 * 3600, 24 * 3600, 7 * 24 * 3600)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

COUNTERS: Final[Mapping[CounterName, Declared]] = {
    "jobs_finished_total": Declared("Jobs that reached an end, by the state they ended in.", ("type", "state", "lane")),
    "attempts_total": Declared("Attempts, by how they ended: one job may have several.", ("type", "ending")),
    "claims_total": Declared("Claims that were answered, whether or not there were jobs."),
    "claimed_jobs_total": Declared("Jobs taken from the queue."),
    "executor_restarts_total": Declared("Executors that had to be started again.", ("reason",)),
    "leases_reclaimed_total": Declared("Workers that this one found silent, and whose jobs it took back."),
    "record_retries_total": Declared("Records that were written again.", ("reason",)),
    "fetched_bytes_total": Declared("Bytes read from the object store."),
    "stored_bytes_total": Declared("Bytes written to the object store."),
    "cache_hits_total": Declared("Inputs that were at hand already."),
    "cache_misses_total": Declared("Inputs that had to be fetched."),
    "database_errors_total": Declared("Transactions that failed, by what they were for.", ("what",)),
    "store_errors_total": Declared(
        "Requests that the object store could not answer, by what they were for.", ("what",)
    ),
    "ingest_messages_total": Declared(
        "Messages read from Kafka, by what became of them: job, duplicate, deduplicated, rejected.", ("lane", "outcome")
    ),
    "ingest_lost_messages_total": Declared("Messages that expired in Kafka before they were read.", ("lane",)),
    "ingest_errors_total": Declared("Turns of ingest that failed, by whose fault: kafka, database, store.", ("what",)),
    "ingest_rebuilds_total": Declared("Consumers that had to be made anew, by why: stuck, error.", ("reason",)),
    "outbox_events_total": Declared(
        "Events handed to their destination, by what became of them: delivered, refused, postponed, dead.",
        ("kind", "outcome"),
    ),
}
HISTOGRAMS: Final[Mapping[HistogramName, Declared]] = {
    "queue_seconds": Declared("From when a job could run to its claim.", ("type", "lane"), _QUEUE_SECONDS),
    "stage_seconds": Declared("Time in one stage of an attempt.", ("type", "stage"), _SECONDS),
    "record_batch_size": Declared("Attempts recorded in one write.", (), _BATCH),
}
GAUGES: Final[Mapping[GaugeName, Declared]] = {
    "build_info": Declared("1, with what is running.", ("version",)),
    "jobs_in_hand": Declared("Attempts under way."),
    "beat_age_seconds": Declared("Since the last beat that the database confirmed."),
    "ingest_lag_messages": Declared("Messages of this process's partitions that are not read yet.", ("lane",)),
    "ingest_paused": Declared("1 while a lane is not read: it is at its cap, or a batch is held.", ("lane", "why")),
    "ingest_lost_ranges": Declared("Lost ranges of messages that nobody has acknowledged yet."),
    "outbox_waiting": Declared("Events that wait for their delivery."),
    "outbox_dead": Declared("Events that cannot be delivered, until somebody retries them."),
    "outbox_oldest_seconds": Declared("Age of the oldest event that waits."),
}
PREFIX = "mediamill"

Name = TypeVar("Name", bound=str)
Metric = TypeVar("Metric", bound=MetricWrapperBase)


class Metrics:
    """One process's metrics, in a registry of their own. Safe to use from any thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._counters = {name: Counter(*_named(name, d), registry=self._registry) for name, d in COUNTERS.items()}
        self._gauges = {name: Gauge(*_named(name, d), registry=self._registry) for name, d in GAUGES.items()}
        self._histograms = {
            name: Histogram(*_named(name, d), registry=self._registry, buckets=d.buckets)
            for name, d in HISTOGRAMS.items()
        }
        self._series: dict[tuple[object, ...], MetricWrapperBase] = {}

    def count(self, name: CounterName, n: float = 1, **labels: str) -> None:
        """Adds `n`, which is not negative. Raises TypeError unless the labels are those that are declared."""
        self._one(name, COUNTERS, self._counters, labels).inc(n)

    def observe(self, name: HistogramName, value: float, **labels: str) -> None:
        """Notes one duration (seconds) or size. Raises TypeError unless the labels are those that are declared."""
        self._one(name, HISTOGRAMS, self._histograms, labels).observe(value)

    def set(self, name: GaugeName, value: float, **labels: str) -> None:
        """Says how much there is now. Raises TypeError unless the labels are those that are declared."""
        self._one(name, GAUGES, self._gauges, labels).set(value)

    def _one(
        self, name: Name, declared: Mapping[Name, Declared], metrics: Mapping[Name, Metric], labels: Mapping[str, str]
    ) -> Metric:
        """The series with these labels: found once, since a job asks for a dozen."""
        key = (name, *labels.items())
        if (found := self._series.get(key)) is None:
            _check(name, declared[name], labels)
            metric = metrics[name]
            self._series[key] = found = metric.labels(**labels) if labels else metric
        return found  # type: ignore[return-value]  # the name says of which kind it is

    def text(self) -> bytes:
        """All of it in Prometheus's text format (`CONTENT_TYPE`)."""
        return generate_latest(self._registry)


#: Of `Metrics.text`.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _named(name: str, declared: Declared) -> tuple[str, str, Sequence[str]]:
    return f"{PREFIX}_{name}", declared.help, declared.labels


def _check(name: str, declared: Declared, labels: Mapping[str, str]) -> None:
    if labels.keys() != set(declared.labels):
        raise TypeError(f"metric {name} has the labels {sorted(declared.labels)}, not {sorted(labels)}")
