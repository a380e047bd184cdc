"""CLIP: its vectors are transformers' own, and the same in any batch."""

from __future__ import annotations

import random
from typing import Any

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.models.clip import Clip, embed_images, embed_texts, prepare_image
from handlers.protocol import CheckpointSpec
from tests.handlers.conftest import picture

pytestmark = pytest.mark.handlers

#: A batch takes other matrix products than a single sample: float32, some layers deep.
CLOSE = 2e-6


def _pictures() -> list[Any]:
    colors = ("red", "green", "blue", "yellow", "orange", "black")
    sizes = [(320, 240), (64, 64), (100, 300), (1, 1), (3, 700), (640, 480)]
    return [
        picture(color, shape, size)
        for color, size in zip(colors, sizes, strict=True)
        for shape in ("ellipse", "rectangle")
        if min(size) > 1 or shape == "rectangle"
    ]


@pytest.fixture(scope="module")
def alone(clip: Clip) -> list[tuple[Any, Any]]:
    """Samples and the vector of each by itself."""
    samples = [prepare_image(clip.processor, image) for image in _pictures()]
    return [(sample, embed_images(clip, [sample])[0]) for sample in samples]


def test_image_vectors_are_those_of_transformers_own_processor_and_model(
    clip: Clip, specs: dict[str, CheckpointSpec]
) -> None:
    import torch
    from transformers import AutoModel, CLIPImageProcessorPil

    model = AutoModel.from_pretrained(specs["clip"].path)
    processor = CLIPImageProcessorPil.from_pretrained(specs["clip"].path)
    for image in _pictures():
        with torch.no_grad():
            features = model.get_image_features(**processor(images=[image], return_tensors="pt")).pooler_output[0]
        expected = (features / features.norm()).numpy()
        found = embed_images(clip, [prepare_image(clip.processor, image)])[0]
        assert found.dtype == numpy.float32
        assert numpy.abs(found - expected).max() < CLOSE


def test_text_vectors_are_those_of_transformers_own_tokenizer_and_model(
    clip: Clip, specs: dict[str, CheckpointSpec]
) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(specs["clip"].path), AutoTokenizer.from_pretrained(specs["clip"].path)
    for text in ("a red circle", "ein Käse", "紅い丸", "x"):
        with torch.no_grad():
            features = model.get_text_features(**tokenizer([text], return_tensors="pt")).pooler_output[0]
        found = embed_texts(clip, [text])[0]
        assert numpy.abs(found - (features / features.norm()).numpy()).max() < CLOSE


def test_swapped_colour_channels_or_missing_normalisation_would_be_seen(clip: Clip) -> None:
    image = picture("red")
    sample = prepare_image(clip.processor, image)
    right = embed_images(clip, [sample])[0]
    swapped = embed_images(clip, [sample[::-1].copy()])[0]
    plain = numpy.asarray(image.resize((64, 64)), dtype=numpy.float32).transpose(2, 0, 1) / 255
    # What the comparison with transformers lets pass, ten thousand times over.
    assert numpy.abs(right - swapped).max() > 1e4 * CLOSE
    assert numpy.abs(right - embed_images(clip, [plain])[0]).max() > 1e4 * CLOSE


def test_vectors_have_length_one_and_the_dimension_of_the_space(alone: list[tuple[Any, Any]]) -> None:
    for _, vector in alone:
        assert vector.shape == (64,)
        assert abs(float(numpy.linalg.norm(vector)) - 1) < 1e-5


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(picks=st.lists(st.integers(0, 9), min_size=1, max_size=17))
def test_an_image_vector_is_the_same_in_any_batch(picks: list[int], clip: Clip, alone: list[tuple[Any, Any]]) -> None:
    chosen = [alone[i] for i in picks]
    batch = embed_images(clip, [sample for sample, _ in chosen])
    for found, (_, expected) in zip(batch, chosen, strict=True):
        assert numpy.abs(found - expected).max() < CLOSE


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(min_size=1, max_size=120), min_size=1, max_size=9))
def test_a_text_vector_is_the_same_in_any_batch_of_texts_of_any_length(texts: list[str], clip: Clip) -> None:
    for text, found in zip(texts, embed_texts(clip, texts), strict=True):
        assert numpy.abs(found - embed_texts(clip, [text])[0]).max() < CLOSE


def test_a_text_longer_than_the_model_reads_is_cut_off(clip: Clip) -> None:
    long = "a red circle " * 500
    assert numpy.isfinite(embed_texts(clip, [long])[0]).all()
    assert numpy.array_equal(embed_texts(clip, [long])[0], embed_texts(clip, [long + "and more"])[0])


def test_a_vector_that_is_not_finite_fails_its_own_sample_and_no_other(
    clip: Clip, alone: list[tuple[Any, Any]]
) -> None:
    sample, expected = alone[0]
    bad, good = embed_images(clip, [numpy.full_like(sample, numpy.nan), sample])
    assert isinstance(bad, FloatingPointError)
    assert numpy.abs(good - expected).max() < CLOSE


def test_no_samples_give_no_results(clip: Clip) -> None:
    assert embed_images(clip, []) == []
    assert embed_texts(clip, []) == []


def test_preparing_in_several_threads_at_once_gives_what_one_gives(clip: Clip) -> None:
    from concurrent.futures import ThreadPoolExecutor

    pictures = [picture(size=(random.Random(i).randint(20, 400), 200)) for i in range(24)]
    expected = [prepare_image(clip.processor, image) for image in pictures]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda image: prepare_image(clip.processor, image), pictures))
    assert all(numpy.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_without_torchvision_pictures_are_prepared_all_the_same(specs: dict[str, CheckpointSpec]) -> None:
    import subprocess
    import sys

    program = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from handlers.models import load_processor\n"
        "from handlers.models.clip import prepare_image\n"
        "from handlers.protocol import CheckpointSpec\n"
        "from PIL import Image\n"
        "spec = CheckpointSpec.model_validate_json(sys.argv[1])\n"
        "print(prepare_image(load_processor(spec), Image.new('RGB', (99, 77))).shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, specs["clip"].model_dump_json()], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "(3, 64, 64)", done.stderr
