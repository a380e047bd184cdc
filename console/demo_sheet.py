"""The demo's contact sheet: one page that shows each input beside what came out, for a person to judge.

The page holds its pictures and sounds itself, so that it can be sent to somebody as it is.
"""

from __future__ import annotations

import base64
import html
import mimetypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.jobs import JobRecord

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
       color: #1c1c1c; background: #fafaf7 }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
p.note { color: #555; max-width: 46rem }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)) }
.card { background: #fff; border: 1px solid #ddd; border-radius: 8px; overflow: hidden }
.card img, .card video { display: block; width: 100%; image-rendering: auto }
img.small { width: 11rem; border: 1px solid #ddd; border-radius: 8px; margin-bottom: 1rem }
.card div { padding: .5rem .7rem }
.of { color: #777; font-size: .82rem; overflow-wrap: anywhere }
.q { color: #555 } .a { font-weight: 600 }
td { padding: .15rem .9rem .15rem 0; vertical-align: top } td.right { text-align: right }
"""


@dataclass(frozen=True, slots=True)
class Search:
    """What was looked for, and what was found."""

    by: str
    """The words, or the picture's name."""
    picture: Path | None
    hits: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a page is made of."""

    title: str
    note: str
    store: Path
    """The local object store: `s3://bucket/key` is the file `bucket/key` in it."""
    records: Sequence[JobRecord]
    searches: Sequence[Search]

    def page(self) -> str:
        """The whole of it, as HTML."""
        parts = [f"<h1>{_text(self.title)}</h1><p class=note>{_text(self.note)}</p>"]
        parts += [*self._captioned(), *self._searched(), *self._generated(), *self._heard(), *self._filmed()]
        head = f"<meta charset=utf-8><title>{_text(self.title)}</title><style>{_STYLE}</style>"
        return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"

    def _of(self, *types: str) -> list[JobRecord]:
        return [one for one in self.records if one.job["type"] in types and one.job["state"] == "succeeded"]

    def _captioned(self) -> Iterator[str]:
        answers: dict[str, list[str]] = {}
        for record in self._of("image.answer"):
            [uri] = _inputs(record)
            answers[uri] = [
                f"<span class=q>{_text(one['question'])}</span> <span class=a>{_text(one['text'])}</span>"
                for one in record.job["result"]["answers"]
            ]
        cards: dict[str, str] = {}
        for record in self._of("image.caption"):
            [uri] = _inputs(record)
            if uri not in cards:
                said = [f"<span class=a>{_text(record.job['result']['captions'][0]['text'])}</span>"]
                cards[uri] = self._card(uri, [*said, *answers.get(uri, [])])
        yield _section("Pictures, and what was said of them", cards.values())

    def _searched(self) -> Iterator[str]:
        for search in self.searches:
            given = f'<img class=small src="{_data(search.picture)}" alt="the query">' if search.picture else ""
            cards = [self._card(hit["uri"], [_why(hit)]) for hit in search.hits]
            yield f"<h2>Searched: {_text(search.by)}</h2>{given}<div class=cards>{''.join(cards)}</div>"

    def _generated(self) -> Iterator[str]:
        for record in self._of("image.generate"):
            prompt = record.job["message"]["params"]["prompt"]
            cards = [self._card(one["uri"], []) for one in record.artifacts if one["media_type"].startswith("image/")]
            yield _section(f"Generated: {prompt}", cards)

    def _heard(self) -> Iterator[str]:
        for record in self._of("audio.transcribe"):
            result = record.job["result"]
            [uri] = _inputs(record)
            words = [word for segment in result["segments"] for word in segment.get("words") or ()]
            rows = "".join(
                f"<tr><td class=right>{word['start']:.2f} s</td><td>{_text(word['text'].strip())}</td></tr>"
                for word in words
            )
            sound = f'<audio controls src="{_data(self._file(uri))}"></audio>'
            heard = f"<p>{sound}</p><p class=a>{_text(result['text'].strip())}</p><table>{rows}</table>"
            yield f"<h2>Heard: {_text(_name(uri))}</h2>{heard}"

    def _filmed(self) -> Iterator[str]:
        for record in self._of("video.edit"):
            films = [one["uri"] for one in record.artifacts if one["media_type"].startswith("video/")]
            cards = [
                f'<div class=card><video controls src="{_data(self._file(uri))}"></video>'
                f"<div class=of>{_text(_name(uri))}</div></div>"
                for uri in [*dict.fromkeys(each for each in _inputs(record) if each.endswith(".mp4")), *films]
            ]
            yield _section("Cut together: the sources, and the film", cards)

    def _card(self, uri: str, lines: Sequence[str]) -> str:
        below = "".join(f"<div>{line}</div>" for line in lines if line)
        # What was heard is found by words, too, and shows nothing.
        shown = mimetypes.guess_type(uri)[0] or ""
        picture = f'<img src="{_data(self._file(uri))}" alt="{_text(_name(uri))}">' if "image" in shown else ""
        return f"<div class=card>{picture}{below}<div class=of>{_text(_name(uri))}</div></div>"

    def _file(self, uri: str) -> Path:
        return self.store / uri.removeprefix("s3://")


def _section(title: str, cards: Any) -> str:
    shown = "".join(cards)
    return f"<h2>{_text(title)}</h2><div class=cards>{shown}</div>" if shown else ""


def _inputs(record: JobRecord) -> list[str]:
    return [one["uri"] for one in record.inputs]


def _why(hit: Mapping[str, Any]) -> str:
    if hit["similarity"] is not None:
        return f"similarity {hit['similarity']:.3f}"
    return next((_text(why["text"]) for why in hit["why"] if "text" in why), "")


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]


def _text(words: object) -> str:
    return html.escape(str(words))


def _data(file: Path) -> str:
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
