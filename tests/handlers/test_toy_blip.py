"""The toy BLIPs: what they say of pictures they have never seen is what is there, and they are trained as they say."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toyworld import card
from toyworld.scores import blip_caption as caption_scores
from toyworld.scores import blip_vqa as vqa_scores
from toyworld.shelf import CHECKPOINTS
from toyworld.train import blip, blip_caption, blip_vqa
from toyworld.train.loop import Course, train
from toyworld.train.pictures import Pool
from toyworld.world.scenes import Colour, Place, Shape, draw_scene, scene_of

pytestmark = pytest.mark.handlers

CAPTION, VQA = CHECKPOINTS / blip_caption.NAME, CHECKPOINTS / blip_vqa.NAME
#: Not those that the cards' scores were measured with.
SEED = card.HELD_OUT + 1_000_000


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def test_every_word_of_the_world_is_one_token() -> None:
    tokenizer = blip.tokenizer()
    for i in range(200):
        scene = draw_scene(random.Random(i))
        for text in (scene.caption, *(f"{question.text} {question.answer}" for question in scene.questions)):
            assert tokenizer.tokenize(text) == text.replace("?", " ?").split()


def test_other_words_are_spelled_and_none_is_unknown() -> None:
    tokenizer = blip.tokenizer()
    assert tokenizer.tokenize("zebra 7") == ["z", "##e", "##b", "##r", "##a", "7"]
    assert all(tokenizer.unk_token not in tokenizer.tokenize(prompt) for prompt in blip.PROMPTS)


def test_questions_in_other_words_ask_the_same() -> None:
    chance = random.Random(0)
    for i in range(300):
        scene = draw_scene(random.Random(i))
        for question in blip_vqa.asked(scene, chance, 4):
            [known] = {q.answer for q in scene.questions if q.kind == question.kind and _asks(question.text, q.text)}
            assert question.answer == known


def _asks(text: str, known: str) -> bool:
    """Whether both are about one word, or a text is about none in particular."""
    about = known.removesuffix("?").split()[-1]
    return about in text.removesuffix("?").split() or not ({*Shape, *Colour} & {*text.removesuffix("?").split()})


def _caption_lesson() -> tuple[Any, Callable[..., Any]]:
    trained = blip_caption.network()
    return trained, blip_caption.losses(trained, 24, "test", 8, "cpu")


def _vqa_lesson() -> tuple[Any, Callable[..., Any]]:
    trained = blip_vqa.network(blip_caption.network()["blip"])
    mixed, pairs = (blip_vqa.Looked(trained, Pool(24, "test", blip.SIDE, things=things)) for things in (None, 2))
    return trained, blip_vqa.losses(trained, mixed, 8, pairs)


@pytest.mark.parametrize("lesson", [_caption_lesson, _vqa_lesson], ids=["caption", "vqa"])
def test_a_training_that_was_interrupted_ends_as_one_that_was_not(
    lesson: Callable[[], tuple[Any, Callable[..., Any]]], tmp_path: Path
) -> None:
    import torch

    course = Course(name="blip", steps=4, rate=1e-3, warm_up=1)
    whole, loss = lesson()
    train(course, whole, loss, tmp_path / "whole")

    class Interruption(Exception):
        pass

    def interrupted(step: int, chance: random.Random) -> dict[str, Any]:
        if step == 2:
            raise Interruption
        return part_loss(step, chance)

    part, part_loss = lesson()
    # The loop saves each minute; here after every step.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toyworld.train.loop._SAVE_EVERY_S", 0.0)
        with pytest.raises(Interruption):
            train(course, part, interrupted, tmp_path / "part")
    again, again_loss = lesson()
    train(course, again, again_loss, tmp_path / "part")

    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


@pytest.mark.parametrize("folder", [CAPTION, VQA], ids=["caption", "vqa"])
def test_a_checkpoint_is_small_and_says_what_it_knows(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_bytes())
    assert config["vision_config"]["image_size"] == blip.SIDE
    assert config["dtype"] == "float16"
    assert (folder / "model.safetensors").stat().st_size <= 2_750_000
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "license: cc0-1.0" in text
    assert all(score.measure in text for score in card.stated(folder).values())


@pytest.mark.parametrize(
    ("folder", "architecture"),
    [(CAPTION, "BlipForConditionalGeneration"), (VQA, "BlipForQuestionAnswering")],
    ids=["caption", "vqa"],
)
def test_a_checkpoint_has_the_words_that_a_training_would_begin_with(folder: Path, architecture: str) -> None:
    from transformers import BertTokenizer

    assert json.loads((folder / "config.json").read_bytes())["architectures"] == [architecture]
    assert BertTokenizer.from_pretrained(folder).get_vocab() == blip.tokenizer().get_vocab()


def test_captions_say_what_is_in_pictures_of_the_other_renderer() -> None:
    found = {score.measure: score.value for score in caption_scores.score(CAPTION, 60, SEED)}
    assert found[caption_scores.NAMED] >= 0.95
    assert found[caption_scores.WHOLE] >= 0.90
    assert found[caption_scores.PROMPTED] >= 0.90


def test_questions_about_pictures_of_the_other_renderer_are_answered_right() -> None:
    found = {score.measure: score for score in vqa_scores.score(VQA, 40, SEED)}
    assert found[vqa_scores.ALL].samples >= 200
    assert all(score.value >= 0.90 for score in found.values()), found


def test_a_caption_that_names_a_thing_too_many_or_one_too_few_is_wrong() -> None:
    chance = random.Random(1)
    scene = scene_of(chance, [(Shape.STAR, Colour.RED, Place.LEFT), (Shape.RING, Colour.PINK, Place.RIGHT)])
    assert caption_scores.names_all(scene, "a pink ring and a red star")
    assert not caption_scores.names_all(scene, "a red star")
    assert not caption_scores.names_all(scene, "a red ring left of a pink star")
    assert not caption_scores.names_all(scene, f"{scene.caption} with a blue ring")


def test_a_red_that_came_as_blue_makes_captions_wrong() -> None:
    from PIL import Image

    from handlers import models
    from handlers.models.blip_caption import CaptionRequest, generate, prepare
    from handlers.models.sampling import Sampling
    from handlers.protocol import CheckpointSpec
    from toyworld.world.paint import draw

    spec = CheckpointSpec(name="toy", family="blip_caption", path=str(CAPTION), dtype="float32", digest="0" * 64)
    model = models.load(spec, "cpu")
    request = CaptionRequest(prompt="", count=1, seed=0, sampling=Sampling(max_tokens=30))
    wrong = 0
    for i in range(16):
        chance = random.Random(SEED + i)
        scene = scene_of(chance, [(list(Shape)[i % 6], (Colour.RED, Colour.BLUE)[i % 2], Place.MIDDLE)])
        swapped = Image.merge("RGB", draw(scene, chance).split()[::-1])
        [[caption]] = generate(model, [prepare(model.processor, swapped, request)])  # type: ignore[misc]
        wrong += scene.things[0].colour not in caption.text.split()
    assert wrong >= 14
