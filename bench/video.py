"""What a film costs as a job of `video.edit`, beside ffmpeg by itself and moviepy: `python -m bench.video`.

The film: 1280 x 720 at 30 frames a second, three clips of which each fades into the next for a second (picture and
sound), a title for four seconds, music under all; x264 `veryfast` at CRF 20, AAC at 192 kbit/s. ffmpeg by itself is the
limit: one run with the same graph written by hand, the title as a picture; nothing is looked at before or after. All
encode by the same ffmpeg and with the same settings. Ours is the executor's whole job: the assets are probed, the
timeline planned, the title drawn, the film rendered and verified. Imports and starts are in nobody's time. Rounds
alternate; in the first, which is not timed, memory is looked at. Each film is checked: its frames counted, the middles
of its crossfades compared with a mix of both clips, the title found, tones measured.

With `--clips 50`: ours alone, a film of as many clips of 2 s, two of three with a crossfade of half a second.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.overhead import machine
from bench.video_check import check_chain, check_edit
from bench.video_edit import FPS, Chain, Edit, make
from bench.video_sides import PEER_PYTHON, Moviepy, Ours, Peak, Raw, Side, Spent, resident

RESULTS = Path(__file__).with_name("results")


@dataclass(slots=True)
class Measured:
    """What was seen of one side."""

    name: str
    version: str
    peak_bytes: int = 0
    """Of all its processes together."""
    rounds: list[Spent] = field(default_factory=list)

    @property
    def wall_s(self) -> float:
        """The median."""
        return median(each.wall_s for each in self.rounds)

    @property
    def cpu_s(self) -> float:
        """The median."""
        return median(each.cpu_s for each in self.rounds)

    def times(self, other: Measured) -> tuple[float, float]:
        """How many times another's wall and CPU time this is: the medians of the rounds."""
        pairs = list(zip(self.rounds, other.rounds, strict=True))
        return median(a.wall_s / b.wall_s for a, b in pairs), median(a.cpu_s / b.cpu_s for a, b in pairs)

    def summary(self) -> dict[str, object]:
        """For the JSON file."""
        return {
            "name": self.name,
            "version": self.version,
            "wall_s": round(self.wall_s, 2),
            "cpu_s": round(self.cpu_s, 2),
            "peak_mb": round(self.peak_bytes / 1e6),
            "rounds": [[round(each.wall_s, 2), round(each.cpu_s, 2)] for each in self.rounds],
        }


def table(all_: Sequence[Measured], limit: Measured) -> Iterator[str]:
    """In Markdown; `limit` is what all are compared with."""
    yield "| | wall, s | CPU, s | peak memory, MB | wall, times ffmpeg's | CPU, times ffmpeg's |"
    yield "|---|---:|---:|---:|---:|---:|"
    for each in all_:
        wall, cpu = each.times(limit)
        cells = [f"{each.name} {each.version}", f"{each.wall_s:.2f}", f"{each.cpu_s:.2f}"]
        cells += [f"{each.peak_bytes / 1e6:,.0f}", f"{wall:.2f}", f"{cpu:.2f}"]
        yield f"| {' | '.join(cells)} |"


def measure_edit(given: argparse.Namespace, folder: Path) -> dict[str, object]:
    """The film of three clips, by all."""
    facts = machine()
    edit = Edit(given.seconds)
    material = make(folder, given.seconds)
    with ExitStack() as held:
        ours, raw = held.enter_context(Ours(folder)), Raw()
        idle = sum(map(resident, ours.pids()))
        sides: list[Side] = [ours, raw, *([Moviepy(given.peer)] if given.peer is not None else [])]
        all_ = [(side, Measured(side.name, side.version)) for side in sides]
        for n in range(given.rounds + 1):
            for side, measured in all_:
                film = folder / f"{side.name}.mp4"
                if n == 0:  # caches, and what is imported by the first job
                    others = frozenset(pid for other in sides if other is not side for pid in other.pids())
                    with Peak(others) as peak:
                        side.make(edit, material, film)
                    measured.peak_bytes = peak.bytes
                    check_edit(edit, material, film)
                    continue
                spent = side.make(edit, material, film)
                measured.rounds.append(spent)
                print(f"round {n}: {side.name} {spent.wall_s:.2f} s, CPU {spent.cpu_s:.2f} s", file=sys.stderr)
    facts["load_after"] = round(os.getloadavg()[0], 1)
    found = [measured for _, measured in all_]
    return {
        "command": f"python -m bench.video --rounds {given.rounds} --seconds {given.seconds}",
        "film": f"{given.seconds} s, {edit.frames} frames, 3 clips",
        "machine": facts,
        "rounds": given.rounds,
        "idle_mb": round(idle / 1e6),
        "contestants": [measured.summary() for measured in found],
        "table": [
            *table(found, found[1]),
            "",
            f"Of mediamill's memory {idle / 1e6:,.0f} MB are the executor before its first job.",
        ],
    }


