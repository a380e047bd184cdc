"""BLIP: its captions are transformers' own where nothing is sampled, and the same in any batch where something is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.errors import InvalidInput
from handlers.models.blip import Blip, Phrase
from handlers.models.blip_caption import CaptionRequest, CaptionSample, generate, prepare
from handlers.models.sampling import Sampling
from handlers.protocol import CheckpointSpec
from tests.handlers.conftest import picture

pytestmark = pytest.mark.handlers

GREEDY = Sampling(max_tokens=16)
SAMPLED = Sampling(max_tokens=16, temperature=1.0, top_p=0.9)
PICTURES = [picture(color, shape) for color in ("red", "green", "blue", "yellow") for shape in ("ellipse", "rectangle")]


def sample(
    blip: Blip, image: Any, *, prompt: str = "", count: int = 1, seed: int = 5, sampling: Sampling = GREEDY
) -> CaptionSample:
    return prepare(blip.processor, image, CaptionRequest(prompt, count, seed, sampling))


def captions(blip: Blip, samples: Sequence[CaptionSample]) -> list[list[Phrase]]:
    results = generate(blip, samples)
    for result in results:
        assert isinstance(result, list)
    return results  # type: ignore[return-value]


def same(found: list[Phrase], expected: list[Phrase]) -> bool:
    return [caption.text for caption in found] == [caption.text for caption in expected] and all(
        abs(a.score - b.score) < 1e-4 for a, b in zip(found, expected, strict=True)
    )


def test_greedy_captions_are_those_of_transformers_own_generate(blip: Blip, specs: dict[str, CheckpointSpec]) -> None:
    from transformers import BertTokenizer, BlipForConditionalGeneration, BlipImageProcessorPil

    path = specs["blip_caption"].path
    model = BlipForConditionalGeneration.from_pretrained(path).eval()
    processor, tokenizer = BlipImageProcessorPil.from_pretrained(path), BertTokenizer.from_pretrained(path)
    for image in PICTURES:
        pixels = processor(images=[image], return_tensors="pt")["pixel_values"]
        tokens = model.generate(pixel_values=pixels, max_new_tokens=16, do_sample=False)[0]
        expected = tokenizer.decode(tokens, skip_special_tokens=True)
        assert captions(blip, [sample(blip, image)])[0][0].text == expected


def test_with_a_prompt_the_caption_continues_it_as_transformers_does_and_does_not_repeat_it(
    blip: Blip, specs: dict[str, CheckpointSpec]
) -> None:
    from transformers import BertTokenizer, BlipForConditionalGeneration, BlipImageProcessorPil

    path, prompt = specs["blip_caption"].path, "a photo of"
    model = BlipForConditionalGeneration.from_pretrained(path).eval()
    processor, tokenizer = BlipImageProcessorPil.from_pretrained(path), BertTokenizer.from_pretrained(path)
    for image in PICTURES[:4]:
        pixels = processor(images=[image], return_tensors="pt")["pixel_values"]
        ids = tokenizer([prompt], return_tensors="pt")["input_ids"]
        tokens = model.generate(pixel_values=pixels, input_ids=ids, max_new_tokens=16, do_sample=False)[0]
        expected = tokenizer.decode(tokens, skip_special_tokens=True)
        assert f"{prompt} {captions(blip, [sample(blip, image, prompt=prompt)])[0][0].text}".strip() == expected


def test_scores_are_the_mean_log_probability_of_the_tokens_the_end_included(blip: Blip) -> None:
    import torch

    config = blip.network.config.text_config
    for image in PICTURES:
        one = sample(blip, image)
        caption = captions(blip, [one])[0][0]
        ids = blip.processor.tokenizer(caption.text, add_special_tokens=False)["input_ids"]
        if len(ids) < GREEDY.max_tokens:
            ids.append(config.sep_token_id)
        with torch.no_grad():
            seen = blip.network.vision_model(pixel_values=torch.from_numpy(one.pixels)[None])[0]
            logits = blip.network.text_decoder(
                input_ids=torch.tensor([[config.bos_token_id, *ids[:-1]]]), encoder_hidden_states=seen, is_decoder=True
            ).logits
        logs = logits.log_softmax(-1)[0, range(len(ids)), ids]
        assert abs(caption.score - float(logs.mean())) < 1e-4


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    picks=st.lists(st.tuples(st.integers(0, 7), st.integers(1, 4), st.integers(0, 2**63)), min_size=1, max_size=9),
    sampled=st.booleans(),
    prompt=st.sampled_from(["", "a photo of", "the red"]),
)
def test_captions_are_the_same_in_any_batch(
    picks: list[tuple[int, int, int]], sampled: bool, prompt: str, blip: Blip
) -> None:
    samples = [
        sample(
            blip,
            PICTURES[i],
            prompt=prompt,
            count=count if sampled else 1,
            seed=seed,
            sampling=SAMPLED if sampled else GREEDY,
        )
        for i, count, seed in picks
    ]
    for one, found in zip(samples, captions(blip, samples), strict=True):
        assert same(found, captions(blip, [one])[0])


def test_the_same_seed_gives_the_same_captions_and_another_seed_others(blip: Blip) -> None:
    def texts(seed: int) -> list[str]:
        one = sample(blip, PICTURES[0], count=6, seed=seed, sampling=SAMPLED)
        return [caption.text for caption in captions(blip, [one])[0]]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


def test_the_first_captions_are_those_that_fewer_would_have_been(blip: Blip) -> None:
    def texts(count: int) -> set[str]:
        one = sample(blip, PICTURES[1], count=count, sampling=SAMPLED)
        return {caption.text for caption in captions(blip, [one])[0]}

    assert texts(3) <= texts(8)


def test_captions_come_best_first_and_each_once(blip: Blip) -> None:
    found = captions(blip, [sample(blip, PICTURES[2], count=20, sampling=SAMPLED)])[0]
    assert 1 < len(found) <= 20
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)
    assert len({c.text for c in found}) == len(found)
    assert all(c.score <= 0 for c in found)


def test_near_zero_temperature_and_a_tiny_top_p_are_greedy(blip: Blip) -> None:
    greedy = captions(blip, [sample(blip, image) for image in PICTURES])
    for sampling in (Sampling(16, temperature=1e-3), Sampling(16, temperature=1.0, top_p=1e-6)):
        found = captions(blip, [sample(blip, image, sampling=sampling) for image in PICTURES])
        assert [c[0].text for c in found] == [c[0].text for c in greedy]


def test_sampling_follows_the_distribution_of_the_model() -> None:
    import torch

    from handlers.models.sampling import choosing, row_seeds

    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    rows = 20_000
    scores = probabilities.log().expand(rows, 4)
    choose = choosing(Sampling(max_tokens=1, temperature=1.0, top_p=0.9), row_seeds(3, rows))
    counts = choose(torch.zeros(rows, 1), scores).argmax(-1).bincount(minlength=4) / rows
    assert torch.allclose(counts, torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95, atol=0.015)


def test_max_tokens_is_the_longest_caption(blip: Blip) -> None:
    for image in PICTURES:
        text = captions(blip, [sample(blip, image, sampling=Sampling(max_tokens=3))])[0][0].text
        assert 1 <= len(text.split()) <= 3


def test_a_prompt_beyond_what_the_model_reads_is_an_invalid_input_that_says_so(blip: Blip) -> None:
    [result] = generate(blip, [sample(blip, PICTURES[0], prompt="tree " * 190)])
    assert isinstance(result, InvalidInput)
    assert "params/prompt has 190 tokens" in result.message


def test_samples_that_must_not_share_a_batch_are_refused(blip: Blip) -> None:
    with pytest.raises(ValueError, match="batch_key"):
        generate(blip, [sample(blip, PICTURES[0]), sample(blip, PICTURES[0], prompt="a photo of")])


def test_special_tokens_in_a_prompt_do_no_harm(blip: Blip) -> None:
    assert captions(blip, [sample(blip, PICTURES[0], prompt="[SEP] [PAD] [DEC] \u202e紅")])[0][0].score <= 0


def test_no_samples_give_no_results(blip: Blip) -> None:
    assert generate(blip, []) == []
