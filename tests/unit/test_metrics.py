from __future__ import annotations

import threading
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from worker.metrics import COUNTERS, GAUGES, HISTOGRAMS, PREFIX, CounterName, GaugeName, HistogramName, Metrics


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[f"{PREFIX}_{name}", frozenset(labels.items())]


def test_every_name_of_the_types_is_declared_and_no_other() -> None:
    assert set(get_args(CounterName)) == set(COUNTERS)
    assert set(get_args(HistogramName)) == set(HISTOGRAMS)
    assert set(get_args(GaugeName)) == set(GAUGES)


def test_names_follow_prometheus_customs() -> None:
    assert all(name.endswith("_total") for name in COUNTERS)
    for declared in (*COUNTERS.values(), *HISTOGRAMS.values(), *GAUGES.values()):
        assert declared.help.endswith(".")
    for histogram in HISTOGRAMS.values():
        assert list(histogram.buckets) == sorted(histogram.buckets)


def test_a_misspelt_name_fails_the_type_check() -> None:
    # `warn_unused_ignores` makes mypy fail here if it should ever accept the names.
    metrics = Metrics()
    with pytest.raises(KeyError):
        metrics.count("claim_total")  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        metrics.observe("claims_total", 1)  # type: ignore[arg-type]


def test_counters_add_up_by_their_labels() -> None:
    metrics = Metrics()
    metrics.count("jobs_finished_total", type="image.caption", state="succeeded", lane="upload")
    metrics.count("jobs_finished_total", 2, type="image.caption", state="succeeded", lane="upload")
    metrics.count("jobs_finished_total", type="image.caption", state="failed", lane="upload")
    finished = {"type": "image.caption", "lane": "upload"}
    assert value(metrics, "jobs_finished_total", state="succeeded", **finished) == 3
    assert value(metrics, "jobs_finished_total", state="failed", **finished) == 1


def test_a_histogram_has_count_sum_and_buckets() -> None:
    metrics = Metrics()
    for seconds in (0.02, 0.5, 7):
        metrics.observe("stage_seconds", seconds, type="image.caption", stage="infer")
    labels = {"type": "image.caption", "stage": "infer"}
    assert value(metrics, "stage_seconds_count", **labels) == 3
    assert value(metrics, "stage_seconds_sum", **labels) == pytest.approx(7.52)
    assert value(metrics, "stage_seconds_bucket", le="1.0", **labels) == 2


def test_a_gauge_says_what_is_now() -> None:
    metrics = Metrics()
    metrics.set("beat_age_seconds", 7)
    metrics.set("beat_age_seconds", 3)
    assert value(metrics, "beat_age_seconds") == 3


@pytest.mark.parametrize("labels", [{}, {"type": "t"}, {"type": "t", "ending": "lost", "job": "1"}])
def test_labels_must_be_those_that_are_declared(labels: dict[str, str]) -> None:
    with pytest.raises(TypeError, match="attempts_total has the labels"):
        Metrics().count("attempts_total", 1, **labels)


def test_what_has_not_happened_yet_is_there_as_zero() -> None:
    assert value(Metrics(), "leases_reclaimed_total") == 0


def test_two_workers_in_one_process_do_not_share_their_metrics() -> None:
    one, other = Metrics(), Metrics()
    one.count("leases_reclaimed_total")
    assert (value(one, "leases_reclaimed_total"), value(other, "leases_reclaimed_total")) == (1, 0)


def test_threads_lose_no_counts() -> None:
    metrics = Metrics()

    def count() -> None:
        for _ in range(1000):
            metrics.count("fetched_bytes_total", 2)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value(metrics, "fetched_bytes_total") == 8000


def test_memory_and_open_files_of_the_process_are_told_too() -> None:
    assert b"process_resident_memory_bytes" in Metrics().text()
