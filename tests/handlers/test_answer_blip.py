"""BLIP that answers questions: its answers are transformers' own, and the same in any company of questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.errors import InvalidInput
from handlers.models.blip import Blip, Phrase
from handlers.models.blip_vqa import AnswerSample, answer, prepare
from handlers.protocol import CheckpointSpec
from tests.handlers.conftest import picture

pytestmark = pytest.mark.handlers

PICTURES = [picture(color, shape) for color in ("red", "green", "blue", "yellow") for shape in ("ellipse", "rectangle")]
#: Of five lengths in tokens.
QUESTIONS = (
    "what is it?",
    "what colour is the circle?",
    "what shape is the thing?",
    "how many things are there?",
    "where is the square?",
    "is there a small bird on the hill?",
    "?",
)
MOST = 16


def sample(blip: Blip, image: Any, *questions: str, max_tokens: int = MOST) -> AnswerSample:
    return prepare(blip.processor, image, questions, max_tokens)


def answers(blip: Blip, samples: Sequence[AnswerSample]) -> list[list[Phrase]]:
    results = answer(blip, samples)
    for result in results:
        assert isinstance(result, list)
    return results  # type: ignore[return-value]


def same(found: Sequence[Phrase], expected: Sequence[Phrase]) -> bool:
    return [phrase.text for phrase in found] == [phrase.text for phrase in expected] and all(
        abs(a.score - b.score) < 1e-4 for a, b in zip(found, expected, strict=True)
    )


def test_answers_are_those_of_transformers_own_generate(answering: Blip, specs: dict[str, CheckpointSpec]) -> None:
    from transformers import BertTokenizer, BlipForQuestionAnswering, BlipImageProcessorPil

    path = specs["blip_vqa"].path
    model = BlipForQuestionAnswering.from_pretrained(path).eval()
    processor, tokenizer = BlipImageProcessorPil.from_pretrained(path), BertTokenizer.from_pretrained(path)
    for image in PICTURES[:4]:
        pixels = processor(images=[image], return_tensors="pt")["pixel_values"]
        expected = []
        for question in QUESTIONS:
            ids = tokenizer([question], return_tensors="pt")["input_ids"]
            tokens = model.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=MOST, do_sample=False)[0]
            expected.append(tokenizer.decode(tokens, skip_special_tokens=True))
        [found] = answers(answering, [sample(answering, image, *QUESTIONS)])
        assert [phrase.text for phrase in found] == expected


def test_scores_are_the_mean_log_probability_of_the_tokens_the_end_included(answering: Blip) -> None:
    import torch

    network, config = answering.network, answering.network.config.text_config
    for image in PICTURES:
        one = sample(answering, image, QUESTIONS[1])
        [[found]] = answers(answering, [one])
        ids = answering.processor.tokenizer(found.text, add_special_tokens=False)["input_ids"]
        if len(ids) < MOST:
            ids.append(config.sep_token_id)
        with torch.no_grad():
            seen = network.vision_model(pixel_values=torch.from_numpy(one.pixels)[None])[0]
            understood = network.text_encoder(torch.tensor(one.questions), encoder_hidden_states=seen)[0]
            logits = network.text_decoder(
                input_ids=torch.tensor([[config.bos_token_id, *ids[:-1]]]), encoder_hidden_states=understood
            ).logits
        logs = logits.log_softmax(-1)[0, range(len(ids)), ids]
        assert abs(found.score - float(logs.mean())) < 1e-4


@pytest.fixture(scope="module")
def alone(answering: Blip) -> dict[tuple[int, str], Phrase]:
    """The answer to each question about each picture, given by itself."""
    return {
        (i, question): answers(answering, [sample(answering, image, question)])[0][0]
        for i, image in enumerate(PICTURES)
        for question in QUESTIONS
    }


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    picks=st.lists(
        st.tuples(st.integers(0, 7), st.lists(st.sampled_from(QUESTIONS), min_size=1, max_size=6)),
        min_size=1,
        max_size=7,
    )
)
def test_each_answer_is_the_one_that_its_question_has_alone(
    picks: list[tuple[int, list[str]]], answering: Blip, alone: dict[tuple[int, str], Phrase]
) -> None:
    together = answers(answering, [sample(answering, PICTURES[i], *questions) for i, questions in picks])
    for (i, questions), found in zip(picks, together, strict=True):
        assert same(found, [alone[i, question] for question in questions])


def test_more_questions_of_one_length_than_are_encoded_at_a_time_have_the_same_answers(answering: Blip) -> None:
    samples = [sample(answering, image, *QUESTIONS[:4] * 4) for image in PICTURES]
    assert sum(len(one.questions) for one in samples) > 64
    for one, found in zip(samples, answers(answering, samples), strict=True):
        assert same(found, answers(answering, [one])[0])


def test_the_answer_depends_on_the_picture_and_on_the_question(answering: Blip) -> None:
    found = answers(answering, [sample(answering, image, *QUESTIONS[:5]) for image in PICTURES])
    assert len({phrase.text for phrases in found for phrase in phrases}) > len(PICTURES)
    assert all(len({phrase.text for phrase in phrases}) > 1 for phrases in found)


def test_each_picture_is_looked_at_once_whatever_the_number_of_its_questions(
    answering: Blip, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    look = answering.network.vision_model.forward

    def counted(*args: Any, pixel_values: Any, **kwargs: Any) -> Any:
        looks.append(len(pixel_values))
        return look(*args, pixel_values=pixel_values, **kwargs)

    monkeypatch.setattr(answering.network.vision_model, "forward", counted)
    answers(answering, [sample(answering, image, *QUESTIONS) for image in PICTURES[:3]])
    assert looks == [3]


def test_max_tokens_is_the_longest_answer(answering: Blip) -> None:
    for phrases in answers(answering, [sample(answering, image, *QUESTIONS, max_tokens=3) for image in PICTURES]):
        assert all(len(phrase.text.split()) <= 3 for phrase in phrases)


def test_what_is_longer_than_the_model_reads_is_an_invalid_input_and_its_neighbours_are_answered(
    answering: Blip,
) -> None:
    good = sample(answering, PICTURES[0], *QUESTIONS)
    first, wrong, last = answer(answering, [good, sample(answering, PICTURES[1], "what?", "a " * 191), good])
    assert isinstance(wrong, InvalidInput)
    assert wrong.message == ("params/questions/1 has 193 tokens, more than the 192 that the model can read: shorten it")
    for result in (first, last):
        assert isinstance(result, list)
        assert same(result, answers(answering, [good])[0])
    [wrong] = answer(answering, [replace(good, max_tokens=192)])
    assert isinstance(wrong, InvalidInput)
    assert wrong.message.startswith("params/max_tokens is 192, more than the model can write: make it at most 191")


def test_samples_that_must_not_share_a_batch_are_refused(answering: Blip) -> None:
    one = sample(answering, PICTURES[0], QUESTIONS[0])
    with pytest.raises(ValueError, match="batch_key"):
        answer(answering, [one, replace(one, max_tokens=2)])


def test_special_tokens_in_a_question_do_no_harm(answering: Blip) -> None:
    [[found]] = answers(answering, [sample(answering, PICTURES[0], "[SEP] [PAD] [DEC] \u202e紅")])
    assert found.score <= 0


def test_no_samples_give_no_results(answering: Blip) -> None:
    assert answer(answering, []) == []
