"""What one worker costs a job that does nothing, beside a peer: `make bench`, or `python -m bench.overhead`.

Jobs a second: the worker stands still while jobs are put in, goes on, and the time runs until the last end is recorded
(through Kafka: until the last result event is published). Latency: from before a job is put in until its handler is
entered, with jobs that come one at a time (the one before has ended long ago) and at a steady rate. Rounds alternate.
Both have a database of their own on one Postgres that keeps its promises (fsync and synchronous_commit on).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles

from bench.contestants import PEER_PYTHON, Contestant, Mediamill, MediamillThroughKafka, Procrastinate, closing
from bench.processes import cpu_s, tree
from storage.database import Database
from storage.pooled import PooledDatabase
from tests.servers.leashed import wait_until
from tests.servers.postgres import PostgresServer

RESULTS = Path(__file__).with_name("results")
#: Jobs a second of the two latency rounds: alone, and steady.
ALONE_PER_S, STEADY_PER_S = 10.0, 50.0
DURABLE = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "256MB"}


@dataclass(slots=True)
class Measured:
    """What was seen of one contestant, over all rounds."""

    name: str
    version: str
    jobs: int
    """Jobs of one round."""
    jobs_per_s: list[float] = field(default_factory=list)
    cpu_ms_per_job: dict[str, list[float]] = field(default_factory=dict)
    """By process: how much of a CPU a job takes, in milliseconds."""
    alone_ms: list[float] = field(default_factory=list)
    steady_ms: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """The median of the rounds."""
        return median(self.jobs_per_s)

    def summary(self) -> dict[str, object]:
        """For the JSON file."""
        whole = asdict(self)
        return whole | {
            "jobs_per_s": {"median": round(self.rate), "rounds": [round(rate) for rate in self.jobs_per_s]},
            "cpu_ms_per_job": {name: round(median(values), 3) for name, values in self.cpu_ms_per_job.items()},
            "alone_ms": percentiles(self.alone_ms),
            "steady_ms": percentiles(self.steady_ms),
        }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99."""
    if not values:
        return {}
    cuts = quantiles(values, n=100, method="inclusive")
    return {f"p{n}": round(cuts[n - 1], 1) for n in (50, 95, 99)}


def throughput(contestant: Contestant, measured: Measured, servers: dict[str, int]) -> None:
    """One round of as many jobs as `measured` says."""
    before = contestant.finished()
    contestant.pause()
    contestant.put(measured.jobs)
    groups = {**contestant.pids(), **{name: tree(pid) for name, pid in servers.items()}}
    spent = {name: cpu_s(pids) for name, pids in groups.items()}
    started = time.monotonic()
    contestant.go_on()
    wait_until(lambda: _polled(contestant) >= before + measured.jobs, 600, "the end of all jobs")
    measured.jobs_per_s.append(measured.jobs / (time.monotonic() - started))
    for name, pids in groups.items():
        ms = (cpu_s(pids) - spent[name]) / measured.jobs * 1000
        measured.cpu_ms_per_job.setdefault(name, []).append(ms)


def _polled(contestant: Contestant) -> int:
    time.sleep(0.03)
    return contestant.finished()


def latency(contestant: Contestant, measured: Measured, n: int) -> None:
    """One round of each kind."""
    measured.alone_ms += [s * 1000 for s in contestant.steady(n, ALONE_PER_S)]
    measured.steady_ms += [s * 1000 for s in contestant.steady(5 * n, STEADY_PER_S)]


def table(all_: Sequence[Measured]) -> Iterator[str]:
    """In Markdown."""
    names = ["p50", "p95", "p99"]
    yield "| | jobs/s | CPU per job, ms | start, alone: p50 / p95 / p99 ms | start, steady: p50 / p95 / p99 ms |"
    yield "|---|---:|---|---:|---:|"
    for each in all_:
        parts = {name: median(values) for name, values in each.cpu_ms_per_job.items()}
        cpu = f"{sum(parts.values()):.2f}: " + ", ".join(f"{name} {value:.2f}" for name, value in parts.items())
        alone, steady = percentiles(each.alone_ms), percentiles(each.steady_ms)
        cells = [f"{each.name} {each.version}", f"{each.rate:,.0f}", cpu]
        cells += [" / ".join(f"{found[name]:.1f}" for name in names) if found else "-" for found in (alone, steady)]
        yield f"| {' | '.join(cells)} |"
    if len(all_) == 2:
        yield ""
        ours, peer = all_
        times = median(a / b for a, b in zip(ours.jobs_per_s, peer.jobs_per_s, strict=True))
        yield f"Round by round, {ours.name} does {times:.1f} times the jobs of {peer.name} (the median)."


