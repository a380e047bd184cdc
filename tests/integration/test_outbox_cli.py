"""`mediamill outbox` against a real Postgres."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from console.failures import Exit
from storage import outbox
from storage.database import Database
from storage.outbox import Refused
from tests.fixtures import JobTable
from tests.integration.commands import Run, at_home, runner
from tests.integration.relaying import end_jobs, ensure, outbox_rows


@pytest.fixture
def run(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command against the test's own database."""
    at_home(monkeypatch, tmp_path, database.url)
    return runner(capsys)


@pytest.fixture
def waiting(database: Database, table: JobTable) -> list[uuid.UUID]:
    """Four jobs whose events are dead, refused, leased and waiting, in this order; the last one has a webhook, too."""
    ensure(database)
    ids = end_jobs(table, 3)
    me = uuid.uuid4()
    with database.transaction() as connection:
        dead, refused, _ = outbox.lease(connection, me, "here")
        said = "MESSAGE_TOO_LARGE: 2 MiB"
        outbox.refused(connection, me, [Refused(dead.seq, said, 0, dead=True), Refused(refused.seq, said, 60)])
    return ids + end_jobs(table, message={"callback": "https://example.com/hook"})


def test_list_shows_what_waits_in_which_state(run: Run, waiting: list[uuid.UUID]) -> None:
    events = run("outbox", "list", "--json").json
    assert [event["state"] for event in events] == ["dead", "refused", "leased", "waiting", "waiting"]
    assert [event["job_id"] for event in events] == [*map(str, waiting), str(waiting[-1])]
    assert sorted(event["destination"] for event in events[3:]) == ["results", "webhook"]
    assert events[0]["last_error"] == "MESSAGE_TOO_LARGE: 2 MiB"
    answer = run("outbox", "list")
    assert "mediamill.job.succeeded" in answer.out
    assert "webhooks are not sent by this build" in answer.err


def test_list_is_narrowed_by_its_filters(run: Run, waiting: list[uuid.UUID]) -> None:
    def seqs(*filters: str) -> int:
        return len(run("outbox", "list", "--json", *filters).json)

    assert seqs("--state", "dead") == 1
    assert seqs("--state", "dead", "--state", "refused") == 2
    assert seqs("--destination", "webhook") == 1
    assert seqs("--kind", "mediamill.job.failed") == 0
    assert seqs("--job", str(waiting[3])) == 2
    assert seqs("--older-than", "1h") == 0
    assert seqs("--newer-than", "1h", "--limit", "3") == 3
    assert "no such events" in run("outbox", "list", "--state", "waiting", "--older-than", "1h").out


def test_retry_makes_dead_events_due_again(run: Run, table: JobTable, waiting: list[uuid.UUID]) -> None:
    dead, refused, leased, *_ = (row["seq"] for row in outbox_rows(table))
    dry = run("outbox", "retry", "--all", "--dry-run", "--json")
    assert dry.json == [{"seq": dead, "answer": "dead"}]
    assert outbox_rows(table)[0]["dead_at"] is not None
    done = run("outbox", "retry", "--all")
    assert (done.code, "1 are due again" in done.err) == (Exit.DONE, True)
    assert [(row["tries"], row["dead_at"]) for row in outbox_rows(table)[:1]] == [(0, None)]
    some = run("outbox", "retry", str(refused), str(leased), "999", "--json")
    assert some.code == Exit.REFUSED
    assert {each["seq"]: each["answer"] for each in some.json} == {refused: "again", leased: "leased", 999: "unknown"}


def test_destinations_says_where_events_go_and_how_many_are_not_there(
    run: Run,
    waiting: list[uuid.UUID],
) -> None:
    results, webhook = run("outbox", "destinations", "--json").json
    assert (results["name"], results["target"], results["cluster_id"]) == ("results", "results", "here")
    assert (results["waiting"], results["dead"], webhook["name"], webhook["waiting"]) == (3, 1, "webhook", 1)
    shown = run("outbox", "destinations").out
    assert "no sender" in shown


def test_a_destination_is_switched_and_moved_by_name(run: Run, database: Database) -> None:
    ensure(database)
    assert run("outbox", "disable", "results").code == Exit.DONE
    assert run("outbox", "destinations", "--json").json[0]["enabled"] is False
    assert run("outbox", "enable", "results").code == Exit.DONE
    assert run("outbox", "target", "results", "ends", "--cluster", "there").code == Exit.DONE
    (there,) = run("outbox", "destinations", "--json").json
    assert (there["enabled"], there["target"], there["cluster_id"]) == (True, "ends", "there")
    unknown = run("outbox", "disable", "result")
    assert (unknown.code, "there is no destination result; there is: results" in unknown.err) == (Exit.REFUSED, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["retry"], "name events by their seq, or all"),
        (["retry", "1", "--all"], "name events by their seq, or all"),
        (["retry", "1", "--state", "dead"], "filters go with --all"),
        (["retry", "--all", "--state", "leased"], "'dead', 'refused'"),
        (["target", "results"], "name a TOPIC"),
        (["target", "results", "no such"], "TOPIC no such"),
    ],
)
def test_wrong_usage_is_refused(run: Run, arguments: list[str], says: str) -> None:
    answer = run("outbox", *arguments)
    assert (answer.code, says in " ".join(answer.err.split())) == (Exit.REFUSED, True), answer.err


def test_without_destinations_it_says_when_there_will_be_some(run: Run) -> None:
    assert "MEDIAMILL_KAFKA_BOOTSTRAP" in run("outbox", "destinations").out
