"""Job types of every shape, for the tests of the message contract."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from handlers.declaration import Context, Handler, Job, Many, Media, Named, One, Params, Result
from handlers.errors import InvalidInput, Problem
from handlers.registry import Registry
from intake.message import Rules
from storage.objects.rules import BucketRules


class Size(Params):
    """Of a picture."""

    width: int = Field(default=64, ge=8, le=4096)
    height: int = Field(default=64, ge=8, le=4096)


class CaptionParams(Params):
    """Every kind of parameter."""

    prompt: str | None = Field(default=None, max_length=500, description="What the caption begins with.")
    count: int = Field(default=1, ge=1, le=16, description="How many captions.")
    temperature: float = Field(default=1.0, gt=0, le=5)
    mode: Literal["fast", "good"] = "good"
    pair: tuple[int, int] = (1, 2)
    size: Size = Size()
    sizes: list[Size] = Field(default=[])
    checkpoint: str | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> CaptionParams:
        if self.mode == "fast" and self.count > 8:
            raise ValueError("mode fast gives at most 8 captions; write a smaller count or mode good")
        return self


class SpeakParams(Params):
    """What is required."""

    text: str = Field(min_length=1, max_length=1000, examples=["a red bicycle"])


class Done(Result):
    """Nothing to tell."""

    count: int = Field(default=0, description="How many.")


class OnlyDeclared:
    """Nothing here runs."""

    async def run(self, job: Job[Any], ctx: Context) -> Done:
        raise AssertionError(f"{job.id} is only declared, {ctx} too")


class CaptionOne(OnlyDeclared, Handler[CaptionParams, Done]):
    """Captions one picture."""

    type = "image.caption"
    version = 1
    inputs = {"image": One(Media.IMAGE)}  # noqa: RUF012

    def checkpoints(self, params: CaptionParams) -> frozenset[str]:
        return frozenset({params.checkpoint or "caption"})


class EmbedMany(OnlyDeclared, Handler[Params, Done]):
    """Embeds pictures."""

    type = "image.embed"
    version = 1
    inputs = {"images": Many(Media.IMAGE, at_least=1, at_most=3)}  # noqa: RUF012

    def checkpoints(self, params: Params) -> frozenset[str]:
        return frozenset({"embed"})


class Film(Params):
    """One kind of part."""

    type: Literal["film"]
    speed: float = 1.0


class Color(Params):
    """Another."""

    type: Literal["color"]
    shade: str = "red"


class EditParams(Params):
    """Names what it uses of the inputs."""

    cuts: list[str] = Field(default=[])
    parts: list[Annotated[Film | Color, Field(discriminator="type")]] = Field(default=[])


class EditNamed(OnlyDeclared, Handler[EditParams, Done]):
    """Edits films."""

    type = "video.edit"
    version = 1
    inputs = {"assets": Named(Media.ANY, at_least=1), "logo": Named(Media.IMAGE)}  # noqa: RUF012

    def checkpoints(self, params: EditParams) -> frozenset[str]:
        return frozenset()

    def problems(self, params: EditParams, names: Mapping[str, Collection[str]]) -> Iterable[Problem]:
        for number, cut in enumerate(params.cuts):
            if cut not in names["assets"]:
                yield Problem(f"/params/cuts/{number}", "asset_missing", f"is {cut}", "name one of inputs/assets")


class Speak(OnlyDeclared, Handler[SpeakParams, Done]):
    """Says a text."""

    type = "audio.speak"
    version = 3
    time_limit_s = 600

    def checkpoints(self, params: SpeakParams) -> frozenset[str]:
        return frozenset()


class CarelessParams(Params):
    """A validator that forgets what it may be given."""

    ratio: float = 1.0

    @model_validator(mode="after")
    def _is_kept(self) -> CarelessParams:
        assert 1 / self.ratio
        return self


class Careless(OnlyDeclared, Handler[CarelessParams, Done]):
    """Its checks have faults."""

    type = "test.careless"
    version = 1
    inputs = {"assets": Named(Media.ANY, at_least=0)}  # noqa: RUF012

    def checkpoints(self, params: CarelessParams) -> frozenset[str]:
        return frozenset({[][int(params.ratio) - 1]} if params.ratio > 1 else ())

    def problems(self, params: CarelessParams, names: Mapping[str, Collection[str]]) -> Iterable[Problem]:
        if "all" in names["assets"]:
            raise InvalidInput(problems=[Problem("/params/ratio", "too_odd", "is odd", "make it even")])
        return iter(names["assets"]) if names["assets"] else ()  # type: ignore[return-value]  # the fault


class Nothing(OnlyDeclared, Handler[Params, Done]):
    """Does nothing."""

    type = "test.nothing"
    version = 1

    def checkpoints(self, params: Params) -> frozenset[str]:
        return frozenset()


REGISTRY = Registry([CaptionOne, EmbedMany, EditNamed, Speak, Careless, Nothing])
RULES = Rules(
    message_bytes=1 << 20,
    nesting=64,
    inputs_per_job=5,
    max_attempts=3,
    buckets=BucketRules.parse({"media": "rw", "uploads": "r", "drop-box": "w"}),
    checkpoints={"blip-base": {"caption"}, "clip-b32": {"embed"}},
)


def caption(**more: Any) -> dict[str, Any]:
    """A message that is right, and what a test changes of it."""
    return {"type": "image.caption", "inputs": {"image": "s3://media/a.png"}} | more
