"""`mediamill submit` against a real Postgres and a store in a folder."""

from __future__ import annotations

import io
import sys
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from console.failures import Exit
from storage.database import Database, Unreachable
from storage.submit import NewJob, Submitted, submit
from tests.fixtures import JobTable
from tests.integration.commands import Run, at_home, runner
from tests.integration.stand_in import StandIn, fail, succeed


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: Database) -> Path:
    return at_home(monkeypatch, tmp_path, database.url)


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command against the test's own database."""
    return runner(capsys)


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_a_submitted_job_is_printed_listed_and_shown(run: Run) -> None:
    submitted = run("submit", "test.noop", "--param", "output_bytes=7", "--label", "animal=cat", "--priority", "5")
    assert submitted.code == Exit.DONE
    id_ = submitted.out.strip()
    assert uuid.UUID(id_).version == 7
    [listed] = run("jobs", "list", "--label", "animal=cat", "--json").json
    assert (listed["id"], listed["state"], listed["priority"]) == (id_, "queued", 5)
    assert run("jobs", "list", "--label", "animal=dog").out == "no such jobs\n"
    shown = run("jobs", "show", id_[-8:], "--json").json
    assert shown["message"]["params"] == {"output_bytes": 7}
    assert [event["kind"] for event in shown["events"]] == ["submitted"]
    assert id_ in run("jobs", "show", id_).out


def test_a_local_file_is_uploaded_once_by_its_content(run: Run, home: Path, tmp_path: Path) -> None:
    picture = tmp_path / "Größe 1.png"
    picture.write_bytes(b"what is in it")
    first, second = (run("submit", "image.caption", "--input", f"image={picture}") for _ in range(2))
    assert "uploaded" in first.err
    assert "uploaded" not in second.err
    [stored] = (home / "store" / "media" / "uploads").glob("*/*")
    assert stored.suffix == ".png"
    assert stored.read_bytes() == b"what is in it"
    message = run("jobs", "show", second.out.strip(), "--json").json["message"]
    reference = message["inputs"]["image"]
    assert reference["uri"] == f"s3://media/uploads/{reference['sha256'][:16]}/Größe_1.png"


def test_nothing_is_uploaded_for_a_message_that_is_refused(run: Run, home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"bytes")
    refused = run("submit", "image.caption", "--input", "image=a.png", "--param", "count=0")
    assert refused.code == Exit.REFUSED
    assert "/params/count: is 0" in refused.err
    assert not list(home.glob("store/media/uploads/*/*"))


def test_a_type_with_one_role_takes_files_without_naming_it(run: Run, tmp_path: Path) -> None:
    for name in ("a.png", "b=c.png"):
        (tmp_path / name).write_bytes(name.encode())
    id_ = run("submit", "image.embed", "-i", "a.png", "-i", "b=c.png").out.strip()
    assert len(run("jobs", "show", id_, "--json").json["message"]["inputs"]["images"]) == 2


def test_options_become_the_keys_of_the_message(run: Run) -> None:
    id_ = run(
        "submit", "test.noop", "--lane", "backfill", "--tenant", "zoo", "--dedupe-key", "k", "--timeout", "7.5",
        "--max-attempts", "2", "--run-after", "1h", "--deadline", "2h", "--no-embed", "--output", "s3://media/here/",
    ).out.strip()  # fmt: skip
    job = run("jobs", "show", id_, "--json").json
    assert (job["lane"], job["tenant"], job["timeout_s"], job["max_attempts"]) == ("backfill", "zoo", 7.5, 2)
    assert 3500 < (datetime.fromisoformat(job["run_after"]) - datetime.now(UTC)).total_seconds() <= 3600
    assert (job["message"]["embed"], job["message"]["output"]) == (False, "s3://media/here/")


def test_the_same_id_again_is_noted_and_with_another_body_refused(run: Run) -> None:
    id_ = str(uuid.uuid4())
    run("submit", "test.noop", "--id", id_)
    again = run("submit", "test.noop", "--id", id_)
    assert (again.code, again.out) == (Exit.DONE, f"{id_}  (the same job was there already)\n")
    other = run("submit", "test.noop", "--id", id_, "--param", "output_bytes=1")
    assert other.code == Exit.REFUSED
    assert "/id: is" in other.err
    assert "make a new id" in other.err


