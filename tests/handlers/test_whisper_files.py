"""Whisper's checkpoints: transformers' layout and openai's own are the same network, and nothing is made up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest

import handlers.models
from handlers.models import CheckpointBroken
from handlers.models.whisper import WhisperModel, load, load_processor, prompt_tokens, spectrogram, stack
from handlers.protocol import CheckpointSpec
from tests.handlers.voices import speech

pytestmark = pytest.mark.handlers


@pytest.fixture
def folder(specs: dict[str, CheckpointSpec], tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint, to be damaged."""
    return Path(shutil.copytree(specs["whisper"].path, tmp_path / "copy"))


def spec(folder: Path, **changed: Any) -> CheckpointSpec:
    plain = CheckpointSpec(name="copy", family="whisper", path=str(folder), dtype="float32", digest="0" * 64)
    return plain.model_copy(update=changed)


def change(folder: Path, name: str, **changed: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def change_tensors(folder: Path, changed: dict[str, Any], dropped: str = "") -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if name != dropped}
    save_file(tensors | changed, path, metadata={"format": "pt"})


def test_the_network_computes_what_transformers_does(whisper: WhisperModel, specs: dict[str, CheckpointSpec]) -> None:
    import torch
    from transformers import WhisperForConditionalGeneration

    own = WhisperForConditionalGeneration.from_pretrained(specs["whisper"].path).eval()
    mel = stack(whisper, [spectrogram(whisper.processor, speech(9, seed=n)) for n in range(2)])
    tokens = torch.tensor([[50258, 50259, 50359, 50364, 1770, 50400]] * 2)
    with torch.no_grad():
        expected = own(input_features=mel, decoder_input_ids=tokens).logits
        found = whisper.network.decoder(tokens, whisper.network.encoder(mel))
    assert torch.allclose(found, expected, atol=1e-3)


def test_openais_own_form_is_the_same_network(whisper: WhisperModel, tmp_path: Path) -> None:
    import torch

    network = whisper.network
    state = {"dims": dict(network.dims.__dict__), "model_state_dict": network.state_dict()}
    torch.save(state, tmp_path / "tiny.pt")
    found = load(spec(tmp_path), "cpu")
    assert found.network.dims == network.dims
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in found.network.state_dict().items())
    # It says nothing of heads: the last half of the layers.
    assert sorted(map(tuple, found.network.alignment_heads.indices().T.tolist())) == [(1, head) for head in range(4)]


def test_heads_that_follow_the_sound_come_from_the_catalogue_before_the_files(folder: Path) -> None:
    def heads(**changed: Any) -> list[tuple[int, int]]:
        found = load(spec(folder, **changed), "cpu").network.alignment_heads
        return [tuple(pair) for pair in found.indices().T.tolist()]

    change(folder, "generation_config.json", alignment_heads=[[0, 3], [1, 1]])
    assert heads() == [(0, 3), (1, 1)]
    assert heads(alignment_heads=((0, 0),)) == [(0, 0)]
    with pytest.raises(ValueError, match="head 4 of layer 1: the decoder has 2 layers of 4 heads"):
        heads(alignment_heads=((1, 4),))
    (folder / "generation_config.json").unlink()
    assert heads() == [(1, 0), (1, 1), (1, 2), (1, 3)]


def test_weights_are_in_the_wanted_precision_but_for_the_norms(folder: Path) -> None:
    import torch

    network = load(spec(folder, dtype="bfloat16"), "cpu").network
    assert network.encoder.conv1.weight.dtype == torch.bfloat16
    assert network.decoder.token_embedding.weight.dtype == torch.bfloat16
    assert network.decoder.ln.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("tensors", "dropped", "reason"),
    [
        ({}, "model.decoder.layers.1.fc2.bias", r"lack 1 tensors, the first of them decoder\.blocks\.1\.mlp\.2\.bias"),
        ({"model.decoder.extra": 1}, "", r"1 tensors that are not of a Whisper, the first of them decoder\.extra"),
        ({"model.encoder.conv1.bias": 31}, "", r"encoder\.conv1\.bias has the shape \(31,\), .* it is \(32,\)"),
    ],
)
def test_a_tensor_without_its_place_is_an_error(
    folder: Path, tensors: dict[str, int], dropped: str, reason: str
) -> None:
    import torch

    change_tensors(folder, {name: torch.zeros(size) for name, size in tensors.items()}, dropped)
    with pytest.raises(CheckpointBroken, match=reason):
        handlers.models.load(spec(folder), "cpu")


def test_the_output_layer_which_is_the_embedding_once_more_is_left_out(folder: Path) -> None:
    import torch

    change_tensors(folder, {"proj_out.weight": torch.zeros(51865, 32)})
    assert load(spec(folder), "cpu").network.decoder.token_embedding.weight.abs().sum() > 0


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"vocab_size": 30522}, "vocabulary has 30522 tokens"),
        ({"num_mel_bins": 64}, "64 mel bands"),
        ({"max_source_positions": 750}, "750 frames of sound"),
        ({"encoder_ffn_dim": 100}, "encoder_ffn_dim in config.json is not 4 times d_model"),
        ({"d_model": "wide"}, "n_audio_state is 'wide'|d_model"),
    ],
)
def test_a_config_of_another_architecture_is_an_error(folder: Path, config: dict[str, Any], reason: str) -> None:
    change(folder, "config.json", **config)
    with pytest.raises(CheckpointBroken, match=reason):
        handlers.models.load_processor(spec(folder))


def test_a_pickle_that_would_run_code_is_refused(folder: Path, tmp_path: Path) -> None:
    import torch

    (folder / "model.safetensors").unlink()
    torch.save({"dims": Path("/"), "model_state_dict": {}}, folder / "evil.pt")
    with pytest.raises(CheckpointBroken):
        handlers.models.load(spec(folder), "cpu")


@pytest.mark.parametrize(
    ("vocabulary", "languages", "last"), [(51864, 1, "en"), (51865, 99, "su"), (51866, 100, "yue")]
)
def test_the_vocabulary_tells_the_languages(folder: Path, vocabulary: int, languages: int, last: str) -> None:
    change(folder, "config.json", vocab_size=vocabulary)
    processor = load_processor(spec(folder))
    assert (len(processor.languages), processor.languages[-1]) == (languages, last)
    tokenizer = processor.tokenizer(last, "transcribe")
    assert tokenizer.encoding.n_vocab == vocabulary
    assert len(tokenizer.sot_sequence) == (1 if languages == 1 else 3)


def test_spectrograms_are_those_of_openai_whisper(whisper: WhisperModel) -> None:
    import torch
    from whisper.audio import log_mel_spectrogram, pad_or_trim

    for seconds in (0.001, 3.3, 30, 31):
        samples = speech(seconds)
        found = spectrogram(whisper.processor, samples)
        assert found.shape == (80, 3000)
        assert found.dtype == numpy.float32
        assert numpy.array_equal(found, log_mel_spectrogram(pad_or_trim(torch.from_numpy(samples))).numpy())


def test_a_prompt_becomes_tokens_whatever_stands_in_it(whisper: WhisperModel) -> None:
    assert prompt_tokens(whisper.processor, "  ") == ()
    assert (
        whisper.processor.tokenizer("en", "transcribe").decode(
            list(prompt_tokens(whisper.processor, " Glossary: <|endoftext|> 紅 "))
        )
        == " Glossary: <|endoftext|> 紅"
    )
    assert all(token < 50257 for token in prompt_tokens(whisper.processor, "<|startoftranscript|><|0.00|>"))
