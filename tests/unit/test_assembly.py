"""`console.assembly` and `console.compose`: what a deployment is put together from."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.catalogue import Catalogue
from config.checkpoint_lock import Lock, hash_files, write_lock
from config.settings import Settings
from console.assembly import check_fonts, checkpoint_specs
from console.compose import Deployment
from console.failures import CommandFailed


def catalogue(folder: Path, scheduler: str) -> tuple[Catalogue, Settings]:
    """One that makes pictures, and is there."""
    (folder / "models.yaml").write_text(
        "profiles: {default: {roles: {generate: painter}}}\n"
        "checkpoints: {painter: {family: stable_diffusion, licence: MIT, folder: painter, generation:"
        f" {{width: 64, height: 64, steps: 4, guidance: 1, scheduler: {scheduler}}}}}}}\n"
    )
    (folder / "painter").mkdir()
    write_lock(folder / "painter", Lock(name="painter", files=hash_files(folder / "painter")))
    return Catalogue.load(str(folder / "models.yaml")), Settings.load({}, files=[]).settings


def test_a_scheduler_that_the_catalogue_names_and_there_is_not_keeps_a_worker_from_its_start(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed) as caught:
        checkpoint_specs(*catalogue(tmp_path, "ddmi"), "cpu")
    [sentence] = caught.value.lines
    assert sentence.startswith(f"{tmp_path}/models.yaml: checkpoints.painter.generation.scheduler: ")
    assert "'ddmi': there are ddim" in sentence


def test_what_a_catalogue_says_of_a_checkpoint_reaches_the_executor(tmp_path: Path) -> None:
    [spec] = checkpoint_specs(*catalogue(tmp_path, "lcm"), "cpu")
    assert spec.generation is not None
    assert (spec.generation.scheduler, spec.generation.steps, spec.safety_checker) == ("lcm", 4, "auto")


def test_the_door_lets_in_names_of_checkpoints_that_other_workers_of_the_deployment_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEDIAMILL_CATALOGUE", "tiny")
    monkeypatch.setenv("MEDIAMILL_MODEL_ROLES", '["caption"]')
    with Deployment.load() as deployment:
        assert set(deployment.catalogue.entries) == {"tiny-blip-caption"}
        assert deployment.message_rules.checkpoints == Catalogue.load("tiny").serves


def test_a_font_that_is_not_there_keeps_a_worker_from_its_start(tmp_path: Path) -> None:
    given = {"MEDIAMILL_FONTS": f'{{"brand": "{tmp_path}/Brand.ttf", "other": "{__file__}"}}'}
    with pytest.raises(CommandFailed) as caught:
        check_fonts(Settings.load(given, files=[]).settings)
    assert caught.value.lines == (f"MEDIAMILL_FONTS: brand: there is no file {tmp_path}/Brand.ttf",)
