"""`mediamill rejected` against a real Postgres and a store in a folder."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from console.failures import Exit
from intake.identity import new_id
from storage.database import Database
from storage.objects.local import LocalStore
from storage.objects.rules import BucketRules
from tests.fixtures import JobTable
from tests.integration.commands import Run, at_home, runner
from tests.integration.rejecting import House, noop, refused_by, rejection

EVERY_BYTE = bytes(range(256))
BAD = {"type": "test.noop", "params": {"output_bites": 3}}


@pytest.fixture
def house(database: Database, tmp_path: Path) -> House:
    store = LocalStore(tmp_path / "home" / "store", BucketRules.parse(["media"]))
    return House(database, store, "media", tmp_path / "scratch")


@pytest.fixture
def run(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> Run:
    at_home(monkeypatch, tmp_path, database.url)
    return runner(capsysbinary, "rejected")


@pytest.fixture
def rejected(house: House) -> House:
    """Three of a type that an older build did not know (one of them still bad), and four that are no JSON."""
    older = house.door(test_types=False, version="1")
    house.reject(*(refused_by(older, "upload", noop(output_bytes=n)) for n in (1, 2)))
    house.reject(refused_by(older, "upload", BAD))
    house.reject(*(rejection(lane="backfill", offset=n) for n in range(4)))
    return house


def test_messages_are_listed_by_what_is_wrong_with_them(run: Run, rejected: House) -> None:
    groups = run("list", "--json").json
    told = [(g["lane"], g["topic"], g["messages"], g["replayed"], g["error"][0]["code"]) for g in groups]
    assert told == [
        ("backfill", "mediamill.jobs.backfill", 4, 0, "not_json"),
        ("upload", "mediamill.jobs.upload", 3, 0, "unknown_type"),
    ]
    assert all(datetime.now(UTC) - datetime.fromisoformat(g["last"]) < timedelta(minutes=1) for g in groups)
    answer = run("list")
    assert answer.code == Exit.DONE
    title, first, _ = answer.out.splitlines()
    assert title.split() == ["fingerprint", "lane", "topic", "messages", "replayed", "first", "last", "error"]
    assert first.split()[:3] == [groups[0]["fingerprint"], "backfill", "mediamill.jobs.backfill"]
    assert "(message): is not JSON; send one JSON object [not_json]" in first


def test_a_filter_narrows_groups_and_single_messages(run: Run, rejected: House) -> None:
    filters: dict[tuple[str, ...], list[int]] = {
        ("--lane", "upload"): [3],
        ("--topic", "mediamill.jobs.backfill"): [4],
        ("--code", "not_json"): [4],
        ("--code", "not_json", "--code", "unknown_type"): [4, 3],
        ("--since", "1h"): [4, 3],
        ("--until", "1h"): [],
        ("--waiting",): [4, 3],
        ("--replayed",): [],
    }
    groups = {options: [group["messages"] for group in run("list", "--json", *options).json] for options in filters}
    assert groups == filters
    each = {options: len(run("list", "--each", "--json", *options).json) for options in filters}
    assert each == {options: sum(messages) for options, messages in filters.items()}
    assert [group["messages"] for group in run("list", "--json", "--limit", "1").json] == [4]


def test_single_messages_are_listed_newest_first(run: Run, rejected: House) -> None:
    each = run("list", "--each", "--json", "--limit", "5").json
    assert [one["received_at"] for one in each] == sorted((one["received_at"] for one in each), reverse=True)
    assert len(each) == 5
    fingerprint = each[0]["fingerprint"]
    assert len(run("list", "--each", "--json", "--fingerprint", fingerprint).json) == 4
    assert run("list", "--each", "--fingerprint", fingerprint).out.count(fingerprint) == 4
    assert run("list", "--fingerprint", "nothing").out.strip() == "no such messages"


def test_everything_about_one_message_is_shown(run: Run, house: House) -> None:
    older = house.door(test_types=False, version="1")
    one = refused_by(older, "upload", {"type": "test.noop", "labels": {"a": "b"}})
    house.reject(one)
    answer = run("show", str(one.id)[-12:])
    for words in (str(one.id), "mediamill.jobs.upload", older.build, "/type: is", "[unknown_type]", '"labels": {'):
        assert words in answer.out
    shown = run("show", str(one.id), "--json").json
    assert (shown["partition"], shown["offset"], shown["may_be_newer"]) == (3, 7, True)
    assert shown["body"] == (one.body or b"").decode()
    assert shown["error"] == one.error


@pytest.mark.parametrize("budget", [1 << 30, 0])
def test_bytes_that_are_no_text_are_shown_and_given_back(run: Run, house: House, budget: int) -> None:
    house.budget = budget
    one = rejection(value=EVERY_BYTE * 8, key=b"\xff", headers=[("h", b"\x1b[31m"), ("null", None)])
    house.reject(one)
    answer = run("show", str(one.id))
    assert answer.code == Exit.DONE
    assert "\x1b" not in answer.out
    assert "\0" not in answer.out
    assert run("body", str(one.id)).out.encode("utf-8", "surrogateescape") == EVERY_BYTE * 8
    shown = run("show", str(one.id), "--json").json
    assert shown["key"] == {"base64": "/w=="}
    assert shown["headers"] == [["h", "\x1b[31m"], ["null", None]]


def test_what_a_terminal_would_obey_is_not_written_to_one(
    run: Run, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, escapes = rejection(value="{\n\t'größe': 1}\r\n".encode()), rejection(value=b"\x1b]52;c;cm0gLXJm\x07")
    house.reject(text, escapes)
    assert run("body", str(escapes.id)).out == "\x1b]52;c;cm0gLXJm\x07"
    monkeypatch.setattr("console.output.on_terminal", lambda: True)
    assert run("body", str(text.id)).out.encode() == text.body
    answer = run("body", str(escapes.id))
    assert (answer.code, answer.out) == (Exit.REFUSED, "")
    assert "into a file" in answer.err


def test_a_message_whose_body_is_gone_is_shown_without_it(run: Run, house: House) -> None:
    from storage.objects.uri import ObjectUri

    house.budget = 0
    one = rejection()
    house.reject(one)
    [key] = house.objects()
    house.store.delete(ObjectUri("media", key))
    assert "cannot be read" in run("show", str(one.id)).out
    assert run("show", str(one.id), "--json").json["body"] is None
    assert run("body", str(one.id)).code == Exit.REFUSED


def test_an_id_that_nobody_has_is_refused(run: Run, rejected: House) -> None:
    assert run("show", str(new_id())).code == Exit.REFUSED
    assert run("show", "012345").code == Exit.REFUSED
    assert run("show", "xyz").code == Exit.REFUSED


def test_a_dry_run_says_for_each_fingerprint_what_would_be(run: Run, rejected: House, table: JobTable) -> None:
    answer = run("replay", "--all", "--dry-run", "--json")
    assert answer.code == Exit.DONE
    told = [(g["messages"], g["jobs"], g["refused"], g["error"] and g["error"].split(":")[0]) for g in answer.json]
    assert told == [(3, 2, 1, "/params/output_bites"), (4, 0, 4, "(message)")]
    assert "2 would become jobs, 0 are jobs already, 5 are refused still" in answer.err
    assert table.counts() == {}
    assert "/params/output_bites" in run("replay", "--all", "--dry-run").out


def test_a_filter_is_replayed_and_lists_say_so(run: Run, rejected: House, table: JobTable) -> None:
    answer = run("replay", "--all", "--lane", "upload", "--json")
    assert answer.code == Exit.DONE
    assert [(g["messages"], g["jobs"], g["refused"]) for g in answer.json] == [(3, 2, 1)]
    assert table.counts() == {"queued": 2}
    assert sorted((g["messages"], g["replayed"]) for g in run("list", "--json").json) == [(1, 0), (2, 2), (4, 0)]
    [one, other] = run("list", "--each", "--replayed", "--json").json
    assert (one["job_id"], other["job_id"]) == (one["id"], other["id"])
    assert "queued" in run("show", one["id"]).out
    assert "0 became jobs" in run("replay", "--all", "--code", "unknown_type").err


def test_messages_that_are_named_are_replayed_and_a_refusal_is_the_exit_code(run: Run, rejected: House) -> None:
    each = run("list", "--each", "--lane", "upload", "--json").json
    bad, good, other = (one["id"] for one in each)
    assert run("replay", good).code == Exit.DONE
    answer = run("replay", other, bad, "--json")
    assert answer.code == Exit.REFUSED
    assert {one["id"]: one["answer"] for one in answer.json} == {other: "job", bad: "refused"}
    answer = run("replay", good)
    assert answer.code == Exit.REFUSED
    assert "1 are not there, or have been replayed" in answer.err
    assert "/params/output_bites" in run("replay", bad).out


def test_a_limit_bounds_a_replay(run: Run, rejected: House) -> None:
    assert [g["messages"] for g in run("replay", "--all", "--limit", "1", "--json").json] == [1]


def test_a_replay_wants_ids_or_all(run: Run) -> None:
    for arguments in ((), ("--all", "aabbccdd"), ("aabbccdd", "--lane", "upload")):
        assert run("replay", *arguments).code == Exit.REFUSED
