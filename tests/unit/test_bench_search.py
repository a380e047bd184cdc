"""How `bench.search` judges what was found, and what it works out from it."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from bench.search import WAYS, WIDTHS, Asked, Found, Way, content, faiss_way, read_queries, recall, tables, write
from bench.search_needs import Measured, needs

_ASKED = Asked("text", 7, "[0.1]", {"all": [1, 2], "third": [], "tenth": [3], "album": []})


def test_recall_counts_what_was_found_of_what_is_wanted_in_any_order() -> None:
    assert recall([["a", "b"], ["c", "x"]], [["b", "a"], ["c", "d"]]) == pytest.approx(3 / 4)
    assert recall([["a", "b", "c"]], [["a"]]) == 1
    assert recall([[]], [[]]) == 1


def test_a_content_is_named_as_postgres_names_it() -> None:
    assert content(258) == sha256(b"\0\0\0\0\0\0\1\2").hexdigest()  # int8send


def test_a_way_asks_as_the_command_does() -> None:
    query = Way("text", "album", words=True).query(_ASKED)
    assert query.text == "a green thing7"
    assert query.labels == {"album": "a7"}
    assert query.vector_of == "text"
    assert Way("picture").query(_ASKED).text == ""
    assert len({way.name for way in WAYS}) == len(WAYS)


def test_a_search_with_words_is_held_against_the_exact_statement() -> None:
    found = Found(Way("text", words=True), hits=[["a"], ["b"]], exact_hits=[["a"]], nearest=[["z"], ["z"]])
    assert found.recall == 1
    assert Found(Way("text"), hits=[["a"], ["b"]], exact_hits=[["z"]], nearest=[["z"], ["b"]]).recall == 0.5


def test_the_exact_statement_is_held_against_a_comparison_with_all() -> None:
    found = Found(Way("text"), hits=[["a"]], exact_hits=[["a", "b"]], nearest=[["a", "c"], ["d", "e"]])
    assert found.agreement == 0.5


def test_queries_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "queries.json"
    path.write_text(json.dumps([{"kind": "text", "cluster": 7, "vector": [0.1], "nearest": dict(_ASKED.nearest)}]))
    assert read_queries(path) == [_ASKED]


def test_faiss_is_not_blamed_for_hits_that_there_are_not() -> None:
    seen = {"kind": "text", "filter": "album", "width": 200, "ms": [1.0, 2.0], "found": [[4, -1]], "nearest": [[4, -1]]}
    assert faiss_way(seen)["recall"] == 1


def test_ten_times_the_vectors_need_ten_times_the_room_and_a_little_longer() -> None:
    measured = Measured(1_000_000, table_bytes=10**9, index_bytes=2 * 10**9, build_core_s=3600, search_ms=6)
    more = needs(measured, 10_000_000)
    assert more.disk_bytes == 30 * 10**9
    assert more.memory_bytes == 21 * 10**9
    assert more.build_memory_bytes == 20 * 10**9
    assert more.search_ms == pytest.approx(7)  # log of 10^7 over log of 10^6
    assert more.build_core_h == pytest.approx(10 * 7 / 6)


def run(vectors: int) -> dict[str, object]:
    """What `measure` makes, with all alike."""
    ms = {"p50": 1.0, "p95": 2.0, "p99": 3.0}
    ways = [
        {"name": way.name, "kind": way.kind, "filter": way.filter, "words": way.words, "recall": 0.99, "ms": ms}
        | {"exact_ms": ms}
        for way in WAYS
    ]
    peers = [
        {"kind": kind, "filter": name, "width": width, "recall": 0.5, "ms": ms}
        for kind in ("text", "picture")
        for name in ("all", "third", "tenth", "album")
        for width in WIDTHS
    ]
    sizes = {"index_bytes": 2 * 10**9, "vectors_bytes": 10**9, "key_bytes": 10**8, "whole_bytes": 5 * 10**9}
    widths = [{"width": width, "recall": 0.99, "ms": ms} for width in WIDTHS]
    ours = {"build_s": 100.0, "insert_ms": 1.0, "definition": "CREATE INDEX", "ways": ways, "widths": widths, **sizes}
    found: dict[str, object] = {
        "command": f"python -m bench.search --vectors {vectors}",
        "machine": {"cores": 2, "processor": "P", "python": "3.11", "load_before": 0.0, "load_after": 1.0},
        "vectors": vectors,
        "queries": 200,
        "shared_buffers": "4GB",
        "build_memory": "4GB",
        "data": {"clusters": 10},
        "ours": ours,
        "faiss": {"version": "1", "build_s": 50.0, "index_bytes": 10**9, "ways": peers},
    }
    return found | {"table": tables(found)}


def test_results_of_one_number_of_vectors_keep_those_of_another(tmp_path: Path) -> None:
    write(run(100_000), tmp_path)
    write(run(1_000_000), tmp_path)
    page = (tmp_path / "search.md").read_text()
    assert page.index("## 1,000,000 vectors") < page.index("## 100,000 vectors")
    assert set(json.loads((tmp_path / "search.json").read_text())) == {"100000", "1000000"}


def test_a_search_with_words_has_no_peer_in_the_table() -> None:
    lines = tables(run(1_000_000))
    assert "| by a text's vector | 0.990 | 1.0 | 2.0 | 1.0 | 0.500 | 1.0 | 2.0 |" in lines
    assert "| by a text's vector and its words | 0.990 | 1.0 | 2.0 | 1.0 |  |  |  |" in lines
