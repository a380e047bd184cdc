"""What `bench.history` and `bench.start` make of what they have measured."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from bench.history import STEPS, Size, caption, check_room, history_table, new_job, numbers, picture, write
from bench.history_crew import scale
from bench.history_fill import BYTES_BESIDE, BYTES_PER_JOB, needed_bytes
from bench.overhead import Measured
from bench.page import markdown
from bench.start import MOST_S, Started, spread
from bench.start import Measured as Starts
from bench.start import table as start_table
from storage.claim import ClaimedJob, Fence

_MACHINE = {"cores": 2, "processor": "P", "python": "3.11", "load_before": 0.0, "load_after": 1.0}


def size(finished_jobs: int, *rounds: float) -> Size:
    """Each step takes as long as the round says."""
    return Size(finished_jobs, bytes=3_000_000_000, us_per_job={step: list(rounds) for step in STEPS})


def claimed(id_: uuid.UUID) -> ClaimedJob:
    fence = Fence(id_, 1, uuid.UUID(int=1))
    return ClaimedJob(fence, "image.caption", "default", "backfill", 0, 0, 0, 3, None, None, {}, None, 0.0)


def measured(rate: float, cpu_ms: float) -> Measured:
    return Measured("mediamill", "", 1000, [rate], {"courier": [cpu_ms / 2], "postgres": [cpu_ms / 2]})


def test_a_history_is_compared_round_by_round() -> None:
    empty, long = size(0, 10, 20, 40), size(1_000_000, 11, 24, 42)
    times = long.times(empty)
    assert times["claim"] == pytest.approx(1.1)
    assert times["all"] == pytest.approx(1.1)
    assert empty.times(empty)["record"] == 1


def test_the_steps_of_a_job_are_added_up() -> None:
    assert size(0, 10, 20).totals() == [40, 80]
    assert history_table([size(0, 10)])[2] == (
        "| 0 | 3.00 | 10 (1.00) | 10 (1.00) | 10 (1.00) | 10 (1.00) | 40 | 1.00 |"
    )


def test_a_job_of_the_bench_reads_a_content_of_its_own_and_captions_it() -> None:
    first, second = new_job(1), new_job(2)
    assert first.id != second.id
    assert picture(claimed(first.id)).sha256 != picture(claimed(second.id)).sha256
    (text,) = caption(claimed(first.id)).texts
    assert text.content == picture(claimed(first.id)).sha256


def test_a_disk_without_room_for_the_history_is_named_beforehand(tmp_path: Path) -> None:
    assert needed_bytes(1_000_000) == 1_000_000 * BYTES_PER_JOB + BYTES_BESIDE
    (tmp_path / "data").mkdir()
    with pytest.raises(SystemExit, match=f"in {tmp_path}, where .* GB are free: set TMPDIR"):
        check_room(tmp_path / "data", 10**12)


def test_workers_are_held_against_what_the_cores_allow() -> None:
    one = measured(2500, 0.4)
    assert scale(1, one, one, cores=8).of_possible == pytest.approx(1)
    four = scale(4, measured(9000, 0.5), one, cores=8)
    assert four.times_one == pytest.approx(3.6)
    assert four.cores_busy == pytest.approx(4.5)
    assert four.of_possible == pytest.approx(0.9)
    # 8 cores do 20,000 a second at 0.4 ms each, however many workers there are.
    assert scale(16, measured(15000, 0.5), one, cores=8).of_possible == pytest.approx(0.75)


def test_millions_are_read_from_the_command_line() -> None:
    assert numbers("0,0.5,10") == [0, 0.5, 10]
    assert numbers("") == []


def test_a_run_of_one_part_keeps_the_results_of_the_other(tmp_path: Path) -> None:
    run = {"machine": _MACHINE, "rounds": 5, "jobs": 5000}
    write({"history": run | {"table": ["| long |"]}}, tmp_path)
    write({"workers": run | {"table": ["| many |"]}}, tmp_path)
    page = (tmp_path / "history.md").read_text()
    assert page.index("| long |") < page.index("| many |")
    assert set(json.loads((tmp_path / "history.json").read_text())) == {"history", "workers"}


def test_a_start_is_told_without_the_interpreter_in_its_imports() -> None:
    starts = Starts(
        bare_s=[0.01, 0.02, 0.03],
        imported_s=[0.31, 0.42, 0.63],
        warm=[Started(0.9, 90, 50), Started(0.8, 91, 51), Started(1.2, 92, 52)],
        cold=[Started(1.5, 90, 250)] * 3,
    )
    figures = starts.figures()
    assert figures["imports of the courier, s"] == {"median": 0.4, "least": 0.3, "most": 0.6}
    assert figures["memory of the executor and its sandbox, MB"]["most"] == 52  # not with the Postgres that it started
    rows = start_table(figures)
    assert f"| until ready, Postgres runs, s | 0.90 | 0.80 | 1.20 | {MOST_S:.0f} |" in rows
    assert spread([3, 1, 2]) == {"median": 2, "least": 1, "most": 3}


def test_a_table_has_a_name_and_numbers() -> None:
    assert markdown(["", "a", "b"], [["x", 1, 2]]) == ["|  | a | b |", "|---|---:|---:|", "| x | 1 | 2 |"]
