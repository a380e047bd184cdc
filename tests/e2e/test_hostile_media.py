"""Whatever lies behind a key goes through one worker beside good pictures: it is read rightly, or refused in words."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings
from tests.e2e.shared import put, run_all, shared_stage
from tests.e2e.stage import Stage, Worker
from tests.servers.postgres import PostgresServer

MIB = 1 << 20
#: Less than the default, so that a picture at the limit is drawn and decoded in a moment.
MOST_PIXELS = 20_000_000

#: Odd, and right: name -> what is to be known of it. Each has a twin of plain RGB with the pixels that are to be seen.
ODD: dict[str, dict[str, int | str]] = {
    "rotated.png": {"width": 160, "height": 120, "orientation": 6},
    "rotated.jpg": {"width": 160, "height": 120, "orientation": 3},
    "mirrored.jpg": {"orientation": 2},
    "cmyk.jpg": {"mode": "CMYK", "mime": "image/jpeg"},
    "cmyk.tiff": {"mode": "CMYK", "mime": "image/tiff"},
    "grey16.png": {"mode": "I;16"},
    "animated.gif": {"frames": 3, "mime": "image/gif"},
    "animated.webp": {"frames": 2},
    "pages.tiff": {"frames": 2},
    "alpha.png": {"mode": "RGBA"},
    "bits.png": {"mode": "1"},
    "lies.jpg": {"mime": "image/png"},
    "large.png": {"width": 4400, "height": 4400},
}
#: Wrong: name -> what is said of it.
WRONG = {
    "missing.jpg": ["s3://media/odd/missing.jpg: there is no such object", "check the URI"],
    "empty.jpg": ["inputs/image is empty (0 bytes)", "upload the picture again"],
    "letter.jpg": ["its bytes are text", "send JPEG"],
    "page.png": ["its bytes are HTML", "send JPEG"],
    "drawing.svg": ["SVG (drawings are not rendered)"],
    "noise.jpg": ["of no known kind"],
    "cut.jpg": ["cut off", "upload it again"],
    "broken.png": ["damaged", "upload it again"],
    "bomb.png": ["more than the limit of 20,000,000", "send a smaller one"],
    "bomb.jpg": ["more than the limit of 20,000,000", "send a smaller one"],
    "bomb.gif": ["more than the limit of 20,000,000", "send a smaller one"],
}


@dataclass(frozen=True)
class Batch:
    """One worker's work over all of them at once."""

    stage: Stage
    worker: Worker
    jobs: dict[str, dict[str, Any]]
    before_mib: float
    peak_mib: float


@pytest.fixture(scope="module")
def mill(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    migrated_template: str,
    tiny_models: Path,
) -> Iterator[Stage]:
    environ = {
        "MEDIAMILL_MODELS": str(tiny_models),
        "MEDIAMILL_IMAGE_PIXELS": str(MOST_PIXELS),
        "MEDIAMILL_S3_BUCKETS": '{"media": "rw", "strict": "r"}',
        "MEDIAMILL_MEDIA_LIMITS": '{"strict": {"max_pixels": 5000}}',
    }
    with shared_stage(tmp_path_factory.mktemp("hostile"), postgres_server, migrated_template, environ) as made:
        yield made


@pytest.fixture(scope="module")
def batch(mill: Stage, tmp_path_factory: pytest.TempPathFactory, pictures: list[Path]) -> Batch:
    """Everything in one file of messages, good pictures in between, by one worker that has seen a picture before."""
    folder = tmp_path_factory.mktemp("odd")
    executor = Settings.load(environ={}, files=[]).settings.executor_python
    subprocess.run([executor, Path(__file__).with_name("draw_odd.py"), folder], check=True)
    for file in folder.iterdir():
        put(mill, f"odd/{file.name}", file.read_bytes())
    for picture in pictures:
        put(mill, f"good/{picture.name}", picture.read_bytes())

    worker = mill.worker().wait_until_ready()
    first = f"good/{pictures[0].name}"
    [warm] = run_all(mill, [caption(first)])
    assert warm["state"] == "succeeded"
    before = peak_mib(worker)

    keys = [f"odd/{name}" for name in (*ODD, *WRONG)] + [f"odd/{name}.twin.png" for name in ODD]
    for n, picture in enumerate(pictures[1:]):
        keys.insert(3 * n, f"good/{picture.name}")
    jobs = run_all(mill, [caption(key) for key in keys], seconds=90)
    named = dict(zip([first, *keys], [warm, *jobs], strict=True))
    return Batch(mill, worker, named, before, peak_mib(worker))


