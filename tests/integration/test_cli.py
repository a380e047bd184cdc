"""The commands against a real Postgres and a store in a folder."""

from __future__ import annotations

import io
import json
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from console import cli
from console.failures import Exit
from storage.claim import Pin, PinnedInput, Want, claim, pin
from storage.database import Database, Unreachable
from storage.settle import Ending, NewEmbedding, NewText, Rules, Settlement, settle
from storage.spaces import Space, ensure_space
from storage.sql import text
from storage.submit import NewJob, Submitted, submit
from storage.workers import register
from tests.fixtures import JobTable
from tests.integration.test_embedded import eventually, postmaster


class Answer:
    """What a command printed and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Answer]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    home = tmp_path / "home"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDIAMILL_HOME", str(home))
    monkeypatch.setenv("MEDIAMILL_TEST_TYPES", "true")
    monkeypatch.setenv("MEDIAMILL_CATALOGUE", "tiny")
    return home


@pytest.fixture
def run_bare(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with an embedded database, unless the test says otherwise."""

    def run(*arguments: str) -> Answer:
        capsys.readouterr()
        code = cli.run(arguments)
        return Answer(code, *capsys.readouterr())

    return run


@pytest.fixture
def run(run_bare: Run, database: Database, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command against the test's own database."""
    monkeypatch.setenv("MEDIAMILL_DATABASE_URL", database.url)
    return run_bare


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


class StandIn:
    """Does jobs as a worker does, as far as the database can tell; `outcomes` says how each type ends."""

    def __init__(self, database: Database, outcomes: Mapping[str, Mapping[str, Any]]) -> None:
        self._database = database
        self._outcomes = outcomes
        self._stop = threading.Event()
        self.id = uuid.uuid4()
        self.done: list[str] = []
        with database.transaction() as connection:
            register(connection, self.id, host="stand-in", pid=1, build="test", devices=[])
        self._thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        while not self._stop.wait(0.01):
            for type_, outcome in self._outcomes.items():
                self._turn(type_, outcome)

    def _turn(self, type_: str, outcome: Mapping[str, Any]) -> None:
        with self._database.transaction() as connection:
            wanted = [Want(lane, type_, 100) for lane in ("interactive", "upload", "backfill")]
            for job in claim(connection, self.id, wanted, ["tiny-clip", "embed", "caption"]):
                settle(connection, [Settlement.of(job.fence, **outcome)], Rules())
                self.done.append(type_)

    def __enter__(self) -> StandIn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def succeed(**result: Any) -> dict[str, Any]:
    return {"ending": Ending.SUCCEEDED, "result": result, "timings": {"fetch": 0.01, "infer": 0.5}}


def fail(message: str) -> dict[str, Any]:
    return {
        "ending": Ending.REFUSED,
        "error": {"type": "InvalidInput", "message": message, "traceback": "where it was"},
    }


def embedded_picture(database: Database, space: Space, sha256: str, vector: str, caption: str) -> None:
    """A picture in the library, as a job left it."""
    content, worker = bytes.fromhex(sha256), uuid.uuid4()
    table = JobTable(database)
    table.add(type_="image.caption")
    with database.transaction() as connection:
        register(connection, worker, host="library", pid=1, build="test", devices=[])
        [job] = claim(connection, worker, [Want("interactive", "image.caption", 1)], [])
        read = PinnedInput("image", "", "media", f"library/{sha256[:8]}.png", None, "e", 1, content)
        pin(connection, [Pin(job.fence, [read])])
        settle(
            connection,
            [
                Settlement.of(
                    job.fence,
                    Ending.SUCCEEDED,
                    embeddings=[NewEmbedding(content, space.id, vector)],
                    texts=[NewText(content, "caption", caption, "en")],
                )
            ],
            Rules(),
        )


# --- submit ---


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


# --- jobs ---


def test_show_has_history_stages_and_what_was_made(run: Run, database: Database) -> None:
    space = ensure_space(database, checkpoint="tiny-clip", revision="r", dimension=2)
    embedded_picture(database, space, "ab" * 32, "[1,0]", "a cat on a mat")
    [job] = run("jobs", "list", "--json").json
    shown = run("jobs", "show", job["id"]).out
    for words in (
        "submitted",
        "claimed",
        "succeeded",
        "s3://media/library/abababab.png",
        "a cat on a mat",
        "tiny-clip",
    ):
        assert words in shown
    assert {"events", "inputs", "artifacts", "texts", "embeddings"} <= run(
        "jobs", "show", job["id"], "--json"
    ).json.keys()


def test_a_suffix_that_fits_several_jobs_or_none_is_refused(run: Run, table: JobTable) -> None:
    ends = "abcdef"
    for n in (1, 2):
        run("submit", "test.noop", "--id", f"0190000{n}-0000-7000-8000-000000{ends}")
    ambiguous = run("jobs", "show", ends)
    assert ambiguous.code == Exit.REFUSED
    assert "is the end of several ids" in ambiguous.err
    assert "ends with 123456" in run("jobs", "show", "123456").err
    assert "its last 6 digits or more" in run("jobs", "show", "cdef").err
    assert "there is no job" in run("jobs", "show", str(uuid.uuid4())).err


def test_queued_jobs_are_cancelled_at_once_and_retried_with_clean_counters(run: Run, table: JobTable) -> None:
    [id_] = table.add()
    assert run("jobs", "cancel", str(id_), "--json").json == [{"id": str(id_), "answer": "cancelled"}]
    assert run("jobs", "cancel", str(id_)).out == f"{id_}  already finished\n"
    assert run("jobs", "retry", str(id_)).out == f"{id_}  queued\n"
    again = run("jobs", "retry", str(id_))
    assert (again.code, again.out) == (Exit.REFUSED, f"{id_}  is queued\n")
    assert table.events(id_) == ["submitted", "cancelled", "retried"]


def test_a_running_job_is_asked_to_end(run: Run, table: JobTable) -> None:
    [id_] = table.add()
    table.claim(table.worker())
    assert run("jobs", "cancel", str(id_)).out == f"{id_}  cancel requested\n"


def test_all_that_filters_let_through_are_retried_and_a_dry_run_changes_nothing(run: Run, table: JobTable) -> None:
    many = table.add(1100, labels={"batch": "7"})
    others = table.add(3)
    assert (
        run("jobs", "cancel", "--all", "--label", "batch=7", "--dry-run").err
        == "1100 would be cancelled, or asked to end\n"
    )
    assert table.counts() == {"queued": 1103}
    assert run("jobs", "cancel", "--all", "--label", "batch=7").err == "1100 cancelled, or asked to end\n"
    assert table.counts() == {"cancelled": 1100, "queued": 3}
    assert run("jobs", "retry", "--all", "--state", "cancelled", "--newer-than", "1h").err == "1100 queued again\n"
    assert table.counts() == {"queued": 1103}
    listed = {job["id"] for job in run("jobs", "list", "--limit", "2000", "--json").json}
    assert listed == {str(id_) for id_ in [*many, *others]}


def test_jobs_that_are_not_there_are_refused(run: Run) -> None:
    missing = str(uuid.uuid4())
    for command in ("cancel", "retry"):
        answer = run("jobs", command, missing)
        assert (answer.code, answer.out) == (Exit.REFUSED, f"{missing}  unknown\n")


# --- search ---


@pytest.fixture
def library(database: Database) -> Space:
    space = ensure_space(database, checkpoint="tiny-clip", revision="r", dimension=2)
    embedded_picture(database, space, "ab" * 32, "[1,0]", "a cat on a mat")
    embedded_picture(database, space, "cd" * 32, "[0,1]", "a dog in the park")
    with database.transaction() as connection:
        connection.execute(text("UPDATE workers SET retired_at = now(), retired_why = 'drained'"))
    return space


def test_without_a_worker_a_text_is_searched_in_words_and_that_is_said(run: Run, library: Space) -> None:
    answer = run("search", "dog")
    assert answer.code == Exit.DONE
    assert "start one with `mediamill worker`" in answer.err
    assert "s3://media/library/cdcdcdcd.png" in answer.out
    assert "abababab" not in answer.out
    said = run("search", "dog", "--json").json
    assert (said["searched"], len(said["hits"])) == (["words"], 1)
    assert "no worker" in said["note"]


def test_a_running_worker_embeds_the_text(run: Run, library: Space, database: Database) -> None:
    made = succeed(vectors=[[1.0, 0.0]], checkpoint="tiny-clip", dimension=2)
    with StandIn(database, {"text.embed": made}) as worker:
        answer = run("search", "an animal that purrs", "--json")
    assert worker.done == ["text.embed"]
    assert answer.json["searched"] == ["words", "pictures"]
    [hit] = answer.json["hits"]
    assert (hit["sha256"], hit["similarity"]) == ("ab" * 32, 1.0)


def test_a_worker_that_cannot_embed_leaves_the_words(run: Run, library: Space, database: Database) -> None:
    with StandIn(database, {"text.embed": fail("no such model")}):
        answer = run("search", "cat")
    assert answer.code == Exit.DONE
    assert "no such model" in answer.err
    assert "abababab" in answer.out


def test_a_picture_that_is_known_is_searched_by_without_a_job(
    run: Run, database: Database, tmp_path: Path, table: JobTable
) -> None:
    import hashlib

    (tmp_path / "cat.png").write_bytes(b"a cat")
    space = ensure_space(database, checkpoint="tiny-clip", revision="r", dimension=2)
    embedded_picture(database, space, hashlib.sha256(b"a cat").hexdigest(), "[1,0]", "a cat")
    before = table.counts()
    answer = run("search", "--image", "cat.png", "--json")
    assert [hit["similarity"] for hit in answer.json["hits"]] == [1.0]
    assert table.counts() == before


def test_another_picture_is_embedded_by_a_worker_and_stays_out_of_the_library(
    run: Run, library: Space, database: Database, tmp_path: Path, home: Path, table: JobTable
) -> None:
    (tmp_path / "query.png").write_bytes(b"a question")
    made = succeed(images=1, vectors=[[0.0, 1.0]], checkpoint="tiny-clip", dimension=2)
    with StandIn(database, {"image.embed": made}):
        answer = run("search", "--image", "query.png", "--json")
    assert [hit["sha256"] for hit in answer.json["hits"]] == ["cd" * 32]
    [asked] = table.rows("SELECT message FROM job_details JOIN jobs USING (id) WHERE type = 'image.embed'")
    assert asked["message"]["embed"] is False
    assert asked["message"]["inputs"]["images"][0]["uri"].startswith("s3://media/queries/")
    assert not list(home.glob("store/media/queries/*/*"))


def test_a_picture_that_nobody_can_embed_exits_with_3(run: Run, library: Space, tmp_path: Path, home: Path) -> None:
    (tmp_path / "query.png").write_bytes(b"a question")
    answer = run("search", "--image", "query.png")
    assert answer.code == Exit.UNREACHABLE
    assert "start one with `mediamill worker`" in answer.err
    assert not list(home.glob("store/media/queries/*/*"))


# --- the rest ---


def test_top_prints_queues_and_workers_once(run: Run, table: JobTable) -> None:
    table.add(3)
    table.claim(table.worker())
    printed = run("top", "--once").out
    assert "interactive  test.noop" in printed
    assert "idle" in printed
    seen = run("top", "--json").json
    assert {(row["state"], row["jobs"]) for row in seen["jobs"]} == {("queued", 2), ("running", 1)}
    assert [worker["host"] for worker in seen["workers"]] == ["test"]


def test_a_configured_database_is_migrated_only_by_migrate(
    run_bare: Run, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIAMILL_DATABASE_URL", empty_database)
    refused = run_bare("jobs", "list")
    assert (refused.code, "run `mediamill migrate`" in refused.err) == (Exit.UNREACHABLE, True)
    assert run_bare("migrate", "--check").code == Exit.UNREACHABLE
    assert run_bare("migrate").code == Exit.DONE
    assert run_bare("migrate", "--check").code == Exit.DONE
    assert run_bare("jobs", "list").code == Exit.DONE


def test_doctor_masks_secrets_and_says_what_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIAMILL_EXECUTOR_PYTHON", "/nowhere/python")
    monkeypatch.setenv("MEDIAMILL_S3_REGION", "")
    answer = run("doctor", "--json")
    assert answer.code == Exit.UNREACHABLE
    checks = {check["name"]: check for check in answer.json["checks"]}
    assert checks["postgres"]["status"] == "ok"
    assert checks["object store"]["status"] == "ok"
    assert (checks["executor"]["status"], "/nowhere/python" in checks["executor"]["detail"]) == ("fail", True)
    assert checks["checkpoints"]["status"] == "fail"
    assert "mediamill models pull tiny-clip" in " ".join(checks["checkpoints"]["fix"])
    sources = {setting["name"]: setting["source"] for setting in answer.json["settings"]}
    assert sources["home"] == "environment MEDIAMILL_HOME"
    monkeypatch.setenv("MEDIAMILL_DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:1/x")
    hidden = run("doctor")
    assert "hunter2" not in hidden.out + hidden.err
    assert "fail  postgres" in hidden.out


def test_missing_checkpoints_keep_a_worker_from_starting_and_name_the_command(run: Run) -> None:
    answer = run("worker")
    assert answer.code == Exit.REFUSED
    assert "mediamill models pull tiny-clip" in answer.err


@pytest.fixture
def embedded(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Everything under one folder, as for somebody who has set nothing."""
    monkeypatch.setattr("storage.embedded.LINGER_S", 0.2)
    yield home / "pgdata"
    assert eventually(lambda: postmaster(home / "pgdata") is None)


def test_with_nothing_configured_everything_is_kept_in_one_folder(run_bare: Run, embedded: Path) -> None:
    id_ = run_bare("submit", "test.noop").out.strip()
    [listed] = run_bare("jobs", "list", "--json").json
    assert (listed["id"], listed["state"]) == (id_, "queued")
    assert embedded.is_dir()
