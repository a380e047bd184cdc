"""The message contract: what is a job, and where exactly a message goes wrong."""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from config.catalogue import Catalogue
from handlers.registry import Registry
from intake.admission import new_job
from intake.message import JobSpec, Refused, describe, parse
from intake.problems import MOST_PROBLEMS, Code, Problem
from storage.spaces import Space
from tests.unit.message_types import REGISTRY, RULES, caption
from worker.embedding import embed_job
from worker.record import Picture

ID = "01890a5d-ac96-774b-bcce-b302099a8057"


def refused(body: Any, rules: Any = RULES) -> dict[str, Any]:
    """The problems of a message by pointer."""
    with pytest.raises(Refused) as caught:
        parse(body, REGISTRY, rules)
    return {problem.pointer: problem for problem in caught.value.problems}


def test_the_shortest_message_becomes_a_job_with_every_default() -> None:
    job = parse(b'{"type": "image.caption", "inputs": {"image": "s3://media/a.png"}}', REGISTRY, RULES)
    assert dataclasses.replace(job, body_sha256=b"", params={}) == JobSpec(
        id=None, type="image.caption", tenant="default", lane="interactive", priority=0, run_after=None, deadline=None,
        timeout_s=None, max_attempts=3, dedupe_key=None, checkpoints=("caption",), message=caption(), params={},
        inputs={"image": {"uri": "s3://media/a.png"}}, output=None, labels={}, embed=True, callback=None,
        body_sha256=b"",
    )  # fmt: skip
    assert job.params["count"] == 1
    assert job.params["size"] == {"width": 64, "height": 64}


def test_every_key_reaches_the_job() -> None:
    said = caption(
        id=ID.upper(), dedupe_key="k", tenant="acme", lane="backfill", priority=-100, timeout_s=2, max_attempts=100,
        run_after="2030-01-31T12:00:00.5+02:00", deadline="2030-02-01t00:00:00z", output="s3://media/out/",
        labels={"相册": "夏天"}, embed=False, callback="https://example.com:8443/done?x=1",
        params={"count": 3, "checkpoint": "blip-base", "pair": [3, 4]},
    )  # fmt: skip
    job = parse(said, REGISTRY, RULES)
    assert job.id == uuid.UUID(ID)
    assert job.run_after == datetime(2030, 1, 31, 10, 0, 0, 500_000, UTC)
    assert job.deadline == datetime(2030, 2, 1, tzinfo=UTC)
    assert (job.tenant, job.lane, job.priority, job.timeout_s, job.max_attempts) == ("acme", "backfill", -100, 2, 100)
    assert (job.dedupe_key, job.output, job.embed, job.labels) == ("k", "s3://media/out/", False, {"相册": "夏天"})
    assert job.callback == "https://example.com:8443/done?x=1"
    assert job.checkpoints == ("blip-base",)
    assert job.params["pair"] == [3, 4]
    assert job.message == said


def test_inputs_of_every_shape_are_made_alike() -> None:
    full = {"uri": "s3://uploads/b", "version_id": "v", "etag": "e", "sha256": "AB" * 32}
    many = parse({"type": "image.embed", "inputs": {"images": ["s3://media/a", full]}}, REGISTRY, RULES)
    assert many.inputs == {"images": [{"uri": "s3://media/a"}, full | {"sha256": "ab" * 32}]}
    named = parse({"type": "video.edit", "inputs": {"assets": {"intro": full}}}, REGISTRY, RULES)
    assert named.inputs == {"assets": {"intro": full | {"sha256": "ab" * 32}}}


def test_an_envelope_of_cloudevents_is_taken_off() -> None:
    envelope = {"specversion": "1.0", "id": "1", "source": "/camera", "type": "any", "traceparent": "00-a-b-01"}
    job = parse(envelope | {"data": caption(), "datacontenttype": "application/json; charset=utf-8"}, REGISTRY, RULES)
    assert job.message == caption()
    assert job.body_sha256 == parse(caption(), REGISTRY, RULES).body_sha256


