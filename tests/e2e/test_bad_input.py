"""What is wrong with a message is said at the door, field and fix named, and nothing of it is stored."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.shared import InProcess, shared_stage
from tests.e2e.stage import Stage
from tests.servers.postgres import PostgresServer

GOOD = "s3://media/a.jpg"


@pytest.fixture(scope="module")
def door(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer, migrated_template: str
) -> Iterator[Stage]:
    """A deployment with its door open and nobody at work: no model is needed to refuse."""
    with shared_stage(tmp_path_factory.mktemp("door"), postgres_server, migrated_template, {}) as made:
        yield made


@pytest.fixture
def mediamill(door: Stage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[InProcess]:
    yield InProcess(door, monkeypatch, capfd)
    assert stored(door) == 0


def stored(stage: Stage) -> int:
    tables = ("jobs", "job_details", "job_events", "job_dedupe", "job_counts", "outbox", "rejected_messages")
    counted = " + ".join(f"(SELECT count(*) FROM {table})" for table in tables)
    return int(stage.table.rows(f"SELECT ({counted})::int AS n")[0]["n"])


def uploads(stage: Stage) -> list[Path]:
    return [path for path in (stage.folder / "home" / "store").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["image.captoin", "-i", f"image={GOOD}"], ["image.captoin is no job type", "did you mean image.caption?"]),
        (["image.caption"], ["/inputs: is missing", '{"image": "s3://bucket/key"}']),
        (["image.caption", "-i", f"picture={GOOD}"], ["/inputs/picture", "there is image"]),
        (["image.caption", "-i", f"image={GOOD}", "-p", "cuont=3"], ["/params/cuont", "did you mean count?"]),
        (["image.caption", "-i", f"image={GOOD}", "-p", "count=0"], ["/params/count", "at least 1"]),
        (["image.caption", "-i", f"image={GOOD}", "-p", "count=three"], ["/params/count", "a whole number"]),
        (["image.caption", "-i", f"image={GOOD}", "-p", "count=" + "9" * 30], ["/params/count"]),
        (["image.caption", "-i", f"image={GOOD}", "-p", "temperature=NaN"], ["/params/temperature", "a number"]),
        (["image.caption", "-i", f"image={GOOD}", "-p", "checkpoint=blip"], ["/params/checkpoint", "catalogue"]),
        (["image.caption", "-i", f"image={GOOD}", "-p", "prompt=a\udcffb"], ["/params/prompt", "lone surrogate"]),
        (["image.caption", "-i", f"image={GOOD}", "--priority", "101"], ["/priority", "at most 100"]),
        (["image.caption", "-i", f"image={GOOD}", "--id", "7"], ["/id", "no UUID"]),
        (["image.caption", "-i", f"image={GOOD}", "--tenant", "A B"], ["/tenant", "a-z"]),
        (["image.caption", "-i", f"image={GOOD}", "--callback", "http://x/"], ["/callback", "https"]),
        (["image.caption", "-i", f"image={GOOD}", "--output", "s3://other/x/"], ["/output", "MEDIAMILL_S3_BUCKETS"]),
        (["image.caption", "-i", f"image={GOOD}", "--output", "s3://media/../x/"], ["/output", "'..'"]),
        (["image.caption", "-i", f"image={GOOD}", "--deadline", "yesterday"], ["--deadline", "2030-01-31T12:00:00Z"]),
        (["image.caption", "-i", f"image={GOOD}", "--timeout", "nan"], ["/timeout_s"]),
        (["image.caption", "-i", "image=s3://other/a.jpg"], ["/inputs/image", "MEDIAMILL_S3_BUCKETS"]),
        (["image.caption", "-i", "image=s3://media/../other/a.jpg"], ["/inputs/image", "'..'"]),
        (["image.caption", "-i", "image=s3://media/%2e%2e/a.jpg"], ["/inputs/image", "percent-decoded"]),
        (["image.caption", "-i", "image=s3://media/%252e%252e/a"], ["/inputs/image", "percent-decoded"]),
        (["image.caption", "-i", "image=s3://media//etc/passwd"], ["/inputs/image", "slash"]),
        (["image.caption", "-i", "image=file:///etc/passwd"], ["/inputs/image", "file:", "s3://bucket/key"]),
        (["image.caption", "-i", "image=https://example.com/a.jpg"], ["/inputs/image", "https:"]),
        (["image.caption", "-i", "image=/no/such/file.jpg"], ["/no/such/file.jpg", "s3://bucket/key"]),
        (["image.embed", "-i", GOOD, "-i", GOOD], ["/inputs/images/1", "is the same as"]),
    ],
    ids=lambda value: " ".join(value)[-60:] if isinstance(value, list) else None,
)
def test_what_is_wrong_on_the_command_line_names_the_field_and_the_fix(
    mediamill: InProcess, arguments: list[str], said: list[str]
) -> None:
    code, _, err = mediamill("submit", *arguments)
    assert code == 2
    for words in said:
        assert words in err


def test_a_local_file_is_not_uploaded_for_a_message_that_is_refused(
    mediamill: InProcess, door: Stage, tmp_path: Path
) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"\xff\xd8\xff")
    code, _, err = mediamill("submit", "image.caption", "-i", f"image={picture}", "-p", "count=0")
    assert (code, "/params/count" in err) == (2, True)
    assert uploads(door) == []


def nested(levels: int) -> str:
    return '{"type": "test.noop", "labels": ' + '{"a": ' * levels + "1" + "}" * levels + "}"


#: A line of a file, and what is said of it; none of them is a job.
BAD_LINES = [
    ('{"type": "image.caption", "inputs": {"image": "s3://media/\\u0000.jpg"}}', ["/inputs/image", "NUL"]),
    ('{"type": "test.noop", "labels": {"a": "\\ud800"}}', ["/labels/a", "lone surrogate", "leave it out"]),
    ('{"type": "test.noop", "labels": {"\\udfff": "a"}}', ["/labels/", "lone surrogate"]),
    ('{"type": "test.noop", "priority": NaN}', ["/priority", "finite"]),
    ('{"type": "test.noop", "timeout_s": 1e999}', ["/timeout_s", "finite"]),
    ('{"type": "test.noop", "priority": 1' + "0" * 5000 + "}", ["/priority", "64 bits"]),
    (nested(70), ["nests deeper than 64"]),
    (nested(100_000), ["nests deeper than 64"]),
    (json.dumps({"type": "test.noop", "labels": {"a": "x" * (5 << 20)}}), ["bytes long", "object store"]),
    ('{"type": "test.noop", "type": "test.fault"}', ["/type", "stands twice"]),
    ('{"type": "test.noop", "colour": "red"}', ["/colour", "not a key of a message"]),
    ('{"type": "test.noop"', ["is not JSON", "line 1"]),
    ("[]", ["is a list of 0", "type"]),
    ('{"type": ["test.noop"]}', ["/type"]),
    ('{"type": "test.noop", "inputs": {"files": "s3://media/a"}}', ["/inputs/files", "not a map"]),
    ('{"type": "test.noop", "run_after": "2030-01-31T12:00:00"}', ["/run_after", "zone"]),
]


@pytest.fixture(scope="module")
def refusals(door: Stage) -> subprocess.CompletedProcess[str]:
    """What a file of nothing but bad lines is answered."""
    lines = "".join(f"{line}\n" for line, _ in BAD_LINES)
    answer = door.run("submit", "--from", "-", stdin=lines, check=False)
    assert stored(door) == 0
    return answer


@pytest.mark.parametrize(("number", "said"), list(enumerate((said for _, said in BAD_LINES), start=1)))
def test_a_bad_line_is_listed_with_its_number_the_field_and_the_fix(
    refusals: subprocess.CompletedProcess[str], number: int, said: list[str]
) -> None:
    mine = [line for line in refusals.stderr.splitlines() if line.startswith(f"line {number}: ")]
    assert mine
    for words in said:
        assert any(words in line for line in mine), mine
    assert all(len(line) < 400 for line in mine)


def test_a_file_of_bad_lines_is_refused_as_a_whole(refusals: subprocess.CompletedProcess[str]) -> None:
    assert refusals.returncode == 2
    assert refusals.stdout == f"0 submitted, {len(BAD_LINES)} refused\n"


def test_what_is_not_utf_8_is_refused_with_its_place(door: Stage, tmp_path: Path) -> None:
    (tmp_path / "jobs.jsonl").write_bytes(b'\n{"type": "test.noop", "tenant": "\xff"}\n')
    done = door.run("submit", "--from", tmp_path / "jobs.jsonl", check=False)
    assert done.returncode == 2
    assert "line 2: (message): is not UTF-8: byte 0xff at 33" in done.stderr
    assert stored(door) == 0
