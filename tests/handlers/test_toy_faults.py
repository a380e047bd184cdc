"""Faults that random weights would never show: each makes what comes out false, and the toy checkpoints tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy
import pytest

from handlers.models import blip_caption, clip, diffusion, stable_diffusion
from handlers.models.pretrained import prepare_pixels
from toyworld.scores import blip_caption as captions
from toyworld.scores import clip as vectors
from toyworld.scores import stable_diffusion as pictures
from toyworld.scores import whisper as speech
from toyworld.shelf import CHECKPOINTS
from toyworld.world.speech import RATE

pytestmark = pytest.mark.handlers

#: What the tests of meaning ask for, at least: a fault must go below it.
ASKED = 0.8
SAMPLES = 40

Prepare = Callable[[Any, Any], Any]


def blue_first(processor: Any, image: Any) -> Any:
    return numpy.ascontiguousarray(prepare_pixels(processor, image)[::-1])


def not_normalised(processor: Any, image: Any) -> Any:
    prepared = processor(images=image, do_normalize=False, return_tensors="np")["pixel_values"][0]
    return numpy.ascontiguousarray(prepared, dtype=numpy.float32)


def not_scaled(processor: Any, image: Any) -> Any:
    prepared = processor(images=image, do_rescale=False, return_tensors="np")["pixel_values"][0]
    return numpy.ascontiguousarray(prepared, dtype=numpy.float32)


def rows_for_columns(processor: Any, image: Any) -> Any:
    return numpy.ascontiguousarray(prepare_pixels(processor, image).swapaxes(1, 2))


def named(measure: str, scores: list[Any]) -> float:
    return next(score.value for score in scores if score.measure == measure)


@pytest.mark.parametrize("prepare", [blue_first, not_normalised, not_scaled, rows_for_columns])
def test_a_picture_that_is_prepared_wrongly_gets_a_false_caption(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blip_caption, "prepare_pixels", prepare)
    assert named(captions.WHOLE, captions.score(CHECKPOINTS / "toy-blip-caption", SAMPLES)) < ASKED


@pytest.mark.parametrize("prepare", [blue_first, not_normalised])
def test_a_picture_that_is_prepared_wrongly_is_not_found(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    model = vectors.load(CHECKPOINTS / "toy-clip")
    assert vectors.classified(model, vectors.see(model, SAMPLES, 1, things=1), "{}") >= ASKED
    monkeypatch.setattr(clip, "prepare_pixels", prepare)
    assert vectors.classified(model, vectors.see(model, SAMPLES, 1, things=1), "{}") < ASKED


@pytest.mark.parametrize("rate", [32_000, 8_000])
def test_a_recording_that_is_read_at_the_wrong_rate_is_not_understood(rate: int) -> None:
    def read_wrongly(samples: Any) -> Any:
        seconds = len(samples) / RATE
        at = numpy.arange(round(seconds * rate)) / rate
        return numpy.interp(at, numpy.arange(len(samples)) / RATE, samples).astype(numpy.float32)

    model = speech.load(CHECKPOINTS / "toy-whisper")
    given = speech.recordings(3, 1)
    assert speech.judged(model, given).right >= ASKED
    assert speech.judged(model, given, change=read_wrongly).right < ASKED


def test_a_prompt_that_is_not_passed_on_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = stable_diffusion._pipeline_class()
    conditions = pipeline.conditions

    def forgetful(self: Any, prompts: list[str], negative_prompts: list[str], guided: bool) -> Any:
        return conditions(self, [""] * len(prompts), negative_prompts, guided)

    monkeypatch.setattr(pipeline, "conditions", forgetful)
    assert named(pictures.BOTH, pictures.score(CHECKPOINTS / "toy-stable-diffusion", 12)) < ASKED / 2


def test_a_generated_picture_with_its_colours_in_the_wrong_order_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    right = diffusion._picture

    def blue_first_out(values: Any, flagged: bool) -> Any:
        made = right(values, flagged)
        assert not isinstance(made, Exception)
        return dataclasses.replace(made, pixels=made.pixels[..., ::-1])

    monkeypatch.setattr(diffusion, "_picture", blue_first_out)
    assert named(pictures.COLOUR, pictures.score(CHECKPOINTS / "toy-stable-diffusion", 12)) < ASKED