def test_a_held_dedupe_key_answers_with_the_job_that_holds_it(run: Run) -> None:
    first = run("submit", "test.noop", "--dedupe-key", "k").out.strip()
    second = run("submit", "test.noop", "--dedupe-key", "k", "--json").json["submitted"][0]
    assert (second["id"], second["admission"]) == (first, "deduplicated")


def test_of_a_file_the_good_lines_run_and_the_bad_ones_are_listed_with_their_numbers(
    run: Run, stdin: Callable[[str], None]
) -> None:
    good = '{"type": "test.noop"}'
    stdin(f'{good}\n{{"type": "test.nop"}}\n\n{{"type": "test.noop", "params": {{"x": 1}}}}\nhello\n{good}\n')
    answer = run("submit", "--from", "-")
    assert answer.code == Exit.REFUSED
    assert answer.out == "2 submitted, 3 refused\n"
    lines = answer.err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["line 2", "line 4", "line 5"]
    assert "did you mean test.noop?" in lines[0]
    assert len(run("jobs", "list", "--json").json) == 2


def test_a_long_file_is_stored_in_batches_and_in_order(run: Run, tmp_path: Path, table: JobTable) -> None:
    ids = [str(uuid.UUID(int=0x0190_0000_0000_7000_8000_0000_0000_0000 + n)) for n in range(1201)]
    (tmp_path / "jobs.jsonl").write_text("".join(f'{{"type": "test.noop", "id": "{id_}"}}\n' for id_ in ids))
    answer = run("submit", "--from", "jobs.jsonl", "--json")
    assert answer.code == Exit.DONE
    assert [job["id"] for job in answer.json["submitted"]] == ids
    [row] = table.rows("SELECT count(DISTINCT xmin::text) AS transactions, count(*) AS jobs FROM jobs")
    assert row == {"transactions": 3, "jobs": 1201}
    again = run("submit", "--from", "jobs.jsonl")
    assert again.out == "1201 submitted, 0 refused (1201 of them were there already)\n"


def test_a_file_that_is_broken_off_says_until_which_line_it_is_done(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: JobTable
) -> None:
    def broken_off(database: Database, jobs: Sequence[NewJob]) -> Sequence[Submitted]:
        if table.rows("SELECT id FROM jobs LIMIT 1"):
            raise Unreachable("gone")
        return submit(database, jobs)

    monkeypatch.setattr("intake.submit.submit", broken_off)
    (tmp_path / "jobs.jsonl").write_text('{"type": "test.noop"}\n' * 600)
    answer = run("submit", "--from", "jobs.jsonl")
    assert answer.code == Exit.UNREACHABLE
    assert "all is done until line 500; of up to 500 lines behind it nobody knows" in answer.err


def test_waiting_tells_what_came_out(run: Run, database: Database) -> None:
    with StandIn(database, {"test.noop": succeed(inputs=0)}):
        waited = run("submit", "test.noop", "--wait")
        assert waited.code == Exit.DONE
        assert "test.noop succeeded" in waited.out
        assert 'result: {"inputs": 0}' in waited.out
        [job] = run("submit", "test.noop", "--wait", "--json").json["submitted"]
    assert (job["state"], job["result"], job["timings"]["infer"]) == ("succeeded", {"inputs": 0}, 0.5)


def test_waiting_for_a_job_that_fails_exits_with_1_and_says_why(run: Run, database: Database) -> None:
    with StandIn(database, {"test.noop": fail("is no picture")}):
        waited = run("submit", "test.noop", "--wait")
    assert waited.code == Exit.JOB_FAILED
    assert "InvalidInput: is no picture" in waited.out
    id_ = waited.out.splitlines()[0]
    shown = run("jobs", "show", id_).out
    assert "where it was" in shown
    assert "is no picture" in run("jobs", "list", "--state", "failed").out


def test_waiting_for_many_counts_how_they_ended(run: Run, database: Database, stdin: Callable[[str], None]) -> None:
    stdin('{"type": "test.noop"}\n{"type": "text.embed", "params": {"texts": ["x"]}}\n{"type": "test.noop"}\n')
    with StandIn(database, {"test.noop": succeed(inputs=0), "text.embed": fail("as asked")}):
        waited = run("submit", "--from", "-", "--wait")
    assert waited.code == Exit.JOB_FAILED
    assert "1 failed, 2 succeeded" in waited.out
    assert "InvalidInput: as asked" in waited.out
