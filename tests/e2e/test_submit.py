"""Submitting as people do it: one job, a file of many, the same again; waiting; what `--json` prints."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.shared import ended, run_all, shared_stage, submit_all
from tests.e2e.stage import Stage
from tests.servers.postgres import PostgresServer


@pytest.fixture(scope="module")
def mill(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    migrated_template: str,
    tiny_models: Path,
) -> Iterator[Stage]:
    """A deployment with one worker."""
    environ = {"MEDIAMILL_MODELS": str(tiny_models), "MEDIAMILL_DEDUPE_TTL": "1h"}
    with shared_stage(tmp_path_factory.mktemp("submit"), postgres_server, migrated_template, environ) as made:
        made.worker().wait_until_ready()
        yield made


def jobs_with(stage: Stage, label: str) -> int:
    sql = "SELECT count(*)::int AS n FROM job_details WHERE labels @> jsonb_build_object('set', CAST(:label AS text))"
    return int(stage.table.rows(sql, label=label)[0]["n"])


def noop(**more: Any) -> dict[str, Any]:
    return {"type": "test.noop", **more}


def test_of_a_file_the_good_lines_run_and_the_bad_ones_are_listed(mill: Stage, tmp_path: Path) -> None:
    good = json.dumps(noop(labels={"set": "mixed"}))
    lines = [good, "", '{"type": "test.nop"}', good, "nonsense", good, json.dumps(noop(priority=1000)), good]
    source = tmp_path / "jobs.jsonl"
    source.write_text("\n".join(lines))
    done = mill.run("submit", "--from", source, "--wait", check=False)
    assert done.returncode == 2
    assert done.stdout.splitlines() == ["4 submitted, 3 refused", "4 succeeded"]
    refused = [line.partition(":")[0] for line in done.stderr.splitlines()]
    assert refused == ["line 3", "line 5", "line 7"]
    assert "did you mean test.noop?" in done.stderr
    assert jobs_with(mill, "mixed") == 4


def test_the_same_id_again_is_noted_and_with_another_body_it_is_refused(mill: Stage) -> None:
    id_ = str(uuid.uuid4())
    first = mill.run("submit", "test.noop", "--id", id_, "--label", "set=same", "--wait")
    again = mill.run("submit", "test.noop", "--id", id_, "--label", "set=same")
    other = mill.run("submit", "test.noop", "--id", id_, "--label", "set=other", check=False)
    assert first.stdout.splitlines()[0] == id_
    assert again.stdout == f"{id_}  (the same job was there already)\n"
    assert other.returncode == 2
    assert f"/id: is {id_}, the id of a job with another body" in other.stderr
    assert (jobs_with(mill, "same"), jobs_with(mill, "other")) == (1, 0)


def test_in_one_file_an_id_counts_once_and_its_contradiction_is_listed(mill: Stage) -> None:
    id_ = str(uuid.uuid4())
    same, other = noop(id=id_, labels={"set": "once"}), noop(id=id_, labels={"set": "twice"})
    answer = submit_all(mill, [same, same, other], check=False)
    assert [one["admission"] for one in answer["submitted"]] == ["inserted", "duplicate"]
    [refused] = answer["refused"]
    assert (refused["line"], refused["problems"][0]["pointer"]) == (3, "/id")
    assert (jobs_with(mill, "once"), jobs_with(mill, "twice")) == (1, 0)


def test_a_dedupe_key_answers_with_the_job_that_holds_it_for_its_own_tenant(mill: Stage) -> None:
    def one(n: int, tenant: str = "acme") -> dict[str, Any]:
        return noop(dedupe_key="scene 7", tenant=tenant, labels={"set": "dedupe", "n": str(n)})

    answer = submit_all(mill, [one(1), one(2), one(3, "globex")])
    first, second, third = answer["submitted"]
    assert [first["admission"], second["admission"], third["admission"]] == ["inserted", "deduplicated", "inserted"]
    assert second["id"] == first["id"] != third["id"]
    ended(mill, [first["id"]])
    # It has succeeded, and holds its key for a while all the same.
    assert submit_all(mill, [one(4)])["submitted"][0]["id"] == first["id"]


def test_a_dedupe_key_is_free_again_when_its_job_has_failed(mill: Stage) -> None:
    fault = {"fault": "invalid_input", "message": "not today"}
    [failed] = run_all(mill, [{"type": "test.fault", "params": fault, "dedupe_key": "scene 8"}])
    assert failed["state"] == "failed"
    answer = submit_all(mill, [noop(dedupe_key="scene 8")])
    assert answer["submitted"][0]["admission"] == "inserted"


def test_waiting_for_a_job_that_succeeds_exits_with_0_and_for_one_that_fails_with_1(mill: Stage) -> None:
    good = mill.run("submit", "test.noop", "-p", "output_bytes=100", "--wait")
    assert "test.noop succeeded" in good.stdout
    assert "data: s3://media/derived/" in good.stdout
    bad = mill.run("submit", "test.fault", "-p", "fault=invalid_input", "-p", "message=too blue", "-w", check=False)
    assert bad.returncode == 1
    assert "test.fault failed" in bad.stdout
    assert "InvalidInput: too blue" in bad.stdout


def test_waiting_for_many_exits_with_1_when_one_of_them_failed_and_names_it(mill: Stage) -> None:
    messages = [noop(), {"type": "test.fault", "params": {"fault": "invalid_input"}}, noop()]
    done = mill.run("submit", "--from", "-", "-w", stdin="\n".join(map(json.dumps, messages)), check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[:2] == ["3 submitted, 0 refused", "1 failed, 2 succeeded"]
    assert "InvalidInput: a fault was asked for" in done.stdout.splitlines()[2]


def test_a_local_file_is_uploaded_once_by_its_content(mill: Stage, pictures: list[Path]) -> None:
    first = mill.run("submit", "test.noop", "-i", f"files.a={pictures[0]}", "--wait", "--json")
    again = mill.run("submit", "test.noop", "-i", f"files.b={pictures[0]}", "--wait")
    [job] = json.loads(first.stdout)["submitted"]
    assert job["result"] == {"inputs": 1}
    assert f"/{job['inputs'][0]['sha256'][:16]}/" in job["inputs"][0]["uri"]
    assert "uploaded" not in again.stderr


# --- what programs read: names of fields are a contract ---

#: Columns of `jobs` and of `job_details` that a list shows.
LISTED = {
    "id", "type", "tenant", "lane", "priority", "state", "attempt", "max_attempts", "failures", "losses", "crashes",
    "interruptions", "worker_id", "cancel_requested", "run_after", "deadline", "created_at", "claimed_at",
    "finished_at", "labels", "error", "timings",
}  # fmt: skip
#: What `show` has besides: more columns, and rows of other tables by their names.
SHOWN = LISTED | {
    "timeout_s", "checkpoints", "message", "resolved", "result",
    "events", "inputs", "artifacts", "texts", "embeddings", "doing",
}  # fmt: skip


def test_the_fields_of_a_submission_in_json_are_those_of_the_contract(mill: Stage) -> None:
    answer = submit_all(mill, [noop(), noop(colour="red")], check=False)
    assert answer.keys() == {"submitted", "refused"}
    [submitted], [refused] = answer["submitted"], answer["refused"]
    assert submitted.keys() == {"line", "id", "type", "lane", "admission"}
    assert (submitted["line"], submitted["type"], submitted["lane"]) == (1, "test.noop", "interactive")
    assert refused.keys() == {"line", "problems"}
    assert [problem.keys() for problem in refused["problems"]] == [{"pointer", "code", "message", "fix"}]
    one = mill.run("submit", "test.noop", "--wait", "--json")
    assert json.loads(one.stdout)["submitted"][0].keys() == SHOWN | {"line", "admission"}
    many = submit_all(mill, [noop(labels={"set": "json"}), noop(labels={"set": "json"})], "--wait")
    assert all(job.keys() == LISTED | {"line", "admission"} for job in many["submitted"])
    assert [job.keys() for job in mill.json("jobs", "list", "--label", "set=json")] == [LISTED, LISTED]


def test_the_fields_of_an_error_in_json_are_those_of_the_contract(mill: Stage) -> None:
    [job] = run_all(mill, [{"type": "test.fault", "params": {"fault": "raise"}, "max_attempts": 1}])
    error = mill.json("jobs", "show", str(job["id"]))["error"]
    assert error.keys() == {"type", "message", "traceback", "fingerprint"}
    assert error["type"] == "HandlerBug"
    assert "FaultyCode" in error["traceback"]
