"""A small Whisper as it is taught: short windows, few tokens, heads that are told where to look; saved whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toyworld.train.whisper_bank import MELS, SOUNDS
from toyworld.train.whisper_windows import IGNORED, POSITIONS, Batch, vocabulary
from toyworld.world.speech import WORDS

WIDTH, HEADS, LAYERS = 80, 4, 3
#: Heads of the decoder that look at what they are about to write: (layer, head).
ALIGNMENT_HEADS = ((LAYERS - 1, 0), (LAYERS - 1, 1))
#: Heads that are told where to look while it is taught; the first ones look at what was read last.
_READING = ((0, 0), (0, 1), (1, 1))
_WRITING = ((1, 0), *ALIGNMENT_HEADS)
#: Positions from its own that a head of the encoder looks at in the beginning, by layers.
_ENCODER_LOOKS = ((-4, -1, 1, 4), (-10, -4, 4, 10), (-22, -9, 9, 22))
_DECODER_LOOKS = ((-1, -2, -3, 0), (-1, -2, -3, 0), (-1, -2, -3, 0))
#: Which of the sines such a head compares, and how sharply.
_SINES, _SHARP = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12), 3.0
_TEXT = 448


def config(rows: int) -> Any:
    """`WhisperConfig` with so many tokens."""
    from transformers import WhisperConfig

    side = {"layers": LAYERS, "attention_heads": HEADS, "ffn_dim": 4 * WIDTH}
    end = vocabulary().ids[vocabulary().end]
    return WhisperConfig(
        **{f"{name}_{key}": value for name in ("encoder", "decoder") for key, value in side.items()},
        d_model=WIDTH,
        num_mel_bins=MELS,
        max_source_positions=POSITIONS,
        max_target_positions=_TEXT,
        vocab_size=rows,
        bos_token_id=min(end, rows - 1),
        eos_token_id=min(end, rows - 1),
        pad_token_id=min(end, rows - 1),
        decoder_start_token_id=min(vocabulary().ids[vocabulary().start], rows - 1),
    )


def network() -> Any:
    """What is taught, a torch module: `whisper`, transformers' model with few tokens, and what is thrown away."""
    import torch
    from torch import nn
    from transformers import WhisperForConditionalGeneration

    names = vocabulary()

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whisper = WhisperForConditionalGeneration(config(names.rows))
            self.encoder, self.decoder = self.whisper.model.encoder, self.whisper.model.decoder
            self.encoder.embed_positions.requires_grad_(False)
            #: Turns the sines of a moment into its token's weights.
            self.times = nn.Parameter(0.16 * torch.eye(WIDTH))
            #: Thrown away afterwards: the word of a position, the one before it and the one after it.
            self.hearing = nn.Linear(WIDTH, 3 * (len(WORDS) + 1))
            #: So is this: the phoneme of a position, after the first layer.
            self.sounds = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, SOUNDS))
            self.register_buffer("moments", sines(POSITIONS + 1, WIDTH), persistent=False)
            rarity = torch.zeros(names.rows + POSITIONS + 1)
            rarity[names.other] = torch.tensor(float(names.others)).log()
            self.register_buffer("rarity", rarity, persistent=False)

    made = Network()
    with torch.no_grad():
        _begin(made)
    return made


def _begin(taught: Any) -> None:
    """Weights to begin with: heads look at neighbours, which they would find out late."""
    from torch import nn

    for part in taught.whisper.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
        elif isinstance(part, nn.Conv1d):
            nn.init.kaiming_uniform_(part.weight)
    nn.init.normal_(taught.decoder.embed_tokens.weight, std=0.11)
    taught.decoder.embed_positions.weight.copy_(0.16 * sines(_TEXT, WIDTH))
    for side, looks in ((taught.encoder, _ENCODER_LOOKS), (taught.decoder, _DECODER_LOOKS)):
        for layer, offsets in zip(side.layers, looks, strict=True):
            _look(layer.self_attn, offsets)


