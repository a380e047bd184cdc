"""Many messages, one to a line, read in constant memory: a bad line does not keep the good ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from handlers.registry import Registry
from intake.message import JobSpec, Rules, parse
from intake.problems import Code, Problem, Refused


def read_jobs(stream: BinaryIO, registry: Registry, rules: Rules) -> Iterator[tuple[int, JobSpec | Refused]]:
    """For each line that is not blank: its number, from 1, and the job or why it is refused."""
    for number, line in read_lines(stream, rules.message_bytes):
        if isinstance(line, Refused):
            yield number, line
            continue
        try:
            yield number, parse(line, registry, rules)
        except Refused as refused:
            yield number, refused


def read_lines(stream: BinaryIO, most_bytes: int) -> Iterator[tuple[int, bytes | Refused]]:
    """The lines of a stream that are not blank, with their numbers; of a line that is too long nothing is kept."""
    number = 0
    while line := stream.readline(most_bytes + 2):
        number += 1
        length = len(line)
        while not line.endswith(b"\n") and (rest := stream.readline(1 << 16)):
            length += len(rest)
            line = line[-1:] + rest if length > most_bytes + 2 else line + rest
        if length > most_bytes + 2:
            what = f"is {length:,} bytes long, the limit is {most_bytes:,}"
            fix = "put large data into the object store and send its URI"
            yield number, Refused([Problem("", Code.TOO_LARGE, what, fix)])
        elif text := (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip():
            yield number, text
