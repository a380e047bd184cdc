"""What the pages in bench/results/ have in common."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
#: Of an environment with matplotlib and FAISS in it, which are no dependencies of ours.
PEER_PYTHON = _ROOT / ".venv-bench" / "bin" / "python"


def measured_on(machine: Mapping[str, Any]) -> str:
    """A sentence of what `bench.overhead.machine` says, with what the load was at the end."""
    return (
        f"{machine['cores']} cores ({machine['processor']}), Python {machine['python']}. Load average before and after:"
        f" {machine['load_before']} and {machine['load_after']}."
    )


def markdown(header: Iterable[object], rows: Iterable[Iterable[object]]) -> list[str]:
    """A table whose first column is a name and whose others are numbers."""
    header = list(header)
    lines = [f"| {' | '.join(map(str, line))} |" for line in (header, *rows)]
    return [lines[0], "|---" + "|---:" * (len(header) - 1) + "|", *lines[1:]]


def draw(python: Path, results: Path) -> None:
    """Makes the plot of a file of results beside it. Raises CalledProcessError, with what was in the way printed."""
    subprocess.run([str(python), "-m", "bench.plot", str(results.absolute())], cwd=_ROOT, check=True)
