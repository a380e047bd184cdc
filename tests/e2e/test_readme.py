"""What the README tells a newcomer to type, typed; and what docs/operations.md asks of Postgres, asked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from storage.database import Database
from tests.e2e.stage import stage
from tests.fixtures import JobTable
from tests.readme import ROOT, blocks, is_make
from tests.servers.kafka import Kafka

RUN_HERE = [block for block in blocks() if not is_make(block)]
BY_DOCKER = [block for block in RUN_HERE if block.startswith("docker ")]
BY_HAND = [block for block in RUN_HERE if block not in BY_DOCKER]


@pytest.fixture
def newcomer(tmp_path: Path) -> Path:
    """A folder as it is after `make demo`."""
    home = tmp_path / ".demo"
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    demo = [sys.executable, "-m", "console.demo", "--home", str(home), "--pictures", "2"]
    subprocess.run(demo, check=True, stdout=subprocess.DEVNULL, timeout=110)
    return tmp_path


@pytest.mark.timeout(240)
def test_the_first_picture_of_ones_own_is_captioned_and_found(newcomer: Path) -> None:
    others = {name: value for name, value in os.environ.items() if not name.startswith("MEDIAMILL_")}
    script = "set -euo pipefail\n" + "".join(BY_HAND) + "wait $!\n"
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
    assert "image.answer succeeded" in said
    assert re.search(r"^ *0\.0164 +1\.000 +s3://media/uploads/", said, re.MULTILINE), said
    assert re.search(r"image\.caption +succeeded +interactive", said)
    for end in ("audio.transcribe succeeded", "image.generate succeeded", "1 submitted, 0 refused\n1 succeeded"):
        assert end in said
    assert {"transcript.json", "srt.srt", "vtt.vtt", "picture-1.png", "picture-2.png", "video.mp4"} <= set(said.split())
    assert "checkpoints    profile toy" in re.sub(r"  +", "    ", said)
    log = (newcomer / ".demo" / "worker.log").read_text()
    assert '"end": "drained"' in log.splitlines()[-1]


def test_a_first_message_becomes_a_job_and_a_wrong_one_says_what_is_wrong_with_it(
    tmp_path: Path, database: Database, own_kafka: Kafka, tiny_models: Path
) -> None:
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m tests.e2e.compose_shim "$@"\n')
    docker.chmod(0o755)
    # The README names topics: those of a broker of its own may have their usual names.
    kafka = {"MEDIAMILL_KAFKA_BOOTSTRAP": own_kafka.bootstrap, "MEDIAMILL_KAFKA_PARTITIONS": "1"}
    with stage(tmp_path, {**kafka, "MEDIAMILL_MODELS": str(tiny_models)}, database.url) as there:
        there.worker().wait_until_ready()
        [block] = BY_DOCKER
        environ = {**there.environ, "BOOTSTRAP": own_kafka.bootstrap}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            env={**environ, "PATH": f"{docker.parent}:{environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    [event] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert (event["type"], event["data"]["labels"]) == ("mediamill.job.succeeded", {"project": "kafka"})
    assert re.search(r"text\.embed +succeeded +interactive", done.stdout)
    assert "did you mean image.caption?" in done.stdout


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
