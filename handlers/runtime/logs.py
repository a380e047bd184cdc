"""What the executor says beside its answers: one JSON object a line, on standard error."""

from __future__ import annotations

import json
import logging
import sys


class JsonLines(logging.Formatter):
    """`{"level": ..., "logger": ..., "event": ...}`, with `traceback` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"level": record.levelname.lower(), "logger": record.name, "event": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)[-8192:]
        return json.dumps(line)


def to_stderr() -> None:
    """Sends all log records there, libraries' from warnings on."""
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[out], force=True)
    logging.getLogger("handlers").setLevel(logging.INFO)
    logging.captureWarnings(True)
