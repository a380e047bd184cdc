"""What is read of a pipeline's folder, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from config.checkpoint_lock import hash_files
from handlers.models import schedulers
from handlers.models.diffusion import MadePicture, PictureRequest, PictureSample, generate, prepare
from handlers.models.schedulers import NAMES, SchedulerName
from tests.handlers import tiny_pictures
from tests.handlers.tiny_pictures import FAMILIES, IGNORED, Told, load, spec

pytestmark = [pytest.mark.handlers, pytest.mark.filterwarnings(IGNORED)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("diffusion")
    tiny_pictures.make(folder)
    return folder


@pytest.fixture
def folder(home: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Stable Diffusion that a test may damage."""
    return Path(shutil.copytree(home / "stable_diffusion", tmp_path / "copy"))


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def made(folder: Path, **more: Any) -> MadePicture:
    model = load(folder, **more)
    recipe = prepare(model.processor, PictureRequest("a red cat", steps=2))
    [picture] = generate(model, [PictureSample(recipe, 1, Told())])
    assert isinstance(picture, MadePicture)
    return picture


def test_the_same_script_gives_the_same_bytes_each_time(home: Path, tmp_path: Path) -> None:
    tiny_pictures.make(tmp_path)
    for family in FAMILIES:
        assert hash_files(tmp_path / family) == hash_files(home / family)


def test_a_tiny_checkpoint_is_smaller_than_a_megabyte_and_has_a_card_that_says_what_it_knows(home: Path) -> None:
    for family in FAMILIES:
        assert sum(file.size for file in hash_files(home / family).values()) < 1_000_000
        assert "knows nothing" in (home / family / "README.md").read_text()


def test_a_processor_is_read_without_the_weights(folder: Path) -> None:
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    assert FAMILIES["stable_diffusion"].load_processor(spec(folder)).name == "tiny"


@pytest.mark.parametrize(("family", "other"), [tuple(FAMILIES), tuple(reversed(FAMILIES))])
def test_a_folder_of_the_other_family_is_refused_with_the_name_of_its_own(home: Path, family: str, other: str) -> None:
    for attempt in (FAMILIES[family].load_processor, lambda spec: FAMILIES[family].load(spec, "cpu")):
        with pytest.raises(ValueError, match=f"correct its family in the catalogue to {other}$"):
            attempt(spec(home / other, family))


def test_a_folder_of_a_pipeline_that_is_not_known_is_refused(folder: Path) -> None:
    rewrite(folder / "model_index.json", _class_name="FluxPipeline")
    with pytest.raises(ValueError, match="it is a FluxPipeline; pictures are made with StableDiffusionPipeline or"):
        load(folder)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"_class_name": null}'])
def test_an_index_that_makes_no_sense_is_refused(folder: Path, content: str) -> None:
    (folder / "model_index.json").write_text(content)
    with pytest.raises(ValueError, match=r"model_index|it is a None"):
        load(folder)


def test_a_folder_without_an_index_is_refused(folder: Path) -> None:
    (folder / "model_index.json").unlink()
    with pytest.raises(ValueError, match=r"there is no model_index\.json"):
        load(folder)


def test_nothing_in_the_folder_chooses_what_is_executed(folder: Path) -> None:
    canary = folder / "ran"
    (folder / "unet" / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass UNet2DConditionModel: pass\n")
    rewrite(folder / "model_index.json", unet=["evil", "UNet2DConditionModel"], vae=["os", "system"])
    rewrite(folder / "unet" / "config.json", _class_name="Evil", auto_map={"AutoModel": "evil.UNet2DConditionModel"})
    rewrite(folder / "scheduler" / "scheduler_config.json", auto_map={"x": "evil.X"})
    assert made(folder).pixels.std() > 20
    assert not canary.exists()


def test_pickles_are_not_read(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(OSError, match="safetensors"):
        load(folder)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
        ("safety_checker", "model"),
    ],
)
def test_missing_tensors_are_an_error_instead_of_random_numbers(folder: Path, part: str, name: str) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / part / f"{name}.safetensors"
    tensors = load_file(path)
    del tensors[sorted(tensors)[-1]]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ValueError, match=f"the weights of {part} lack 1 tensors"):
        load(folder)


def _halve(folder: Path) -> None:
    """Leaves only weights in float16, named as the repositories of Stable Diffusion name them."""
    from safetensors.torch import load_file, save_file

    for path in sorted(folder.rglob("*.safetensors")):
        tensors = {name: tensor.half() for name, tensor in load_file(path).items()}
        save_file(tensors, path.with_suffix(".fp16.safetensors"), {"format": "pt"})
        path.unlink()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_weights_that_there_are_in_float16_alone_are_read_in_any_dtype(folder: Path, dtype: str) -> None:
    _halve(folder)
    assert made(folder, dtype=dtype).pixels.std() > 20


