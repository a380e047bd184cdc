"""A child that follows a script in place of `handlers.runtime`: says what an executor must not say, or dies on cue.

`python executor_child.py SCRIPT`, where SCRIPT is Python with `hear()` (the next line as an object, None at the end),
`say(object or str)`, `ready()` and `succeed(order)`.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def hear() -> Any:
    line = sys.stdin.readline()
    return json.loads(line) if line else None


def say(line: Any) -> None:
    sys.stdout.write((line if isinstance(line, str) else json.dumps(line)) + "\n")
    sys.stdout.flush()


def ready(**given: Any) -> None:
    say({"op": "ready", "version": 1, "device": "cpu", "device_name": "scripted", "types": ["test.noop"]} | given)


def outcome(key: str, **given: Any) -> dict[str, Any]:
    return {"key": key, "result": {}} | given


def succeed(order: Any, **given: Any) -> None:
    say({"op": "outcomes", "items": [outcome(job["key"], **given) for job in order["jobs"]]})


if __name__ == "__main__":
    exec(sys.argv[1])  # noqa: S102 - the script of the test
