"""The demo's jobs: what is submitted, and what came of it."""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from console import output
from storage import jobs
from storage.database import Database
from storage.jobs import JobRecord


def messages(pictures: Sequence[str], run: str) -> list[dict[str, Any]]:
    """A caption of each picture, three of the first two, and an embedding job of both."""
    uris = [f"s3://media/pictures/{name}.png" for name in pictures]
    caption = {"type": "image.caption", "labels": {"demo": run}}
    return [
        *({**caption, "inputs": {"image": uri}} for uri in uris),
        *({**caption, "inputs": {"image": uri}, "params": {"count": 3, "seed": 7}} for uri in uris[:2]),
        {"type": "image.embed", "inputs": {"images": uris[:2]}, "labels": {"demo": run}},
    ]


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
        pictures = job["message"]["inputs"].values()
        uris = [uri for each in pictures for uri in (each if isinstance(each, list) else [each])]
        seconds = output.seconds_between(job["claimed_at"], job["finished_at"])
        named = ", ".join(Path(uri).stem for uri in uris)
        return str(job["id"])[-8:], job["type"], named, job["state"], seconds, self._what_came_out()

    def _what_came_out(self) -> str:
        if not self.succeeded:
            error = self.record.job["error"] or {}
            return f"{error.get('type', '')}: {error.get('message', '')}"
        if self.record.job["type"] == "image.embed":
            new = len(self.record.embeddings)
            known = self.record.job["result"]["images"] - new
            return f"{new} embeddings" + (f", {known} pictures had theirs" if known else "")
        best, *others = self.captions
        return f"{1 + len(others)} captions, the best: {best}" if others else best


# Words that full text search leaves out, among those that the tiny checkpoint knows.
_LEFT_OUT = {"between", "over", "some", "under", "while", "with"}


def word_of_some(captions: Sequence[str]) -> str:
    """A word that some of the captions have but not all, so that finding it says something; the longest of those."""
    found: Counter[str] = Counter(
        word for caption in captions for word in set(re.findall("[a-z]{4,}", caption)) - _LEFT_OUT
    )
    return max(found, key=lambda word: (2 <= found[word] <= 4, found[word] < len(captions), len(word), word))


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
