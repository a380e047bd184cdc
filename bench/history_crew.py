"""Several workers at one queue: who is measured by the second part of `bench.history`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.contestants import Contestant, Mediamill
from bench.overhead import Measured
from storage.pooled import PooledDatabase


class Crew(Contestant):
    """Worker processes of one database, each with a home folder and an executor of its own."""

    name = "mediamill"

    def __init__(self, members: Sequence[Mediamill]) -> None:
        super().__init__(members[0].folder, members[0].database)
        self._members = members

    def put(self, n: int) -> None:
        self._members[0].put(n)

    def steady(self, n: int, per_s: float) -> list[float]:
        return self._members[0].steady(n, per_s)

    def finished(self) -> int:
        return self._members[0].finished()

    def pids(self) -> Mapping[str, Sequence[int]]:
        groups: dict[str, list[int]] = {}
        for member in self._members:
            for name, pids in member.pids().items():
                groups.setdefault(name, []).extend(pids)
        return groups

    def pause(self) -> None:
        for member in self._members:
            member.pause()

    def go_on(self) -> None:
        for member in self._members:
            member.go_on()

    def close(self) -> None:
        for member in self._members:
            member.close()


@contextmanager
def crew(folder: Path, url: str, workers: int) -> Iterator[Crew]:
    """So many, ready; ended whatever happens."""
    with ExitStack() as held:
        members = []
        for n in range(workers):
            home = folder / f"worker{n}"
            home.mkdir(exist_ok=True)
            member = Mediamill(home, PooledDatabase(url))
            held.callback(member.close)
            held.callback(member.go_on)
            members.append(member)
        yield Crew(members)


@dataclass(frozen=True, slots=True)
class Scale:
    """What so many workers did, beside one."""

    workers: int
    jobs_per_s: float
    times_one: float
    cores_busy: float
    cpu_ms_per_job: float
    of_possible: float
    """1: as many times one worker's jobs as there are workers or, where that is less, as many as the cores allow at
    what a job costs one worker."""


def scale(workers: int, measured: Measured, one: Measured, cores: int) -> Scale:
    """From the medians of the rounds; `one` is one worker's."""
    rate, cpu_ms = measured.rate, _cpu_ms(measured)
    possible = min(workers * one.rate, cores * 1000 / _cpu_ms(one))
    return Scale(
        workers=workers,
        jobs_per_s=rate,
        times_one=rate / one.rate,
        cores_busy=rate * cpu_ms / 1000,
        cpu_ms_per_job=cpu_ms,
        of_possible=rate / possible,
    )


def _cpu_ms(measured: Measured) -> float:
    return sum(median(values) for values in measured.cpu_ms_per_job.values())
