"""Trains toy-clip: which texts are true of which pictures.

What makes it learn in minutes: vectors are drawn towards those that the world's facts would give (`codes`); a text is
no negative of any picture that it is true of; texts that are almost true (colours of two things swapped, one word
another) stand among the negatives; and heads that name what is in the picture help the vision tower on its way, and are
thrown away.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toyworld import text_vocabulary
from toyworld.card import Card, write
from toyworld.scores import clip as scores
from toyworld.shelf import replacing
from toyworld.train import codes, command, seeing
from toyworld.train.loop import Course, train
from toyworld.train.pictures import Pool, sine_grid, sine_positions
from toyworld.world.descriptions import Description, Level, caption, describe, facts, nearly
from toyworld.world.scenes import Scene, draw_scene, scene_of

NAME = "toy-clip"
SIDE, PATCH, WIDTH, INNER, PROJECTION = 64, 16, 128, 384, 128
COURSE = Course(name="clip", steps=4000, rate=2e-3, warm_up=100, weight_decay=0.02)
_PICTURES, _POOL = 48, 20_000
#: How often a description is of which level.
_LEVELS = {
    Level.COLOUR: 1,
    Level.SHAPE: 1,
    Level.THING: 4,
    Level.BACKGROUND: 1,
    Level.COUNT: 0.5,
    Level.THING_BEFORE: 1.5,
    Level.PLACED: 1.5,
    Level.PAIR: 3,
}
#: Share of the pictures with their whole caption as well.
_WHOLE = 0.5
#: Share of the scenes with two things: what belongs to which of them is the hardest to learn.
_TWO_THINGS = 0.55
#: Weight of what the heads on the patches lose.
_SEEING = 0.5
#: Weights of the distance from what the facts give, and of the contrastive losses.
_CODES, _CONTRAST = 4.0, 0.3
#: Scenes of each score on the card.
_JUDGED = 500


def network() -> Any:
    """A CLIPModel of random weights and places that are known from the start."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    tokenizer = text_vocabulary.tokenizer()
    tower = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_attention_heads": 4}
    end = tokenizer.eos_token_id
    model = CLIPModel(
        CLIPConfig(
            text_config=tower
            | {"num_hidden_layers": 2, "vocab_size": len(tokenizer), "projection_dim": PROJECTION}
            | {"max_position_embeddings": text_vocabulary.MAX_TOKENS}
            | {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": end, "pad_token_id": end},
            vision_config=tower
            | {"num_hidden_layers": 3, "image_size": SIDE, "patch_size": PATCH, "projection_dim": PROJECTION},
            projection_dim=PROJECTION,
        )
    )
    grid = SIDE // PATCH
    with torch.no_grad():
        model.text_model.embeddings.position_embedding.weight.copy_(
            0.1 * sine_positions(text_vocabulary.MAX_TOKENS, WIDTH)
        )
        places_seen = model.vision_model.embeddings.position_embedding.weight
        places_seen[1:] = 0.3 * sine_grid(grid, grid, WIDTH)
    return model


class Lesson:
    """The losses of a batch."""

    def __init__(self, pool: Pool, device: str, pictures: int = _PICTURES) -> None:
        import numpy
        import torch

        self.pool, self.device, self.pictures = pool, device, pictures
        self.codes = torch.from_numpy(numpy.stack([codes.of_scene(scene, PROJECTION) for scene in pool.scenes]))
        self.truths = seeing.Truths(pool.scenes, SIDE // PATCH)
        self.tokenizer = text_vocabulary.tokenizer()
        self.network = torch.nn.ModuleDict({"clip": network(), "seeing": seeing.heads(WIDTH)}).to(device)

    def losses(self, _step: int, chance: random.Random) -> dict[str, Any]:
        """By what the facts give, contrastive, and of the heads."""
        import numpy
        import torch

        firsts = chance.sample(range(0, len(self.pool.scenes), 2), self.pictures // 2)
        batch = self.pool.take(chance, [i for first in firsts for i in (first, first + 1)])
        said = list(dict.fromkeys(_texts(batch.scenes, chance)))
        clip = self.network["clip"]
        seen = clip.vision_model(pixel_values=batch.pixels.to(self.device), output_hidden_states=True)
        pictures = torch.nn.functional.normalize(clip.visual_projection(seen.pooler_output), dim=-1)
        # Before the last layer, in which the picture's vector takes up what the patches know.
        patches = seen.hidden_states[-2][:, 1:]
        texts = torch.nn.functional.normalize(self._read([description.text for description in said]), dim=-1)
        scores = clip.logit_scale.exp().clamp(max=100) * pictures @ texts.T
        known = [facts(scene) for scene in batch.scenes]
        true = torch.tensor([[text.asked <= scene for text in said] for scene in known], device=self.device)
        given = torch.from_numpy(numpy.stack([codes.of_text(text.asked, PROJECTION) for text in said]))
        return {
            "pictures": _CODES * distance(pictures, self.codes[batch.indices].to(self.device)),
            "texts": _CODES * distance(texts, given.to(self.device)),
            "pictures to texts": _CONTRAST * true_before_false(scores, true),
            "texts to pictures": _CONTRAST * true_before_false(scores.T, true.T),
            "seeing": _SEEING * seeing.wrong(self.network["seeing"], patches, self.truths, batch.indices),
        }

    def _read(self, texts: Sequence[str]) -> Any:
        """(n, projection); nothing is masked, since no token sees those after it, and a text's vector is at its end."""
        import torch

        tokens = self.tokenizer(list(texts))["input_ids"]
        clip, order = self.network["clip"], sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        read = []
        # The short ones by themselves: padding costs as much as words.
        for half in (order[: len(order) // 2], order[len(order) // 2 :]):
            longest = len(tokens[half[-1]])
            rows = [tokens[i] + tokens[i][-1:] * (longest - len(tokens[i])) for i in half]
            read.append(clip.text_model(input_ids=torch.tensor(rows, device=self.device)).pooler_output)
        back = torch.tensor(order, device=self.device).argsort()
        return clip.text_projection(torch.cat(read))[back]


def distance(made: Any, given: Any) -> Any:
    """1 - the mean cosine between rows of length 1: 0-d tensor."""
    return 1 - (made * given).sum(dim=1).mean()


def true_before_false(scores: Any, true: Any) -> Any:
    """Mean over all true pairs of how sure it is that the pair is one, among it and its row's false ones: 0-d tensor.

    InfoNCE (van den Oord et al., 2018) with many positives, none of which is another's negative (Khosla et al., 2020).
    """
    import torch

    false = scores.masked_fill(true, float("-inf")).logsumexp(dim=1, keepdim=True)
    wrong = torch.nn.functional.softplus(false - scores)
    counts = true.sum(dim=1)
    rows = (wrong * true).sum(dim=1) / counts.clamp(min=1)
    return rows.sum() / (counts > 0).sum()


def siblings(count: int, seed: str) -> Pool:
    """A pool in which every second scene is nearly the one before it: what is true of one is not quite of the other."""
    scenes = []
    for i in range(0, count, 2):
        chance = random.Random(f"{seed}/siblings/{i}")
        scene = draw_scene(chance, things=2 if chance.random() < _TWO_THINGS else 1)
        other = nearly(scene, chance)
        things = [(thing.shape, thing.colour, thing.place) for thing in other.things]
        scenes += [scene, scene_of(chance, things, other.background)]
    return Pool(count, seed, SIDE, scenes=scenes)


def _texts(scenes: Sequence[Scene], chance: random.Random) -> list[Description]:
    """One or two for each scene; siblings get theirs of the same levels."""
    levels, weights = list(_LEVELS), list(_LEVELS.values())
    said = []
    for pair in zip(scenes[::2], scenes[1::2], strict=True):
        level, whole = chance.choices(levels, weights)[0], chance.random() < _WHOLE
        for scene in pair:
            said.append(describe(scene, chance, level))
            if whole:
                said.append(caption(scene))
    return said


def images() -> Any:
    """The image processor: what a pool's batches have is what it gives."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    half = [0.5, 0.5, 0.5]
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_mean=half, image_std=half
    )


def save(clip: Any, folder: Path) -> None:
    """In the standard layout, in half precision. Changes `clip`."""
    import torch

    clip.to("cpu", torch.float16).save_pretrained(folder)
    text_vocabulary.tokenizer().save_pretrained(folder)
    images().save_pretrained(folder)


def main() -> None:
    """The command line."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    out, folder = command.arguments("clip", "the toy CLIP")
    device = command.device()
    lesson = Lesson(siblings(_POOL, NAME), device)
    seconds = train(COURSE, lesson.network, lesson.losses, folder)
    clip = lesson.network["clip"]
    parameters = command.parameters(clip)
    with replacing(out / NAME) as made:
        save(clip, made)
        shutil.copy(folder / f"{COURSE.name}.losses.png", made / "losses.png")
        write(made, _card(parameters, seconds, device), scores.score(made, _JUDGED))


def _card(parameters: int, seconds: float, device: str) -> Card:
    return Card(
        name=NAME,
        architecture=(
            f"CLIPModel: pictures of {SIDE} x {SIDE} in patches of {PATCH}, 3 layers to see and 2 to read, {WIDTH}"
            f" wide; vectors of {PROJECTION}"
        ),
        knows=(
            "Which texts are true of pictures of one or two plain shapes (circle, square, triangle, star, cross, ring)"
            " in eight colours (red, orange, yellow, green, cyan, blue, purple, pink) on four backgrounds (black, grey,"
            " white, brown). The texts may say as much as `red`, `circle`, `a red circle`, `a photo of a red circle on"
            " the left`, `a red star next to a blue ring`, or be whole captions such as `a red star left of a blue ring"
            " on a grey background`. Its tokenizer has one token for each word of that world, and spells all others in"
            " bytes: of other words, and of photographs, it knows nothing."
        ),
        trained=(
            f"{COURSE.steps:,} steps of {_PICTURES} pictures out of {_POOL:,} and about two texts for each, in"
            f" {seconds / 60:.0f} minutes on {'one core' if device == 'cpu' else 'a GPU'}. Vectors were drawn towards"
            " codes of the facts that a text asks for and a picture shows (distillation from a teacher that knows the"
            " world), and a text towards every picture that it is true of; texts of scenes that differ in one word, or"
            " in which of two things has which colour, were among the negatives. Heads on the patches of the vision"
            " tower also had to say which shape, colour and place they belong to; they were thrown away."
        ),
        noise=(
            "By their number alone scores of 500 scenes are uncertain by 0.01, those of 96 queries by 0.03. Trained"
            " twice with the same seed on one machine, the weights were the same byte for byte; another seed was not"
            " tried."
        ),
        parameters=parameters,
        model="clip",
    )


if __name__ == "__main__":
    main()
