"""The commands that the README tells people to run."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"


def blocks() -> list[str]:
    """Each fenced block of shell commands, in order."""
    return re.findall(r"^```sh\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def is_make(block: str) -> bool:
    """Whether it is targets of the Makefile, and nothing else."""
    return all(line.startswith("make ") for line in block.splitlines())
