"""What the logs show, and what they must not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog

from config.settings import Settings
from console import logs

FORMATS = pytest.mark.parametrize("log_format", ["json", "console"])
SECRET = "a-password-in-a-variable"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def configured(log_format: Literal["json", "console"]) -> structlog.stdlib.BoundLogger:
    logs.configure(Settings.load(environ={"MEDIAMILL_LOG_FORMAT": log_format}, files=[]).settings)
    logger: structlog.stdlib.BoundLogger = structlog.get_logger("test")
    return logger


@FORMATS
def test_an_exception_is_logged_without_the_variables_of_its_frames(
    log_format: Literal["json", "console"], capsys: pytest.CaptureFixture[str]
) -> None:
    log = configured(log_format)

    def connect(password: str) -> None:
        raise ValueError(f"a password of {len(password)} characters")

    try:
        connect(SECRET)
    except ValueError:
        log.exception("it failed")
    said = capsys.readouterr().err
    assert "characters" in said
    assert SECRET not in said


@FORMATS
def test_nothing_in_a_line_is_obeyed_by_a_terminal(
    log_format: Literal["json", "console"], capsys: pytest.CaptureFixture[str]
) -> None:
    log = configured(log_format)
    evil = "\x1b[2J\x1b]0;title\x07"
    try:
        raise ValueError(evil)
    except ValueError:
        log.exception(f"event {evil}", said_line=evil, key=evil + "\ninjected=1")
    said = capsys.readouterr().err
    assert "title" in said
    assert not any(character in said for character in "\x1b\x07")
    assert not any(line.startswith("injected") for line in said.splitlines())
