"""A checkpoint whose files are there and cannot be loaded: its jobs wait for a worker that can, and lose nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.e2e.stage import Stage


def test_jobs_of_a_checkpoint_that_cannot_be_loaded_wait_for_a_worker_that_can(
    on_folder: Stage, tiny_models: Path, pictures: list[Path], tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_models, damaged)
    weights = damaged / "tiny-blip-caption" / "model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    worker = on_folder.worker(models=str(damaged), preload='["caption", "embed"]').wait_until_ready()
    checks = {check["name"]: check for check in json.loads(worker.get("/readyz")[1])["checks"]}
    assert not checks["checkpoints"]["ok"]
    assert "tiny-blip-caption" in checks["checkpoints"]["why"]
    on_folder.run("submit", "image.caption", "--input", f"image={pictures[0]}")
    on_folder.run("submit", "test.noop", "--wait")
    on_folder.run("submit", "image.embed", "--input", f"images={pictures[0]}", "--wait")
    (caption,) = on_folder.table.rows("SELECT state, attempt FROM jobs WHERE type = 'image.caption'")
    assert caption == {"state": "queued", "attempt": 0}
    on_folder.worker().wait_until_ready()
    assert on_folder.wait_until_finished() == {"succeeded": 3}
