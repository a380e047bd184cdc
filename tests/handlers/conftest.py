"""Tiny checkpoints, and a context that runs a handler without scheduler, process or threads."""

from __future__ import annotations

import io
import uuid
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

import handlers.models
from handlers.declaration import Handler, InferFunction, Job, Steps, TextKind
from handlers.models.blip import Blip
from handlers.models.clip import Clip
from handlers.models.whisper import WhisperModel
from handlers.protocol import CheckpointSpec, Limits

if TYPE_CHECKING:
    from tests.handlers.transcribing import Told

T = TypeVar("T")

LIMITS = Limits(max_bytes=64 << 20, max_pixels=50_000_000, max_frames=100)
ROLES = {
    "caption": "tiny-blip-caption",
    "answer": "tiny-blip-vqa",
    "embed": "tiny-clip",
    "transcribe": "tiny-whisper",
    "generate": "tiny-stable-diffusion",
}


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints of random weights."""
    import torch

    import toyworld.tiny

    torch.set_num_threads(1)
    home: Path = tmp_path_factory.mktemp("models")
    toyworld.tiny.make(home)
    return home


@pytest.fixture(scope="session")
def specs(tiny_home: Path) -> dict[str, CheckpointSpec]:
    """The tiny checkpoints by family."""
    return {
        family: CheckpointSpec(name=name, family=family, path=str(tiny_home / name), dtype="float32", digest="0" * 64)
        for family, name in (
            ("blip_caption", "tiny-blip-caption"),
            ("blip_vqa", "tiny-blip-vqa"),
            ("clip", "tiny-clip"),
            ("stable_diffusion", "tiny-stable-diffusion"),
            ("stable_diffusion_xl", "tiny-stable-diffusion-xl"),
            ("whisper", "tiny-whisper"),
        )
    }


@pytest.fixture(scope="session")
def blip(specs: dict[str, CheckpointSpec]) -> Blip:
    """A loaded BLIP that captions."""
    model = handlers.models.load(specs["blip_caption"], "cpu")
    assert isinstance(model, Blip)
    return model


@pytest.fixture(scope="session")
def answering(specs: dict[str, CheckpointSpec]) -> Blip:
    """A loaded BLIP that answers questions."""
    model = handlers.models.load(specs["blip_vqa"], "cpu")
    assert isinstance(model, Blip)
    return model


@pytest.fixture(scope="session")
def clip(specs: dict[str, CheckpointSpec]) -> Clip:
    """A loaded CLIP."""
    model = handlers.models.load(specs["clip"], "cpu")
    assert isinstance(model, Clip)
    return model


@pytest.fixture(scope="session")
def whisper(specs: dict[str, CheckpointSpec]) -> WhisperModel:
    """A loaded Whisper."""
    model = handlers.models.load(specs["whisper"], "cpu")
    assert isinstance(model, WhisperModel)
    return model


@pytest.fixture
def hearing(whisper: WhisperModel, tmp_path: Path) -> Told:
    """A context with the tiny Whisper, which remembers what was decoded."""
    from tests.handlers.transcribing import Told

    folder = tmp_path / "scratch"
    folder.mkdir()
    return Told({"tiny-whisper": whisper}, folder)


@dataclass
class DirectSteps:
    """`handlers.declaration.Steps` of a DirectContext."""

    context: DirectContext

    @property
    def ended(self) -> bool:
        return self.context.ended

    def done(self, fraction: float, note: str = "") -> None:
        self.context.progress(fraction, note)


@dataclass
class DirectContext:
    """`handlers.declaration.Context` that does everything at once, and remembers what it was told."""

    models: Mapping[str, Any]
    folder: Path
    limits: Limits = LIMITS
    embedded: dict[str, Any] = field(default_factory=dict)
    texts: list[tuple[TextKind, str, str, str | None]] = field(default_factory=list)
    probes: dict[str, dict[str, Any]] = field(default_factory=dict)
    outputs: dict[str, Path] = field(default_factory=dict)
    keys: list[Hashable] = field(default_factory=list)
    fractions: list[float] = field(default_factory=list)
    fonts: Mapping[str, Path] = field(default_factory=dict)
    segments: list[Sequence[Mapping[str, Any]]] = field(default_factory=list)
    ended: bool = False
    programs: int = 0

    @property
    def scratch(self) -> Path:
        folder = self.folder / "temporary"
        folder.mkdir(exist_ok=True)
        return folder

    @asynccontextmanager
    async def program(self, *, light: bool = False) -> AsyncIterator[None]:
        self.programs += 1
        yield

    def steps(self) -> Steps:
        return DirectSteps(self)

    def _model(self, checkpoint: str) -> Any:
        return self.models[ROLES.get(checkpoint, checkpoint)]

    async def cpu(self, function: Callable[..., T], *args: Any) -> T:
        return function(*args)

    async def prepare(self, function: Callable[..., T], checkpoint: str, *args: Any) -> T:
        return function(self._model(checkpoint).processor, *args)

    async def infer(
        self, function: InferFunction, checkpoint: str, samples: Sequence[Any], *, key: Hashable = ()
    ) -> list[Any]:
        self.keys.append(key)
        results = list(function(self._model(checkpoint), samples))
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    def embed(self, image: Any, *, of: str) -> None:
        self.embedded[of] = image

    def progress(self, fraction: float, note: str = "") -> None:
        self.fractions.append(fraction)

    def output(self, role: str, suffix: str, media_type: str) -> Path:
        self.outputs[role] = self.folder / f"{role}{suffix}"
        return self.outputs[role]

    def text(
        self,
        kind: TextKind,
        text: str,
        *,
        of: str,
        language: str | None = None,
        segments: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.texts.append((kind, text, of, language))
        self.segments.append(segments)

    def probe(self, of: str, facts: Mapping[str, Any]) -> None:
        self.probes[of] = dict(facts)


@pytest.fixture
def ctx(blip: Blip, answering: Blip, clip: Clip, tmp_path: Path) -> DirectContext:
    """A context with the tiny models of pictures."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return DirectContext({"tiny-blip-caption": blip, "tiny-blip-vqa": answering, "tiny-clip": clip}, scratch)


def job(
    handler: Handler[Any, Any], inputs: Mapping[str, Any], *, seed: int = 7, attempt: int = 1, **params: Any
) -> Any:
    """A job of a handler with params as a message has them."""
    checked = handler.params_type().model_validate(params)
    return Job(id=uuid.UUID(int=1), attempt=attempt, params=checked, inputs=inputs, seed=seed)


def picture(
    color: str = "red", shape: str = "ellipse", size: tuple[int, int] = (320, 240), ground: str = "white"
) -> Any:
    """A plain drawing (PIL, RGB)."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", size, ground)
    width, height = size
    getattr(ImageDraw.Draw(image), shape)((width // 5, height // 6, width * 3 // 5, height * 3 // 4), fill=color)
    return image


def encoded(image: Any, kind: str, **options: Any) -> bytes:
    """A picture's bytes in one of Pillow's formats."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def saved(folder: Path, data: bytes, name: str = "object") -> Path:
    """A file of these bytes, named as objects are: without a suffix."""
    path = folder / name
    path.write_bytes(data)
    return path
