"""The toy Stable Diffusion makes what was asked for, the same each time; it is trained as it says."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy
import pytest

from toyworld import card
from toyworld.evaluate import falls_short
from toyworld.scores import stable_diffusion as scores
from toyworld.shelf import CHECKPOINTS
from toyworld.train import autoencoder, diffusion, loop
from toyworld.train import stable_diffusion as training
from toyworld.train.loop import Course
from toyworld.train.pictures import Pool
from toyworld.world.descriptions import facts
from toyworld.world.scenes import Background, Colour, Shape

pytestmark = pytest.mark.handlers

FOLDER = CHECKPOINTS / training.NAME
#: Not those that the card's scores were measured with.
SEED = card.HELD_OUT + 1_000_000
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> Any:
    return scores.load(FOLDER)


def test_its_pictures_show_what_was_asked_for_as_often_as_the_card_says() -> None:
    stated = card.stated(FOLDER)
    for score in scores.score(FOLDER, 36, SEED):
        assert not falls_short(score, stated[score.measure]), score


def test_the_same_seed_makes_the_same_picture_and_another_seed_another(model: Any) -> None:
    asked = ["a red circle on a black background"] * 2
    one, again = (scores.make(model, asked, SEED) for _ in range(2))
    assert numpy.array_equal(one, again)
    assert not numpy.array_equal(one[0], one[1])


def test_what_the_prompt_says_changes_the_picture(model: Any) -> None:
    red, blue = scores.make(model, ["a red square"], SEED), scores.make(model, ["a blue square"], SEED)
    assert numpy.abs(red.astype(int) - blue.astype(int)).max() > 100


def test_it_is_small_and_has_no_code_and_no_safety_checker() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5.7 * MIB
    assert {path.suffix for path in files} <= {".json", ".md", ".png", ".safetensors", ".txt"}
    index = json.loads((FOLDER / "model_index.json").read_bytes())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["safety_checker"] == [None, None]


def test_any_48_samples_in_a_row_ask_for_every_colour_of_every_shape_and_all_on_every_background() -> None:
    asked = [scores.asked(sample) for sample in range(4 * 48)]
    assert len(set(asked)) == len(Colour) * len(Shape) * len(Background)
    assert len({(colour, shape) for colour, shape, _ in asked[:48]}) == 48
    assert scores.prompt(0) == "a red circle on a black background"


def test_texts_to_train_on_are_true_of_their_scenes_and_the_empty_one_comes_first() -> None:
    pool = Pool(40, "texts", clean=True)
    texts, said = diffusion.texts_of(pool.scenes, "texts")
    assert texts[0] == ""
    assert len(set(texts)) == len(texts)
    for scene, places in zip(pool.scenes, said, strict=True):
        shown = {word for fact in facts(scene) for word in fact}
        for text in (texts[place] for place in places):
            coloured = {colour.value for colour in Colour if colour in text.split()}
            assert text
            assert coloured <= shown


def test_whitened_latents_have_no_relation_among_their_channels_and_make_the_same_pictures() -> None:
    import torch

    torch.manual_seed(0)
    network, pictures = autoencoder.build().eval(), Pool(6, "white", clean=True).pictures

    def made() -> Any:
        with torch.no_grad():
            return network.decode(autoencoder.encode(network, pictures)).sample

    before = made()
    autoencoder.whiten(network, pictures)
    values = autoencoder.encode(network, pictures).movedim(1, 0).flatten(1)
    assert values.mean(dim=1).numpy() == pytest.approx(0, abs=1e-3)
    assert values.cov().numpy() == pytest.approx(numpy.eye(autoencoder.CHANNELS), abs=1e-2)
    assert made().sub(before).abs().max() < 1e-3


def _learn_pictures(folder: Path, course: Course, pool: Pool) -> Any:
    network = autoencoder.build()
    autoencoder.teach(network, pool, folder, course)
    return network


def _learn_to_make_them(folder: Path, course: Course, pool: Pool) -> Any:
    import torch

    draws = torch.Generator().manual_seed(0)
    material = diffusion.Material(
        latents=torch.randn(len(pool.scenes), autoencoder.CHANNELS, 16, 16, generator=draws),
        states=torch.randn(3, 5, diffusion.TEXT_WIDTH, generator=draws).half(),
        said=[[1, 2]] * len(pool.scenes),
    )
    network = diffusion.build()
    diffusion.teach(network, material, folder, course)
    return network


@pytest.mark.parametrize("learn", [_learn_pictures, _learn_to_make_them])
def test_a_training_that_was_interrupted_ends_as_if_it_had_not_been(
    learn: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(loop, "_SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(autoencoder, "_PIECES", 4)
    monkeypatch.setattr(autoencoder, "_WHOLE", 2)
    monkeypatch.setattr(diffusion, "_BATCH", 4)
    course = Course(name="short", steps=3, rate=1e-3, warm_up=1, average=0.9)
    pool = Pool(6, "short", clean=True)

    def trained(folder: Path) -> dict[str, Any]:
        torch.manual_seed(0)
        state: dict[str, Any] = learn(folder, course, pool).state_dict()
        return state

    whole = trained(tmp_path / "whole")
    draws = random.Random.sample
    left = iter(range(2))

    def interrupted(chance: random.Random, *args: Any, **kwargs: Any) -> Any:
        if next(left, None) is None:
            raise InterruptedError
        return draws(chance, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(random.Random, "sample", interrupted)
        with pytest.raises(InterruptedError):
            trained(tmp_path / "halved")
    halved = trained(tmp_path / "halved")
    assert all(torch.equal(halved[name], weight) for name, weight in whole.items())
