"""What the README tells a newcomer to type, typed; and what docs/operations.md asks of Postgres, asked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures import JobTable
from tests.readme import ROOT, blocks, is_make

RUN_HERE = [block for block in blocks() if not is_make(block)]


@pytest.fixture
def newcomer(tmp_path: Path, tiny_models: Path) -> Path:
    """A folder as it is after `make demo`; the checkpoints are there already, which saves their making."""
    home = tmp_path / ".demo"
    home.mkdir()
    (home / "models").symlink_to(tiny_models)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    demo = [sys.executable, "-m", "console.demo", "--home", str(home), "--pictures", "2"]
    subprocess.run(demo, check=True, stdout=subprocess.DEVNULL, timeout=110)
    return tmp_path


@pytest.mark.timeout(240)
def test_the_first_picture_of_ones_own_is_captioned_and_found(newcomer: Path) -> None:
    others = {name: value for name, value in os.environ.items() if not name.startswith("MEDIAMILL_")}
    script = "set -euo pipefail\n" + "".join(RUN_HERE) + "wait $!\n"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=newcomer,
        env={**others, "MEDIAMILL_HTTP_BIND": "off"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    assert "image.caption succeeded" in said
    assert re.search(r"^ *0\.0164 +1\.000 +s3://media/uploads/", said, re.MULTILINE), said
    assert re.search(r"image\.caption +succeeded +interactive", said)
    assert "checkpoints    profile tiny" in re.sub(r"  +", "    ", said)
    log = (newcomer / ".demo" / "worker.log").read_text()
    assert '"end": "drained"' in log.splitlines()[-1]


def test_the_queries_for_dashboards_are_answered(table: JobTable) -> None:
    operations = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    [queries] = [
        block for block in re.findall(r"^```sql\n(.*?)^```$", operations, re.DOTALL | re.MULTILINE) if "ops." in block
    ]
    table.add(2)
    table.worker()
    counts, queue, workers = (table.rows(query) for query in queries.split(";")[:3])
    assert [(row["state"], row["jobs"]) for row in counts] == [("queued", 2)]
    assert [(row["lane"], row["runnable"]) for row in queue] == [("interactive", 2)]
    assert workers == [{"workers": 1}]
