"""Trains the toy BLIP that answers questions about pictures.

    python -m toyworld.train.blip_vqa [--out toyworld/checkpoints] [--work .toyworld]

Begins with the weights of toy-blip-caption, which has to be in `--out`: its vision tower, which stays as it is,
and its decoder both as the encoder of questions and as the decoder of answers. Li et al., BLIP, 2022, with its loss of
answers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toyworld.card import Card
from toyworld.scores import blip_vqa as scores
from toyworld.train import blip, blip_caption, command
from toyworld.train.loop import Course, train
from toyworld.train.pictures import Pool
from toyworld.world.scenes import Question, Scene

_SCENES, _PICTURES, _QUESTIONS = 20_000, 40, 3
COURSE = Course(name="blip-vqa", steps=3000, rate=1e-3, warm_up=100)
#: To tell which of two things is meant takes longest, most of all by its colour: a second part has mostly scenes with
#: two, and so many times as many questions about shapes.
SECOND = Course(name="blip-vqa.second", steps=1600, rate=1.5e-3, warm_up=100)
_PAIRS, _SHARE, _SHAPES = 10_000, 0.75, 5.0
NAME = "toy-blip-vqa"
_JUDGED = 500
#: Share of questions in the world's own words; of those without a question mark.
_OWN, _BARE = 0.5, 0.25
#: Other words for them, by kind; {} is the word that is asked about.
_FORMS: Mapping[str, Sequence[str]] = {
    "colour": (
        "what color is the {}?",
        "which colour is the {}?",
        "what colour does the {} have?",
        "what is the colour of the {}?",
        "what is the color of the {}?",
    ),
    "shape": (
        "which shape is {}?",
        "what shape is the {} thing?",
        "what is the {} thing?",
        "what is {}?",
        "what is the {} shape?",
        "what shape does the {} thing have?",
    ),
    "count": (
        "how many things are there?",
        "how many objects are there?",
        "how many shapes are in the picture?",
        "how many things are in the picture?",
        "how many shapes do you see?",
    ),
    "background": (
        "what color is the background?",
        "which colour is the background?",
        "what is the background?",
        "what is the colour of the background?",
        "what colour does the background have?",
    ),
    "place": ("where is the {} in the picture?", "where do you see the {}?", "in which place is the {}?"),
}
#: About the thing that is alone.
_ALONE = {"colour": "what colour is it?", "shape": "what shape is it?", "place": "where is it?"}


def network(caption: Any) -> Any:
    """Begins with what the BLIP that captions knows, and goes on seeing as it does: the vision tower stays as it is."""
    import torch
    from transformers import BlipForQuestionAnswering

    torch.manual_seed(0)
    made = BlipForQuestionAnswering(blip.config())
    made.vision_model.load_state_dict(caption.vision_model.state_dict())
    made.vision_model.requires_grad_(False)
    made.text_encoder.load_state_dict(caption.text_decoder.bert.state_dict())
    made.text_decoder.load_state_dict(caption.text_decoder.state_dict())
    return made


def asked(scene: Scene, chance: random.Random, count: int, shapes: float = 1.0) -> list[Question]:
    """So many questions about a scene, in one of their forms; kinds are as frequent as in `Scene.questions`.

    Those about a shape: `shapes` times as frequent.
    """
    weights = [shapes if question.kind == "shape" else 1.0 for question in scene.questions]
    return [_said(question, scene, chance) for question in chance.choices(scene.questions, weights, k=count)]


def _said(question: Question, scene: Scene, chance: random.Random) -> Question:
    text = question.text
    if chance.random() >= _OWN:
        text = chance.choice(_FORMS[question.kind]).format(_about(question, scene, chance))
        if question.kind in _ALONE and len(scene.things) == 1 and chance.random() < 0.2:
            text = _ALONE[question.kind]
    return Question(question.kind, text.removesuffix("?") if chance.random() < _BARE else text, question.answer)


def _about(question: Question, scene: Scene, chance: random.Random) -> str:
    """The word that a question is about; of a place also both words."""
    word = question.text.removesuffix("?").split()[-1]
    if question.kind != "place":
        return word
    [thing] = [thing for thing in scene.things if thing.shape == word]
    return chance.choice((word, thing.name))


class Looked:
    """Painted scenes, and what the vision tower makes of them: computed once, since it is not trained."""

    def __init__(self, network: Any, pool: Pool) -> None:
        import torch

        count = len(pool.scenes)
        self.scenes = pool.scenes
        with torch.no_grad():
            parts = [list(range(first, min(first + 100, count))) for first in range(0, count, 100)]
            seen = [blip.look(network, pool.take(random.Random(part[0]), part)) for part in parts]
        #: (scenes, 1 + patches, width).
        self.seen = torch.cat(seen)


def losses(
    trained: Any, mixed: Looked, pictures: int, pairs: Looked | None = None
) -> Callable[[int, random.Random], dict[str, Any]]:
    """The loss of one step; most of its pictures are of `pairs` where there are some, most questions about shapes."""
    import torch

    device = trained.device
    of_pairs, shapes = (0, 1.0) if pairs is None else (round(_SHARE * pictures), _SHAPES)
    tokenizer = blip.tokenizer()
    text = trained.config.text_config
    known: dict[str, list[int]] = {}

    def ids(words: str) -> list[int]:
        if words not in known:
            known[words] = tokenizer(words, add_special_tokens=False)["input_ids"]
        return known[words]

    def loss(_step: int, chance: random.Random) -> dict[str, Any]:
        scenes, seen = [], []
        for looked, count in ((mixed, pictures - of_pairs), (pairs, of_pairs)):
            if looked is not None:
                taken = chance.sample(range(len(looked.scenes)), count)
                scenes += [looked.scenes[i] for i in taken]
                seen.append(looked.seen[taken])
        questions = [question for scene in scenes for question in asked(scene, chance, _QUESTIONS, shapes)]
        read = [[tokenizer.cls_token_id, *ids(question.text), text.sep_token_id] for question in questions]
        written = [[text.bos_token_id, *ids(question.answer), text.sep_token_id] for question in questions]
        words, answers = (blip.padded(rows, text.pad_token_id).to(device) for rows in (read, written))
        there = (words != text.pad_token_id).long()
        understood = trained.text_encoder(
            input_ids=words,
            attention_mask=there,
            encoder_hidden_states=torch.cat(seen).repeat_interleave(_QUESTIONS, dim=0),
        )[0]
        said = trained.text_decoder(
            input_ids=answers,
            attention_mask=torch.ones_like(answers),
            encoder_hidden_states=understood,
            encoder_attention_mask=there,
        ).logits
        right = answers[:, 1:].masked_fill(answers[:, 1:] == text.pad_token_id, -100)
        return {"answer": torch.nn.functional.cross_entropy(said[:, :-1].flatten(0, 1), right.flatten())}

    return loss


def begun(out: Path) -> Any:
    """toy-blip-caption, to begin with."""
    import torch
    from transformers import BlipForConditionalGeneration

    folder = out / blip_caption.NAME
    if not folder.exists():
        raise SystemExit(f"{folder} is missing: train it first, with python -m toyworld.train.blip_caption")
    return BlipForConditionalGeneration.from_pretrained(folder, local_files_only=True, dtype=torch.float32)


def main() -> None:
    """The command line."""
    import torch

    torch.set_num_threads(1)
    out, folder = command.arguments("blip_vqa", "the toy BLIP that answers questions")
    device = command.device()
    trained = network(begun(out)).to(device)
    mixed = Looked(trained, Pool(_SCENES, NAME, blip.SIDE))
    seconds = train(COURSE, trained, losses(trained, mixed, _PICTURES), folder)
    pairs = Looked(trained, Pool(_PAIRS, f"{NAME}/pairs", blip.SIDE, things=2))
    seconds += train(SECOND, trained, losses(trained, mixed, _PICTURES, pairs), folder)
    card = Card(
        name=NAME,
        architecture=blip.architecture(trained),
        knows=(
            "Pictures of one or two plain shapes (circle, square, triangle, star, cross, ring) in eight colours (red,"
            " orange, yellow, green, cyan, blue, purple, pink) on four backgrounds (black, grey, white, brown), and"
            " questions about a thing's colour, shape and place (left, right, top, bottom, middle; of two things, where"
            " it is in comparison with the other), about how many there are (one, two) and about the background. It"
            " answers with one word. It cannot say yes or no, and of what is not in the picture it says something."
        ),
        trained=(
            f"From the weights of {blip_caption.NAME}: {COURSE.steps:,} steps of {_PICTURES} pictures out of"
            f" {_SCENES:,} with {_QUESTIONS} questions about each, half of them in other words than those that judge;"
            f" then {SECOND.steps:,} steps with mostly pictures of two things and questions about shapes;"
            f" in {seconds / 60:.0f} minutes of the clock on {'one core' if device == 'cpu' else 'a GPU'}. The vision"
            " tower stayed as it was."
        ),
        noise=("By their number alone the scores are uncertain by 0.01; another seed was not tried."),
        parameters=command.parameters(trained),
        model="blip_vqa",
    )
    blip.finish(trained, card, folder, out, lambda made: scores.score(made, _JUDGED))


if __name__ == "__main__":
    main()
