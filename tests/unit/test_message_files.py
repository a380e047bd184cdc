"""Files of many messages."""

from __future__ import annotations

import io
import json
import tracemalloc

from intake.jsonl import read_jobs
from intake.message import JobSpec, Refused
from intake.problems import Code
from tests.unit.message_types import REGISTRY, RULES, caption


def test_good_lines_are_jobs_and_bad_ones_are_refused_by_their_number() -> None:
    lines = [b"\xef\xbb\xbf" + json.dumps(caption()).encode(), b"", b"  ", b"{", b'{"type": "image.captoin"}']
    stream = io.BytesIO(b"\r\n".join(lines) + b"\n" + json.dumps(caption(priority=7)).encode())
    found = list(read_jobs(stream, REGISTRY, RULES))
    assert [number for number, _ in found] == [1, 4, 5, 6]
    first, broken, unknown, last = (item for _, item in found)
    assert isinstance(first, JobSpec)
    assert isinstance(last, JobSpec)
    assert last.priority == 7
    assert isinstance(broken, Refused)
    assert isinstance(unknown, Refused)
    assert [broken.problems[0].code, unknown.problems[0].code] == [Code.NOT_JSON, Code.UNKNOWN_TYPE]


def test_a_line_that_is_too_long_is_refused_without_being_kept_and_the_next_is_read() -> None:
    good = json.dumps(caption()).encode()
    stream = io.BytesIO(good + b"\n" + b"x" * 30_000_000 + b"\n" + good)
    tracemalloc.start()
    found = list(read_jobs(stream, REGISTRY, RULES))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000_000
    assert [number for number, _ in found] == [1, 2, 3]
    refused = found[1][1]
    assert isinstance(refused, Refused)
    assert refused.problems[0].code is Code.TOO_LARGE
    assert "30,000,00" in refused.problems[0].message
    assert isinstance(found[2][1], JobSpec)


def test_a_line_of_exactly_the_limit_is_read() -> None:
    room = RULES.message_bytes - len(json.dumps(caption(dedupe_key="")))
    message = json.dumps(caption(dedupe_key="")).replace('""', '"' + "x" * room + '"').encode()
    assert len(message) == RULES.message_bytes
    [(_, one), (_, two)] = read_jobs(io.BytesIO(message + b"\r\n" + message), REGISTRY, RULES)
    for refused in (one, two):
        assert isinstance(refused, Refused)
        assert {problem.code for problem in refused.problems} == {Code.OUT_OF_RANGE}
