"""BLIP: answers to questions about pictures.

Li et al., BLIP: Bootstrapping Language-Image Pre-training, 2022; weights and code of transformers'
`BlipForQuestionAnswering`: an encoder reads the question while it looks at the picture, a decoder writes the answer
while it looks at what the encoder made of both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from handlers.errors import InvalidInput
from handlers.models import blip
from handlers.models.blip import Blip, BlipProcessor, Phrase
from handlers.models.pretrained import prepare_pixels
from handlers.models.sampling import Sampling
from handlers.protocol import CheckpointSpec

#: Questions that are encoded at a time. Each looks at a copy of its picture's vectors in every layer: 64 of them hold
#: 110 MiB in float32 where a picture is 577 vectors of 768 numbers.
_MOST_ROWS = 64


@dataclass(frozen=True, slots=True)
class AnswerSample:
    """One picture, and what is asked about it."""

    pixels: Any
    """float32 numpy (3, height, width)."""
    questions: tuple[tuple[int, ...], ...]
    """Token ids of each, with the special tokens that the encoder was trained with."""
    max_tokens: int

    @property
    def batch_key(self) -> Hashable:
        """What samples of one batch must have in common."""
        return self.max_tokens


def load_processor(spec: CheckpointSpec) -> BlipProcessor:
    """Image processor and tokenizer of a checkpoint, without its weights."""
    return blip.load_processor(spec)


def load(spec: CheckpointSpec, device: str) -> Blip:
    """The model of a checkpoint on a device; see `handlers.models.load`."""
    from transformers import BlipForQuestionAnswering

    return blip.load(BlipForQuestionAnswering, spec, device)


def prepare(processor: BlipProcessor, image: Any, questions: Sequence[str], max_tokens: int) -> AnswerSample:
    """A decoded picture (PIL, RGB) and questions about it, as a sample for `answer`."""
    ids = processor.tokenizer(list(questions))["input_ids"]
    return AnswerSample(prepare_pixels(processor.images, image), tuple(tuple(row) for row in ids), max_tokens)


def answer(model: Blip, samples: Sequence[AnswerSample]) -> list[list[Phrase] | Exception]:
    """The likeliest answer, word by word, to each question of each sample, in their order.

    All samples must have the same `batch_key`. The vision tower runs once per picture. Questions of one length, of
    whatever picture, are encoded and answered together; padding them to one length would change the answers. An answer
    is the same in any batch (up to the rounding of the device's matrix products). An InvalidInput stands in the place
    of a sample with a question or a `max_tokens` that is more than the model can read. Raises ValueError where the keys
    differ.
    """
    import torch

    if not samples:
        return []
    if len({sample.batch_key for sample in samples}) > 1:
        raise ValueError("samples of one batch must have the same batch_key")
    longest = model.network.config.text_config.max_position_embeddings
    refused = {i: error for i, sample in enumerate(samples) if (error := _too_long(sample, longest)) is not None}
    rows = {i: row for row, i in enumerate(i for i in range(len(samples)) if i not in refused)}
    phrases: dict[tuple[int, int], Phrase] = {}
    with torch.inference_mode():
        seen: Any = blip.see(model, [samples[i].pixels for i in rows]) if rows else None
        for places in _of_one_length(samples, rows):
            questions = [samples[i].questions[n] for i, n in places]
            looked_at = seen[torch.tensor([rows[i] for i, _ in places], device=seen.device)]
            phrases |= zip(places, _answers(model, questions, looked_at, samples[0].max_tokens), strict=True)
    return [
        refused[i] if i in refused else [phrases[i, n] for n in range(len(sample.questions))]
        for i, sample in enumerate(samples)
    ]


def _answers(model: Blip, questions: Sequence[Sequence[int]], seen: Any, max_tokens: int) -> list[Phrase]:
    """Answers to questions of one length, each about its row of `seen`."""
    import torch

    network = model.network
    input_ids = torch.tensor(questions, device=network.device)
    understood = network.text_encoder(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        encoder_hidden_states=seen,
        encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.long, device=network.device),
    )[0]
    starts = [[network.config.text_config.bos_token_id]] * len(questions)
    return blip.write(model, starts, understood, Sampling(max_tokens), [(0, 0)] * len(questions))


def _of_one_length(samples: Sequence[AnswerSample], of: Iterable[int]) -> Iterator[list[tuple[int, int]]]:
    """(sample, question) of the samples `of`, in lists of questions of one length, `_MOST_ROWS` at most."""
    by_length: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for i in of:
        for n, question in enumerate(samples[i].questions):
            by_length[len(question)].append((i, n))
    for places in by_length.values():
        for first in range(0, len(places), _MOST_ROWS):
            yield places[first : first + _MOST_ROWS]


def _too_long(sample: AnswerSample, longest: int) -> InvalidInput | None:
    if 1 + sample.max_tokens > longest:
        return InvalidInput(
            f"params/max_tokens is {sample.max_tokens}, more than the model can write: make it at most {longest - 1}"
        )
    for n, question in enumerate(sample.questions):
        if len(question) > longest:
            return InvalidInput(
                f"params/questions/{n} has {len(question)} tokens, more than the {longest} that the model can read:"
                " shorten it"
            )
    return None
