"""Workers that have some of the deployment's models: each needs and takes only what is for these."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.e2e.stage import Stage


@pytest.fixture
def some_models(tmp_path: Path, tiny_models: Path) -> Path:
    """Of the tiny models those that look at pictures, and no others."""
    for name in ("tiny-blip-caption", "tiny-clip"):
        shutil.copytree(tiny_models / name, tmp_path / "some" / name)
    return tmp_path / "some"


def test_jobs_of_a_role_that_a_worker_has_not_wait_for_one_that_has_it(
    on_folder: Stage, some_models: Path, tiny_models: Path, pictures: list[Path]
) -> None:
    on_folder.environ |= {"MEDIAMILL_MODEL_ROLES": '["caption", "embed"]', "MEDIAMILL_MODELS": str(some_models)}
    assert {one["name"] for one in on_folder.json("models", "list")} == {"tiny-blip-caption", "tiny-clip"}
    on_folder.run("models", "check")
    looks = on_folder.worker().wait_until_ready()
    # By its role, and by a name that only the other worker has: the door speaks for the whole deployment.
    for params in (["prompt=a cat"], ["prompt=a dog", "checkpoint=tiny-stable-diffusion-xl"]):
        on_folder.run("submit", "image.generate", *(f"--param={one}" for one in (*params, "steps=2")))
    on_folder.run("submit", "image.caption", "--input", f"image={pictures[0]}", "--wait")
    waiting = on_folder.table.rows("SELECT state, attempt FROM jobs WHERE type = 'image.generate'")
    assert waiting == [{"state": "queued", "attempt": 0}] * 2
    draws = on_folder.worker(model_roles='["generate"]', models=str(tiny_models)).wait_until_ready()
    # Each picture gets its embedding from the worker that embeds.
    assert on_folder.wait_until_finished() == {"succeeded": 5}
    assert len(on_folder.table.rows("SELECT id FROM jobs WHERE type = 'image.embed'")) == 2
    assert len(on_folder.table.rows("SELECT DISTINCT content FROM embeddings")) == 3
    assert looks.drain() == draws.drain() == 0


def test_a_worker_without_any_role_runs_what_needs_no_model(on_folder: Stage, tmp_path: Path) -> None:
    on_folder.environ |= {"MEDIAMILL_MODEL_ROLES": "[]", "MEDIAMILL_MODELS": str(tmp_path / "none")}
    assert on_folder.json("models", "list") == []
    on_folder.run("models", "pull")
    on_folder.worker().wait_until_ready()
    on_folder.run("submit", "test.noop", "--wait")
    assert on_folder.wait_until_finished() == {"succeeded": 1}
