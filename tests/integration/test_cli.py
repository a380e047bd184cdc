"""The commands against a real Postgres and a store in a folder; `mediamill submit` is in test_cli_submit."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from console.failures import Exit
from storage.claim import Pin, PinnedInput, Want, claim, pin
from storage.database import Database
from storage.settle import Ending, NewEmbedding, NewText, Rules, Settlement, settle
from storage.spaces import Space, ensure_space
from storage.sql import text
from storage.workers import register
from tests.fixtures import JobTable
from tests.integration.commands import Run, at_home, runner
from tests.integration.stand_in import StandIn, fail, succeed
from tests.integration.test_embedded import eventually, postmaster


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return at_home(monkeypatch, tmp_path)


@pytest.fixture
def run_bare(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with an embedded database, unless the test says otherwise."""
    return runner(capsys)


@pytest.fixture
def run(run_bare: Run, database: Database, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command against the test's own database."""
    monkeypatch.setenv("MEDIAMILL_DATABASE_URL", database.url)
    return run_bare


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
