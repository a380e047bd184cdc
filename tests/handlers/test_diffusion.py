"""Pictures by diffusion: those of diffusers' own pipelines, the same in any batch, and stopped between two steps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest

from handlers.errors import Cancelled, InvalidInput
from handlers.models import schedulers
from handlers.models.diffusion import Diffusion, MadePicture, PictureRequest, PictureSample, generate, prepare
from handlers.models.schedulers import NAMES, SchedulerName
from handlers.protocol import GenerationDefaults
from tests.handlers import tiny_pictures
from tests.handlers.tiny_pictures import FAMILIES, IGNORED, Told, load, spec

pytestmark = [pytest.mark.handlers, pytest.mark.filterwarnings(IGNORED)]

FEW_STEPS = 3


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("diffusion")
    tiny_pictures.make(folder)
    return folder


@pytest.fixture(scope="module")
def models(home: Path) -> dict[str, Diffusion]:
    return {family: load(home / family, family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, models: dict[str, Diffusion]) -> Diffusion:
    return models[request.param]


def sample(
    model: Diffusion, prompt: str = "a red cat", *, seed: int = 5, told: Told | None = None, **request: Any
) -> PictureSample:
    wanted = PictureRequest(prompt, **{"steps": FEW_STEPS, **request})
    return PictureSample(prepare(model.processor, wanted), seed, told or Told())


def pictures(model: Diffusion, samples: Sequence[PictureSample]) -> list[Any]:
    made = generate(model, samples)
    for picture in made:
        assert isinstance(picture, MadePicture)
    return [picture.pixels.astype(int) for picture in made if isinstance(picture, MadePicture)]


def distance(first: Any, second: Any) -> int:
    """The greatest difference of two pictures, in 256ths."""
    return int(numpy.abs(first - second).max())


def copy_of(folder: Path, place: Path) -> Path:
    shutil.copytree(folder, place)
    return place


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("negative_prompt", ["", "ugly"])
@pytest.mark.parametrize("guidance", [6.0, 1.0])
def test_a_picture_is_the_one_that_diffusers_own_pipeline_makes(
    model: Diffusion, home: Path, guidance: float, negative_prompt: str
) -> None:
    import torch
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

    of_xl = len(model.processor.tokenizers) == 2
    whole, family = (
        (StableDiffusionXLPipeline, "stable_diffusion_xl") if of_xl else (StableDiffusionPipeline, "stable_diffusion")
    )
    pipeline = whole.from_pretrained(home / family, local_files_only=True, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    [expected] = pipeline(
        "a red cat",
        negative_prompt=negative_prompt or None,
        num_inference_steps=FEW_STEPS,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(5),
    ).images
    [found] = pictures(model, [sample(model, guidance=guidance, negative_prompt=negative_prompt)])
    assert distance(found, numpy.asarray(expected).astype(int)) <= 1


@pytest.mark.parametrize("scheduler", NAMES)
def test_a_picture_is_the_same_in_a_batch_and_alone_with_every_scheduler(
    model: Diffusion, scheduler: SchedulerName
) -> None:
    samples = [
        sample(model, "a red cat", seed=5, scheduler=scheduler, guidance=3.0),
        sample(model, "two blue dogs", seed=6, scheduler=scheduler, guidance=9.0, negative_prompt="ugly"),
        sample(model, "a red cat", seed=7, scheduler=scheduler, guidance=3.0),
    ]
    together = pictures(model, samples)
    for one, found in zip(samples, together, strict=True):
        assert distance(found, pictures(model, [one])[0]) <= 1
    assert distance(together[0], together[2]) > 20


@pytest.mark.parametrize("scheduler", NAMES)
@pytest.mark.parametrize("steps", [1, 2])
def test_every_scheduler_makes_a_picture_in_one_step_and_in_two(
    models: dict[str, Diffusion], scheduler: SchedulerName, steps: int
) -> None:
    model = models["stable_diffusion"]
    [picture] = pictures(model, [sample(model, scheduler=scheduler, steps=steps)])
    assert picture.shape == (64, 64, 3)
    assert picture.std() > 20


def test_the_values_before_rounding_differ_by_no_more_than_a_matrix_products_rounding(model: Diffusion) -> None:
    import torch

    def values(seeds: list[int]) -> Any:
        model.pipeline.scheduler = schedulers.make("euler_a", model.processor.scheduler_config)
        model.pipeline.guidance_of_each = None
        return model.pipeline(
            **model.pipeline.conditions(["a red cat"] * len(seeds), [""] * len(seeds), True),
            num_inference_steps=FEW_STEPS,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="np",
        ).images

    for one, found in zip([1, 2, 3], values([1, 2, 3]), strict=True):
        assert numpy.abs(values([one])[0] - found).max() < 2e-5


def test_each_of_what_a_job_may_say_changes_the_picture(model: Diffusion) -> None:
    [plain] = pictures(model, [sample(model)])
    for other in (
        sample(model, seed=6),
        sample(model, "two blue dogs"),
        sample(model, negative_prompt="ugly"),
        sample(model, guidance=2.0),
        sample(model, guidance=1.0),
        sample(model, steps=4),
        sample(model, scheduler="lcm"),
    ):
        assert distance(plain, pictures(model, [other])[0]) > 2


def test_sizes_need_not_be_square(model: Diffusion) -> None:
    [picture] = pictures(model, [sample(model, width=72, height=136)])
    assert picture.shape == (136, 72, 3)


def test_samples_that_must_not_share_a_batch_have_other_keys_and_are_refused(model: Diffusion) -> None:
    one = sample(model)
    same = [sample(model, "another", guidance=2.0, negative_prompt="ugly")]
    others = [
        sample(model, width=72),
        sample(model, height=72),
        sample(model, steps=4),
        sample(model, scheduler="lcm"),
        sample(model, guidance=1.0),
    ]
    assert {each.recipe.batch_key for each in same} == {one.recipe.batch_key}
    assert len({each.recipe.batch_key for each in [one, *others]}) == 6
    with pytest.raises(ValueError, match="batch_key"):
        generate(model, [one, others[0]])


def test_no_samples_give_no_pictures(model: Diffusion) -> None:
    assert generate(model, []) == []


def test_every_sample_is_told_of_every_step(model: Diffusion) -> None:
    told = [Told(), Told()]
    pictures(model, [sample(model, told=each, scheduler="euler") for each in told])
    for each in told:
        assert each.fractions == pytest.approx([1 / 3, 2 / 3, 1.0])


def test_a_batch_goes_on_for_the_last_that_waits_and_stops_when_nobody_does(model: Diffusion) -> None:
    first, last = Told(ends_after=2), Told(ends_after=4)
    made = generate(model, [sample(model, told=told, steps=20, scheduler="euler") for told in (first, last)])
    assert all(isinstance(each, Cancelled) for each in made)
    assert len(last.fractions) == 4


def test_after_a_batch_that_was_stopped_the_model_makes_the_same_pictures_as_before(model: Diffusion) -> None:
    before = pictures(model, [sample(model)])
    assert isinstance(generate(model, [sample(model, told=Told(ends_after=1))])[0], Cancelled)
    assert distance(before[0], pictures(model, [sample(model)])[0]) == 0


def test_a_sample_that_ended_while_it_waited_is_left_out(model: Diffusion) -> None:
    gone, there = Told(ends_after=0), Told()
    made = generate(model, [sample(model, told=gone), sample(model, seed=9, told=there)])
    assert isinstance(made[0], Cancelled)
    assert isinstance(made[1], MadePicture)
    assert gone.fractions == []
    assert distance(made[1].pixels.astype(int), pictures(model, [sample(model, seed=9)])[0]) <= 1


def test_float16_decodes_by_an_autoencoder_in_float32_where_the_checkpoint_asks_for_it(home: Path) -> None:
    import torch

    model = load(home / "stable_diffusion_xl", "stable_diffusion_xl", dtype="float16")
    seen = []
    decode = model.pipeline.vae.decode

    def looked_at(latents: Any, **arguments: Any) -> Any:
        seen.append((latents.dtype, next(model.pipeline.vae.parameters()).dtype))
        return decode(latents, **arguments)

    model.pipeline.vae.decode = looked_at
    [picture] = pictures(model, [sample(model)])
    assert seen == [(torch.float32, torch.float32)]
    assert next(model.pipeline.vae.parameters()).dtype == torch.float16
    assert picture.std() > 20


def test_after_a_memory_that_was_full_while_a_picture_was_decoded_the_next_is_made(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(home / "stable_diffusion_xl", "stable_diffusion_xl", dtype="float16")
    before = pictures(model, [sample(model)])

    def full(*args: Any, **arguments: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(model.pipeline.vae, "decode", full)
        with pytest.raises(RuntimeError, match="out of memory"):
            generate(model, [sample(model)])
    assert distance(before[0], pictures(model, [sample(model)])[0]) == 0


def test_a_picture_that_is_not_finite_fails_alone(
    models: dict[str, Diffusion], monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    model = models["stable_diffusion"]
    values = numpy.zeros((2, 64, 64, 3), dtype=numpy.float32)
    values[1, 3, 4, 1] = numpy.nan
    output = SimpleNamespace(images=values, nsfw_content_detected=None)
    monkeypatch.setattr(type(model.pipeline), "__call__", lambda pipeline, **arguments: output)
    made = generate(model, [sample(model), sample(model)])
    assert isinstance(made[0], MadePicture)
    assert isinstance(made[1], FloatingPointError)


def test_large_pictures_are_decoded_in_tiles_and_small_ones_whole(
    models: dict[str, Diffusion], monkeypatch: pytest.MonkeyPatch
) -> None:
    import handlers.models.diffusion

    model = models["stable_diffusion"]
    assert model.pipeline.vae.use_slicing
    pictures(model, [sample(model)])
    assert not model.pipeline.vae.use_tiling
    monkeypatch.setattr(handlers.models.diffusion, "_TILED_FROM", 64 * 64)
    [picture] = pictures(model, [sample(model, width=128)])
    assert model.pipeline.vae.use_tiling
    assert picture.shape == (64, 128, 3)


def test_what_a_job_leaves_out_is_what_the_files_say(models: dict[str, Diffusion]) -> None:
    plain = prepare(models["stable_diffusion"].processor, PictureRequest("x"))
    assert (plain.width, plain.height, plain.steps, plain.guidance, plain.scheduler) == (64, 64, 30, 7.5, "pndm")
    xl = prepare(models["stable_diffusion_xl"].processor, PictureRequest("x"))
    assert (xl.guidance, xl.scheduler) == (5.0, "euler")


def test_what_a_job_leaves_out_is_what_the_catalogue_says_of_a_few_step_checkpoint(home: Path) -> None:
    best = GenerationDefaults(width=128, height=72, steps=4, guidance=0.0, scheduler="lcm")
    processor = FAMILIES["stable_diffusion"].load_processor(spec(home / "stable_diffusion", generation=best))
    plain = prepare(processor, PictureRequest("x"))
    assert (plain.width, plain.height, plain.steps, plain.guidance, plain.scheduler) == (128, 72, 4, 0.0, "lcm")
    assert not plain.guided
    said = prepare(processor, PictureRequest("x", width=64, steps=9, guidance=2.0, scheduler="ddim"))
    assert (said.width, said.height, said.steps, said.guidance, said.scheduler) == (64, 72, 9, 2.0, "ddim")


def test_a_catalogue_that_names_no_scheduler_that_there_is_breaks_the_checkpoint(home: Path) -> None:
    best = GenerationDefaults(width=64, height=64, steps=4, guidance=0.0, scheduler="magic")
    with pytest.raises(ValueError, match="no scheduler 'magic': there are ddim"):
        FAMILIES["stable_diffusion"].load_processor(spec(home / "stable_diffusion", generation=best))


def test_more_steps_than_the_scheduler_can_make_are_refused_with_the_number(models: dict[str, Diffusion]) -> None:
    with pytest.raises(InvalidInput, match="at most 50 steps") as caught:
        prepare(models["stable_diffusion"].processor, PictureRequest("x", steps=51, scheduler="lcm"))
    assert [problem.pointer for problem in caught.value.problems] == ["/params/steps"]


def test_a_checkpoint_that_makes_no_pictures_is_refused_by_the_param_that_names_it() -> None:
    with pytest.raises(InvalidInput) as caught:
        prepare(object(), PictureRequest("a red cat"))  # type: ignore[arg-type]  # what a caption checkpoint brings
    assert [problem.pointer for problem in caught.value.problems] == ["/params/checkpoint"]


def test_a_distilled_checkpoint_is_told_the_guidance_which_then_is_part_of_the_key(home: Path, tmp_path: Path) -> None:
    folder = copy_of(home / "stable_diffusion", tmp_path / "distilled")
    rewrite(folder / "unet" / "config.json", time_cond_proj_dim=16)
    processor = FAMILIES["stable_diffusion"].load_processor(spec(folder))
    one, other = (prepare(processor, PictureRequest("x", guidance=guidance)) for guidance in (7.0, 8.0))
    assert not one.guided
    assert one.batch_key != other.batch_key


def test_a_distilled_checkpoint_makes_pictures(home: Path, tmp_path: Path) -> None:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    folder = copy_of(home / "stable_diffusion", tmp_path / "distilled")
    config = UNet2DConditionModel.load_config(folder / "unet") | {"time_cond_proj_dim": 16}
    UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    model = load(folder)
    samples = [sample(model, guidance=8.0, scheduler="lcm", seed=seed) for seed in (1, 2)]
    for one, found in zip(samples, pictures(model, samples), strict=True):
        assert distance(found, pictures(model, [one])[0]) <= 1


def test_the_prompts_end_beyond_what_the_model_reads_is_told(model: Diffusion) -> None:
    # The tiny tokenizer has a token for each byte: 75 and a start and an end.
    most = "A " * 75
    read = prepare(model.processor, PictureRequest(most))
    assert (read.prompt_cut, read.negative_prompt_cut) == ("", "")
    cut = prepare(model.processor, PictureRequest(most + "Bcd E", negative_prompt="x" * 76))
    assert (cut.prompt_cut, cut.negative_prompt_cut) == ("Bcd E", "x")
    [whole], [without] = (pictures(model, [sample(model, text)]) for text in (most + "Bcd", most))
    assert distance(whole, without) <= 1


def test_text_in_any_script_is_a_prompt(model: Diffusion) -> None:
    recipe = prepare(model.processor, PictureRequest("紅い丸 \u202e\x01 <|endoftext|> 🎈" * 9))
    assert recipe.prompt.endswith(recipe.prompt_cut)
    [picture] = pictures(model, [PictureSample(recipe, 1, Told())])
    assert picture.std() > 20


def test_a_seed_has_32_bits_since_a_generator_knows_no_more_of_it() -> None:
    import torch

    from handlers.models.diffusion import SEEDS

    first, same = (torch.randn(4, generator=torch.Generator().manual_seed(seed)) for seed in (7, 7 + SEEDS))
    assert torch.equal(first, same)