def test_the_same_message_has_the_same_digest_however_it_is_written() -> None:
    one = parse(b'{"type":"image.caption","inputs":{"image":"s3://media/\xc3\xa9"}}', REGISTRY, RULES)
    text = f'{{ "id": "{ID}", "inputs": {{"image": "s3://media/\\u00e9"}},\n "type": "image.caption" }}'
    assert parse(text, REGISTRY, RULES).body_sha256 == one.body_sha256
    assert parse(caption(), REGISTRY, RULES).body_sha256 != one.body_sha256


def test_a_job_is_handed_to_storage_whole() -> None:
    job = parse(caption(id=ID, labels={"a": "b"}, params={"checkpoint": "blip-base"}), REGISTRY, RULES)
    row = new_job(job, uuid.UUID(ID), {"traceparent": "x"})
    for field in dataclasses.fields(row):
        if field.name not in ("id", "trace"):
            assert getattr(row, field.name) == getattr(job, field.name), field.name


# body, pointer, code, part of the message, part of the fix
HOSTILE: list[tuple[Any, str, Code, str, str]] = [
    (b"\xff{}", "", Code.NOT_UTF8, "byte 0xff at 0", "UTF-8"),
    (b'"\xed\xa0\x80"', "", Code.NOT_UTF8, "byte 0xed at 1", "UTF-8"),
    ("{}".encode("utf-16"), "", Code.NOT_UTF8, "0xff", "UTF-8"),
    (b"", "", Code.NOT_JSON, "line 1, column 1", "one JSON object"),
    (b'{"type":', "", Code.NOT_JSON, "before the end", "one JSON object"),
    (b'{"type": "a\x00"}', "", Code.NOT_JSON, "control character", "one JSON object"),
    (b"[]", "", Code.NOT_AN_OBJECT, "a list of 0", '{"type": ...'),
    (b"null", "", Code.NOT_AN_OBJECT, "null", '{"type": ...'),
    ("x" * 5_000_000, "", Code.TOO_LARGE, "5,000,000", "object store"),
    (b"[" * 100_000, "", Code.TOO_DEEP, "deeper than 64", "flatter"),
    (b'{"params":' + b'{"a":' * 64 + b"1" + b"}" * 65, "", Code.TOO_DEEP, "deeper than 64", "flatter"),
    (b'{"type":"image.caption","type":"x"}', "/type", Code.DUPLICATE_KEY, "twice", "keep one"),
    (b'{"type":"image.caption","params":{"size":{"width":1,"width":2}}}', "/params/size/width", Code.DUPLICATE_KEY,
     "twice", "keep one"),
    (b'{"priority":NaN}', "/priority", Code.NUMBER_OUT_OF_RANGE, "NaN is no JSON number", "finite"),
    (b'{"params":{"temperature":-Infinity}}', "/params/temperature", Code.NUMBER_OUT_OF_RANGE, "-Infinity", "finite"),
    (b'{"params":{"temperature":1e999}}', "/params/temperature", Code.NUMBER_OUT_OF_RANGE, "1e999", "64 bits"),
    (b'{"priority":' + b"9" * 100_000 + b"}", "/priority", Code.NUMBER_OUT_OF_RANGE, "999...", "64 bits"),
    (b'{"priority":9223372036854775808}', "/priority", Code.NUMBER_OUT_OF_RANGE, "9223372036854775808", "64 bits"),
    (caption(priority=2**64), "/priority", Code.NUMBER_OUT_OF_RANGE, "too large", "64 bits"),
    (caption(timeout_s=float("nan")), "/timeout_s", Code.NUMBER_OUT_OF_RANGE, "nan", "finite"),
    (caption(labels={"a": {1, 2}}), "/labels/a", Code.NOT_JSON, "Python set", "JSON value"),
    (caption(labels={1: "a"}), "/labels", Code.NOT_JSON, "a key that is 1", "text"),
    (b'{"labels":{"a":"x\\u0000y"}}', "/labels/a", Code.BAD_CHARACTER, "NUL", "leave it out"),
    (b'{"labels":{"a\\u0000":"y"}}', "/labels/a\\x00", Code.BAD_CHARACTER, "NUL", "leave it out"),
    (b'{"dedupe_key":"\\ud83d"}', "/dedupe_key", Code.BAD_CHARACTER, "U+D83D", "leave it out"),
    (caption(tenant="\udfff"), "/tenant", Code.BAD_CHARACTER, "U+DFFF", "leave it out"),
    ("\ud800", "", Code.NOT_JSON, "line 1", "one JSON object"),
    ({}, "/type", Code.MISSING, "is missing", "image.caption"),
    (caption(type=7), "/type", Code.WRONG_TYPE, "is 7", "image.caption"),
    (caption(type="image.captoin"), "/type", Code.UNKNOWN_TYPE, "image.captoin", "did you mean image.caption?"),
    (caption(type="x" * 10_000), "/type", Code.UNKNOWN_TYPE, "xxx...", "there is audio.speak"),
    (caption(prioritty=1), "/prioritty", Code.UNKNOWN_KEY, "not a key of a message", "did you mean priority?"),
    (caption(params={"cuont": 1}), "/params/cuont", Code.UNKNOWN_KEY, "not a parameter of image.caption",
     "did you mean count?"),
    (caption(params={"sizes": [{}, {"widht": 9}]}), "/params/sizes/1/widht", Code.UNKNOWN_KEY, "not a parameter",
     "did you mean width?"),
    (caption(params={"count": "3"}), "/params/count", Code.WRONG_TYPE, 'is "3"', "a whole number"),
    (caption(params={"count": 3.5}), "/params/count", Code.WRONG_TYPE, "is 3.5", "a whole number"),
    (caption(params={"count": True}), "/params/count", Code.WRONG_TYPE, "is true", "a whole number"),
    (caption(params={"count": 17}), "/params/count", Code.OUT_OF_RANGE, "is 17", "at most 16"),
    (caption(params={"prompt": "x" * 501}), "/params/prompt", Code.OUT_OF_RANGE, "501 characters", "at most 500"),
    (caption(params={"prompt": ["x"]}), "/params/prompt", Code.WRONG_TYPE, "a list of 1", "a text"),
    (caption(params={"mode": "quick"}), "/params/mode", Code.UNKNOWN_VALUE, '"quick"', "'fast' or 'good'"),
    (caption(params={"pair": [1]}), "/params/pair/1", Code.MISSING, "is missing", "give it"),
    (caption(params={"mode": "fast", "count": 9}), "/params", Code.BAD_VALUE, "at most 8", ""),
    (caption(params={"checkpoint": "blip-bse"}), "/params/checkpoint", Code.UNKNOWN_CHECKPOINT, "catalogue",
     "did you mean blip-base?"),
    (caption(params={"checkpoint": "clip-b32"}), "/params/checkpoint", Code.WRONG_CHECKPOINT, "is for embed",
     "for caption there is blip-base"),
    (caption(params=[]), "/params", Code.WRONG_TYPE, "a list of 0", "an object"),
    ({"type": "audio.speak"}, "/params/text", Code.MISSING, "is missing", "give it"),
    ({"type": "image.caption"}, "/inputs", Code.MISSING, "needs inputs", '{"image": "s3://bucket/key"}'),
    (caption(inputs="s3://media/a"), "/inputs", Code.WRONG_TYPE, "s3://media/a", "an object"),
    (caption(inputs={}), "/inputs/image", Code.MISSING, "needs it", "s3://bucket/key"),
    (caption(inputs={"imge": "s3://media/a"}), "/inputs/imge", Code.UNKNOWN_INPUT, "not an input of image.caption",
     "did you mean image?"),
    (caption(inputs={"image": ["s3://media/a"]}), "/inputs/image", Code.WRONG_SHAPE, "not one reference",
     'write "s3://bucket/key"'),
    (caption(inputs={"image": None}), "/inputs/image", Code.WRONG_SHAPE, "null", "s3://bucket/key"),
    ({"type": "image.embed", "inputs": {"images": "s3://media/a"}}, "/inputs/images", Code.WRONG_SHAPE, "not a list",
     '["s3://bucket/key", ...]'),
    ({"type": "video.edit", "inputs": {"assets": ["s3://media/a"]}}, "/inputs/assets", Code.WRONG_SHAPE, "not a map",
     '{"name": "s3://bucket/key", ...}'),
    ({"type": "image.embed", "inputs": {"images": []}}, "/inputs/images", Code.TOO_FEW_INPUTS, "holds 0", "at least 1"),
    ({"type": "image.embed", "inputs": {"images": [f"s3://media/{n}" for n in range(4)]}}, "/inputs/images",
     Code.TOO_MANY_INPUTS, "holds 4", "at most 3"),
    ({"type": "video.edit", "inputs": {role: {str(n): "s3://media/a" for n in range(3)} for role in ("assets",
     "logo")}},
     "/inputs", Code.TOO_MANY_INPUTS, "holds 6", "at most 5"),
    ({"type": "image.embed", "inputs": {"images": ["s3://media/a", {"uri": "s3://media/a"}]}}, "/inputs/images/1",
     Code.DUPLICATE_INPUT, "/inputs/images/0", "once"),
    ({"type": "video.edit", "inputs": {"assets": {"": "s3://media/a"}}}, "/inputs/assets/", Code.BAD_VALUE, "name",
     "1 to"),
    (caption(inputs={"image": {"url": "s3://media/a"}}), "/inputs/image/url", Code.UNKNOWN_KEY, "of a reference",
     "uri"),
    (caption(inputs={"image": {"uri": "s3://media/a", "sha256": "xyz"}}), "/inputs/image/sha256", Code.BAD_VALUE,
     "no sha256", "64 hexadecimal"),
    (caption(inputs={"image": "s3://secret/a"}), "/inputs/image", Code.BUCKET_NOT_ALLOWED, "s3://secret/a",
     "S3_BUCKETS"),
    (caption(inputs={"image": "s3://drop-box/a"}), "/inputs/image", Code.BUCKET_NOT_ALLOWED, "not read", "S3_BUCKETS"),
    (caption(output="s3://uploads/o/"), "/output", Code.BUCKET_NOT_ALLOWED, "not write", "S3_BUCKETS"),
    (caption(output="s3://media/o"), "/output", Code.BAD_URI, "s3://media/o", "s3://media/o/"),
    (caption(output="s3://media/../o/"), "/output", Code.BAD_URI, "..", "without it"),
    (caption(output="s3://media/" + "o" * 900 + "/"), "/output", Code.BAD_URI, "key of 1061 bytes", "1024"),
    (caption(id="1"), "/id", Code.BAD_VALUE, "no UUID", "36 characters"),
    (caption(id=f"{{{ID}}}"), "/id", Code.BAD_VALUE, "no UUID", "36 characters"),
    (caption(id=str(uuid.UUID(int=0))), "/id", Code.BAD_VALUE, "nil", "each job"),
    (caption(tenant="Acme"), "/tenant", Code.BAD_VALUE, "Acme", "a-z"),
    (caption(lane="fast"), "/lane", Code.UNKNOWN_VALUE, "fast", "'interactive', 'upload' or 'backfill'"),
    (caption(priority=101), "/priority", Code.OUT_OF_RANGE, "101", "at most 100"),
    (caption(priority=1.5), "/priority", Code.WRONG_TYPE, "1.5", "whole number"),
    (caption(run_after="2030-01-31T12:00:00"), "/run_after", Code.BAD_VALUE, "no zone", "2030-01-31T12:00:00Z"),
    (caption(run_after="tomorrow"), "/run_after", Code.BAD_VALUE, "no time", "RFC 3339"),
    (caption(run_after="2030-02-30T12:00:00Z"), "/run_after", Code.BAD_VALUE, "day is out of range", "RFC 3339"),
    (caption(deadline="0001-01-01T00:00:00+14:00"), "/deadline", Code.OUT_OF_RANGE, "0001", "1971 to 2999"),
    (caption(deadline=1893456000), "/deadline", Code.BAD_VALUE, "1893456000", "RFC 3339"),
    (caption(run_after="2030-01-02T00:00:00Z", deadline="2030-01-01T23:00:00-01:00"), "/deadline", Code.CONTRADICTION,
     "not after run_after", "after 2030-01-02"),
    (caption(timeout_s=0), "/timeout_s", Code.OUT_OF_RANGE, "is 0", "at least 0.1"),
    (caption(timeout_s=1e9), "/timeout_s", Code.OUT_OF_RANGE, "1000000000", "at most 604800"),
    (caption(max_attempts=0), "/max_attempts", Code.OUT_OF_RANGE, "is 0", "at least 1"),
    (caption(max_attempts=101), "/max_attempts", Code.OUT_OF_RANGE, "is 101", "at most 100"),
    (caption(dedupe_key=""), "/dedupe_key", Code.OUT_OF_RANGE, "0 characters", "at least 1"),
    (caption(dedupe_key="mediamill:x"), "/dedupe_key", Code.BAD_VALUE, "of jobs that workers", "another"),
    (caption(dedupe_key="x" * 257), "/dedupe_key", Code.OUT_OF_RANGE, "257 characters", "at most 256"),
    (caption(labels={str(n): "" for n in range(33)}), "/labels", Code.OUT_OF_RANGE, "33 items", "at most 32"),
    (caption(labels={"a b": ""}), "/labels/a b", Code.BAD_VALUE, "label", "without spaces"),
    (caption(labels={"a": 1}), "/labels/a", Code.WRONG_TYPE, "is 1", "a text"),
    (caption(labels={"a/b~c": 1}), "/labels/a~1b~0c", Code.WRONG_TYPE, "is 1", "a text"),
    (caption(embed="no"), "/embed", Code.WRONG_TYPE, '"no"', "true or false"),
    (caption(callback="http://example.com/"), "/callback", Code.BAD_VALUE, "not https", "https://host/path"),
    (caption(callback="https://user:pw@example.com/"), "/callback", Code.BAD_VALUE, "user name", "signed"),
    (caption(callback="https://example.com/#x"), "/callback", Code.BAD_VALUE, "fragment", "#"),
    (caption(callback="https:///x"), "/callback", Code.BAD_VALUE, "no host", "https://host/path"),
    (caption(callback="https://example.com:99999/"), "/callback", Code.BAD_VALUE, "no URL", "https://host/path"),
    (caption(callback="https://example.com\\@evil/"), "/callback", Code.BAD_VALUE, "characters", "percent-encode"),
    ({"specversion": "1.0", "id": "1", "source": "s", "type": "t"}, "/data", Code.BAD_ENVELOPE, "missing",
     "message here"),
    ({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": caption(typ=1)}, "/data/typ",
     Code.UNKNOWN_KEY,
     "not a key", "did you mean type?"),
    ({"specversion": "0.3", "id": "1", "source": "s", "type": "t", "data": caption()}, "/specversion",
     Code.BAD_ENVELOPE,
     "0.3", "1.0"),
    ({"specversion": "1.0", "id": 1, "source": "s", "type": "t", "data": caption()}, "/id", Code.BAD_ENVELOPE,
     "is 1", "id"),
    ({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": caption(), "datacontenttype": "text/xml"},
     "/datacontenttype", Code.BAD_ENVELOPE, "text/xml", "application/json"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "pointer", "code", "message", "fix"), HOSTILE)
def test_a_wrong_message_is_refused_with_the_place_and_the_fix(
    body: Any, pointer: str, code: Code, message: str, fix: str
) -> None:
    problem = refused(body)[pointer]
    assert problem.code is code
    assert message in problem.message
    assert fix in problem.fix
    [line] = describe([problem])
    assert line.isprintable()
    assert len(line) < 500


@pytest.mark.parametrize(
    "uri",
    [
        "", "a.png", "/etc/passwd", "../a", "file:///etc/passwd", "http://media/a", "S3://media/a", "s3:/media/a", "s3://",
        "s3://media", "s3://media/", "s3://media//a", "s3://media/../a", "s3://media/a/../../b", "s3://media/./a",
        "s3://media/%2e%2e/a", "s3://media/%252e%252e/a", "s3://media/..%2fa", "s3://media/..\\a", "s3://media/a%00",
        "s3://media/a\n", "s3://user@media/a", "s3://media:80/a", "s3://169.254.169.254/a", "s3://media/" + "a" * 1025,
        "s3://Media/a", "s3://..%2fmedia/a", " s3://media/a", "C:\\a.png", "s3://media/a?versionId=1",
    ],
)  # fmt: skip
def test_what_is_not_plainly_an_object_of_a_bucket_is_refused(uri: str) -> None:
    problem = refused(caption(inputs={"image": uri}))["/inputs/image"]
    assert problem.code is Code.BAD_URI
    assert problem.fix


def test_all_that_is_wrong_is_said_at_once() -> None:
    problems = refused(
        b'{"type": "image.caption", "inputs": {"image": {"uri": "s3://no/x", "sha": 1}},'
        b' "params": {"count": 0, "cuont": 1}, "priority": 1e999, "lane": "x", "labels": {"a": "\\u0000"},'
        b' "output": "s3://media/x", "idd": 1}'
    )
    assert problems.keys() == {
        "/inputs/image/uri", "/inputs/image/sha", "/params/count", "/params/cuont", "/priority", "/lane", "/labels/a",
        "/output", "/idd",
    }  # fmt: skip


def test_a_flood_of_problems_is_cut_short() -> None:
    body = b'{"type": "image.caption", "params": {' + b",".join(b'"k%d": 1' % n for n in range(10_000)) + b"}}"
    problems = refused(body)
    assert len(problems) <= MOST_PROBLEMS + 1
    assert problems[""].code is Code.MORE_PROBLEMS


@pytest.mark.parametrize(
    "body", [b"x" * 5_000_000, b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000]
)
def test_a_huge_or_deep_message_is_refused_within_milliseconds(body: bytes) -> None:
    before = time.process_time()
    refused(body)
    assert time.process_time() - before < 0.1


def test_a_value_that_nests_deeper_than_the_interpreter_could_follow_is_refused() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    assert refused(caption(params={"a": value}))["/params/a" + "/0" * 62].code is Code.TOO_DEEP


def test_a_value_that_is_as_deep_as_may_be_passes_the_door() -> None:
    deep = b'{"params":{"a":' + b"[" * 62 + b"]" * 62 + b'},"type":"image.caption"}'
    assert Code.TOO_DEEP not in {problem.code for problem in refused(deep).values()}


def test_brackets_in_texts_do_not_count_as_nesting() -> None:
    job = parse(json.dumps(caption(params={"prompt": '[{"\\' * 100})), REGISTRY, RULES)
    assert job.params["prompt"] == '[{"\\' * 100


def test_a_message_given_as_a_value_has_the_same_limit_of_length() -> None:
    rules = dataclasses.replace(RULES, message_bytes=100)
    assert refused(caption(params={"prompt": "x" * 100}), rules)[""].code is Code.TOO_LARGE


def test_the_lane_of_the_door_decides_and_another_is_refused() -> None:
    upload = dataclasses.replace(RULES, lane="upload", tenant="acme")
    job = parse(caption(), REGISTRY, upload)
    assert (job.lane, job.tenant) == ("upload", "acme")
    assert refused(caption(lane="backfill"), upload)["/lane"].code is Code.CONTRADICTION


def test_what_a_newer_build_may_know_is_told_from_what_nobody_knows() -> None:
    def may_be_newer(message: Any) -> bool:
        with pytest.raises(Refused) as caught:
            parse(message, REGISTRY, RULES)
        return caught.value.may_be_newer

    assert may_be_newer(caption(type="image.segment"))
    assert may_be_newer(caption(params={"beams": 4}))
    assert not may_be_newer(caption(params={"beams": 4}, priority=1000))
    assert not may_be_newer(b"[")


def test_a_client_s_job_cannot_stand_in_for_the_one_that_embeds_a_picture() -> None:
    record: Any = SimpleNamespace(tenant="acme", lane="upload")
    space = Space(1, "clip", "r1", 3, "active")
    key = embed_job(record, Picture(b"p" * 32, "s3://media/a.jpg", None, None), space).dedupe_key
    with pytest.raises(Refused, match="of jobs that workers make"):
        parse(json.dumps(caption(dedupe_key=key, tenant="acme")), REGISTRY, RULES)


EDIT = {"type": "video.edit", "inputs": {"assets": {"a": "s3://media/a.mp4"}}}


def test_what_only_params_and_inputs_together_show_is_refused_at_the_door_with_the_type_s_own_code() -> None:
    problems = refused(EDIT | {"params": {"cuts": ["a", "b", "c\x1b"]}})
    assert {where: (problem.code, problem.message) for where, problem in problems.items()} == {
        "/params/cuts/1": ("asset_missing", "is b"),
        "/params/cuts/2": ("asset_missing", "is c\\x1b"),
    }
    assert problems["/params/cuts/1"].as_json()["code"] == "asset_missing"
    assert Problem.from_json(problems["/params/cuts/1"].as_json()) == problems["/params/cuts/1"]
    assert parse(EDIT | {"params": {"cuts": ["a"]}}, REGISTRY, RULES).params == {"cuts": ["a"], "parts": []}


def test_a_type_is_not_asked_about_inputs_that_are_wrong_themselves() -> None:
    assert set(refused(EDIT | {"inputs": {}, "params": {"cuts": ["b"]}})) == {"/inputs/assets"}


def test_the_nearest_key_is_looked_for_among_those_of_the_value_s_own_kind() -> None:
    parts = [{"type": "film", "sped": 2}, {"type": "color", "speed": 2}]
    problems = refused(EDIT | {"params": {"parts": parts}})
    assert {where: problem.fix for where, problem in problems.items()} == {
        "/params/parts/0/sped": "did you mean speed?",
        "/params/parts/1/speed": "there is shade, type",
    }


@pytest.mark.parametrize(
    "message",
    [
        {"inputs": {"assets": {"one": "s3://media/a"}}},
        {"params": {"ratio": 0}},
        {"params": {"ratio": 2}},
    ],
    ids=["its look at params and inputs", "a validator", "its checkpoints"],
)
def test_a_fault_in_a_type_s_own_check_refuses_the_message_until_a_newer_build_comes(message: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        parse({"type": "test.careless", **message}, REGISTRY, RULES)
    [problem] = caught.value.problems
    assert (problem.pointer, problem.code) == ("", Code.CHECK_FAILED)
    assert "replay the message" in problem.fix
    assert caught.value.may_be_newer


def test_what_a_type_raises_at_the_door_counts_as_what_it_finds() -> None:
    found = refused({"type": "test.careless", "inputs": {"assets": {"all": "s3://media/a"}}})
    assert found == {"/params/ratio": Problem("/params/ratio", "too_odd", "is odd", "make it even")}


def test_a_named_input_that_is_left_out_has_no_names() -> None:
    assert parse({"type": "test.careless"}, REGISTRY, RULES).inputs == {}


@pytest.mark.parametrize(
    ("type_", "rest", "fitting"),
    [
        ("image.caption", {"inputs": {"image": "s3://media/a"}}, {"toy-blip-caption"}),
        ("image.answer", {"inputs": {"image": "s3://media/a"}, "params": {"questions": ["what?"]}}, {"toy-blip-vqa"}),
        ("image.embed", {"inputs": {"images": ["s3://media/a"]}, "params": {"vectors": True}}, {"toy-clip"}),
        ("text.embed", {"params": {"texts": ["a star"]}}, {"toy-clip"}),
        ("audio.transcribe", {"inputs": {"audio": "s3://media/a"}}, {"toy-whisper"}),
        ("image.generate", {"params": {"prompt": "a star"}}, {"toy-stable-diffusion"}),
    ],
)
def test_a_type_takes_the_checkpoints_of_its_own_kind_alone(
    type_: str, rest: dict[str, Any], fitting: set[str]
) -> None:
    registry, checkpoints = Registry.load(), Catalogue.load("toy").serves
    rules = dataclasses.replace(RULES, checkpoints=checkpoints)

    def with_checkpoint(name: str) -> dict[str, Any]:
        return {"type": type_, **rest, "params": {**rest.get("params", {}), "checkpoint": name}}

    for name in fitting:
        assert parse(with_checkpoint(name), registry, rules).params["checkpoint"] == name
    for name in checkpoints.keys() - fitting:
        with pytest.raises(Refused) as caught:
            parse(with_checkpoint(name), registry, rules)
        assert [(p.pointer, p.code) for p in caught.value.problems] == [("/params/checkpoint", Code.WRONG_CHECKPOINT)]
