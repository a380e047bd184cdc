"""The demo's jobs: what is submitted, and what came of it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from console import output
from storage import jobs
from storage.database import Database
from storage.jobs import JobRecord


def messages(pictures: Sequence[str], run: str, *, films: bool) -> list[dict[str, Any]]:
    """Of every type: captions of all pictures, questions about two, two embedded, two made, a recording, a film.

    Without the last two where there are no `films`.
    """
    uris = [f"s3://media/pictures/{name}.png" for name in pictures]
    jobs: list[dict[str, Any]] = [
        *({"type": "image.caption", "inputs": {"image": uri}} for uri in uris),
        *({"type": "image.caption", "inputs": {"image": uri}, "params": {"count": 3, "seed": 7}} for uri in uris[:2]),
        *({"type": "image.answer", "inputs": {"image": uri}, "params": {"questions": QUESTIONS}} for uri in uris[:2]),
        {"type": "image.embed", "inputs": {"images": uris[:2]}},
        {"type": "image.generate", "params": {"prompt": PROMPT, "count": 4, "seed": 7}},
    ]
    if films:
        jobs += [
            {"type": "audio.transcribe", "inputs": {"audio": f"{_MADE}/speech.wav"}, "params": {"words": True}},
            {"type": "video.edit", "inputs": {"assets": _ASSETS | {"picture": uris[0]}}, "params": FILM},
        ]
    return [job | {"labels": {"demo": run}} for job in jobs]


PROMPT = "a purple ring on a white background"
QUESTIONS = ["how many shapes are there?", "what colour is the background?"]
#: What is looked for in words.
WANTED = "red circle"
_MADE = "s3://media/made"
_ASSETS = {name: f"{_MADE}/{name}.{kind}" for name, kind in (("circle", "mp4"), ("star", "mp4"), ("music", "wav"))}
#: Two films and a picture that moves, a title over them, and music that gives way to the films' own sound.
FILM: dict[str, Any] = {
    "version": 1,
    "output": {"width": 640, "height": 360, "fps": 24, "poster": 1, "loudness": {}},
    "timeline": {
        "tracks": [
            {
                "kind": "video",
                "items": [
                    {"type": "video", "asset": "circle", "fit": "cover"},
                    {
                        "type": "video",
                        "asset": "star",
                        "fit": "blur",
                        "transition": {"type": "fade", "duration": 0.5},
                    },
                    {
                        "type": "image",
                        "asset": "picture",
                        "duration": 2,
                        "fit": "cover",
                        "transition": {"type": "wipeleft", "duration": 0.5},
                        "ken_burns": {
                            "from": {"x": 0, "y": 0, "width": 1, "height": 1},
                            "to": {"x": 0.25, "y": 0.25, "width": 0.5, "height": 0.5},
                        },
                    },
                ],
            },
            {
                "kind": "video",
                "items": [
                    {
                        "type": "text",
                        "text": "mediamill · 媒体",
                        "at": 0.5,
                        "duration": 2,
                        "valign": "bottom",
                        "box_color": "#00000080",
                        "fade_in": 0.25,
                        "fade_out": 0.25,
                    }
                ],
            },
            {
                "kind": "audio",
                "role": "music",
                "duck": {"by": ["main"], "db": -6},
                "items": [{"type": "audio", "asset": "music", "duration": 6, "volume": 0.8, "fade_out": 1}],
            },
        ]
    },
}


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that has ended."""

    record: JobRecord

    @property
    def succeeded(self) -> bool:
        return bool(self.record.job["state"] == "succeeded")

    @property
    def captions(self) -> list[str]:
        """Those that were made, the best first."""
        result = self.record.job["result"] or {}
        return [caption["text"] for caption in result.get("captions", ())]

    @property
    def row(self) -> Sequence[object]:
        """Of the table."""
        job = self.record.job
        seconds = output.seconds_between(job["claimed_at"], job["finished_at"])
        named = ", ".join(Path(uri).stem for uri in _uris((job["message"].get("inputs") or {}).values()))
        return str(job["id"])[-8:], job["type"], named, job["state"], seconds, self._what_came_out()

    def _what_came_out(self) -> str:
        if not self.succeeded:
            error = self.record.job["error"] or {}
            return f"{error.get('type', '')}: {error.get('message', '')}"
        result = self.record.job["result"]
        match self.record.job["type"]:
            case "image.answer":
                return "; ".join(f"{one['question']} {one['text']}" for one in result["answers"])
            case "image.embed":
                new = len(self.record.embeddings)
                known = result["images"] - new
                return f"{new} embeddings" + (f", {known} pictures had theirs" if known else "")
            case "audio.transcribe":
                said = f"{result['language']}: {result['text'].strip()}" if result["text"] else "nobody speaks"
                return f"{result['speech_s']:.1f} of {result['duration_s']:.1f} s are speech; {said}"
            case "image.generate":
                sizes = {f"{picture['width']} x {picture['height']}" for picture in result["pictures"]}
                return f"{len(result['pictures'])} pictures of {', '.join(sorted(sizes))} in {result['steps']} steps"
            case "video.edit":
                size = f"{result['width']} x {result['height']}"
                return f"{result['frames']} frames, {result['duration_s']:.2f} s, {size}"
        best, *others = self.captions
        return f"{1 + len(others)} captions, the best: {best}" if others else best


def _uris(inputs: Iterable[Any]) -> Iterator[str]:
    for each in inputs:
        if isinstance(each, str):
            yield each
        else:
            yield from each.values() if isinstance(each, dict) else each


def ended(database: Database, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, str]:
    """The states of those that have ended."""
    with database.transaction() as connection:
        found = jobs.finished_at(connection, ids)
    return {id_: state for id_, (state, at) in found.items() if at is not None}


def records(database: Database, ids: Sequence[uuid.UUID]) -> list[Ended]:
    """All that is known of the jobs, in that order."""
    with database.transaction() as connection:
        records = [jobs.show(connection, id_) for id_ in ids]
    return [Ended(record) for record in records if record is not None]
