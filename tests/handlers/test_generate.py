"""`image.generate`, by itself: its files, what it says, seeds, progress, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy
import pytest
from PIL import Image
from pydantic import ValidationError

from handlers.errors import Cancelled, InvalidInput
from handlers.image.generate import Generate, GenerateParams
from handlers.models.diffusion import Diffusion
from handlers.models.schedulers import NAMES
from tests.handlers import tiny_pictures
from tests.handlers.conftest import DirectContext, job
from tests.handlers.tiny_pictures import FAMILIES, IGNORED, load

pytestmark = [pytest.mark.handlers, pytest.mark.filterwarnings(IGNORED)]

MADE_BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
PROMPT = "a red cat, ünder <the> 月"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Diffusion]:
    home: Path = tmp_path_factory.mktemp("diffusion")
    tiny_pictures.make(home)
    return {family: load(home / family, family) for family in FAMILIES}


@pytest.fixture
def ctx(models: dict[str, Diffusion], tmp_path: Path) -> DirectContext:
    return DirectContext(
        {"tiny-stable-diffusion": models["stable_diffusion"], "xl": models["stable_diffusion_xl"]}, tmp_path
    )


def generation(seed: int = 7, **params: Any) -> Any:
    return job(Generate(), {}, seed=seed, **{"prompt": PROMPT, "steps": 2, **params})


def pixels(path: Path) -> Any:
    with Image.open(path) as image:
        return numpy.asarray(image.convert("RGB")).astype(int)


def source_type(path: Path) -> str | None:
    """The IPTC DigitalSourceType in a file's XMP."""
    with Image.open(path) as image:
        image.load()
        xmp = image.info.get("XML:com.adobe.xmp") or image.info["xmp"].decode()
    name = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    packet = xmp.partition("?>")[2].rpartition("<?")[0]
    return next(
        (each.attrib[name] for each in ElementTree.fromstring(packet).iter() if name in each.attrib),  # noqa: S314
        None,
    )


def user_comment(path: Path) -> str:
    with Image.open(path) as image:
        comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert comment[:8] == b"UNICODE\0"
    return str(comment[8:].decode("utf-16-be"))


async def test_a_picture_is_written_probed_and_embedded(ctx: DirectContext) -> None:
    result = await Generate().run(generation(), ctx)
    assert result.model_dump() == {
        "pictures": [{"role": "picture", "seed": 7, "width": 64, "height": 64, "flagged": False}],
        "checkpoint": "tiny",
        "steps": 2,
        "guidance": 7.5,
        "scheduler": "pndm",
        "width": 64,
        "height": 64,
        "truncated": False,
        "prompt_cut": None,
        "negative_prompt_cut": None,
        "warnings": [],
    }
    assert list(ctx.outputs) == ["picture"]
    assert pixels(ctx.outputs["picture"]).shape == (64, 64, 3)
    assert ctx.probes["outputs/picture"]["mime"] == "image/png"
    assert (numpy.asarray(ctx.embedded["outputs/picture"]) == pixels(ctx.outputs["picture"])).all()
    assert ctx.texts == []


async def test_an_sdxl_makes_pictures_too(ctx: DirectContext) -> None:
    result = await Generate().run(generation(checkpoint="xl", width=128), ctx)
    assert (result.scheduler, result.guidance, result.width, result.height) == ("euler", 5.0, 128, 64)
    assert pixels(ctx.outputs["picture"]).shape == (64, 128, 3)


@pytest.mark.parametrize("scheduler", NAMES)
async def test_a_picture_of_several_is_the_one_that_its_seed_makes_alone(ctx: DirectContext, scheduler: str) -> None:
    result = await Generate().run(generation(seed=40, count=4, scheduler=scheduler), ctx)
    assert [(picture.role, picture.seed) for picture in result.pictures] == [
        ("picture-1", 40),
        ("picture-2", 41),
        ("picture-3", 42),
        ("picture-4", 43),
    ]
    several = [pixels(ctx.outputs[f"picture-{i}"]) for i in (1, 2, 3, 4)]
    assert list(ctx.embedded) == list(ctx.probes) == [f"outputs/picture-{i}" for i in (1, 2, 3, 4)]
    await Generate().run(generation(seed=42, scheduler=scheduler), ctx)
    assert numpy.abs(several[2] - pixels(ctx.outputs["picture"])).max() <= 1
    assert numpy.abs(several[2] - several[1]).max() > 20


async def test_a_seed_made_from_the_jobs_id_is_told_as_one_that_params_take(ctx: DirectContext) -> None:
    result = await Generate().run(generation(seed=(1 << 63) - 2, count=3), ctx)
    seeds = [picture.seed for picture in result.pictures]
    assert seeds == [(1 << 32) - 2, (1 << 32) - 1, 0]
    several = pixels(ctx.outputs["picture-2"])
    assert GenerateParams(prompt="x", seed=seeds[1]).seed == seeds[1]
    await Generate().run(generation(seed=seeds[1]), ctx)
    assert numpy.abs(several - pixels(ctx.outputs["picture"])).max() <= 1


