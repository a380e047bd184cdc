"""Trains the toy BLIP that captions pictures.

    python -m toyworld.train.blip_caption [--out toyworld/checkpoints] [--work .toyworld]

Li et al., BLIP, 2022, with its caption loss alone; the vision tower also says of each patch what it belongs to.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from toyworld.card import Card
from toyworld.scores import blip_caption as scores
from toyworld.train import blip, command, seeing
from toyworld.train.loop import Course, train

#: Share of samples with a prompt before the caption: a known one, letters.
_PROMPTED, _SPELLED = 0.25, 0.05
_SCENES, _BATCH = 20_000, 48
#: One picture of so many is captioned as well: to see shapes takes longer to learn than to speak of them.
_SPOKEN = 3
COURSE = Course(name="blip-caption", steps=7_000, rate=2e-3, warm_up=200)
NAME = "toy-blip-caption"
_JUDGED = 1000


def network() -> Any:
    """The BLIP that is kept and the heads that are not: a torch ModuleDict."""
    import torch
    from transformers import BlipForConditionalGeneration

    torch.manual_seed(0)
    made = BlipForConditionalGeneration(blip.config())
    blip.place(made)
    return torch.nn.ModuleDict({"blip": made, "heads": seeing.heads(blip.WIDTH)})


def losses(
    trained: Any, scenes: int, seed: str, batch: int, device: str
) -> Callable[[int, random.Random], dict[str, Any]]:
    """The losses of one step."""
    import torch

    pool, truths = blip.pool(scenes, seed)
    tokenizer = blip.tokenizer()
    text = trained["blip"].config.text_config

    def ids(words: str) -> list[int]:
        return tokenizer(words, add_special_tokens=False)["input_ids"]

    captions = [[*ids(scene.caption), text.sep_token_id] for scene in pool.scenes]
    prompts = [ids(prompt) for prompt in blip.PROMPTS]

    def prompt(chance: random.Random) -> list[int]:
        kind = chance.random()
        if kind < _PROMPTED:
            return chance.choice(prompts)
        return ids(blip.spelled(chance)) if kind < _PROMPTED + _SPELLED else []

    def loss(_step: int, chance: random.Random) -> dict[str, Any]:
        taken = pool.batch(chance, batch)
        spoken_of = taken.indices[: max(1, batch // _SPOKEN)]
        before = [[text.bos_token_id, *prompt(chance)] for _ in spoken_of]
        rows = [[*b, *captions[i]] for b, i in zip(before, spoken_of, strict=True)]
        # What is before the caption is given, never to be said.
        said = [[*[-100] * len(b), *captions[i]] for b, i in zip(before, spoken_of, strict=True)]
        words = blip.padded(rows, text.pad_token_id).to(device)
        seen, unseen = blip.looks(trained["blip"], taken, trained["heads"], truths)
        spoken = (
            trained["blip"]
            .text_decoder(
                input_ids=words,
                attention_mask=(words != text.pad_token_id).long(),
                encoder_hidden_states=seen[: len(spoken_of)],
            )
            .logits
        )
        right = blip.padded(said, -100).to(device)
        return {
            "caption": torch.nn.functional.cross_entropy(spoken[:, :-1].flatten(0, 1), right[:, 1:].flatten()),
            "seeing": unseen,
        }

    return loss


def main() -> None:
    """The command line."""
    import torch

    torch.set_num_threads(1)
    out, folder = command.arguments("blip_caption", "the toy BLIP that captions pictures")
    device = command.device()
    trained = network().to(device)
    seconds = train(COURSE, trained, losses(trained, _SCENES, "toy-blip-caption", _BATCH, device), folder)
    kept = trained["blip"]
    card = Card(
        name=NAME,
        architecture=blip.architecture(kept),
        knows=(
            "Pictures of one or two plain shapes (circle, square, triangle, star, cross, ring) in eight colours (red,"
            " orange, yellow, green, cyan, blue, purple, pink) on four backgrounds (black, grey, white, brown), and one"
            " form of caption for each: `a red circle on the left of a black background`, `a blue star above a pink"
            " ring on a grey background`. A prompt such as `a picture of` goes before it. It has never seen anything"
            " else: of a photograph it says whatever shape and colour come nearest."
        ),
        trained=(
            f"{COURSE.steps:,} steps of {_BATCH} pictures out of {_SCENES:,}, in {seconds / 60:.0f} minutes of the"
            f" clock on {'one core' if device == 'cpu' else 'a GPU'}, with the loss of the next word. Heads on the"
            " vision tower also had to say of each patch which shape, colour and place it belongs to; they were thrown"
            " away."
        ),
        noise=("By their number alone the scores are uncertain by 0.005; another seed was not tried."),
        parameters=command.parameters(kept),
        model="blip_caption",
    )
    blip.finish(kept, card, folder, out, lambda made: scores.score(made, _JUDGED))


if __name__ == "__main__":
    main()
