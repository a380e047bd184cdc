"""A job's whole way, as a newcomer goes it."""

from __future__ import annotations

import json
import urllib.parse
from pathlib import Path

import pytest

from tests.e2e.stage import Stage


@pytest.fixture(params=["on_folder", "on_s3"])
def anywhere(request: pytest.FixtureRequest) -> Stage:
    """A deployment on each kind of object store."""
    stage: Stage = request.getfixturevalue(request.param)
    return stage


def test_pictures_are_captioned_embedded_and_found_again(anywhere: Stage, pictures: list[Path]) -> None:
    worker = anywhere.worker().wait_until_ready()
    for picture in pictures[:4]:
        anywhere.run("submit", "image.caption", "--input", f"image={picture}", "--label", "set=a")
    assert anywhere.wait_until_finished() == {"succeeded": 4}

    jobs = anywhere.json("jobs", "list", "--label", "set=a")
    assert {job["state"] for job in jobs} == {"succeeded"}
    shown = anywhere.json("jobs", "show", jobs[0]["id"])
    assert [event["kind"] for event in shown["events"]] == ["submitted", "claimed", "succeeded"]
    assert shown["artifacts"][0]["role"] == "captions"
    assert shown["embeddings"][0]["dimension"] == 64
    assert {"queued", "fetch", "prepare", "infer", "finish", "store", "record"} <= shown["timings"].keys()

    caption = shown["result"]["captions"][0]["text"]
    word = max(caption.split(), key=len)
    by_text = anywhere.json("search", word)
    assert any(word in str(hit["why"]) for hit in by_text["hits"])

    by_picture = anywhere.json("search", "--image", pictures[2])
    first = by_picture["hits"][0]
    assert first["similarity"] > 0.99
    assert "000" not in urllib.parse.unquote(first["uri"])
    assert worker.drain() == 0


def test_what_a_worker_measures_and_how_it_is_are_served(on_folder: Stage) -> None:
    worker = on_folder.worker().wait_until_ready()
    on_folder.run("submit", "test.noop", "--wait")
    status, body = worker.get("/healthz")
    assert (status, {check["name"] for check in json.loads(body)["checks"]} >= {"loop", "database", "executor"}) == (
        200,
        True,
    )
    metrics = worker.get("/metrics")[1].decode()
    assert 'mediamill_jobs_finished_total{lane="interactive",state="succeeded",type="test.noop"} 1.0' in metrics