PARAMETERS = (
    f"{PROMPT}\nNegative prompt: ugly\nSteps: 2, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 9, Size: 72x64,"
    " Model: tiny"
)
SAID = {"negative_prompt": "ugly", "scheduler": "dpmpp_2m_karras", "guidance": 6.5, "width": 72}


async def test_a_png_says_what_it_was_made_with_and_that_a_model_made_it(ctx: DirectContext) -> None:
    await Generate().run(generation(seed=9, **SAID), ctx)
    with Image.open(ctx.outputs["picture"]) as image:
        image.load()
        assert image.format == "PNG"
        assert image.info["parameters"] == PARAMETERS
        assert json.loads(image.info["mediamill"]) == SAID | {
            "prompt": PROMPT,
            "seed": 9,
            "steps": 2,
            "height": 64,
            "checkpoint": "tiny",
        }
    assert source_type(ctx.outputs["picture"]) == MADE_BY_A_MODEL


@pytest.mark.parametrize(("kind", "suffix"), [("jpeg", ".jpg"), ("webp", ".webp")])
async def test_a_jpeg_and_a_webp_say_what_they_were_made_with_and_that_a_model_made_them(
    ctx: DirectContext, kind: str, suffix: str
) -> None:
    await Generate().run(generation(seed=9, format=kind, quality=80, **SAID), ctx)
    path = ctx.outputs["picture"]
    with Image.open(path) as image:
        assert (image.format, path.suffix) == (kind.upper(), suffix)
    assert user_comment(path) == PARAMETERS
    assert source_type(path) == MADE_BY_A_MODEL
    assert ctx.probes["outputs/picture"]["mime"] == f"image/{kind}"


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
async def test_without_metadata_a_file_says_only_that_a_model_made_it(ctx: DirectContext, kind: str) -> None:
    await Generate().run(generation(format=kind, metadata=False), ctx)
    path = ctx.outputs["picture"]
    assert source_type(path) == MADE_BY_A_MODEL
    data = path.read_bytes()
    for word in ("red cat", "Steps"):
        assert word.encode() not in data
        assert word.encode("utf-16-be") not in data


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
async def test_the_longest_prompts_fit_into_the_metadata(ctx: DirectContext, kind: str) -> None:
    longest = "🎈" * 4000
    await Generate().run(generation(format=kind, prompt=longest, negative_prompt=longest), ctx)
    path = ctx.outputs["picture"]
    with Image.open(path) as image:
        image.load()
        found = image.info["parameters"] if kind == "png" else user_comment(path)
    assert found.startswith(f"{longest}\nNegative prompt: {longest}\nSteps: 2")
    assert source_type(path) == MADE_BY_A_MODEL


async def test_quality_decides_how_large_a_file_is(ctx: DirectContext) -> None:
    for kind in ("jpeg", "webp"):
        sizes = []
        for quality in (20, 95):
            await Generate().run(generation(format=kind, quality=quality), ctx)
            sizes.append(ctx.outputs["picture"].stat().st_size)
        assert sizes[1] > 1.3 * sizes[0]


async def test_a_prompt_that_is_too_long_is_said_to_be_with_the_part_that_was_not_read(ctx: DirectContext) -> None:
    result = await Generate().run(generation(prompt="a " * 75 + "Blue Moon"), ctx)
    assert result.truncated
    assert (result.prompt_cut, result.negative_prompt_cut) == ("Blue Moon", None)
    assert result.warnings == ["params/prompt is longer than what the model reads: it did not read 'Blue Moon'"]


async def test_a_negative_prompt_without_guidance_is_said_to_have_no_effect(ctx: DirectContext) -> None:
    result = await Generate().run(generation(guidance=1.0, negative_prompt="ugly"), ctx)
    assert result.warnings == ["params/negative_prompt had no effect: guidance is 1"]


async def test_progress_only_rises_and_ends_with_the_last_file(ctx: DirectContext) -> None:
    await Generate().run(generation(count=3, steps=4, scheduler="euler"), ctx)
    assert ctx.fractions == sorted(ctx.fractions)
    assert len(ctx.fractions) == 4 * 3 + 3
    assert 0 < ctx.fractions[0] < 0.1
    assert ctx.fractions[-4] == pytest.approx(0.95)
    assert ctx.fractions[-1] == 1


async def test_progress_does_not_fall_when_a_batch_is_begun_anew(ctx: DirectContext) -> None:
    infer = ctx.infer

    async def twice(function: Any, checkpoint: str, samples: Any, *, key: Any = ()) -> list[Any]:
        await infer(function, checkpoint, samples, key=key)
        return await infer(function, checkpoint, samples, key=key)

    ctx.infer = twice  # type: ignore[method-assign]
    await Generate().run(generation(count=2, steps=3), ctx)
    assert ctx.fractions == sorted(ctx.fractions)


