"""Draws a file of results beside it, as SVG: run as a module by an interpreter that has matplotlib.

python -m bench.plot bench/results/search.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot

Axes = Any
#: The same file from the same results.
STYLE = {"svg.hashsalt": "mediamill", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def history(runs: Mapping[str, Any], left: Axes, right: Axes) -> None:
    """Time of a job by step and history; jobs a second by workers."""
    sizes = runs.get("history", {}).get("sizes", [])
    bottoms = [0.0] * len(sizes)
    names = [f"{size['finished_jobs'] / 1e6:g} million" for size in sizes]
    for step in sizes[0]["us_per_job"] if sizes else ():
        heights = [median(size["us_per_job"][step]) for size in sizes]
        left.bar(names, heights, bottom=bottoms, label=step, width=0.6)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    left.set(title="A caption job in Postgres", xlabel="finished jobs in the tables", ylabel="µs a job")
    if sizes:
        left.margins(y=0.35)
        left.legend(frameon=False, ncols=2)
    scales = runs.get("workers", {}).get("scales", [])
    if scales:
        workers = [each["workers"] for each in scales]
        possible = [each["jobs_per_s"] / each["of_possible"] for each in scales]
        right.plot(workers, [each["jobs_per_s"] for each in scales], "o-", label="measured")
        right.plot(workers, possible, "--", color="grey", label="linear, until the cores are full")
        right.set_ylim(bottom=0)
        right.set_xticks(workers)
        right.legend(frameon=False)
    right.set(title="Jobs that do nothing", xlabel="worker processes", ylabel="jobs/s")


def search(runs: Mapping[str, Any], left: Axes, right: Axes) -> None:
    """What recall costs, with ours and FAISS; times of the ways of searching. Of the most vectors."""
    run = runs[max(runs, key=int)]
    ours = run["ours"]["widths"]
    faiss = [way for way in run["faiss"]["ways"] if (way["kind"], way["filter"]) == ("text", "all")]
    for name, points in (("mediamill, the whole statement", ours), ("FAISS, vectors alone", faiss)):
        points = sorted(points, key=lambda way: way["width"])
        left.plot([way["ms"]["p50"] for way in points], [way["recall"] for way in points], "o-", label=name)
        for way in points:
            left.annotate(way["width"], (way["ms"]["p50"], way["recall"]), textcoords="offset points", xytext=(4, -9))
    left.axhline(0.98, color="grey", linestyle=":")
    left.set(
        title=f"{run['vectors']:,} vectors, by a text's vector",
        xlabel="p50, ms (at a list's length)",
        ylabel="recall@10",
    )
    left.set_xscale("log")
    left.legend(frameon=False)
    ways = run["ours"]["ways"]
    for key, offset in (("p95", -0.2), ("p50", 0.2)):
        right.barh([at + offset for at in range(len(ways))], [way["ms"][key] for way in ways], 0.4, label=key)
    right.set_yticks(
        range(len(ways)), [f"{way['name']}\nrecall {way['recall']:.3f}".replace(", ", ",\n") for way in ways]
    )
    right.invert_yaxis()
    right.axvline(10, color="grey", linestyle=":")
    right.set(title="A search as the product does it", xlabel="ms")
    right.legend(frameon=False)


DRAWINGS: Mapping[str, Callable[[Mapping[str, Any], Axes, Axes], None]] = {"history": history, "search": search}


def main() -> None:
    """The command: a file of results, whose name says what it is of."""
    results = Path(sys.argv[1])
    with mpl.rc_context(STYLE):
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
        DRAWINGS[results.stem](json.loads(results.read_text()), left, right)
        figure.savefig(results.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
