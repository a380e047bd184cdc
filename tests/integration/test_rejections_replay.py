"""Rejected messages become jobs after all: by a replay of people, or by a build that knows more."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from config.lanes import Lane
from intake.admission import new_job
from intake.identity import new_id
from intake.message import parse
from intake.problems import Code
from intake.replay import Answer, Door, Outcome, Replay, Revalidated, revalidate
from storage.database import Database
from storage.objects.errors import StoreUnavailable
from storage.objects.local import LocalStore
from storage.objects.rules import BucketRules
from storage.objects.uri import ObjectUri
from storage.rejected_bodies import UNUSED
from storage.rejected_lookup import COUNTED_GROUPS, KEPT_GROUPS, Filter, groups, show
from storage.rejections import EXPIRE, USED, NewRejection
from storage.replay import OLDER, WAITING, lock
from storage.sql import text
from storage.submit import submit
from tests.fixtures import JobTable
from tests.integration.rejecting import House, noop, refused_by, rejection


@pytest.fixture
def house(database: Database, tmp_path: Path) -> House:
    store = LocalStore(tmp_path / "store", BucketRules.parse(["media"]))
    return House(database, store, "media", tmp_path / "scratch")


@pytest.fixture
def older(house: House) -> Door:
    """A build that does not know the type test.noop."""
    return house.door(test_types=False, version="1")


def replay(house: House, wanted: Filter | None = None, *, dry_run: bool = False, **more: Any) -> list[Outcome]:
    with house.bodies() as bodies:
        run = Replay(house.database, bodies, house.door(), dry_run=dry_run)
        return [outcome for page in run.run(wanted or Filter(), **more) for outcome in page]


def answers(outcomes: Sequence[Outcome]) -> dict[uuid.UUID, Answer]:
    return {outcome.id: outcome.answer for outcome in outcomes}


def everything(table: JobTable) -> dict[str, Any]:
    """All rows that a replay may touch; counters of numbers (`seq`) apart."""
    names = ("jobs", "job_details", "job_events", "job_dedupe", "job_counts", "rejected_messages", "rejected_counts")
    return {name: table.rows(f"SELECT t.*, t.ctid::text, t.xmin::text FROM {name} t") for name in names}


def kept(house: House, id_: uuid.UUID) -> Any:
    with house.database.transaction() as connection:
        return show(connection, id_)


def test_a_whole_filter_is_replayed_page_by_page(
    house: House, older: Door, table: JobTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.replay.PAGE", 7)
    wanted = [refused_by(older, "upload", noop(output_bytes=n)) for n in range(20)]
    other = refused_by(older, "backfill", noop())
    house.reject(*wanted, other)
    outcomes = replay(house, Filter(lanes=["upload"]))
    assert answers(outcomes) == {one.id: Answer.JOB for one in wanted}
    assert table.counts() == {"queued": 20}
    row = table.row(wanted[3].id)
    assert (row["lane"], row["type"], row["message"]) == ("upload", "test.noop", noop(output_bytes=3))
    assert kept(house, wanted[3].id).job_id == wanted[3].id
    assert kept(house, wanted[3].id).replayed_at is not None
    assert kept(house, other.id).replayed_at is None
    assert replay(house, Filter(lanes=["upload"])) == []


def test_a_limit_takes_the_oldest_and_the_next_replay_goes_on(house: House, older: Door) -> None:
    many = [refused_by(older, "upload", noop()) for _ in range(5)]
    for one in many:
        house.reject(one)
    assert list(answers(replay(house, limit=3))) == [one.id for one in many[:3]]
    assert list(answers(replay(house, limit=3))) == [one.id for one in many[3:]]


def test_bodies_in_the_store_are_replayed_as_well(house: House, older: Door, table: JobTable) -> None:
    house.budget = 0
    many = [refused_by(older, "upload", noop(output_bytes=n)) for n in range(30)]
    house.reject(*many[:15])
    house.reject(*many[15:])
    assert set(answers(replay(house)).values()) == {Answer.JOB}
    assert [table.row(one.id)["message"]["params"]["output_bytes"] for one in many] == list(range(30))
    assert list(house.scratch.iterdir()) == []


def test_a_message_that_names_its_id_becomes_that_job(house: House, older: Door, table: JobTable) -> None:
    id_ = new_id()
    one = refused_by(older, "upload", noop() | {"id": str(id_)})
    house.reject(one)
    [outcome] = replay(house)
    assert (outcome.id, outcome.job_id) == (one.id, id_)
    assert table.row(id_)["state"] == "queued"


def test_a_message_whose_id_is_already_a_job_is_that_job(house: House, older: Door, table: JobTable) -> None:
    message = noop() | {"id": str(new_id())}
    house.reject(refused_by(older, "upload", message), refused_by(older, "upload", message))
    outcomes = replay(house)
    assert sorted(one.answer for one in outcomes) == [Answer.ALREADY, Answer.JOB]
    assert {str(one.job_id) for one in outcomes} == {message["id"]}
    assert table.counts() == {"queued": 1}


def test_a_message_whose_id_another_one_has_stays_rejected_and_says_so(house: House, older: Door) -> None:
    id_ = new_id()
    door = house.door()
    spec = parse(json.dumps(noop() | {"id": str(id_)}), door.registry, door.rules_for("upload"))
    submit(house.database, [new_job(spec, id_)])
    one = refused_by(older, "upload", noop(output_bytes=9) | {"id": str(id_)})
    house.reject(one)
    [outcome] = replay(house)
    assert outcome.answer is Answer.REFUSED
    row = kept(house, one.id)
    assert row.replayed_at is None
    assert row.error[0]["pointer"] == "/id"
    assert not row.may_be_newer


def test_a_message_whose_dedupe_key_is_held_is_the_holder(house: House, older: Door) -> None:
    first, second = (refused_by(older, "upload", noop(output_bytes=n) | {"dedupe_key": "k"}) for n in (1, 2))
    house.reject(first)
    house.reject(second)
    outcomes = replay(house)
    assert [(one.answer, one.job_id) for one in outcomes] == [(Answer.JOB, first.id), (Answer.ALREADY, first.id)]


def test_still_refused_messages_stay_with_their_new_error_and_are_counted_there(house: House, older: Door) -> None:
    one = refused_by(older, "upload", noop(output_bites=3))
    bad = rejection()
    house.reject(one, bad)
    before = kept(house, one.id)
    outcomes = replay(house)
    assert set(answers(outcomes).values()) == {Answer.REFUSED}
    after = kept(house, one.id)
    assert before.error[0]["code"] == Code.UNKNOWN_TYPE
    assert after.error[0]["code"] == Code.UNKNOWN_KEY
    assert after.fingerprint != before.fingerprint
    assert after.build == house.door().build
    with house.database.transaction() as connection:
        found = groups(connection, Filter())
        assert groups(connection, Filter(replayed=False)) == found
    assert {(g["fingerprint"], g["messages"], g["replayed"]) for g in found} == {
        (after.fingerprint, 1, 0),
        (kept(house, bad.id).fingerprint, 1, 0),
    }
    assert house.used() == one.kept + bad.kept


def test_the_lane_of_the_topic_is_the_rule_for_a_replay(house: House, older: Door) -> None:
    one = refused_by(older, "backfill", noop() | {"lane": "upload"})
    house.reject(one)
    [outcome] = replay(house)
    assert [problem.pointer for problem in outcome.problems] == ["/lane"]


def test_tombstones_and_binary_events_are_judged_as_ingest_does(house: House) -> None:
    event = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/s"), ("ce_type", b"t")]
    body = json.dumps(noop()).encode()
    tombstone = rejection(value=None)
    whole, broken = rejection(value=body, headers=event), rejection(value=body, headers=event[:2])
    house.reject(tombstone, whole, broken)
    assert answers(replay(house)) == {
        tombstone.id: Answer.REFUSED,
        whole.id: Answer.JOB,
        broken.id: Answer.REFUSED,
    }


def test_a_dry_run_tells_all_and_changes_nothing(house: House, older: Door, table: JobTable) -> None:
    good = refused_by(older, "upload", noop() | {"dedupe_key": "k"})
    twice = refused_by(older, "upload", noop(output_bytes=2) | {"id": str(good.id)})
    bad = refused_by(older, "upload", noop(output_bites=3))
    house.reject(good, twice, bad, rejection())
    before = everything(table)
    outcomes = replay(house, dry_run=True)
    assert sorted(one.answer for one in outcomes) == [Answer.JOB, Answer.REFUSED, Answer.REFUSED, Answer.REFUSED]
    assert everything(table) == before
    assert answers(replay(house)) == answers(outcomes)


def test_two_replays_at_once_share_the_work(house: House, older: Door, table: JobTable) -> None:
    first, second = refused_by(older, "upload", noop()), refused_by(older, "upload", noop())
    house.reject(first, second)
    with house.database.transaction() as connection:
        assert lock(connection, [first.id]) == {first.id}
        assert answers(replay(house)) == {first.id: Answer.TAKEN, second.id: Answer.JOB}
    assert answers(replay(house)) == {first.id: Answer.JOB}
    assert table.counts() == {"queued": 2}


def test_a_body_that_is_gone_from_the_store_costs_no_other_its_replay(house: House, older: Door) -> None:
    house.budget = 0
    lost, good = refused_by(older, "upload", noop()), refused_by(older, "upload", noop())
    house.reject(lost)
    uri = kept(house, lost.id).body_uri
    house.reject(good)
    house.store.delete(ObjectUri.parse(uri))
    outcomes = replay(house)
    assert answers(outcomes) == {lost.id: Answer.UNREADABLE, good.id: Answer.JOB}
    assert "derived/rejected/" in str(outcomes[0].why)
    assert kept(house, lost.id).error == list(lost.error)


def test_a_store_that_is_away_ends_the_replay_and_loses_nothing(
    house: House, older: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StoreUnavailable("s3://media", "is away", "wait")

    house.budget = 0
    one = refused_by(older, "upload", noop())
    house.reject(one)
    with monkeypatch.context() as patch:
        patch.setattr(house.store, "_open", away)
        patch.setattr(house.store, "_sleep", lambda _: None)
        with pytest.raises(StoreUnavailable):
            replay(house)
    assert answers(replay(house)) == {one.id: Answer.JOB}


def test_a_trace_goes_with_the_job(house: House, older: Door, table: JobTable) -> None:
    from dataclasses import replace

    one = replace(refused_by(older, "upload", noop()), trace={"traceparent": "00-ab-cd-01"})
    house.reject(one)
    replay(house)
    assert table.row(one.id)["trace"] == {"traceparent": "00-ab-cd-01"}


# --- by a newer build ---


def again(house: House, door: Door, **more: Any) -> Revalidated:
    return revalidate(house.database, house.store, house.scratch, door, **more)


def refuse(house: House, door: Door, lane: Lane, n: int = 1, **params: Any) -> list[NewRejection]:
    some = [refused_by(door, lane, noop(**params)) for _ in range(n)]
    house.reject(*some)
    again(house, door)  # what every process does, and what makes its build known
    return some


def test_a_build_with_one_more_type_takes_what_an_older_one_refused(house: House, older: Door, table: JobTable) -> None:
    unknown = refuse(house, older, "upload", 3)
    house.reject(rejection(build=older.build))  # which no build will know
    newer = house.door()
    assert newer.build != older.build
    assert again(house, newer) == Revalidated(jobs=3)
    assert table.counts() == {"queued": 3}
    assert table.row(unknown[0].id)["lane"] == "upload"
    assert again(house, newer) == Revalidated()


def test_what_the_newer_build_refuses_too_is_noted_and_not_tried_again(house: House, older: Door) -> None:
    [one] = refuse(house, older, "upload", output_bites=3)
    newer = house.door()
    assert again(house, newer) == Revalidated(refused=1)
    row = kept(house, one.id)
    assert row.build == newer.build
    assert row.error[0]["code"] == Code.UNKNOWN_KEY
    assert row.may_be_newer  # to the next build
    assert again(house, newer) == Revalidated()


def test_two_builds_side_by_side_do_not_validate_each_others_refusals_for_ever(house: House, older: Door) -> None:
    refuse(house, older, "upload", output_bites=3)
    newer = house.door()
    assert again(house, newer) == Revalidated(refused=1)
    assert again(house, older) == Revalidated()
    assert again(house, newer) == Revalidated()
    refuse(house, older, "upload", output_bites=4)  # the older one still runs somewhere
    assert again(house, newer) == Revalidated(refused=1)


def test_a_bounded_turn_leaves_the_rest_to_the_next(house: House, older: Door) -> None:
    refuse(house, older, "upload", 5)
    newer = house.door()
    assert [again(house, newer, most=2).jobs for _ in range(4)] == [2, 2, 1, 0]


def test_the_same_version_with_another_type_or_checkpoint_is_another_build(house: House) -> None:
    from handlers.registry import Registry
    from intake.rejections import build_of

    few, many = Registry.load(), Registry.load(test_types=True)
    assert build_of("1", few, {"a": ["embed"]}) == build_of("1", Registry.load(), {"a": ["embed"]})
    catalogues: list[dict[str, list[str]]] = [{"a": ["embed"]}, {"a": ["caption"]}, {"b": ["embed"]}]
    assert len({build_of("1", registry, known) for registry in (few, many) for known in catalogues}) == 6


def test_two_replays_at_once_make_each_job_once(
    house: House, older: Door, table: JobTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.replay.PAGE", 5)
    monkeypatch.setattr("intake.replay.PAGE", 5)
    many = [refused_by(older, "upload", noop(output_bytes=n)) for n in range(60)]
    house.reject(*many)
    start = threading.Barrier(2)

    def run() -> list[Outcome]:
        start.wait()
        return replay(house)

    with ThreadPoolExecutor(2) as pool:
        first, second = (future.result() for future in [pool.submit(run), pool.submit(run)])
    made = [one.job_id for one in (*first, *second) if one.answer is Answer.JOB]
    assert sorted(map(str, made)) == sorted(str(one.id) for one in many)
    assert table.counts() == {"queued": 60}
    with house.database.transaction() as connection:
        [group] = groups(connection, Filter())
    assert (group["messages"], group["replayed"]) == (60, 60)


def plans(house: House, **statements: tuple[str, dict[str, Any]]) -> dict[str, str]:
    """How each statement would be run if no table might be read from end to end."""
    found = {}
    for name, (sql, values) in statements.items():
        with house.database.transaction() as connection:
            connection.execute(text("SET LOCAL enable_seqscan = off"))
            connection.execute(text("SET LOCAL enable_bitmapscan = off"))
            connection.execute(text("SET LOCAL enable_sort = off"))
            found[name] = "\n".join(connection.scalars(text(f"EXPLAIN {sql}"), values))
    return found


def test_each_statement_has_its_index(house: House) -> None:
    one = Filter(fingerprints=["f"])
    newer = Filter(builds=["b"], may_be_newer=True)
    page, kept_for = {"most": 10, "bytes": 100}, {"kept": "1 day", "most": 10}
    found = plans(
        house,
        groups=(KEPT_GROUPS.format(where="true"), {"limit": 5}),
        group=(COUNTED_GROUPS.format(where="m.fingerprint = 'f'"), {"limit": 5}),
        oldest=(WAITING.format(where="true"), page),
        oldest_of_a_group=(WAITING.format(where=one.sql()[0]), page | one.sql()[1]),
        newer=(WAITING.format(where=newer.sql()[0]), page | newer.sql()[1]),
        expire=(EXPIRE.text, kept_for),
        unused=(UNUSED.text, kept_for),
        builds=(OLDER.text, {"build": "b"}),
    )
    indexes = {
        "groups": "rejected_fingerprint",
        "group": "Index Only Scan using rejected_fingerprint",
        "oldest": "rejected_received",
        "oldest_of_a_group": "rejected_fingerprint",
        "newer": "rejected_newer",
        "expire": "rejected_received",
        "unused": "rejected_body_uri",
        "builds": "rejected_newer",
    }
    assert {name: index for name, index in indexes.items() if index not in found[name]} == {}
    assert [name for name, lines in found.items() if "Seq Scan on rejected_messages" in lines] == []


def test_what_is_used_and_grouped_is_known_without_reading_messages(house: House) -> None:
    house.reject(rejection())
    found = plans(
        house,
        used=(USED.text, {}),
        view=("SELECT fingerprint, lane, topic, messages, replayed FROM ops.rejected", {}),
    )
    assert all("rejected_counts" in lines for lines in found.values())
    assert "rejected_messages" not in found["used"]
    assert "Seq Scan on rejected_messages" not in found["view"]
