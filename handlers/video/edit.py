"""`video.edit`: makes a film of a timeline."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from handlers.declaration import Context, Handler, Job, Media, Named, Result
from handlers.errors import InvalidInput, Problem
from handlers.media import captions
from handlers.media.captions.cue import MAX_BYTES
from handlers.media.image import FOR_MODELS, open_picture
from handlers.media.probe import probe
from handlers.media.sniff import READ, sniff
from handlers.protocol import Limits
from handlers.video.render import Asset, Cues, Film, Photo, Rendered, render
from handlers.video.render.encode import MEDIA_TYPES
from handlers.video.timeline import layout
from handlers.video.timeline.canvas import MOST_SIDE
from handlers.video.timeline.faults import Code
from handlers.video.timeline.items import VideoItem
from handlers.video.timeline.layout import AssetFacts
from handlers.video.timeline.plan import Format, Plan
from handlers.video.timeline.salvage import salvaged
from handlers.video.timeline.schema import EditParams

_ASSETS = "assets"
_VIDEO, _AUDIO, _POSTER = "video", "audio", "poster"
#: Pictures that may move: of a video item they are films, of an image item their first frame.
_ANIMATED = frozenset({"GIF"})
#: What subtitles may look like by their first bytes; UTF-16 looks like nothing.
_TEXT = frozenset({None, "text", "HTML", "XML"})
#: What is wrong, and after the last colon or semicolon what would be right.
_SENTENCE = re.compile(r"(.*)[:;] (.*)", re.DOTALL)


class LoudnessResult(Result):
    """Loudness of the film, by EBU R 128."""

    i: float = Field(description="Integrated loudness, LUFS.")
    tp: float = Field(description="True peak, dBTP.")
    lra: float = Field(description="Loudness range, LU.")


class StreamResult(Result):
    """A stream of the file."""

    kind: str = Field(description="`video`, `audio` or `subtitle`.")
    codec: str = Field(description="Its codec, as `h264`.")
    sample_rate: int | None = Field(description="Samples a second; null where it is no sound.")
    channels: int | None = Field(description="Channels; null where it is no sound.")
    language: str | None = Field(description="Three letters of ISO 639-2; null where none is known.")


class EditResult(Result):
    """The film that was made."""

    width: int | None = Field(description="Pixels; null for sound alone.")
    height: int | None = Field(description="Pixels; null for sound alone.")
    fps: str | None = Field(description="Frames a second, as `30000/1001`; null for sound alone.")
    frames: int | None = Field(description="Frames, counted in the file; null for sound alone.")
    duration_s: float = Field(description="Length in seconds.")
    size: int = Field(description="Bytes.")
    streams: list[StreamResult] = Field(description="What the file holds.")
    loudness: LoudnessResult | None = Field(description="As it is in the film; null where none was asked for.")
    warnings: list[str] = Field(description="What is not as one might expect it.")


class Edit(Handler[EditParams, EditResult]):
    """Makes a film, a GIF or a sound of a timeline; the output is `video` or `audio`, and `poster` where one is asked
    for.
    """

    type = "video.edit"
    version = 1
    inputs = {_ASSETS: Named(Media.ANY, at_least=0, at_most=1000)}
    time_limit_s = 4 * 3600.0

    def checkpoints(self, params: EditParams) -> frozenset[str]:
        return frozenset()

    def problems(self, params: EditParams, names: Mapping[str, Collection[str]]) -> Iterable[Problem]:
        return layout.problems(params, names)

    def problems_beside(
        self, params: Mapping[str, Any], wrong: Sequence[tuple[str | int, ...]], names: Mapping[str, Collection[str]]
    ) -> Iterable[Problem]:
        rest, silent = salvaged(params, wrong)
        if rest is None:
            return []
        places = ["/".join(("/params", *map(str, place))) for place in silent]
        return [
            problem
            for problem in layout.problems(rest, names)
            if not any(problem.pointer == place or problem.pointer.startswith(f"{place}/") for place in places)
        ]

    async def run(self, job: Job[EditParams], ctx: Context) -> EditResult:
        params = job.params
        paths = job.named(_ASSETS) if _ASSETS in job.inputs else {}
        assets, facts = await _read(ctx, params, paths)
        plan = layout.plan(params, facts, ctx.fonts)
        role = _VIDEO if plan.format.has_video else _AUDIO
        out = ctx.output(role, f".{plan.format.value}", MEDIA_TYPES[plan.format])
        poster = ctx.output(_POSTER, ".jpg", "image/jpeg") if plan.poster is not None else None
        rendered = await render(ctx, plan, assets, out, poster)
        pictures = {_POSTER: poster, role: out if plan.format is Format.GIF else None}
        for name, picture in pictures.items():
            if picture is not None:
                made = await ctx.cpu(open_picture, picture, _own(ctx, picture), f"outputs/{name}", FOR_MODELS)
                ctx.embed(made.image, of=f"outputs/{name}")
        return _result(plan, rendered)


def _own(ctx: Context, picture: Path) -> Limits:
    """Limits within which a picture of our own making is: those of a job are for what comes from outside."""
    return ctx.limits.model_copy(update={"max_bytes": picture.stat().st_size, "max_pixels": MOST_SIDE**2})


async def _read(
    ctx: Context, params: EditParams, paths: Mapping[str, Path]
) -> tuple[dict[str, Asset], dict[str, AssetFacts]]:
    """Looks every asset over. Raises InvalidInput for all that cannot be read at once."""
    assets: dict[str, Asset] = {}
    facts: dict[str, AssetFacts] = {}
    problems: list[Problem] = []
    subtitles = {one.asset for one in params.timeline.subtitles}
    films = {item.asset for track in params.timeline.tracks for item in track.items if isinstance(item, VideoItem)}
    for name, path in paths.items():
        of = f"inputs/{_ASSETS}/{name}"
        try:
            kind = sniff(await ctx.cpu(_head, path))
            if name in subtitles and kind in _TEXT:
                assets[name], facts[name] = await _cues(ctx, path, of)
            elif kind in READ and not (kind in _ANIMATED and name in films):
                assets[name], facts[name] = await _photo(ctx, path, of)
            else:
                assets[name], facts[name] = await _film(ctx, path, of)
        except InvalidInput as error:
            said = error.message.removeprefix(of).lstrip(": ")
            parts = _SENTENCE.fullmatch(said)
            what, fix = parts.groups() if parts is not None else (said, "send another file")
            pointer = f"/inputs/{_ASSETS}/" + name.replace("~", "~0").replace("/", "~1")
            problems.append(Problem(pointer, Code.ASSET_UNSUPPORTED, what, fix))
    if problems:
        raise InvalidInput(problems=problems)
    return assets, facts


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


async def _cues(ctx: Context, path: Path, of: str) -> tuple[Asset, AssetFacts]:
    def read() -> int:
        return len(captions.parse(path.read_bytes()[: MAX_BYTES + 1], of))

    ctx.probe(of, {"mime": "text/plain", "cues": await ctx.cpu(read)})
    return Cues(path), AssetFacts("subtitles")


async def _photo(ctx: Context, path: Path, of: str) -> tuple[Asset, AssetFacts]:
    picture = await ctx.cpu(open_picture, path, ctx.limits, of, FOR_MODELS)
    ctx.probe(of, picture.facts.as_dict())
    ctx.embed(picture.image, of=of)
    facts = picture.facts
    alpha = facts.mode in ("RGBA", "LA", "PA")
    return Photo(path, facts), AssetFacts("image", width=facts.width, height=facts.height, has_alpha=alpha)


async def _film(ctx: Context, path: Path, of: str) -> tuple[Asset, AssetFacts]:
    facts = await probe(ctx, path, of)
    ctx.probe(of, facts.as_dict())
    video, film = facts.video, Film(path, facts)
    if video is None:
        return film, AssetFacts("audio", duration=film.duration, has_audio=True)
    return film, AssetFacts(
        "video",
        duration=film.duration,
        width=video.width,
        height=video.height,
        fps=video.fps,
        has_audio=bool(facts.audio),
        has_alpha=video.alpha,
    )


def _result(plan: Plan, rendered: Rendered) -> EditResult:
    canvas, seen = plan.canvas, plan.format.has_video
    loudness = rendered.loudness
    return EditResult(
        width=canvas.width if seen else None,
        height=canvas.height if seen else None,
        fps=str(canvas.fps) if seen else None,
        frames=plan.length if seen else None,
        duration_s=float(canvas.seconds(plan.length)),
        size=rendered.size,
        streams=[
            StreamResult(
                kind=stream.kind,
                codec=stream.codec,
                sample_rate=stream.sample_rate,
                channels=stream.channels,
                language=stream.language,
            )
            for stream in rendered.streams
        ],
        loudness=LoudnessResult(i=round(loudness.i, 2), tp=round(loudness.tp, 2), lra=round(loudness.lra, 2))
        if loudness is not None
        else None,
        warnings=list(rendered.warnings),
    )
