"""Subtitles from untrusted bytes: SubRip (SRT) and WebVTT, told apart by what they begin with.

WebVTT is parsed as section 6.1 of https://www.w3.org/TR/webvtt1/ has it, without settings, styles and regions. SubRip
has no specification: what players accept is accepted. Both lose their markup and keep its text; nothing in a file is a
path that would be opened.
"""

from __future__ import annotations

import codecs
import html
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from handlers.errors import InvalidInput
from handlers.media.captions.cue import MAX_BYTES, MAX_CHARACTERS, MAX_CUES, Cue, in_order, tidied

_ARROW = "-->"
_STAMP = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
#: A cue's settings, or the coordinates that some SubRip files have, may follow.
_TIMING = re.compile(rf"\s*{_STAMP}\s*-->\s*{_STAMP}(?:\s.*)?", re.DOTALL | re.ASCII)
#: A line of a SubRip file that is meant to be one of times; any other arrow is part of a text.
_MEANT_AS_TIMING = re.compile(r"\s*[\d:.,]+\s*-->", re.ASCII)
_INDEX = re.compile(r"\s*\d+\s*", re.ASCII)
_LINE_END = re.compile("\r\n|\n|\r")

# Neither pattern can cross another opening: each stays linear, whatever the text.
_ANY_TAG = re.compile(r"<[^<>]*>")
SUBRIP_TAG = re.compile(r"</?(?:b|i|u|s|font|c|v|ruby|rt|lang)(?:[\s.][^<>]*)?/?>", re.IGNORECASE)
_ASS_OVERRIDE = re.compile(r"\{\\[^{}]*\}")
#: What `writing` puts into a SubRip text to keep it from being read as markup.
_GUARDED = re.compile("(<|\\{|--)\u2060")


def parse(data: bytes, of: str) -> list[Cue]:
    """The cues of a file, sorted by their start. `of` names the input in the errors: `inputs/subtitles`.

    A file without cues, as a transcript of silence is, has none. Raises InvalidInput, with the line and the fix.
    """
    lines = _LINE_END.split(_decoded(data, of))
    if re.match(r"WEBVTT(?:[ \t]|$)", lines[0]):
        found = _webvtt(lines, of)
    else:
        found = _subrip(lines, of)
    cues: list[Cue] = []
    for number, start, end, text in found:
        if end < start:
            raise _fault(of, number, "the cue ends before it begins", "put the earlier time first")
        if len(text) > MAX_CHARACTERS:
            raise _fault(of, number, f"the cue has {len(text):,} characters", f"at most {MAX_CHARACTERS:,} are shown")
        if len(cues) == MAX_CUES:
            raise _fault(of, number, f"there are more than {MAX_CUES:,} cues", "split the file")
        cues.append(Cue(start, end, text))
    return in_order(cues)


def _decoded(data: bytes, of: str) -> str:
    if len(data) > MAX_BYTES:
        raise InvalidInput(
            f"{of}: these subtitles have {len(data):,} bytes, and at most {MAX_BYTES:,} are read: split the file"
        )
    encoding = "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise _fault(
            of, line, "this is not UTF-8, nor UTF-16 with a mark of its byte order", "save it as UTF-8"
        ) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise _fault(of, line, "there is a zero byte, which no text has", "send SubRip (SRT) or WebVTT, saved as UTF-8")
    return text


def _fault(of: str, line: int, what: str, fix: str) -> InvalidInput:
    return InvalidInput(f"{of}: line {line}: {what}; {fix}")


#: Line of its times, start, end, plain text.
_Found = tuple[int, Fraction, Fraction, str]


def _subrip(lines: Sequence[str], of: str) -> Iterator[_Found]:
    """Cues begin at a line of times; the index above it, where there is one, belongs to none."""
    timings = [number for number, line in enumerate(lines) if _MEANT_AS_TIMING.match(line)]
    first = next((number for number, line in enumerate(lines) if line.strip()), None)
    if first is None:
        return
    before = [line for line in lines[: timings[0]] if line.strip()] if timings else lines
    if not timings or len(before) > 1 or (before and not _INDEX.fullmatch(before[0])):
        raise _fault(
            of,
            first + 1,
            "this is neither SubRip (SRT) nor WebVTT",
            "begin with WEBVTT, or with times as in 00:00:01,000 --> 00:00:02,500",
        )
    for number, following in zip(timings, [*timings[1:], len(lines)], strict=True):
        start, end = _times(lines[number], of, number + 1)
        text = lines[number + 1 : following]
        if following < len(lines) and text and _INDEX.fullmatch(text[-1]):
            text = text[:-1]
        yield number + 1, start, end, _plain_subrip("\n".join(text))


def _webvtt(lines: Sequence[str], of: str) -> Iterator[_Found]:
    """A block whose first or second line has an arrow is a cue; comments, styles and regions have none."""
    number = 0
    while number < len(lines) and lines[number] and (number == 0 or _ARROW not in lines[number]):
        number += 1
    while number < len(lines):
        if not lines[number]:
            number += 1
            continue
        if _ARROW not in lines[number]:
            if number + 1 < len(lines) and _ARROW in lines[number + 1]:
                number += 1  # past the cue's identifier
            else:
                while number < len(lines) and lines[number] and _ARROW not in lines[number]:
                    number += 1
                continue
        start, end = _times(lines[number], of, number + 1)
        last = number + 1
        while last < len(lines) and lines[last] and _ARROW not in lines[last]:
            last += 1
        yield number + 1, start, end, _plain_webvtt("\n".join(lines[number + 1 : last]))
        number = last


def _times(line: str, of: str, number: int) -> tuple[Fraction, Fraction]:
    found = _TIMING.fullmatch(line)
    shown = line.strip()[:60]
    if found is None:
        raise _fault(
            of, number, f"{shown!r} are no times", "write 00:00:01,000 --> 00:00:02,500 (WebVTT: 00:00:01.000)"
        )
    parts = found.groups()
    return _seconds(parts[:4], of, number, shown), _seconds(parts[4:], of, number, shown)


def _seconds(parts: Sequence[str | None], of: str, number: int, shown: str) -> Fraction:
    hours, minutes, seconds = (int(part or 0) for part in parts[:3])
    if minutes > 59 or seconds > 59:
        raise _fault(of, number, f"{shown!r} has more than 59 minutes or seconds", "write 01:00:00,000 for an hour")
    return (hours * 60 + minutes) * 60 + seconds + Fraction(int((parts[3] or "").ljust(3, "0")), 1000)


def _plain_subrip(text: str) -> str:
    return tidied(_GUARDED.sub(r"\1", _ASS_OVERRIDE.sub("", SUBRIP_TAG.sub("", text))))


def _plain_webvtt(text: str) -> str:
    return tidied(html.unescape(_ASS_OVERRIDE.sub("", _ANY_TAG.sub("", text))))