def measure_chain(given: argparse.Namespace, folder: Path) -> dict[str, object]:
    """The film of many clips, by us, once."""
    facts = machine()
    chain = Chain(given.clips)
    material = make(folder, 12)
    film = folder / "chain.mp4"
    with Ours(folder) as ours:
        idle = sum(map(resident, ours.pids()))
        with Peak() as peak:
            spent = ours.run(chain.params(), chain.assets(material), film)
    check_chain(chain, material, film)
    facts["load_after"] = round(os.getloadavg()[0], 1)
    cells = [given.clips, f"{chain.frames:,}", f"{spent.wall_s:.1f}", f"{spent.cpu_s:.1f}"]
    cells += [f"{peak.bytes / 1e6:,.0f}", f"{idle / 1e6:,.0f}"]
    return {
        "command": f"python -m bench.video --clips {given.clips}",
        "film": f"{chain.frames / FPS:.1f} s, {chain.frames:,} frames, {given.clips} clips",
        "machine": facts,
        "rounds": 1,
        "clips": given.clips,
        "frames": chain.frames,
        "wall_s": round(spent.wall_s, 2),
        "cpu_s": round(spent.cpu_s, 2),
        "peak_mb": round(peak.bytes / 1e6),
        "idle_mb": round(idle / 1e6),
        "table": [
            "| clips | frames, all there | wall, s | CPU, s | peak memory, MB | the executor before it, MB |",
            "|---:|---:|---:|---:|---:|---:|",
            f"| {' | '.join(map(str, cells))} |",
        ],
    }


def write(found: dict[str, object], way: str, folder: Path) -> None:
    """Keeps the last run of each way, and a page with both."""
    folder.mkdir(exist_ok=True)
    kept = folder / "video.json"
    runs: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    runs[way] = found
    kept.write_text(json.dumps(runs, indent=2) + "\n")
    page = ["# Films", "", *(__doc__ or "").strip().splitlines()[2:]]
    for title, key in (("Three clips, a title and music", "edit"), ("Many clips", "clips")):
        if (run := runs.get(key)) is None:
            continue
        at = run["machine"]
        facts = f"{run['film']}; {at['cores']} cores ({at['processor']}), Python {at['python']}; "
        facts += "measured once" if run["rounds"] == 1 else f"medians of {run['rounds']} rounds"
        facts += f". Load average before and after: {at['load_before']} and {at['load_after']}."
        page += ["", f"## {title}", "", f"`{run['command']}`", "", facts, "", *run["table"]]
    (folder / "video.md").write_text("\n".join(page) + "\n")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=20, help="length of the film, 20 or more")
    parser.add_argument("--clips", type=int, help="a film of so many clips of 2 s instead, ours alone, once")
    parser.add_argument("--peer", type=Path, default=PEER_PYTHON, help="an interpreter that has moviepy")
    parser.add_argument("--alone", dest="peer", action="store_const", const=None, help="without moviepy")
    parser.add_argument("--results", type=Path, help="folder to write to; none: only print")
    given = parser.parse_args()
    if given.seconds < 20 or given.rounds < 1 or (given.clips is not None and given.clips < 1):
        parser.error("at least 20 seconds, 1 round and 1 clip")
    with tempfile.TemporaryDirectory(prefix="mediamill-bench-") as folder:
        found = (measure_edit if given.clips is None else measure_chain)(given, Path(folder))
    table_ = found["table"]
    assert isinstance(table_, list)
    print("\n".join(table_))
    if given.results is not None:
        write(found, "edit" if given.clips is None else "clips", given.results)


if __name__ == "__main__":
    main()