async def test_a_job_that_ends_stops_between_two_steps_and_writes_nothing(
    ctx: DirectContext, models: dict[str, Diffusion], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress, steps = ctx.progress, []

    def ended_after_three(fraction: float, note: str = "") -> None:
        progress(fraction, note)
        steps.append(fraction)
        ctx.ended = len(steps) == 3

    def decode(*args: Any, **arguments: Any) -> None:
        raise AssertionError("what is still noise was decoded")

    monkeypatch.setattr(ctx, "progress", ended_after_three)
    monkeypatch.setattr(models["stable_diffusion"].pipeline.vae, "decode", decode)
    with pytest.raises(Cancelled):
        await Generate().run(generation(steps=100, scheduler="euler"), ctx)
    assert len(steps) == 3
    assert ctx.outputs == {}


def flagging(monkeypatch: pytest.MonkeyPatch, model: Diffusion, *found: bool) -> None:
    """Lets the safety checker find these of a batch's pictures, and blacken them as diffusers' own does."""

    def checker(images: Any, clip_input: Any) -> tuple[Any, list[bool]]:
        assert len(clip_input) == len(images) == len(found)
        for image, bad in zip(images, found, strict=True):
            if bad:
                image.zero_()
        return images, list(found)

    monkeypatch.setattr(model.pipeline, "safety_checker", checker)


async def test_a_flagged_picture_is_listed_and_not_stored(
    ctx: DirectContext, models: dict[str, Diffusion], monkeypatch: pytest.MonkeyPatch
) -> None:
    flagging(monkeypatch, models["stable_diffusion"], False, True, False)
    result = await Generate().run(generation(count=3), ctx)
    assert [(picture.role, picture.flagged) for picture in result.pictures] == [
        ("picture-1", False),
        (None, True),
        ("picture-3", False),
    ]
    assert list(ctx.outputs) == ["picture-1", "picture-3"]
    assert list(ctx.embedded) == list(ctx.probes) == ["outputs/picture-1", "outputs/picture-3"]


@pytest.mark.parametrize(("count", "words"), [(1, "the picture"), (2, "all pictures")])
async def test_a_job_of_which_all_pictures_are_flagged_is_refused(
    ctx: DirectContext, models: dict[str, Diffusion], monkeypatch: pytest.MonkeyPatch, count: int, words: str
) -> None:
    flagging(monkeypatch, models["stable_diffusion"], *[True] * count)
    with pytest.raises(InvalidInput, match=f"the safety checker of tiny flagged {words}: change params/prompt"):
        await Generate().run(generation(count=count), ctx)
    assert ctx.outputs == {}


async def test_steps_beyond_the_scheduler_are_refused_before_anything_is_made(ctx: DirectContext) -> None:
    with pytest.raises(InvalidInput, match="at most 50 steps"):
        await Generate().run(generation(scheduler="lcm", steps=60), ctx)
    assert ctx.keys == []


async def test_jobs_share_a_batch_unless_they_must_not(ctx: DirectContext) -> None:
    alike: list[dict[str, Any]] = [{}, {"prompt": "dogs", "guidance": 3.0, "count": 2, "format": "webp"}]
    for params in alike:
        await Generate().run(generation(**params), ctx)
    assert len(set(ctx.keys)) == 1
    others: list[dict[str, Any]] = [
        {"width": 72},
        {"height": 72},
        {"steps": 3},
        {"scheduler": "ddim"},
        {"guidance": 0.5},
    ]
    for params in others:
        await Generate().run(generation(**params), ctx)
    assert len(set(ctx.keys)) == 6


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x" * 4001}, "prompt"),
        ({"negative_prompt": "x" * 4001}, "negative_prompt"),
        ({"width": 100}, "width"),
        ({"width": 56}, "width"),
        ({"height": 2056}, "height"),
        ({"steps": 0}, "steps"),
        ({"steps": 151}, "steps"),
        ({"guidance": 31}, "guidance"),
        ({"guidance": -1}, "guidance"),
        ({"guidance": math.nan}, "guidance"),
        ({"scheduler": "magic"}, "scheduler"),
        ({"count": 0}, "count"),
        ({"count": 17}, "count"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"format": "gif"}, "format"),
        ({"format": "jpeg", "quality": 0}, "quality"),
        ({"image": "s3://bucket/key"}, "image"),
    ],
)
def test_bad_params_are_refused_by_name(params: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        GenerateParams.model_validate({"prompt": "x"} | params)
    assert caught.value.errors()[0]["loc"] == (field,)


def test_a_prompt_is_required() -> None:
    with pytest.raises(ValidationError) as caught:
        GenerateParams.model_validate({})
    assert caught.value.errors()[0]["loc"] == ("prompt",)


def test_quality_of_a_png_would_have_no_effect_and_is_refused() -> None:
    with pytest.raises(ValidationError, match="quality has no effect on a png"):
        GenerateParams.model_validate({"prompt": "x", "quality": 90})


def test_the_result_depends_on_the_seed() -> None:
    params = GenerateParams(prompt="x")
    assert Generate().samples(params)
    assert Generate().checkpoints(params) == {"generate"}
    assert Generate().checkpoints(GenerateParams(prompt="x", checkpoint="xl")) == {"xl"}