def machine() -> dict[str, object]:
    """What it was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": ", ".join(sorted(models)),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 1),
    }


def measure(given: argparse.Namespace) -> dict[str, object]:
    """The whole run."""
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="mediamill-bench-")))
        postgres = held.enter_context(PostgresServer(DURABLE))
        facts = machine()
        servers = {"postgres": postgres.pid}

        def database(name: str) -> Database:
            return PooledDatabase(postgres.create_database(name))

        ours: Contestant
        if given.through == "kafka":
            from tests.servers.kafka import KafkaServer

            kafka = held.enter_context(KafkaServer())
            servers["kafka"] = kafka.pid
            ours = MediamillThroughKafka(folder, database("mediamill"), kafka.bootstrap)
        else:
            ours = Mediamill(folder, database("mediamill"))
        all_: list[tuple[Contestant, Measured]] = [(ours, Measured(ours.name, version("mediamill"), given.jobs))]
        if given.peer is not None:
            peer = Procrastinate(folder, database("procrastinate"), given.peer, given.concurrency)
            all_.append((peer, Measured(peer.name, peer.version, given.peer_jobs)))
        with closing([contestant for contestant, _ in all_]):
            for n in range(given.rounds + 1):
                for contestant, measured in all_:
                    serving = {name: pid for name, pid in servers.items() if name in contestant.servers}
                    if n == 0:  # caches, connections, and what is learnt of costs
                        throughput(contestant, Measured("", "", measured.jobs // 5), serving)
                        continue
                    throughput(contestant, measured, serving)
                    latency(contestant, measured, given.latency_jobs // given.rounds)
                    print(f"round {n}: {measured.name} {measured.jobs_per_s[-1]:,.0f} jobs/s", file=sys.stderr)
    facts["load_after"] = round(os.getloadavg()[0], 1)
    lines = list(table([measured for _, measured in all_]))
    print("\n".join(lines))
    return {
        "through": given.through,
        "machine": facts,
        "rounds": given.rounds,
        "contestants": [measured.summary() for _, measured in all_],
        "table": lines,
    }


def write(found: dict[str, object], folder: Path) -> None:
    """Keeps the last run of each way, and a page with both."""
    folder.mkdir(exist_ok=True)
    kept = folder / "overhead.json"
    runs = json.loads(kept.read_text()) if kept.exists() else {}
    runs[str(found["through"])] = found
    kept.write_text(json.dumps(runs, indent=2) + "\n")
    page = ["# Overhead of a job", "", *(__doc__ or "").strip().splitlines()[2:]]
    for through, run in sorted(runs.items()):
        machine_ = run["machine"]
        facts = f"{machine_['cores']} cores ({machine_['processor']}), Python {machine_['python']}"
        facts += f"; medians of {run['rounds']} rounds. Load average before and after: {machine_['load_before']} and"
        facts += f" {machine_['load_after']} (what it is of the measurement alone is about the number of cores)."
        title = "Through Kafka" if through == "kafka" else "Inserted directly"
        page += ["", f"## {title}", "", facts, "", *run["table"]]
    (folder / "overhead.md").write_text("\n".join(page) + "\n")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--through", choices=["direct", "kafka"], default="direct", help="how jobs come in")
    parser.add_argument("--jobs", type=int, default=20_000, help="ours, in one round")
    parser.add_argument("--peer-jobs", type=int, default=2000, help="the peer's, in one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-jobs", type=int, default=150, help="in all rounds together; 5 times as many steady")
    parser.add_argument("--concurrency", type=int, default=30, help="the peer's")
    parser.add_argument("--peer", type=Path, default=PEER_PYTHON, help="an interpreter that has procrastinate")
    parser.add_argument("--alone", dest="peer", action="store_const", const=None, help="without the peer")
    parser.add_argument("--results", type=Path, help="folder to write to; none: only print")
    given = parser.parse_args()
    found = measure(given)
    if given.results is not None:
        write(found, given.results)


if __name__ == "__main__":
    main()
