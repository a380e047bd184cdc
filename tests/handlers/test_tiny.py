"""The checkpoints of random weights."""

from __future__ import annotations

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import handlers.models
import toyworld.tiny
from config.catalogue import Catalogue, CatalogueError
from config.checkpoint_lock import hash_files
from config.checkpoints import CheckpointError, pull, verify
from handlers.models import CheckpointBroken
from handlers.models.blip import Blip
from handlers.models.blip_caption import CaptionRequest, generate, prepare
from handlers.models.sampling import Sampling
from handlers.protocol import CheckpointSpec
from tests.handlers.conftest import picture

pytestmark = pytest.mark.handlers

EXECUTOR = Path(sys.executable)


def test_the_same_script_gives_the_same_bytes_each_time(tiny_home: Path, tmp_path: Path) -> None:
    for folder in toyworld.tiny.make(tmp_path):
        assert hash_files(folder) == hash_files(tiny_home / folder.name)


def test_each_checkpoint_is_smaller_than_a_megabyte_and_has_a_card_that_says_what_it_knows(tiny_home: Path) -> None:
    for name in toyworld.tiny.MAKERS:
        weights = sum(file.stat().st_size for file in (tiny_home / name).rglob("*.safetensors"))
        # A whisper's 51,865 tokens are given by the library: a row of 32 numbers for each.
        assert 0 < weights < 1_000_000 + (51_865 * 32 * 4 if name == "tiny-whisper" else 0)
        assert "knows nothing" in (tiny_home / name / "README.md").read_text()


def test_two_runs_at_once_make_each_checkpoint_once_and_leave_nothing_half_done(tmp_path: Path) -> None:
    catalogue = Catalogue.load("tiny")

    def run(name: str) -> Path:
        return pull(catalogue, catalogue[name], tmp_path, executor=EXECUTOR, progress=lambda _: None)

    with ThreadPoolExecutor(2) as threads:
        folders = set(threads.map(run, ["caption", "embed"]))
    assert {folder.name for folder in folders} == {"tiny-blip-caption", "tiny-clip"}
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == set(toyworld.tiny.MAKERS)
    for entry in catalogue.entries.values():
        pull(catalogue, entry, tmp_path, executor=EXECUTOR, progress=lambda _: None)
    assert catalogue.missing(tmp_path) == []
    assert all(verify(catalogue, entry, tmp_path) == [] for entry in catalogue.entries.values())


def test_captions_of_different_pictures_are_different_words_and_never_empty(blip: Blip) -> None:
    pictures = [
        picture(color, shape, ground=ground)
        for color in ("red", "green", "blue", "yellow")
        for shape in ("ellipse", "rectangle")
        for ground in ("white", "gray", "navy")
    ]
    request = CaptionRequest(prompt="", count=1, seed=0, sampling=Sampling(max_tokens=20))
    texts = []
    for captions in generate(blip, [prepare(blip.processor, image, request) for image in pictures]):
        assert isinstance(captions, list)
        texts.append(captions[0].text)
    assert all(texts)
    assert len(set(texts)) >= 0.8 * len(texts)
    words = [len(set(text.split())) for text in texts]
    assert sum(count >= 3 for count in words) >= len(words) / 2


def test_a_damaged_weights_file_is_a_broken_checkpoint_that_names_the_command(
    tiny_home: Path, specs: dict[str, CheckpointSpec], tmp_path: Path
) -> None:
    spec = specs["clip"].model_copy(update={"path": str(tmp_path)})
    for file in (tiny_home / "tiny-clip").iterdir():
        data = file.read_bytes()
        (tmp_path / file.name).write_bytes(data[: len(data) // 2] if file.suffix == ".safetensors" else data)
    with pytest.raises(CheckpointBroken, match=r"'tiny-clip'.*mediamill models pull"):
        handlers.models.load(spec, "cpu")


def test_a_folder_without_files_is_a_broken_checkpoint(specs: dict[str, CheckpointSpec], tmp_path: Path) -> None:
    with pytest.raises(CheckpointBroken, match="cannot be loaded"):
        handlers.models.load(specs["clip"].model_copy(update={"path": str(tmp_path)}), "cpu")


def test_a_checkpoint_of_another_architecture_is_refused_instead_of_filled_with_random_weights(
    tiny_home: Path, specs: dict[str, CheckpointSpec]
) -> None:
    wrong = specs["clip"].model_copy(update={"path": str(tiny_home / "tiny-blip-caption")})
    with pytest.raises(CheckpointBroken, match="cannot be loaded"):
        handlers.models.load(wrong, "cpu")


def _own_catalogue(tmp_path: Path) -> Catalogue:
    source = tmp_path / "models.yaml"
    source.write_text(
        "profiles: {default: {roles: {embed: mine}}}\n"
        "checkpoints: {mine: {family: clip, licence: MIT, dimension: 64, folder: mine}}\n"
    )
    return Catalogue.load(str(source))


def test_a_pickle_that_would_run_code_is_refused_by_pull(tmp_path: Path) -> None:
    import os

    import torch

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(tmp_path / "owned"),))

    catalogue = _own_catalogue(tmp_path)
    (tmp_path / "mine").mkdir()
    torch.save({"weight": Evil()}, tmp_path / "mine" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is a pickle that holds more than tensors"):
        pull(catalogue, catalogue["embed"], tmp_path, executor=EXECUTOR, progress=lambda _: None)
    assert not (tmp_path / "owned").exists()
    with pytest.raises(CatalogueError, match="was never verified"):
        catalogue.digest(catalogue["embed"], tmp_path / "mine")


def test_a_pickle_of_tensors_alone_is_accepted_and_loads_as_the_safetensors_do(
    tiny_home: Path, tmp_path: Path, specs: dict[str, CheckpointSpec]
) -> None:
    import torch
    from safetensors.torch import load_file

    catalogue = _own_catalogue(tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    for file in (tiny_home / "tiny-clip").glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    torch.save(load_file(tiny_home / "tiny-clip" / "model.safetensors"), folder / "pytorch_model.bin")
    pull(catalogue, catalogue["embed"], tmp_path, executor=EXECUTOR, progress=lambda _: None)
    model = handlers.models.load(specs["clip"].model_copy(update={"path": str(folder)}), "cpu")
    assert model.network.config.projection_dim == 64
    assert len(catalogue.digest(catalogue["embed"], folder)) == hashlib.sha256().digest_size * 2


def test_code_in_a_checkpoints_folder_is_refused(tiny_home: Path, tmp_path: Path) -> None:
    catalogue = _own_catalogue(tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    for file in (tiny_home / "tiny-clip").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "modeling_mine.py").write_text("print('hello')")
    with pytest.raises(CheckpointError, match=r"modeling_mine\.py is neither weights"):
        pull(catalogue, catalogue["embed"], tmp_path, executor=EXECUTOR, progress=lambda _: None)
