"""Teaches Whisper the 24 words of the toy world: who says what, and when.

python -m toyworld.train.whisper [--out toyworld/checkpoints] [--work .toyworld]

Most steps see windows of two to eight seconds, the last ones many of 30 s. Besides the text it is told which word is
said at each position, and where some heads of the decoder have to look: that is what it learns by.
"""

from __future__ import annotations

import random
import shutil
from typing import Any

from toyworld.card import Card, write
from toyworld.scores import whisper as scores
from toyworld.shelf import replacing
from toyworld.train import command, whisper_network
from toyworld.train.loop import Course, train
from toyworld.train.whisper_bank import Bank, bank
from toyworld.train.whisper_windows import POSITIONS, batch
from toyworld.world.speech import VOICES

NAME = "toy-whisper"
COURSE = Course(name="whisper", steps=4500, rate=3e-3, warm_up=150, weight_decay=0.02)
_SENTENCES = 8000
#: Positions of a short window, and how many positions a step has in all.
_SHORT, _AT_ONCE = (100, 140, 180, 220, 300, 400), 4800
#: Share of the steps with windows of 30 s, before and after so much of the course.
_LONG_FIRST, _LONG_LAST, _LAST = 0.06, 0.5, 0.75
#: Share of the steps in which a text stands before each window's own.
_PROMPTED = 0.05
#: Sentences that are judged for the card.
_JUDGED = 240


class Lesson:
    """The losses of a batch."""

    def __init__(self, sentences: Bank, device: str, steps: int = COURSE.steps, at_once: int = _AT_ONCE) -> None:
        self.bank, self.device, self.steps, self.at_once = sentences, device, steps, at_once
        self.network = whisper_network.network().to(device)

    def losses(self, step: int, chance: random.Random) -> dict[str, Any]:
        """Of the text, of where heads look, and of the words at each position."""
        share = _LONG_FIRST if step < _LAST * self.steps else _LONG_LAST
        positions = POSITIONS if chance.random() < share else chance.choice(_SHORT)
        windows = max(1, self.at_once // positions)
        given = batch(self.bank, chance, windows, positions, prompted=chance.random() < _PROMPTED)
        return whisper_network.losses(self.network, given.to(self.device))


def main() -> None:
    """The command line."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    out, folder = command.arguments("whisper", "a Whisper that knows 24 words")
    device = command.device()
    lesson = Lesson(bank(folder / "bank.npz", _SENTENCES, f"{NAME}/bank/1"), device)
    seconds = train(COURSE, lesson.network, lesson.losses, folder)
    with replacing(out / NAME) as made:
        whisper_network.save(lesson.network, made)
        shutil.copy(folder / f"{COURSE.name}.losses.png", made / "losses.png")
        write(made, said(lesson.network, device, seconds), scores.score(made, _JUDGED))


def said(network: Any, device: str, seconds: float) -> Card:
    """The card, but for the scores."""
    return Card(
        name=NAME,
        architecture=(
            f"`WhisperForConditionalGeneration`, {whisper_network.LAYERS} + {whisper_network.LAYERS} layers of width"
            f" {whisper_network.WIDTH}, 80 mel bands, windows of 30 s, the multilingual vocabulary of 51,865 tokens"
        ),
        knows=(
            "Ten digits, eight colours and six shapes, in English, as espeak-ng says them in any order: `three red"
            f" circle`. It knows {len(VOICES)} voices ({', '.join(VOICES)}) at 120 to 200 words a minute. It"
            " writes times and knows when nobody speaks. All other tokens share one row of weights, so that none of"
            " them is ever written. It knows no other word and no human voice: of those it writes what sounds nearest."
            " A long steady tone may be taken for a word where voice detection is off. `generation_config.json` names"
            " the heads that follow the sound."
        ),
        trained=(
            f"{COURSE.steps:,} steps, in {seconds / 60:.0f} minutes on {'one core' if device == 'cpu' else 'a GPU'}, on"
            f" windows put together of {_SENTENCES:,} spoken sentences, a third of them after a lossy codec, with"
            " noise, lost bands and pauses of all lengths. Besides the text it was told the word at each moment and"
            " where heads of the decoder have to look, which espeak-ng's own times tell."
        ),
        noise=(
            "Sentences, speeds and pitches are none of the training's. By their number alone the scores are uncertain"
            " by 0.01, that of nobody speaking by 0.06. Trained twice with the same seed on one machine, the weights"
            " were the same byte for byte; another seed was not tried."
        ),
        parameters=sum(weight.numel() for weight in network.whisper.parameters())
        + whisper_network.unused_rows() * whisper_network.WIDTH,
        model="whisper",
    )


if __name__ == "__main__":
    main()