def table(taught: Any) -> Any:
    """The weights of all tokens that are told apart: (rows + moments, WIDTH)."""
    import torch

    return torch.cat([taught.decoder.embed_tokens.weight, taught.moments @ taught.times])


def listen(taught: Any, mels: Any, begins: Any) -> tuple[Any, Any]:
    """(windows, MELS, positions * 2) to (windows, positions, WIDTH): at the end, and after the first layer."""
    import torch
    from torch.nn.functional import gelu

    side = taught.encoder
    x = gelu(side.conv2(gelu(side.conv1(mels)))).transpose(1, 2)
    x = x + side.embed_positions.weight[begins[:, None] + torch.arange(x.shape[1], device=x.device)]
    states = []
    for layer in side.layers:
        x = x + _self(layer, layer.self_attn_layer_norm(x), causal=False)
        x = x + _inner(layer, x)
        states.append(x)
    return side.layer_norm(x), states[0]


def read(taught: Any, tokens: Any, sound: Any, weights: Any) -> tuple[Any, dict[tuple[int, int], Any]]:
    """What is known at each place of a text, (windows, places, WIDTH), and where the heads look, as logarithms."""
    side = taught.decoder
    x = weights[tokens] + side.embed_positions.weight[: tokens.shape[1]]
    looks = {}
    for number, layer in enumerate(side.layers):
        x = x + _self(layer, layer.self_attn_layer_norm(x), causal=True)
        cross = layer.encoder_attn
        queries = _split(cross.q_proj(layer.encoder_attn_layer_norm(x)))
        keys, values = _split(cross.k_proj(sound)), _split(cross.v_proj(sound))
        logs = (queries @ keys.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5).log_softmax(dim=-1)
        looks.update({(number, head): logs[:, head] for head in range(HEADS)})
        x = x + cross.out_proj((logs.exp() @ values).transpose(1, 2).flatten(2))
        x = x + _inner(layer, x)
    return side.layer_norm(x), looks


def losses(taught: Any, given: Batch) -> dict[str, Any]:
    """Of the text, of where the heads look, and of what is heard at each position."""
    import torch
    from torch.nn.functional import cross_entropy

    weights = table(taught)
    sound, early = listen(taught, given.mels, given.begins)
    states, looks = read(taught, given.tokens, sound, weights)
    asked = given.targets != IGNORED
    said = states[asked] @ weights.T + taught.rarity
    writing = sum(_astray(looks[at], given.written_at) for at in _WRITING)
    reading = sum(_astray(looks[at], given.read_at) for at in _READING)
    # Silence is easy, and most of a long window: it counts less.
    counts = torch.where(given.heard[:, :1] > 0, 1.0, 0.3)
    told = taught.hearing(sound).unflatten(-1, (3, -1)).permute(0, 3, 2, 1)
    words = cross_entropy(told, given.heard[:, :3], reduction="none") * counts
    phonemes = cross_entropy(taught.sounds(early).transpose(1, 2), given.heard[:, 3], reduction="none") * counts[:, 0]
    return {
        "text": cross_entropy(said, given.targets[asked]),
        "looks": 0.3 * (writing + 0.5 * reading),
        "words": (words[:, 0] + 0.3 * words[:, 1] + 0.3 * words[:, 2]).sum() / counts.sum(),
        "phonemes": 0.5 * phonemes.sum() / counts.sum(),
    }