def test_of_weights_in_two_forms_those_of_the_wanted_precision_are_read(folder: Path, home: Path) -> None:
    _halve(folder)
    for path in (home / "stable_diffusion").rglob("*.safetensors"):
        shutil.copy(path, folder / path.relative_to(home / "stable_diffusion"))
    expected = made(home / "stable_diffusion").pixels
    assert (made(folder).pixels == expected).all()
    for path in folder.rglob("*.safetensors"):
        if ".fp16." not in path.name:
            path.write_bytes(b"damaged")
    assert made(folder, dtype="float16").pixels.std() > 20


def test_weights_and_tokenizer_in_the_form_of_the_years_they_were_published_in_are_read(
    folder: Path, home: Path
) -> None:
    """Names of tensors as transformers 4 and early diffusers wrote them, vocab.json and merges.txt."""
    import torch
    from safetensors.torch import load_file, save_file

    old_attention = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(path: Path, new_name: Any, **extra: Any) -> None:
        tensors = {new_name(name): tensor for name, tensor in load_file(path).items()}
        save_file(tensors | extra, path, {"format": "pt"})

    def of_vae(name: str) -> str:
        for new, old in old_attention.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        return name

    rename(folder / "vae" / "diffusion_pytorch_model.safetensors", of_vae)
    rename(
        folder / "text_encoder" / "model.safetensors",
        lambda name: f"text_model.{name}",
        **{"text_model.embeddings.position_ids": torch.arange(77)[None]},
    )
    rename(
        folder / "safety_checker" / "model.safetensors",
        lambda name: f"vision_model.{name}" if name.startswith("vision_model.") else name,
    )
    tokenizer = folder / "tokenizer"
    vocabulary = json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"]
    (tokenizer / "tokenizer.json").unlink()
    (tokenizer / "vocab.json").write_text(json.dumps(vocabulary))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    (tokenizer / "special_tokens_map.json").write_text('{"pad_token": "<|endoftext|>"}')
    rewrite(tokenizer / "tokenizer_config.json", tokenizer_class="CLIPTokenizer")
    assert (made(folder).pixels == made(home / "stable_diffusion").pixels).all()


def test_the_safety_checker_is_loaded_unless_it_is_off(folder: Path) -> None:
    assert load(folder).pipeline.safety_checker is not None  # type: ignore[attr-defined]
    assert load(folder, safety_checker="required").pipeline.safety_checker is not None  # type: ignore[attr-defined]
    shutil.rmtree(folder / "safety_checker")
    assert load(folder, safety_checker="off").pipeline.safety_checker is None  # type: ignore[attr-defined]


def test_a_checkpoint_that_lost_its_safety_checker_is_not_used_without(folder: Path) -> None:
    shutil.rmtree(folder / "safety_checker")
    with pytest.raises(OSError, match="safety_checker"):
        load(folder)


def test_a_checkpoint_that_brings_no_safety_checker_is_refused_where_one_is_required(folder: Path, home: Path) -> None:
    rewrite(folder / "model_index.json", safety_checker=[None, None])
    assert load(folder).pipeline.safety_checker is None  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="brings no safety checker, and the setting requires one"):
        load(folder, safety_checker="required")
    with pytest.raises(ValueError, match="brings no safety checker, and the setting requires one"):
        load(home / "stable_diffusion_xl", "stable_diffusion_xl", safety_checker="required")


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoints_own_scheduler_is_known_by_its_name_and_built_as_its_files_say(name: SchedulerName) -> None:
    noise = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    own = schedulers.make(name, noise)
    config = json.loads(own.to_json_string())
    assert schedulers.own_name(config) == name
    assert json.loads(schedulers.make(name, config).to_json_string()) == config
    assert config["beta_end"] == noise["beta_end"]


def test_of_another_classes_config_only_what_describes_the_model_is_taken() -> None:
    karras = {
        "_class_name": "DPMSolverMultistepScheduler",
        "use_karras_sigmas": True,
        "prediction_type": "v_prediction",
    }
    euler = schedulers.make("euler", karras)
    assert not euler.config.use_karras_sigmas
    assert euler.config.prediction_type == "v_prediction"


def test_a_scheduler_that_is_none_of_ours_breaks_the_checkpoint_unless_the_catalogue_names_one(folder: Path) -> None:
    from handlers.protocol import GenerationDefaults

    rewrite(folder / "scheduler" / "scheduler_config.json", _class_name="EDMEulerScheduler")
    with pytest.raises(ValueError, match=r"EDMEulerScheduler, is none of those .*`generation\.scheduler`"):
        load(folder)
    best = GenerationDefaults(width=64, height=64, steps=4, guidance=2.0, scheduler="euler")
    assert made(folder, generation=best).pixels.std() > 20
