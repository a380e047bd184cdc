"""Commands run inside the test's own process: what they printed, and how they ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from console import cli


@dataclass(frozen=True)
class Answer:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Answer]


def runner(captured: pytest.CaptureFixture[Any], *always: str) -> Run:
    """Runs commands that begin with the words `always`. Bytes (of `capsysbinary`) that are no text are surrogates."""

    def text(printed: str | bytes) -> str:
        return printed if isinstance(printed, str) else printed.decode("utf-8", "surrogateescape")

    def run(*arguments: str) -> Answer:
        captured.readouterr()
        code = cli.run((*always, *arguments))
        out, err = captured.readouterr()
        return Answer(code, text(out), text(err))

    return run


def at_home(monkeypatch: pytest.MonkeyPatch, folder: Path, database_url: str | None = None) -> Path:
    """Settings under which commands keep everything in a folder beneath this one, which is returned.

    They know the test's types and the tiny checkpoints; without a URL their database is an embedded one in there.
    """
    home = folder / "home"
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MEDIAMILL_HOME", str(home))
    monkeypatch.setenv("MEDIAMILL_TEST_TYPES", "true")
    monkeypatch.setenv("MEDIAMILL_CATALOGUE", "tiny")
    if database_url is not None:
        monkeypatch.setenv("MEDIAMILL_DATABASE_URL", database_url)
    return home
