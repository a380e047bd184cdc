"""`image.caption`, `image.answer`, `image.embed` and `text.embed`, each by itself on local files."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from pydantic import ValidationError

from handlers.declaration import TextKind
from handlers.errors import InvalidInput
from handlers.image.answer import AnswerParams, AnswerQuestions
from handlers.image.caption import Caption, CaptionParams
from handlers.image.embed import EmbedImage, EmbedImageParams
from handlers.media.image import FOR_MODELS, open_image
from handlers.models.clip import Clip, embed_images, embed_texts, prepare_image
from handlers.text.embed import EmbedText, EmbedTextParams
from tests.handlers.conftest import LIMITS, DirectContext, encoded, job, picture, saved

pytestmark = pytest.mark.handlers


async def test_a_caption_is_recorded_written_and_made_searchable(ctx: DirectContext, tmp_path: Path) -> None:
    path = saved(tmp_path, encoded(picture("red"), "JPEG"))
    result = await Caption().run(job(Caption(), {"image": path}), ctx)
    assert result.checkpoint == "tiny-blip-caption"
    assert len(result.captions) == 1
    assert ctx.texts == [(TextKind.CAPTION, result.captions[0].text, "inputs/image", "en")]
    assert json.loads(ctx.outputs["captions"].read_text()) == result.model_dump()
    assert ctx.embedded["inputs/image"].mode == "RGB"
    assert ctx.probes["inputs/image"] == {
        "mime": "image/jpeg",
        "width": 320,
        "height": 240,
        "frames": 1,
        "mode": "RGB",
        "orientation": 1,
    }


async def test_several_captions_come_best_first_and_the_seed_decides_them(ctx: DirectContext, tmp_path: Path) -> None:
    path = saved(tmp_path, encoded(picture("red"), "PNG"))

    async def texts(seed: int) -> list[str]:
        result = await Caption().run(job(Caption(), {"image": path}, seed=seed, count=5, prompt="a photo of"), ctx)
        assert [c.score for c in result.captions] == sorted((c.score for c in result.captions), reverse=True)
        return [caption.text for caption in result.captions]

    first = await texts(1)
    assert 1 < len(first) <= 5
    assert await texts(1) == first
    assert await texts(2) != first
    assert len(set(ctx.keys)) == 1


async def test_jobs_that_must_not_share_a_batch_have_other_keys(ctx: DirectContext, tmp_path: Path) -> None:
    path = saved(tmp_path, encoded(picture("red"), "PNG"))
    for params in ({}, {"prompt": "a photo of"}, {"count": 2}, {"max_tokens": 9}, {"count": 2, "temperature": 0.5}):
        await Caption().run(job(Caption(), {"image": path}, **params), ctx)
    assert len(set(ctx.keys)) == 5


async def test_a_broken_picture_fails_the_caption_with_its_pointer(ctx: DirectContext, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^inputs/image is not a picture"):
        await Caption().run(job(Caption(), {"image": saved(tmp_path, b"nothing of the kind")}), ctx)
    assert ctx.outputs == {}


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"count": 0}, "count"),
        ({"count": 21}, "count"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"language": "de"}, "language"),
        ({"prompt": "x" * 501}, "prompt"),
    ],
)
def test_bad_params_are_refused_by_name(params: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CaptionParams.model_validate(params)
    assert caught.value.errors()[0]["loc"] == (field,)


async def test_every_question_about_a_picture_has_its_answer_in_the_order_they_were_asked(
    ctx: DirectContext, tmp_path: Path
) -> None:
    path = saved(tmp_path, encoded(picture("red"), "JPEG"))
    asked = ["what colour is it?", "  how many things are there?\n", "what colour is it?"]
    result = await AnswerQuestions().run(job(AnswerQuestions(), {"image": path}, questions=asked), ctx)
    assert result.checkpoint == "tiny-blip-vqa"
    assert [one.question for one in result.answers] == [question.strip() for question in asked]
    assert result.answers[0] == result.answers[2]
    assert result.answers[0].text != result.answers[1].text
    assert all(one.score <= 0 for one in result.answers)
    assert json.loads(ctx.outputs["answers"].read_text()) == result.model_dump()
    assert ctx.embedded["inputs/image"].mode == "RGB"
    assert ctx.probes["inputs/image"]["mime"] == "image/jpeg"
    assert ctx.texts == []


async def test_jobs_with_other_questions_share_a_batch_and_those_with_another_length_of_answer_do_not(
    ctx: DirectContext, tmp_path: Path
) -> None:
    path = saved(tmp_path, encoded(picture("red"), "PNG"))
    for params in (
        {"questions": ["what is it?"]},
        {"questions": ["is it?", "a dog"]},
        {"questions": ["?"], "max_tokens": 3},
    ):
        await AnswerQuestions().run(job(AnswerQuestions(), {"image": path}, **params), ctx)
    assert ctx.keys[0] == ctx.keys[1] != ctx.keys[2]


async def test_a_broken_picture_fails_the_answer_with_its_pointer(ctx: DirectContext, tmp_path: Path) -> None:
    asked = job(AnswerQuestions(), {"image": saved(tmp_path, b"nothing of the kind")}, questions=["what is it?"])
    with pytest.raises(InvalidInput, match=r"^inputs/image is not a picture"):
        await AnswerQuestions().run(asked, ctx)
    assert ctx.outputs == {}


@pytest.mark.parametrize(
    ("params", "place"),
    [
        ({}, ("questions",)),
        ({"questions": []}, ("questions",)),
        ({"questions": ["what?"] * 17}, ("questions",)),
        ({"questions": "what?"}, ("questions",)),
        ({"questions": ["what?", ""]}, ("questions", 1)),
        ({"questions": ["what?", " \t\n\u3000"]}, ("questions", 1)),
        ({"questions": ["x" * 301]}, ("questions", 0)),
        ({"questions": ["what?"], "max_tokens": 0}, ("max_tokens",)),
        ({"questions": ["what?"], "max_tokens": 129}, ("max_tokens",)),
        ({"questions": ["what?"], "count": 2}, ("count",)),
    ],
)
def test_bad_questions_are_refused_by_their_place(params: dict[str, object], place: tuple[object, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        AnswerParams.model_validate(params)
    assert caught.value.errors()[0]["loc"] == place


async def test_each_picture_of_many_is_embedded_under_its_pointer(ctx: DirectContext, tmp_path: Path) -> None:
    paths = [saved(tmp_path, encoded(picture(c), "PNG"), c) for c in ("red", "green", "blue")]
    result = await EmbedImage().run(job(EmbedImage(), {"images": paths}), ctx)
    assert (result.images, result.checkpoint, result.vectors) == (3, "tiny-clip", None)
    assert list(ctx.embedded) == list(ctx.probes) == ["inputs/images/0", "inputs/images/1", "inputs/images/2"]
    assert ctx.fractions[-1] == 1


async def test_the_vectors_are_given_where_they_are_asked_for(ctx: DirectContext, clip: Clip, tmp_path: Path) -> None:
    paths = [saved(tmp_path, encoded(picture(c), "PNG"), c) for c in ("red", "green")]
    result = await EmbedImage().run(job(EmbedImage(), {"images": paths}, vectors=True), ctx)
    assert result.dimension == 64
    assert result.vectors is not None
    for path, vector in zip(paths, result.vectors, strict=True):
        sample = prepare_image(clip.processor, open_image(path, LIMITS, at_least=FOR_MODELS))
        assert numpy.abs(embed_images(clip, [sample])[0] - vector).max() < 2e-6
    assert json.loads(result.model_dump_json())["vectors"] == result.vectors


async def test_one_broken_picture_fails_the_job_and_is_named(ctx: DirectContext, tmp_path: Path) -> None:
    good = saved(tmp_path, encoded(picture(), "PNG"), "good")
    bad = saved(tmp_path, encoded(picture(), "PNG")[:200], "bad")
    with pytest.raises(InvalidInput, match=r"^inputs/images/1 is a PNG that is cut off"):
        await EmbedImage().run(job(EmbedImage(), {"images": [good, bad, good]}), ctx)


def test_a_checkpoint_without_vectors_would_have_no_effect_and_is_refused() -> None:
    with pytest.raises(ValidationError, match="set vectors to true"):
        EmbedImageParams.model_validate({"checkpoint": "tiny-clip"})


async def test_texts_are_embedded_in_their_order(ctx: DirectContext, clip: Clip) -> None:
    texts = ["a red circle", "紅い丸", "x " * 400]
    result = await EmbedText().run(job(EmbedText(), {}, texts=texts), ctx)
    assert (result.checkpoint, result.dimension) == ("tiny-clip", 64)
    for vector, expected in zip(result.vectors, embed_texts(clip, texts), strict=True):
        assert numpy.abs(expected - vector).max() < 2e-6


@pytest.mark.parametrize("texts", [[], ["x"] * 65, [""], "a text"])
def test_texts_out_of_range_are_refused(texts: object) -> None:
    with pytest.raises(ValidationError):
        EmbedTextParams.model_validate({"texts": texts})


def test_declarations_are_loaded_without_the_executors_libraries() -> None:
    program = (
        "import sys; from handlers.registry import Registry; Registry.load(test_types=True)\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_jobs_name_the_role_or_the_checkpoint_they_need() -> None:
    assert Caption().checkpoints(CaptionParams()) == {"caption"}
    assert Caption().checkpoints(CaptionParams(checkpoint="mine")) == {"mine"}
    assert AnswerQuestions().checkpoints(AnswerParams(questions=["what?"])) == {"answer"}
    assert EmbedText().checkpoints(EmbedTextParams(texts=["x"])) == {"embed"}