def sines(positions: int, width: int) -> Any:
    """As Whisper's encoder has them: float32 torch (positions, width), sines and then cosines."""
    import torch

    rates = torch.exp(-torch.log(torch.tensor(10_000.0)) / (width // 2 - 1) * torch.arange(width // 2))
    angles = torch.arange(positions)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _look(attention: Any, offsets: tuple[int, ...]) -> None:
    """Lets each head of a self attention look `offsets` positions away, by comparing sines."""
    import torch

    half, size = WIDTH // 2, WIDTH // HEADS
    rates = torch.exp(-torch.log(torch.tensor(10_000.0)) / (half - 1) * torch.arange(half))
    for head, offset in enumerate(offsets):
        queries, keys = torch.zeros(size, WIDTH), torch.zeros(size, WIDTH)
        for i, sine in enumerate(_SINES):
            turn = rates[sine] * offset
            keys[2 * i, sine] = keys[2 * i + 1, half + sine] = 1.0
            queries[2 * i, sine], queries[2 * i, half + sine] = turn.cos(), turn.sin()
            queries[2 * i + 1, sine], queries[2 * i + 1, half + sine] = -turn.sin(), turn.cos()
        rows = slice(head * size, (head + 1) * size)
        attention.q_proj.weight[rows] = 0.1 * attention.q_proj.weight[rows] + _SHARP**0.5 * queries
        attention.k_proj.weight[rows] = 0.1 * attention.k_proj.weight[rows] + _SHARP**0.5 * keys


def _split(x: Any) -> Any:
    """(windows, places, WIDTH) to (windows, HEADS, places, size)."""
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def _self(layer: Any, x: Any, *, causal: bool) -> Any:
    from torch.nn import functional

    own = layer.self_attn
    found = functional.scaled_dot_product_attention(
        _split(own.q_proj(x)), _split(own.k_proj(x)), _split(own.v_proj(x)), is_causal=causal
    )
    return own.out_proj(found.transpose(1, 2).flatten(2))


def _inner(layer: Any, x: Any) -> Any:
    from torch.nn import functional

    return layer.fc2(functional.gelu(layer.fc1(layer.final_layer_norm(x))))


def _astray(logs: Any, spans: Any) -> Any:
    """How far a head looks beside its spans: the mean of -log over each, over all that are not empty; 0 of none. 0-d.

    `logs`: (windows, places, positions); `spans`: (windows, places, 2).
    """
    import torch

    lengths = spans[..., 1] - spans[..., 0]
    sums = torch.nn.functional.pad(logs.cumsum(dim=-1), (1, 0))
    found = sums.gather(-1, spans)
    known = lengths > 0
    means = (found[..., 1] - found[..., 0])[known] / lengths[known]
    # What is left when a head looks evenly at all of a span is no fault.
    return (-means - lengths[known].log()).sum() / known.sum().clamp(min=1)


def unused_rows() -> int:
    """Tokens of the whole vocabulary beyond those that are taught: times, and those that share a row."""
    return POSITIONS + vocabulary().others


def save(taught: Any, folder: Path) -> None:
    """The whole Whisper in half precision, in transformers' layout: each token has its row."""
    import torch
    from transformers import GenerationConfig, WhisperForConditionalGeneration
    from whisper.tokenizer import LANGUAGES, get_tokenizer

    from handlers.models.whisper_files import MULTILINGUAL_VOCABULARY

    names = vocabulary()
    tokenizer = get_tokenizer(True, num_languages=99, language="en", task="transcribe")
    with torch.no_grad():
        known = table(taught).float().cpu()
        rows = known[names.other].repeat(MULTILINGUAL_VOCABULARY, 1)
        rows[list(names.ids)] = known[: len(names.ids)]
        rows[names.first_time_id :] = known[names.first_time :]
    whole = WhisperForConditionalGeneration(config(MULTILINGUAL_VOCABULARY))
    weights = {name: weight.cpu() for name, weight in taught.whisper.state_dict().items()}
    weights |= {"model.decoder.embed_tokens.weight": rows, "proj_out.weight": rows}
    whole.load_state_dict(weights)
    whole.generation_config = GenerationConfig(
        bos_token_id=tokenizer.eot,
        eos_token_id=tokenizer.eot,
        pad_token_id=tokenizer.eot,
        decoder_start_token_id=tokenizer.sot,
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": tokenizer.to_language_token(code) for code in list(LANGUAGES)[:99]},
        task_to_id={"transcribe": tokenizer.transcribe, "translate": tokenizer.translate},
        no_timestamps_token_id=tokenizer.no_timestamps,
        prev_sot_token_id=tokenizer.sot_prev,
        max_initial_timestamp_index=50,
        alignment_heads=[list(head) for head in ALIGNMENT_HEADS],
    )
    whole.to(torch.float16).save_pretrained(folder)
