"""A job's whole way, as a newcomer goes it."""

from __future__ import annotations

import json
import urllib.parse
from pathlib import Path

from tests.e2e.stage import Stage


def test_pictures_on_s3_are_captioned_embedded_and_found_again(on_s3: Stage, pictures: list[Path]) -> None:
    worker = on_s3.worker().wait_until_ready()
    for picture in pictures[:4]:
        on_s3.run("submit", "image.caption", "--input", f"image={picture}", "--label", "set=a")
    assert on_s3.wait_until_finished() == {"succeeded": 4}

    jobs = on_s3.json("jobs", "list", "--label", "set=a")
    assert {job["state"] for job in jobs} == {"succeeded"}
    shown = on_s3.json("jobs", "show", jobs[0]["id"])
    assert [event["kind"] for event in shown["events"]] == ["submitted", "claimed", "succeeded"]
    assert shown["artifacts"][0]["role"] == "captions"
    assert shown["embeddings"][0]["dimension"] == 64
    assert {"queued", "fetch", "prepare", "infer", "finish", "store", "record"} <= shown["timings"].keys()

    caption = shown["result"]["captions"][0]["text"]
    word = max(caption.split(), key=len)
    by_text = on_s3.json("search", word)
    assert any(word in str(hit["why"]) for hit in by_text["hits"])

    by_picture = on_s3.json("search", "--image", pictures[2])
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
