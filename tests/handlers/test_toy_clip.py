"""The toy CLIP finds what is true of pictures it has never seen, the judge names it; both are trained as they say."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy
import pytest

from handlers.models.clip import embed_texts
from toyworld import card, judge, text_vocabulary
from toyworld.evaluate import falls_short
from toyworld.scores import clip as clip_scores
from toyworld.scores import judge as judge_scores
from toyworld.shelf import CHECKPOINTS
from toyworld.train import clip as clip_training
from toyworld.train import judge as judge_training
from toyworld.train import loop
from toyworld.train.clip import true_before_false
from toyworld.train.loop import Course, train
from toyworld.train.pictures import Pool
from toyworld.world.descriptions import Level, caption, describe, facts, named, nearly, words
from toyworld.world.scenes import Background, Colour, Place, Scene, Shape, draw_scene, scene_of

pytestmark = pytest.mark.handlers

CLIP, JUDGE = CHECKPOINTS / clip_training.NAME, CHECKPOINTS / judge_training.NAME
#: Not those that the cards' scores were measured with.
SEED = card.HELD_OUT + 1_000_000


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> Any:
    return clip_scores.load(CLIP)


def _two(first: tuple[Shape, Colour], second: tuple[Shape, Colour], behind: Background = Background.GREY) -> Scene:
    return scene_of(random.Random(0), [(*first, Place.LEFT), (*second, Place.RIGHT)], behind)


def test_what_is_said_of_a_scene_is_true_of_it() -> None:
    for i in range(300):
        chance = random.Random(i)
        scene = draw_scene(chance)
        assert all(describe(scene, chance, level).true_of(scene) for level in Level)
        assert caption(scene).text == scene.caption


def test_what_is_said_of_another_scene_is_true_only_where_it_happens_to_be() -> None:
    scene = _two((Shape.STAR, Colour.RED), (Shape.CIRCLE, Colour.BLUE))
    assert named(Shape.STAR, Colour.RED).true_of(scene)
    assert not named(Shape.STAR, Colour.BLUE).true_of(scene)
    assert not caption(_two((Shape.STAR, Colour.BLUE), (Shape.CIRCLE, Colour.RED))).true_of(scene)
    assert not caption(_two((Shape.CIRCLE, Colour.BLUE), (Shape.STAR, Colour.RED))).true_of(scene)
    assert not caption(_two((Shape.STAR, Colour.RED), (Shape.CIRCLE, Colour.BLUE), Background.BLACK)).true_of(scene)
    alone = scene_of(random.Random(0), [(Shape.STAR, Colour.RED, Place.LEFT)], Background.GREY)
    assert caption(alone).true_of(scene)
    assert not caption(scene).true_of(alone)


def test_a_scene_that_is_nearly_the_same_has_a_caption_of_almost_the_same_words() -> None:
    changed = 0
    for i in range(300):
        chance = random.Random(i)
        scene = draw_scene(chance)
        other = caption(nearly(scene, chance))
        changed += other.text != scene.caption
        different = set(other.text.split()) ^ set(scene.caption.split())
        assert len(different - {"a", "an", "on", "at", "in", "the", "of"}) <= 2
        assert other.true_of(scene) == (other.asked <= facts(scene))
    assert changed > 280


def test_every_word_of_the_world_is_one_token_and_others_are_spelt() -> None:
    tokenizer = text_vocabulary.tokenizer()
    for i in range(200):
        chance = random.Random(i)
        scene = draw_scene(chance)
        for level in Level:
            text = describe(scene, chance, level).text
            assert tokenizer.tokenize(text) == [f"{word}</w>" for word in text.split()]
    assert len(tokenizer.tokenize("zebra")) == 5
    assert tokenizer.decode(tokenizer("très chic 猫")["input_ids"], skip_special_tokens=True).strip() == "très chic 猫"
    assert all(len(tokenizer.tokenize(word)) == 1 for word in words())


def test_the_vocabulary_is_the_same_each_time_and_the_checkpoints() -> None:
    learnt = text_vocabulary.tokenizer().get_vocab()
    assert text_vocabulary.tokenizer().get_vocab() == learnt
    assert clip_scores.load(CLIP).processor.tokenizer.get_vocab() == learnt


def test_a_pool_is_made_of_its_seed_and_begins_as_a_larger_one_does() -> None:
    small, large = Pool(4, "a"), Pool(6, "a")
    assert numpy.array_equal(small.pictures, large.pictures[:4])
    assert not numpy.array_equal(small.pictures, Pool(4, "b").pictures)
    one, again = (small.batch(random.Random(1), 3).pixels for _ in range(2))
    assert one.equal(again)
    assert one.shape == (3, 3, 64, 64)
    assert -1 <= float(one.min()) < float(one.max()) <= 1


def test_a_clean_pool_changes_nothing() -> None:
    pool = Pool(2, "a", clean=True)
    pixels = pool.take(random.Random(0), [0, 1]).pixels
    assert numpy.array_equal(((pixels + 1) * 127.5).round().permute(0, 2, 3, 1).numpy(), pool.pictures)


def test_no_true_pair_is_held_against_another() -> None:
    import torch

    true = torch.tensor([[True, True, False]])
    good, better = (true_before_false(torch.tensor([[5.0, other, -5.0]]), true) for other in (5.0, 50.0))
    wrong = true_before_false(torch.tensor([[5.0, -5.0, 0.0]]), true)
    assert better < good < 1e-4
    assert wrong > 2
    assert true_before_false(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]])) == pytest.approx(
        0.6931, abs=1e-3
    )


@pytest.mark.parametrize("training", [clip_training, judge_training])
def test_a_training_that_was_interrupted_ends_as_if_it_had_not_been(
    training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(loop, "_SAVE_EVERY_S", 0.0)
    course = Course(name="short", steps=4, rate=1e-3, warm_up=2)
    pool = Pool(12, "short", things=1)

    def trained(folder: Path, steps: int) -> dict[str, Any]:
        torch.manual_seed(0)
        lesson = training.Lesson(pool, "cpu", pictures=6)
        done = 0

        def losses(step: int, chance: random.Random) -> dict[str, Any]:
            nonlocal done
            if done == steps:
                raise InterruptedError
            done += 1
            return dict(lesson.losses(step, chance))

        train(course, lesson.network, losses, folder)
        return dict(lesson.network.state_dict())

    whole = trained(tmp_path / "whole", 4)
    with pytest.raises(InterruptedError):
        trained(tmp_path / "parts", 2)
    parts = trained(tmp_path / "parts", 2)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert (tmp_path / "parts" / "short.losses.png").exists()


@pytest.fixture(scope="module")
def clip_reached() -> dict[str, card.Score]:
    """Takes some seconds."""
    return {score.measure: score for score in clip_scores.score(CLIP, 40, SEED)}


@pytest.mark.parametrize("measure", clip_scores.MEASURES)
def test_the_clip_reaches_on_other_scenes_what_its_card_states(
    measure: str, clip_reached: dict[str, card.Score]
) -> None:
    assert not falls_short(clip_reached[measure], card.stated(CLIP)[measure])


def test_the_card_of_the_clip_states_what_it_is_meant_to_reach() -> None:
    for measure in (clip_scores.ZERO_SHOT, clip_scores.FOUND):
        assert card.stated(CLIP)[measure].value >= card.stated(CLIP)[measure].at_least


def test_pictures_with_swapped_channels_are_not_told_apart(model: Any) -> None:
    from PIL import Image

    def swap(image: Any) -> Any:
        return Image.merge("RGB", image.split()[::-1])

    right = clip_scores.see(model, 48, SEED, things=1)
    wrong = clip_scores.see(model, 48, SEED, things=1, change=swap)
    form = "a picture of {}"
    assert clip_scores.classified(model, wrong, form) < 0.6 < 0.9 < clip_scores.classified(model, right, form)


def test_a_text_beyond_the_models_positions_is_cut_off(model: Any) -> None:
    long = "a red circle on a grey background " * 20
    [vector] = embed_texts(model, [long])
    assert numpy.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_what_the_judge_says_is_what_is_there() -> None:
    reached = {score.measure: score for score in judge_scores.score(JUDGE, 60, SEED)}
    assert reached[judge_scores.ALL].value >= 0.97
    assert reached[judge_scores.SPOILT].value >= 0.95
    assert card.stated(JUDGE)[judge_scores.ALL].value >= 0.99


def test_the_judge_names_in_the_worlds_words() -> None:
    pictures = numpy.zeros((3, judge.SIDE, judge.SIDE, 3), numpy.uint8)
    seen = judge.load(JUDGE).see(pictures)
    assert len(seen) == 3
    assert all(isinstance(word, kind) for one in seen for word, kind in zip(one, judge.KINDS, strict=True))


@pytest.mark.parametrize(("folder", "most"), [(CLIP, 2_200_000), (JUDGE, 750_000)])
def test_the_files_are_small_and_in_half_precision(folder: Path, most: int) -> None:
    from safetensors import safe_open

    assert sum(path.stat().st_size for path in folder.iterdir()) < most
    with safe_open(folder / "model.safetensors", framework="numpy") as weights:
        kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    assert kinds == {"F16"}
