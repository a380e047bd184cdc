"""The lock files of requirements/: `python3 -m deploy.locks check` or `compile [--upgrade]`.

`check` needs no network and does not change its mind when something new is published: each lock file's first line
holds a digest over what it was compiled from and its own text, so that an edit of either is seen.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements"
# A layer comes after those that constrain it.
LAYERS = ("uv", "build", "courier", "dev", "executor", "executor-test", "bench")


def sources(folder: Path, layer: str) -> list[Path]:
    """What a lock file depends on: its .in file, and the lock files that this names as constraints."""
    wanted = folder / f"{layer}.in"
    return [wanted, *(folder / name for name in re.findall(r"^-c (\S+)$", wanted.read_text(), re.MULTILINE))]


def header(folder: Path, layer: str, body: str) -> str:
    parts = [path.read_text() for path in sources(folder, layer)]
    seal = hashlib.sha256("\0".join((*parts, body)).encode()).hexdigest()
    return f"# Written by `make lock` from {layer}.in. sha256 of both: {seal}\n"


def stale(folder: Path) -> list[str]:
    """The layers whose lock file is missing or does not belong to its sources."""
    found = []
    for layer in LAYERS:
        lock = folder / f"{layer}.txt"
        first, _, body = lock.read_text().partition("\n") if lock.exists() else ("", "", "")
        if f"{first}\n" != header(folder, layer, body):
            found.append(layer)
    return found


def compile_all(folder: Path, uv: str, upgrade: bool) -> None:
    """Resolve every layer anew, keeping the pins there are unless `upgrade`. Raises CalledProcessError."""
    for layer in LAYERS:
        options = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-header"]
        anonymous = ["--no-emit-index-url", "--no-emit-find-links"]  # a lock file names packages, not where they lie
        renew = ["--upgrade"] if upgrade else []
        lock = folder / f"{layer}.txt"
        command = [uv, "pip", "compile", "-q", *options, *anonymous, *renew, f"{layer}.in", "-o", lock.name]
        subprocess.run(command, cwd=folder, check=True)
        body = "".join(line for line in lock.read_text().splitlines(True) if not line.startswith("# "))
        lock.write_text(header(folder, layer, body) + body)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="deploy.locks")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check")
    compiling = commands.add_parser("compile")
    compiling.add_argument("--uv", required=True)
    compiling.add_argument("--upgrade", action="store_true")
    options = parser.parse_args(arguments)
    if options.command == "compile":
        compile_all(REQUIREMENTS, options.uv, options.upgrade)
        return 0
    old = stale(REQUIREMENTS)
    if old:
        print(f"lock files not up to date: {', '.join(old)}; `make lock` writes them anew")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