def caption(key: str, bucket: str = "media") -> dict[str, Any]:
    return {"type": "image.caption", "inputs": {"image": f"s3://{bucket}/{key}"}}


def peak_mib(worker: Worker) -> float:
    """The most memory that one of the worker's executors has had resident."""
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in worker.executors()]
    return max(int(found) / 1024 for status in statuses for found in re.findall(r"VmHWM:\s*(\d+)", status))


def similarity(stage: Stage, one: dict[str, Any], other: dict[str, Any]) -> float:
    """Cosine between the embeddings of what two jobs read."""
    sql = """
        SELECT 1 - (a.vector::halfvec(64) <=> b.vector::halfvec(64)) AS cosine
        FROM job_inputs i JOIN embeddings a ON a.content = i.content, job_inputs j JOIN embeddings b
        ON b.content = j.content WHERE i.job_id = :one AND j.job_id = :other
    """
    [row] = stage.table.rows(sql, one=one["id"], other=other["id"])
    return float(row["cosine"])


@pytest.mark.parametrize("name", ODD)
def test_an_odd_picture_is_seen_as_its_plain_twin_is(batch: Batch, name: str) -> None:
    job, twin = batch.jobs[f"odd/{name}"], batch.jobs[f"odd/{name}.twin.png"]
    assert (job["state"], job["error"], job["attempt"]) == ("succeeded", None, 1)
    assert job["result"]["captions"][0]["text"]
    assert similarity(batch.stage, job, twin) > 0.999
    others = [other for key, other in batch.jobs.items() if key.startswith("good/")]
    assert max(similarity(batch.stage, job, other) for other in others) < 0.999


@pytest.mark.parametrize("name", ODD)
def test_what_an_odd_picture_is_is_known_afterwards(batch: Batch, name: str) -> None:
    [content] = batch.stage.table.rows(
        "SELECT c.* FROM contents c JOIN job_inputs i ON i.content = c.sha256 WHERE i.job_id = :id",
        id=batch.jobs[f"odd/{name}"]["id"],
    )
    assert content["mime"] == content["probe"]["mime"]
    assert content["probe"].items() >= ODD[name].items()


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_readable_picture_fails_at_once_with_a_sentence(batch: Batch, name: str) -> None:
    job = batch.jobs[f"odd/{name}"]
    assert (job["state"], job["attempt"], job["failures"]) == ("failed", 1, 0)
    assert job["error"]["type"] == "InvalidInput"
    for words in WRONG[name]:
        assert words in job["error"]["message"]
    assert not any(told in job["error"]["message"] for told in ("/scratch", "/cache", str(batch.stage.folder)))


def test_their_neighbours_succeed_at_the_first_attempt(batch: Batch) -> None:
    good = {key: job for key, job in batch.jobs.items() if key.startswith("good/")}
    assert len(good) == 12
    assert {(job["state"], job["attempt"], job["losses"]) for job in good.values()} == {("succeeded", 1, 0)}


def test_the_executor_lives_on_and_its_memory_stays_bounded(batch: Batch) -> None:
    """Nine bytes for each pixel that may be, once (one thread decodes), and something for the libraries."""
    assert "mediamill_executor_restarts_total{" not in batch.worker.get("/metrics")[1].decode()
    grown = batch.peak_mib - batch.before_mib
    print(f"executor: {batch.before_mib:.0f} MiB before, {batch.peak_mib:.0f} MiB at most")  # noqa: T201
    assert grown < 9 * MOST_PIXELS / MIB + 100


def test_one_unreadable_picture_of_many_fails_the_job_and_is_named(batch: Batch, pictures: list[Path]) -> None:
    uris = [f"s3://media/good/{pictures[0].name}", "s3://media/odd/cut.jpg", f"s3://media/good/{pictures[1].name}"]
    [job] = run_all(batch.stage, [{"type": "image.embed", "inputs": {"images": uris}}])
    assert job["state"] == "failed"
    assert "inputs/images/1 is a JPEG that is cut off" in job["error"]["message"]


def test_a_bucket_may_have_stricter_limits_and_the_strictest_of_a_job_counts(
    batch: Batch, pictures: list[Path]
) -> None:
    name = f"good/{pictures[0].name}"
    strict = put(batch.stage, name, pictures[0].read_bytes(), bucket="strict")
    anywhere = {"type": "image.embed", "inputs": {"images": [f"s3://media/good/{pictures[1].name}", strict]}}
    general, refused, mixed = run_all(batch.stage, [caption(name), caption(name, "strict"), anywhere])
    assert general["state"] == "succeeded"
    for job in (refused, mixed):
        assert job["state"] == "failed"
        assert "160 x 120 pixels, more than the limit of 5,000" in job["error"]["message"]
