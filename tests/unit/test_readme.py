"""The README: its commands are run, its links lead somewhere."""

from __future__ import annotations

import re

from tests.e2e.test_readme import RUN_HERE
from tests.readme import README, ROOT, blocks, is_make


def test_every_command_is_a_make_target_or_run_by_a_test() -> None:
    assert [block for block in blocks() if not is_make(block)] == RUN_HERE
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = [line.split()[1] for block in blocks() if is_make(block) for line in block.splitlines()]
    assert named == ["demo", "test"]
    assert set(named) <= set(targets)


def test_other_fences_hide_no_commands() -> None:
    fences = re.findall(r"^```(\w*)$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert fences == ["sh", ""] * len(blocks())


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
